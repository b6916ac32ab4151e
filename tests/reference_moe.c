// Whole models with experts: against the golden traces of Hugging Face transformers (tests/parity.h), batches against
// single tokens, and models that are wrong on purpose.
//
// Measured worst, in units of transformers' own noise: logits 1.6, states 1.6 (odd-lfm2moe-mixed-sharded), taps 3.8
// (attn of odd-lfm2moe-group8-untied, whose noise happens to be the least of all, 5e-7); the chosen experts are equal
// in every slot.
#include "tests/batch.h"
#include "tests/parity.h"

static const char *const ODD_MOE[] = {
    "odd-lfm2moe-all-attention", "odd-lfm2moe-all-dense",         "odd-lfm2moe-every-expert",
    "odd-lfm2moe-group1-top1",   "odd-lfm2moe-group3-taps4-bias", "odd-lfm2moe-group8-untied",
    "odd-lfm2moe-mixed-sharded", "odd-lfm2moe-one-attention",
};
enum { N_ODD_MOE = sizeof ODD_MOE / sizeof *ODD_MOE };

// --- transformers

Test(reference_moe, lfm2moe_mini_agrees_with_transformers)
{
    parity_check("lfm2moe-mini", "chat", PARITY_TAPS);
    parity_check("lfm2moe-mini", "narrative", PARITY_TAPS);
    parity_check("lfm2moe-mini", "high-ids", PARITY_STATE);
    parity_check("lfm2moe-mini", "code-48", PARITY_STATE);
    parity_check("lfm2moe-mini", "scripture-72", PARITY_STATE);
    parity_check("lfm2moe-mini", "chat-40.batch", PARITY_STATE);
    parity_check_double("lfm2moe-mini", "chat", "chat-9.float64");
    parity_check_double("lfm2moe-mini", "narrative", "narrative-9.float64");
}

Test(reference_moe, models_of_odd_shapes_agree_with_transformers)
{
    for (size_t i = 0; i < N_ODD_MOE; i++)
        parity_check(ODD_MOE[i], "random", PARITY_TAPS);
}

// --- batches

Test(reference_moe, every_width_gives_the_bits_of_one_token_at_a_time)
{
    struct error error = {0};
    struct fixture fixture;
    struct pool *pool;
    must(pool_open(&pool, 3, &error), &error);
    fixture_open(&fixture, "lfm2moe-mini");
    const struct batch_rows *expected = batch_steps(&fixture, DECODER_WIDTH);
    for (uint32_t width = 2; width <= 40; width++)
        batch_check(&fixture, isa_best(), pool, DECODER_WIDTH, width, expected);
    batch_check(&fixture, isa_best(), pool, DECODER_WIDTH, DECODER_WIDTH, expected);
    fixture_close(&fixture);
    pool_close(&pool);
}

Test(reference_moe, odd_shapes_give_the_same_bits_on_every_isa_and_with_every_number_of_threads)
{
    static const unsigned threads[] = {1, 2, 7};
    static const uint32_t widths[] = {2, 5, 16, 19};
    struct error error = {0};
    for (size_t i = 0; i < N_ODD_MOE; i++) {
        struct fixture fixture;
        fixture_open(&fixture, ODD_MOE[i]);
        const struct batch_rows *expected = batch_steps(&fixture, 19);
        for (size_t j = 0; j < 3; j++) {
            struct pool *pool;
            must(pool_open(&pool, threads[j], &error), &error);
            for (int isa = 0; isa < ISA_COUNT; isa++)
                for (size_t k = 0; isa_available((enum isa)isa) && k < 4; k++)
                    batch_check(&fixture, (enum isa)isa, pool, 19, widths[k], expected);
            pool_close(&pool);
        }
        fixture_close(&fixture);
    }
}
