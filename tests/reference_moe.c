// Whole models with experts: against the golden traces of Hugging Face transformers (tests/parity.h), batches against
// single tokens, and models that are wrong on purpose.
//
// Measured worst, in units of transformers' own noise: logits 1.6, states 1.6 (odd-lfm2moe-mixed-sharded), taps 3.8
// (attn of odd-lfm2moe-group8-untied, whose noise happens to be the least of all, 5e-7); the chosen experts are equal
// in every slot.
#include "reference/math.h"
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

// --- wrong on purpose: the logits alone must be further away than the limit

// Replaces the weights of the experts in the engine's own rows before they are used.
struct spoiler {
    const struct model *model;
    enum { SPOIL_NOTHING, SPOIL_BIAS, SPOIL_SOFTMAX } how;
    float logits[64];
    uint32_t chosen[64];
};

static float spoiled_weight(const struct spoiler *spoiler, uint32_t layer, uint32_t expert)
{
    double sum = 0;
    for (uint32_t e = 0; e < spoiler->model->config.experts; e++)
        sum += exp(spoiler->logits[e]);
    if (spoiler->how == SPOIL_SOFTMAX)
        return (float)(exp(spoiler->logits[expert]) / sum);
    return math_sigmoid(spoiler->logits[expert]) + weight_at(&spoiler->model->layers[layer].expert_bias, 0, expert);
}

static void spoil(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct spoiler *spoiler = context;
    float *weights = (float *)(uintptr_t)row, sum = 0;
    for (uint32_t e = 0; point == TAP_ROUTER && e < width; e++)
        spoiler->logits[e] = row[e];
    for (uint32_t slot = 0; point == TAP_EXPERTS && slot < width; slot++)
        spoiler->chosen[slot] = (uint32_t)row[slot];
    if (point != TAP_WEIGHTS || spoiler->how == SPOIL_NOTHING)
        return;
    for (uint32_t slot = 0; slot < width; slot++)
        sum += weights[slot] = spoiled_weight(spoiler, layer, spoiler->chosen[slot]);
    for (uint32_t slot = 0; slot < width; slot++)
        weights[slot] /= sum;
}

static bool is_caught(struct spoiler *spoiler, const char *name, const char *golden_name, const char *what)
{
    struct parity parity;
    const struct tap_sink taps = {TAPS_ALL, spoiler, spoil};
    struct trace *golden = parity_golden(name, golden_name);
    parity_run_tapped(spoiler->model, golden, &taps, &parity);
    const double distance = parity_noise(&parity.logits, parity.noise);
    fprintf(stderr, "# %s, %s: logits %.3g of the noise, limit %g\n", name, what, distance, PARITY_LIMIT);
    trace_close(&golden);
    return !(distance <= PARITY_LIMIT);
}

Test(reference_moe, a_wrong_router_or_expert_does_not_agree)
{
    static const char name[] = "lfm2moe-mini";
    struct fixture fixture;
    fixture_open(&fixture, name);
    struct model model = fixture_mutable(&fixture);
    struct spoiler spoiler = {.model = &model};
    cr_expect(!is_caught(&spoiler, name, "chat", "control"));

    spoiler.how = SPOIL_BIAS;
    cr_expect(is_caught(&spoiler, name, "chat", "expert bias added to the weights"));
    spoiler.how = SPOIL_SOFTMAX;
    cr_expect(is_caught(&spoiler, name, "chat", "softmax instead of sigmoid"));
    spoiler.how = SPOIL_NOTHING;

    cr_assert(model.config.expert_normalise);
    model.config.expert_normalise = false;
    cr_expect(is_caught(&spoiler, name, "chat", "no renormalisation"));
    model.config = fixture.config;

    struct expert *experts = model.layers[3].experts; // of the fixture's own arena
    const struct expert first = experts[0];
    experts[0].down = experts[1].down;
    cr_expect(is_caught(&spoiler, name, "chat", "down projection of another expert"));
    experts[0] = (struct expert){first.up, first.gate, first.down};
    cr_expect(is_caught(&spoiler, name, "chat", "gate and up of one expert swapped"));
    experts[0] = first;

    const struct weight bias = model.layers[3].expert_bias;
    model.layers[3].expert_bias.format = WEIGHT_NONE;
    cr_expect(is_caught(&spoiler, name, "chat", "no bias in the selection"));
    model.layers[3].expert_bias = bias;
    cr_expect(!is_caught(&spoiler, name, "chat", "control, all put back"));
    fixture_close(&fixture);
}

Test(reference_moe, a_scaling_that_is_ignored_does_not_agree)
{
    struct fixture fixture;
    fixture_open(&fixture, "odd-lfm2moe-every-expert");
    struct model model = fixture_mutable(&fixture);
    struct spoiler spoiler = {.model = &model};
    cr_assert_eq(model.config.expert_scale, 3.0f);
    cr_expect(!is_caught(&spoiler, "odd-lfm2moe-every-expert", "random", "control"));
    model.config.expert_scale = 1;
    cr_expect(is_caught(&spoiler, "odd-lfm2moe-every-expert", "random", "scaling ignored"));
    fixture_close(&fixture);
}
