// The LFM2 step as an engine: the same bits whatever the machine does, states that leave and come back, refusals.
#include <fenv.h>
#include <math.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "harness/base/half.h"
#include "reference/math.h"
#include "tests/reference_fixture.h"

// Nineteen tokens that every fixture model has.
static const uint32_t PROMPT[] = {1, 17, 42, 9, 60, 33, 33, 2, 51, 8, 40, 25, 63, 0, 13, 29, 1, 55, 37};
enum { N_PROMPT = sizeof PROMPT / sizeof *PROMPT };

// A sink that counts rows and NaNs and hashes the bits.
struct watch {
    uint64_t hash;
    uint32_t rows, nans, foreign_nans; // foreign: not 0x7FC00000
};

static void watch_put(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct watch *watch = context;
    watch->rows++;
    watch->hash = (watch->hash ^ layer ^ (uint64_t)point << 32) * UINT64_C(0x100000001B3);
    for (uint32_t i = 0; i < width; i++) {
        watch->hash = (watch->hash ^ float_to_bits(row[i])) * UINT64_C(0x100000001B3);
        watch->nans += isnan(row[i]) ? 1 : 0;
        watch->foreign_nans += isnan(row[i]) && float_to_bits(row[i]) != FLOAT_NAN_BITS ? 1 : 0;
    }
}

// Logits of PROMPT [N_PROMPT, V] and the state after it, as the slowest and plainest run gives them.
static float *plain_run(struct fixture *fixture, const struct model *model, struct state *state)
{
    struct error error = {0};
    const size_t v = fixture->config.vocabulary;
    float *logits = arena_alloc(&fixture->arena, N_PROMPT * v, sizeof *logits);
    struct engine *engine = fixture_engine(model, NULL, ISA_SCALAR, N_PROMPT);
    for (size_t t = 0; t < N_PROMPT; t++)
        memcpy(logits + t * v, fixture_step(engine, PROMPT[t], NULL), v * sizeof *logits);
    must(state_make(&fixture->arena, &fixture->config, N_PROMPT, state, &error), &error);
    engine->class->save(engine, state);
    engine_close(&engine);
    return logits;
}

static bool states_equal(const struct state *a, const struct state *b)
{
    bool equal = a->n == b->n && a->position == b->position;
    for (size_t i = 0; equal && i < a->n; i++)
        equal = a->tensors[i].elements == b->tensors[i].elements &&
                !memcmp(a->tensors[i].data, b->tensors[i].data, a->tensors[i].elements * sizeof(float));
    return equal;
}

// --- the same bits

struct bits {
    struct fixture *fixture;
    const struct model *model;
    const float *logits; // [N_PROMPT, V] expected
    struct state expected;
    uint64_t taps; // hash of the first run at level all
};

static void check_run(struct bits *bits, struct pool *pool, enum isa isa, enum tap_level level)
{
    struct error error = {0};
    struct state state;
    struct watch watch = {0};
    const struct tap_sink taps = {level, &watch, watch_put};
    const size_t v = bits->fixture->config.vocabulary;
    const char *model = bits->fixture->checkpoint->name;
    struct engine *engine = fixture_engine(bits->model, pool, isa, N_PROMPT + 5);
    for (size_t t = 0; t < N_PROMPT; t++)
        cr_assert(!memcmp(fixture_step(engine, PROMPT[t], &taps), bits->logits + t * v, v * sizeof(float)),
                  "%s: %s, %u threads, taps %d: logits of position %zu differ from scalar C on one thread", model,
                  isa_name(isa), pool_threads(pool), (int)level, t);
    must(state_make(&bits->fixture->arena, &bits->fixture->config, N_PROMPT, &state, &error), &error);
    engine->class->save(engine, &state);
    cr_assert(states_equal(&bits->expected, &state), "%s: %s, %u threads: another state", model, isa_name(isa),
              pool_threads(pool));
    cr_assert_eq(watch.rows > 0, level != TAPS_NONE);
    if (level == TAPS_ALL) {
        cr_assert(!bits->taps || bits->taps == watch.hash, "%s: %s, %u threads: other taps", model, isa_name(isa),
                  pool_threads(pool));
        bits->taps = watch.hash;
    }
    engine_close(&engine);
}

