// Batches of the reference: rows, taps and states are those of one token at a time, bit for bit, for every width; and
// passes that are wrong on purpose, which the same comparison must catch.
#include "tests/batch.h"

enum { WIDEST_CASE = 40 };

Test(reference_batch, every_width_gives_the_bits_of_one_token_at_a_time)
{
    struct error error = {0};
    struct fixture fixture;
    struct pool *pool;
    must(pool_open(&pool, 3, &error), &error);
    fixture_open(&fixture, "lfm2-mini");
    const struct batch_rows *expected = batch_steps(&fixture, WIDEST_CASE);
    for (uint32_t width = 2; width <= WIDEST_CASE; width++)
        batch_check(&fixture, isa_best(), pool, WIDEST_CASE, width, expected);
    fixture_close(&fixture);
    pool_close(&pool);
}

Test(reference_batch, a_long_sweep_in_calls_of_the_engines_width_gives_the_same_bits)
{
    struct fixture fixture;
    fixture_open(&fixture, "odd-group3-taps4-bias");
    const struct batch_rows *expected = batch_steps(&fixture, BATCH_POSITIONS);
    batch_check(&fixture, isa_best(), NULL, BATCH_POSITIONS, BATCH_POSITIONS, expected);
    fixture_close(&fixture);
}

Test(reference_batch, odd_shapes_give_the_same_bits_on_every_isa_and_with_every_number_of_threads)
{
    static const unsigned threads[] = {1, 2, 7};
    static const uint32_t widths[] = {2, 5, 7, 16, 19};
    struct error error = {0};
    for (size_t i = 0; i < N_ODD; i++) {
        struct fixture fixture;
        fixture_open(&fixture, ODD[i]);
        const struct batch_rows *expected = batch_steps(&fixture, 19);
        for (size_t j = 0; j < 3; j++) {
            struct pool *pool;
            must(pool_open(&pool, threads[j], &error), &error);
            for (int isa = 0; isa < ISA_COUNT; isa++)
                for (size_t k = 0; isa_available((enum isa)isa) && k < 5; k++)
                    batch_check(&fixture, (enum isa)isa, pool, 19, widths[k], expected);
            pool_close(&pool);
        }
        fixture_close(&fixture);
    }
}

// --- what a batch must not do

Test(reference_batch, a_batch_that_sees_a_later_token_or_loses_a_state_is_caught)
{
    enum { N = 12, CUT = 5 };
    struct error error = {0};
    struct fixture fixture;
    fixture_open(&fixture, "odd-mixed-sharded");
    const struct batch_rows *expected = batch_steps(&fixture, N);
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), N);
    struct batch_rows *wrong = batch_run(&fixture, engine, N, N);
    cr_assert_eq(batch_difference(expected, wrong, N), (uint32_t)N, "control: a right batch must pass");
    const struct tap_sink taps = {TAPS_ALL, wrong, batch_tap};
    const struct batch_sink sink = {wrong, batch_put, &taps, batch_begin};
    uint32_t tokens[N];
    for (uint32_t t = 0; t < N; t++)
        tokens[t] = batch_token(t);

    // token CUT + 1 is there before token CUT; the rows themselves are put where they belong
    uint32_t early[N];
    memcpy(early, tokens, sizeof early);
    early[CUT] = tokens[CUT + 1];
    early[CUT + 1] = tokens[CUT];
    memset(wrong->taps, 0, sizeof wrong->taps);
    wrong->first = 0;
    engine->class->reset(engine);
    must(engine->class->batch(engine, early, N, &sink, &error), &error);
    memcpy(wrong->logits + CUT * wrong->vocabulary, wrong->logits + (CUT + 1) * wrong->vocabulary,
           wrong->vocabulary * sizeof *wrong->logits);
    wrong->taps[CUT] = wrong->taps[CUT + 1];
    cr_expect_eq(batch_difference(expected, wrong, N), (uint32_t)CUT, "a later token in sight was not caught");

    // between two calls the convolution's columns are lost, the keys are not
    memset(wrong->taps, 0, sizeof wrong->taps);
    engine->class->reset(engine);
    must(engine->class->batch(engine, tokens, CUT, &sink, &error), &error);
    engine->class->reset(engine);
    engine->position = wrong->first = CUT;
    must(engine->class->batch(engine, tokens + CUT, N - CUT, &sink, &error), &error);
    cr_expect_eq(batch_difference(expected, wrong, N), (uint32_t)CUT, "a lost state was not caught");
    engine_close(&engine);
    fixture_close(&fixture);
}

Test(reference_batch, a_token_that_the_model_does_not_have_is_refused_before_anything_is_consumed)
{
    struct error error = {0};
    struct fixture fixture;
    fixture_open(&fixture, "odd-one-attention");
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), 4);
    struct batch_rows rows = {.vocabulary = fixture.config.vocabulary};
    rows.logits = arena_alloc(&fixture.arena, 4 * rows.vocabulary, sizeof *rows.logits);
    const struct batch_sink sink = {.context = &rows, .row = batch_put};
    const uint32_t wrong[] = {1, 2, fixture.config.vocabulary}, right[] = {1, 2, 3};
    cr_expect_eq(engine->batch_width, 4u, "no wider than its room");
    cr_expect_eq(engine->class->batch(engine, wrong, 3, &sink, &error), ERROR_INPUT);
    cr_expect_eq(engine->position, 0u);
    must(engine->class->batch(engine, right, 3, &sink, &error), &error);
    cr_expect_eq(engine->class->batch(engine, right, 2, &sink, &error), ERROR_USAGE, "no room for a fifth");
    cr_expect_eq(engine->position, 3u);
    engine_close(&engine);
    fixture_close(&fixture);
}
