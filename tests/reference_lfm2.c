// The LFM2 step as an engine: the same bits whatever the machine does, states that leave and come back, refusals.
#include <fenv.h>
#include <math.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "reference/math.h"
#include "tests/bits.h"

// --- the same bits

Test(reference_lfm2, bits_do_not_depend_on_isa_threads_or_taps)
{
    const unsigned threads[] = {1, 2, 3, 7};
    bits_check("lfm2-mini", threads, 4);
}

Test(reference_lfm2, bits_of_odd_shapes_do_not_depend_on_isa_threads_or_taps)
{
    const unsigned threads[] = {1, 3};
    for (size_t i = 0; i < N_ODD; i++)
        bits_check(ODD[i], threads, 2);
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
    const float *logits = bits_plain_run(&fixture, &fixture.model, &end);
    for (uint32_t t = 0; t < N_PROMPT; t++)
        bits_watch(&watch, 0, TAP_EMBED, logits + (size_t)t * v, v);
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
    const float *logits = bits_plain_run(&fixture, &fixture.model, &end);
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
    bits.logits = bits_plain_run(&fixture, &model, &bits.expected);
    for (size_t i = 0; i < N_PROMPT * (size_t)fixture.config.vocabulary; i++)
        cr_assert_eq(float_to_bits(bits.logits[i]), FLOAT_NAN_BITS);
    for (size_t i = 0; i < bits.expected.n; i++)
        for (size_t j = 0; j < bits.expected.tensors[i].elements; j++)
            cr_assert_eq(float_to_bits(bits.expected.tensors[i].data[j]), FLOAT_NAN_BITS);
    for (int isa = 0; isa < ISA_COUNT; isa++)
        if (isa_available((enum isa)isa)) {
            bits_check_run(&bits, NULL, (enum isa)isa, TAPS_NONE);
            bits_check_run(&bits, NULL, (enum isa)isa, TAPS_ALL);
        }
    struct watch watch = {0};
    const struct tap_sink taps = {TAPS_ALL, &watch, bits_watch};
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
    bits_check_restore("lfm2-mini");
    for (size_t i = 0; i < N_ODD; i++)
        bits_check_restore(ODD[i]);
}

Test(reference_lfm2, a_changed_state_changes_what_follows)
{
    bits_check_state_is_read("lfm2-mini");
}

Test(reference_lfm2, reset_is_the_zero_state)
{
    bits_check_reset("odd-group3-taps4-bias");
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
    const float *logits = bits_plain_run(&fixture, &fixture.model, &end);
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