static void check_bits(const char *name, const unsigned *threads, size_t n_threads)
{
    struct error error = {0};
    struct fixture fixture;
    fixture_open(&fixture, name);
    struct bits bits = {.fixture = &fixture, .model = &fixture.model};
    bits.logits = plain_run(&fixture, &fixture.model, &bits.expected);
    for (size_t i = 0; i < n_threads; i++) {
        struct pool *pool;
        must(pool_open(&pool, threads[i], &error), &error);
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (!isa_available((enum isa)isa))
                continue;
            check_run(&bits, pool, (enum isa)isa, i % 2 ? TAPS_LAYERS : TAPS_NONE);
            check_run(&bits, pool, (enum isa)isa, TAPS_ALL);
        }
        pool_close(&pool);
    }
    fixture_close(&fixture);
}

Test(reference_lfm2, bits_do_not_depend_on_isa_threads_or_taps)
{
    const unsigned threads[] = {1, 2, 3, 7};
    check_bits("lfm2-mini", threads, 4);
}

Test(reference_lfm2, bits_of_odd_shapes_do_not_depend_on_isa_threads_or_taps)
{
    const unsigned threads[] = {1, 3};
    for (size_t i = 0; i < N_ODD; i++)
        check_bits(ODD[i], threads, 2);
}

// The same value from gcc 12 and clang 14 at -O0 to -O3 -march=native and from every kernel. If a change of this
// number was meant, the arithmetic of the reference has changed, and every golden trace of ours with it.
Test(reference_lfm2, the_bits_of_lfm2_mini_are_the_published_ones)
{
    struct fixture fixture;
    struct state end;
    struct watch watch = {0};
    fixture_open(&fixture, "lfm2-mini");
    const uint32_t v = fixture.config.vocabulary;
    const float *logits = plain_run(&fixture, &fixture.model, &end);
    for (uint32_t t = 0; t < N_PROMPT; t++)
        watch_put(&watch, 0, TAP_EMBED, logits + (size_t)t * v, v);
    cr_expect_eq(watch.hash, UINT64_C(0x9bad1d4e2cb81835), "hash of 19 rows of logits: %016llx",
                 (unsigned long long)watch.hash);
    fixture_close(&fixture);
}

Test(reference_lfm2, the_callers_floating_point_environment_changes_nothing_and_comes_back)
{
    struct fixture fixture;
    struct state end;
    fixture_open(&fixture, "odd-one-attention");
    const size_t v = fixture.config.vocabulary;
    const float *logits = plain_run(&fixture, &fixture.model, &end);
    fesetround(FE_UPWARD);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040); // flush to zero, denormals are zero
    const unsigned control = _mm_getcsr() & 0xFFC0;
#endif
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT);
    bool equal = true;
    for (size_t t = 0; t < N_PROMPT; t++)
        equal = equal && !memcmp(fixture_step(engine, PROMPT[t], NULL), logits + t * v, v * sizeof *logits);
    const int rounding = fegetround();
#if defined(__x86_64__)
    const unsigned control_after = _mm_getcsr() & 0xFFC0;
    _mm_setcsr(0x1F80);
    cr_expect_eq(control, control_after);
#endif
    fesetround(FE_TONEAREST);
    cr_expect_eq(rounding, FE_UPWARD);
    cr_expect(equal, "rounding and flushing of the caller reached the numbers");
    engine_close(&engine);
    fixture_close(&fixture);
}

