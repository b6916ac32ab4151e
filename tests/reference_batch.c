// Batches of the reference: rows, taps and states are those of one token at a time, bit for bit, for every width; and
// passes that are wrong on purpose, which the same comparison must catch.
#include "harness/base/half.h"
#include "reference/decoder.h"
#include "tests/reference_fixture.h"

enum { POSITIONS = 257, WIDEST_CASE = 40 };

// Logits [n, V], one hash of the taps of each row, and the end state.
struct rows {
    size_t vocabulary;
    uint32_t first, row;
    float *logits;
    uint64_t taps[POSITIONS];
    struct state state;
};

static uint32_t token_at(uint32_t t)
{
    return t * 37 % 61 + t % 3; // below 64: every fixture model has it
}

static void put_tap(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct rows *rows = context;
    uint64_t hash = (rows->taps[rows->row] ^ layer ^ (uint64_t)point << 32) * UINT64_C(0x100000001B3);
    for (uint32_t i = 0; i < width; i++)
        hash = (hash ^ float_to_bits(row[i])) * UINT64_C(0x100000001B3);
    rows->taps[rows->row] = hash;
}

static void begin_row(void *context, uint32_t t)
{
    struct rows *rows = context;
    rows->row = rows->first + t;
}

static void put_row(void *context, uint32_t t, const float *logits)
{
    struct rows *rows = context;
    memcpy(rows->logits + (rows->first + t) * rows->vocabulary, logits, rows->vocabulary * sizeof *logits);
}

// Runs n tokens, `width` a call (1: steps), through `engine` from its zero state.
static struct rows *run(struct fixture *fixture, struct engine *engine, uint32_t n, uint32_t width)
{
    struct error error = {0};
    const size_t v = fixture->config.vocabulary;
    struct rows *rows = arena_alloc(&fixture->arena, 1, sizeof *rows);
    const struct tap_sink taps = {TAPS_ALL, rows, put_tap};
    const struct batch_sink sink = {rows, put_row, &taps, begin_row};
    rows->vocabulary = v;
    rows->logits = arena_alloc(&fixture->arena, n * v, sizeof(float));
    engine->class->reset(engine);
    for (uint32_t t = 0; t < n;) {
        uint32_t tokens[DECODER_WIDTH];
        const uint32_t most = width < engine->batch_width ? width : engine->batch_width;
        const uint32_t count = n - t < most ? n - t : most;
        for (uint32_t i = 0; i < count; i++)
            tokens[i] = token_at(t + i);
        rows->first = rows->row = t;
        if (width == 1)
            memcpy(rows->logits + t * v, fixture_step(engine, tokens[0], &taps), v * sizeof(float));
        else
            must(engine->class->batch(engine, tokens, count, &sink, &error), &error);
        t += count;
        cr_assert_eq(engine->position, t);
    }
    must(state_make(&fixture->arena, &fixture->config, n, &rows->state, &error), &error);
    engine->class->save(engine, &rows->state);
    return rows;
}

// The first row that differs in logits or taps; n when none does and the states are equal, n + 1 when these differ.
static uint32_t first_difference(const struct rows *a, const struct rows *b, uint32_t n)
{
    for (uint32_t t = 0; t < n; t++)
        if (memcmp(a->logits + t * a->vocabulary, b->logits + t * a->vocabulary, a->vocabulary * sizeof(float)) ||
            a->taps[t] != b->taps[t])
            return t;
    for (size_t i = 0; i < a->state.n; i++)
        if (memcmp(a->state.tensors[i].data, b->state.tensors[i].data, a->state.tensors[i].elements * sizeof(float)))
            return n + 1;
    return n;
}