Test(reference_lfm2, every_nan_that_leaves_is_the_canonical_one)
{
    struct fixture fixture;
    struct error error = {0};
    fixture_open(&fixture, "odd-group3-taps4-bias");
    struct model model = fixture_mutable(&fixture);
    float *norm = arena_alloc(&fixture.arena, fixture.config.hidden, sizeof *norm);
    weight_row(&model.layers[0].mixer_norm, 0, norm);
    norm[3] = float_from_bits(0xFFC12345); // negative, with a payload
    model.layers[0].mixer_norm =
        (struct weight){.format = WEIGHT_F32, .rows = 1, .cols = fixture.config.hidden, .data = norm};
    struct bits bits = {.fixture = &fixture, .model = &model};
    bits.logits = plain_run(&fixture, &model, &bits.expected);
    for (size_t i = 0; i < N_PROMPT * (size_t)fixture.config.vocabulary; i++)
        cr_assert_eq(float_to_bits(bits.logits[i]), FLOAT_NAN_BITS);
    for (size_t i = 0; i < bits.expected.n; i++)
        for (size_t j = 0; j < bits.expected.tensors[i].elements; j++)
            cr_assert_eq(float_to_bits(bits.expected.tensors[i].data[j]), FLOAT_NAN_BITS);
    for (int isa = 0; isa < ISA_COUNT; isa++)
        if (isa_available((enum isa)isa)) {
            check_run(&bits, NULL, (enum isa)isa, TAPS_NONE);
            check_run(&bits, NULL, (enum isa)isa, TAPS_ALL);
        }
    struct watch watch = {0};
    const struct tap_sink taps = {TAPS_ALL, &watch, watch_put};
    struct engine *engine = fixture_engine(&model, NULL, isa_best(), 1);
    const float *logits;
    must(engine->class->step(engine, 1, &taps, &logits, &error), &error);
    cr_assert(watch.nans > 0 && watch.foreign_nans == 0, "%u NaNs, %u of them not 0x7FC00000", watch.nans,
              watch.foreign_nans);
    engine_close(&engine);
    fixture_close(&fixture);
}

// --- states

Test(reference_lfm2, a_saved_and_loaded_state_continues_as_if_never_stopped)
{
    for (size_t m = 0; m <= N_ODD; m++) {
        struct fixture fixture;
        struct error error = {0};
        struct state end, middle, state;
        fixture_open(&fixture, m < N_ODD ? ODD[m] : "lfm2-mini");
        const size_t v = fixture.config.vocabulary;
        const float *logits = plain_run(&fixture, &fixture.model, &end);
        for (uint32_t cut = 0; cut < N_PROMPT; cut += 3) { // from before the first token on: windows still filling
            struct engine *first = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT);
            struct engine *second = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT + 40); // other strides
            for (uint32_t t = 0; t < cut; t++)
                fixture_step(first, PROMPT[t], NULL);
            for (uint32_t t = 0; t < 7; t++)
                fixture_step(second, 5, NULL); // what it held before must not matter
            must(state_make(&fixture.arena, &fixture.config, cut, &middle, &error), &error);
            first->class->save(first, &middle);
            must(second->class->load(second, &middle, &error), &error);
            cr_assert_eq(second->position, cut);
            for (uint32_t t = cut; t < N_PROMPT; t++)
                cr_assert(!memcmp(fixture_step(second, PROMPT[t], NULL), logits + t * v, v * sizeof *logits),
                          "restored at %u, position %u differs", cut, t);
            must(state_make(&fixture.arena, &fixture.config, N_PROMPT, &state, &error), &error);
            second->class->save(second, &state);
            cr_assert(states_equal(&end, &state), "restored at %u: another end state", cut);
            engine_close(&first);
            engine_close(&second);
        }
        fixture_close(&fixture);
    }
}

Test(reference_lfm2, a_changed_state_changes_what_follows)
{
    struct fixture fixture;
    struct error error = {0};
    struct state end;
    fixture_open(&fixture, "lfm2-mini");
    plain_run(&fixture, &fixture.model, &end);
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT + 1);
    must(engine->class->load(engine, &end, &error), &error);
    const size_t bytes = fixture.config.vocabulary * sizeof(float);
    float *logits = arena_alloc(&fixture.arena, 1, bytes);
    memcpy(logits, fixture_step(engine, 9, NULL), bytes);
    for (size_t i = 0; i < end.n; i++) { // every cache is read: one value off in any of them is seen
        const struct state_tensor *tensor = &end.tensors[i];
        float *value = &tensor->data[tensor->elements - 1];
        const float kept = *value;
        *value += 1.0f;
        must(engine->class->load(engine, &end, &error), &error);
        cr_expect(memcmp(logits, fixture_step(engine, 9, NULL), bytes), "layer %u, %s", tensor->layer,
                  state_kind_name(tensor->kind));
        *value = kept;
    }
    engine_close(&engine);
    fixture_close(&fixture);
}