static void check_width(struct fixture *fixture, enum isa isa, struct pool *pool, uint32_t n, uint32_t width,
                        const struct rows *expected)
{
    struct engine *engine = fixture_engine(&fixture->model, pool, isa, n);
    const uint32_t t = first_difference(expected, run(fixture, engine, n, width), n);
    cr_expect_eq(t, n, "%s, %s, %u threads, %u tokens a call: %s %u differs from one token at a time",
                 fixture->checkpoint->name, isa_name(isa), pool_threads(pool), width,
                 t < n ? "row" : "the state, seen from row", t < n ? t : n);
    engine_close(&engine);
}

static struct rows *one_at_a_time(struct fixture *fixture, uint32_t n)
{
    struct engine *engine = fixture_engine(&fixture->model, NULL, isa_best(), n);
    struct rows *rows = run(fixture, engine, n, 1);
    engine_close(&engine);
    return rows;
}

Test(reference_batch, every_width_gives_the_bits_of_one_token_at_a_time)
{
    struct error error = {0};
    struct fixture fixture;
    struct pool *pool;
    must(pool_open(&pool, 3, &error), &error);
    fixture_open(&fixture, "lfm2-mini");
    const struct rows *expected = one_at_a_time(&fixture, WIDEST_CASE);
    for (uint32_t width = 2; width <= WIDEST_CASE; width++)
        check_width(&fixture, isa_best(), pool, WIDEST_CASE, width, expected);
    fixture_close(&fixture);
    pool_close(&pool);
}

Test(reference_batch, a_long_sweep_in_calls_of_the_engines_width_gives_the_same_bits)
{
    struct fixture fixture;
    fixture_open(&fixture, "odd-group3-taps4-bias");
    const struct rows *expected = one_at_a_time(&fixture, POSITIONS);
    check_width(&fixture, isa_best(), NULL, POSITIONS, POSITIONS, expected);
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
        const struct rows *expected = one_at_a_time(&fixture, 19);
        for (size_t j = 0; j < 3; j++) {
            struct pool *pool;
            must(pool_open(&pool, threads[j], &error), &error);
            for (int isa = 0; isa < ISA_COUNT; isa++)
                for (size_t k = 0; isa_available((enum isa)isa) && k < 5; k++)
                    check_width(&fixture, (enum isa)isa, pool, 19, widths[k], expected);
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
    const struct rows *expected = one_at_a_time(&fixture, N);
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), N);
    struct rows *wrong = run(&fixture, engine, N, N);
    cr_assert_eq(first_difference(expected, wrong, N), (uint32_t)N, "control: a right batch must pass");
    const struct tap_sink taps = {TAPS_ALL, wrong, put_tap};
    const struct batch_sink sink = {wrong, put_row, &taps, begin_row};
    uint32_t tokens[N];
    for (uint32_t t = 0; t < N; t++)
        tokens[t] = token_at(t);

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
    cr_expect_eq(first_difference(expected, wrong, N), (uint32_t)CUT, "a later token in sight was not caught");

    // between two calls the convolution's columns are lost, the keys are not
    memset(wrong->taps, 0, sizeof wrong->taps);
    engine->class->reset(engine);
    must(engine->class->batch(engine, tokens, CUT, &sink, &error), &error);
    engine->class->reset(engine);
    engine->position = wrong->first = CUT;
    must(engine->class->batch(engine, tokens + CUT, N - CUT, &sink, &error), &error);
    cr_expect_eq(first_difference(expected, wrong, N), (uint32_t)CUT, "a lost state was not caught");
    engine_close(&engine);
    fixture_close(&fixture);
}

Test(reference_batch, a_token_that_the_model_does_not_have_is_refused_before_anything_is_consumed)
{
    struct error error = {0};
    struct fixture fixture;
    fixture_open(&fixture, "odd-one-attention");
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), 4);
    struct rows rows = {.vocabulary = fixture.config.vocabulary};
    rows.logits = arena_alloc(&fixture.arena, 4 * rows.vocabulary, sizeof *rows.logits);
    const struct batch_sink sink = {.context = &rows, .row = put_row};
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