Test(reference_lfm2, reset_is_the_zero_state)
{
    struct fixture fixture;
    struct state end;
    fixture_open(&fixture, "odd-group3-taps4-bias");
    const size_t v = fixture.config.vocabulary;
    const float *logits = plain_run(&fixture, &fixture.model, &end);
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT);
    for (int run = 0; run < 2; run++) {
        engine->class->reset(engine);
        cr_assert_eq(engine->position, 0);
        for (size_t t = 0; t < N_PROMPT; t++)
            cr_assert(!memcmp(fixture_step(engine, PROMPT[t], NULL), logits + t * v, v * sizeof *logits));
    }
    engine_close(&engine);
    fixture_close(&fixture);
}

// --- refusals

Test(reference_lfm2, tokens_and_positions_out_of_range_are_refused_and_change_nothing)
{
    struct fixture fixture;
    struct error error = {0};
    const float *logits;
    fixture_open(&fixture, "odd-one-attention");
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), 2);
    cr_expect_eq(engine->class->step(engine, fixture.config.vocabulary, NULL, &logits, &error), ERROR_INPUT);
    cr_expect(strstr(error.text, "token 72"), "%s", error.text);
    cr_expect_eq(engine->position, 0);
    fixture_step(engine, 71, NULL);
    fixture_step(engine, 0, NULL);
    cr_expect_eq(engine->class->step(engine, 0, NULL, &logits, &error), ERROR_USAGE);
    cr_expect_eq(engine->position, 2);
    engine_close(&engine);

    struct reference_options options = {.isa = ISA_SCALAR, .capacity = 0, .name = "reference"};
    cr_expect_eq(reference_open(&engine, &fixture.model, &options, &error), ERROR_USAGE);
    cr_expect_null(engine);
    options.capacity = MATH_ANGLE_MAX + 1;
    cr_expect_eq(reference_open(&engine, &fixture.model, &options, &error), ERROR_USAGE);
    fixture_close(&fixture);
}

Test(reference_lfm2, a_state_of_another_shape_is_refused_and_changes_nothing)
{
    struct fixture fixture;
    struct error error = {0};
    struct state state, end;
    fixture_open(&fixture, "odd-group3-taps4-bias");
    const size_t v = fixture.config.vocabulary;
    const float *logits = plain_run(&fixture, &fixture.model, &end);
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT);
    for (size_t t = 0; t < 5; t++)
        fixture_step(engine, PROMPT[t], NULL);
    for (int wrong = 0; wrong < 6; wrong++) {
        must(state_make(&fixture.arena, &fixture.config, 5, &state, &error), &error);
        switch (wrong) {
        case 0:
            state.n--;
            break; // one is missing
        case 1:
            state.tensors[0].layer = fixture.config.layers;
            break; // no such layer
        case 2:
            state.tensors[1] = state.tensors[0];
            break; // given twice
        case 3:
            state.position = 4;
            break; // not its position
        case 4:
            state.tensors[0].shape[1]--;
            break; // a conv state without its oldest column
        case 5:
            state.tensors[0].kind = STATE_K;
            break; // keys of a convolution
        }
        cr_expect_eq(engine->class->load(engine, &state, &error), ERROR_CONTRACT, "case %d", wrong);
    }
    must(state_make(&fixture.arena, &fixture.config, N_PROMPT + 1, &state, &error), &error);
    cr_expect_eq(engine->class->load(engine, &state, &error), ERROR_USAGE);
    cr_expect_eq(engine->position, 5);
    for (size_t t = 5; t < N_PROMPT; t++)
        cr_assert(!memcmp(fixture_step(engine, PROMPT[t], NULL), logits + t * v, v * sizeof *logits));
    engine_close(&engine);
    fixture_close(&fixture);
}
