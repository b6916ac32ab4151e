// The runtime's step: equal, bit for bit, to the slow double version of the same rounding points (slow_runtime.h), on
// the mini model and on one of odd shapes; equal for every instruction set, number of threads, with taps and without.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "harness/base/floating.h"
#include "tests/runtime_models.h"
#include "tests/slow_runtime.h"

TestSuite(step, .fini = release_models);
TestSuite(state, .fini = release_models);
TestSuite(engine, .fini = release_models);

static double slow_state(const struct slow *slow, const struct state_tensor *tensor, uint64_t e)
{
    const uint64_t dh = slow->model->config.head_width, columns = slow->model->config.conv_taps - 1;
    if (tensor->kind != STATE_CONV) {
        const uint64_t head = e / (slow->n * dh), t = e / dh % slow->n, c = e % dh;
        return (tensor->kind == STATE_K ? slow->k : slow->v)[tensor->layer][t][head * dh + c];
    }
    const uint64_t i = e / columns, back = columns - e % columns; // tokens ago
    return back <= slow->n ? slow->bx[tensor->layer][slow->n - back][i] : 0;
}

static bool same_number(float found, double expected) // `expected` is a float's value
{
    return expected != expected ? found != found : float_to_bits(found) == float_to_bits((float)expected);
}

// Are n tokens' logits and the state after them those of the slow version, bit for bit? `where` names the first that
// is not.
static bool equals_slow(const struct model *model, const struct plan *plan, enum slip slip, uint32_t n,
                        char where[128])
{
    static struct slow slow;
    const struct runtime_options chosen = options(plan);
    struct engine *engine = open_engine(model, &chosen);
    bool equal = true;
    memset(&slow, 0, sizeof slow);
    slow.model = model;
    slow.plan = *plan;
    slow.slip = slip;
    for (uint32_t t = 0; equal && t < n; t++) {
        const float *logits = step(engine, token_at(model, t));
        const double *expected = slow_step(&slow, token_at(model, t));
        for (uint32_t id = 0; equal && id < model->config.vocabulary; id++) {
            equal = same_number(logits[id], expected[id]);
            snprintf(where, 128, "position %u, id %u: %a, expected %a", t, id, (double)logits[id], expected[id]);
        }
    }
    const struct state state = save(engine);
    for (size_t i = 0; equal && i < state.n; i++)
        for (uint64_t e = 0; equal && e < state.tensors[i].elements; e++) {
            const double expected = slow_state(&slow, &state.tensors[i], e);
            char name[48];
            equal = same_number(state.tensors[i].data[e], expected);
            snprintf(where, 128, "%s[%llu]: %a, expected %a",
                     state_name(state.tensors[i].layer, state.tensors[i].kind, name), (unsigned long long)e,
                     (double)state.tensors[i].data[e], expected);
        }
    engine_close(&engine);
    return equal;
}

static void expect_slow(const struct model *model, const struct plan *plan, uint32_t n)
{
    char where[128];
    cr_assert(equals_slow(model, plan, SLIP_NONE, n, where), "%s", where);
}

Test(step, equals_the_slow_double_version_on_the_mini_in_int8)
{
    struct plan plan;
    plan_default(&plan);
    expect_slow(mini(WEIGHT_Q8), &plan, 12);
}

Test(step, equals_the_slow_double_version_on_the_mini_in_f16)
{
    struct plan plan;
    plan_default(&plan);
    expect_slow(mini(WEIGHT_F16), &plan, 6);
}

// 40 positions: a second block of the attention.
Test(step, equals_the_slow_double_version_on_odd_shapes)
{
    struct plan plan;
    plan_default(&plan);
    expect_slow(odd(), &plan, 40);
}

Test(step, computes_every_precision_that_a_plan_may_ask_for)
{
    const struct {
        enum plan_row row;
        enum precision precision;
    } departures[] = {
        {PLAN_LINEAR_SUM, PRECISION_F16}, {PLAN_DEQUANT, PRECISION_F16},        {PLAN_KV_STATE, PRECISION_F32},
        {PLAN_CONV_STATE, PRECISION_F32}, {PLAN_ROPE_FREQUENCY, PRECISION_F16}, {PLAN_ROPE_TABLE, PRECISION_F32},
        {PLAN_LOGITS, PRECISION_F32},
    };
    const struct model *model = odd();
    struct plan plan;
    plan_default(&plan);
    struct engine *engine = open_default(model);
    const float *usual = run(engine, model, 12);
    engine_close(&engine);
    for (size_t i = 0; i < sizeof departures / sizeof *departures; i++) {
        plan_default(&plan);
        plan.rows[departures[i].row] = departures[i].precision;
        expect_slow(model, &plan, 12);
        const struct runtime_options chosen = options(&plan);
        engine = open_engine(model, &chosen);
        cr_expect(!same(usual, run(engine, model, 12), 12 * model->config.vocabulary), "%s has no effect",
                  plan_row_name(departures[i].row));
        engine_close(&engine);
    }
}

// One rounding point misread in the slow version, the rest as it should be: the comparison sees each.
Test(step, differs_from_a_version_that_misses_one_rounding_point)
{
    struct plan plan;
    plan_default(&plan);
    for (int slip = SLIP_NONE + 1; slip < SLIPS; slip++) {
        char where[128];
        cr_expect(!equals_slow(odd(), &plan, (enum slip)slip, 12, where), "slip %d is not seen", slip);
    }
}

Test(step, with_attention_projections_in_f16_needs_them_stored_so)
{
    struct model changed = *odd();
    struct plan plan;
    plan_default(&plan);
    plan.rows[PLAN_ATTENTION_PROJECTIONS] = PRECISION_F16;
    const struct runtime_options chosen = options(&plan);
    struct engine *engine;
    struct error error = {0};
    cr_expect_eq(runtime_open(&engine, &changed, &chosen, &error), ERROR_CONTRACT);
    cr_expect(strstr(error.text, "q_proj") && strstr(error.text, "F32") &&
                  strstr(error.text, "attention_projections"),
              "%s", error.text);
    cr_expect_null(engine);
    for (uint32_t i = 0; i < changed.config.layers; i++) {
        struct layer *layer = &changed.layers[i];
        struct weight *projections[] = {&layer->q_proj, &layer->k_proj, &layer->v_proj, &layer->attn_out};
        for (int w = 0; w < 4; w++)
            convert(projections[w], WEIGHT_F16, 0);
    }
    expect_slow(&changed, &plan, 4);
}

// --- the same bits, however it is run

// 68 positions, so that heads are split as well.
Test(step, gives_the_same_bits_for_every_number_of_threads)
{
    const struct model *model = wide();
    struct plan plan;
    plan_default(&plan);
    struct runtime_options chosen = options(&plan);
    struct engine *engine = open_engine(model, &chosen);
    const float *expected = run(engine, model, 68);
    const struct state state = save(engine);
    engine_close(&engine);
    const unsigned threads[] = {1, 2, 3, 7};
    for (int i = 0; i < 4; i++) {
        struct pool *pool;
        cr_assert_eq(pool_open(&pool, threads[i], NULL), 0);
        chosen.pool = pool;
        engine = open_engine(model, &chosen);
        cr_expect(same(expected, run(engine, model, 68), 68 * model->config.vocabulary), "%u threads", threads[i]);
        const struct state other = save(engine);
        cr_expect(same_state(&state, &other), "%u threads: state", threads[i]);
        engine_close(&engine);
        pool_close(&pool);
    }
}

Test(step, gives_the_same_bits_for_every_isa)
{
    const struct model *models[] = {mini(WEIGHT_Q8), odd(), wide()};
    struct plan plan;
    plan_default(&plan);
    struct runtime_options chosen = options(&plan);
    for (int i = 0; i < 3; i++) {
        chosen.isa = ISA_SCALAR;
        struct engine *engine = open_engine(models[i], &chosen);
        const float *expected = run(engine, models[i], 5);
        const struct state state = save(engine);
        engine_close(&engine);
        for (int isa = ISA_AVX2; isa < ISA_COUNT; isa++) {
            if (!isa_available((enum isa)isa))
                continue;
            chosen.isa = (enum isa)isa;
            engine = open_engine(models[i], &chosen);
            cr_expect(same(expected, run(engine, models[i], 5), 5 * models[i]->config.vocabulary), "%s",
                      isa_name(chosen.isa));
            const struct state other = save(engine);
            cr_expect(same_state(&state, &other), "%s: state", isa_name(chosen.isa));
            engine_close(&engine);
        }
    }
}

struct seen {
    uint32_t rows[SLOW_LAYERS][TAP_POINTS], widths[SLOW_LAYERS][TAP_POINTS];
    bool halves;
};

static void note(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct seen *seen = context;
    seen->rows[layer][point]++;
    seen->widths[layer][point] = width;
    for (uint32_t i = 0; i < width; i++)
        seen->halves = seen->halves && float_to_bits(row[i]) == float_to_bits(half_round(row[i]));
}

Test(step, gives_the_same_bits_with_taps_and_every_tap_once_in_halves)
{
    const struct model *model = mini(WEIGHT_Q8);
    struct engine *engine = open_default(model);
    const float *expected = run(engine, model, 4);
    for (int level = TAPS_NONE; level <= TAPS_ALL; level++) {
        struct seen seen = {.halves = true};
        const struct tap_sink sink = {(enum tap_level)level, &seen, note};
        engine->class->reset(engine);
        for (uint32_t t = 0; t < 4; t++) {
            const float *logits;
            cr_assert_eq(engine->class->step(engine, token_at(model, t), &sink, &logits, NULL), 0);
            cr_expect(same(expected + t * model->config.vocabulary, logits, model->config.vocabulary));
        }
        cr_expect(seen.halves);
        for (uint32_t i = 0; i < model->config.layers; i++)
            for (int point = 0; point < TAP_POINTS; point++) {
                const uint32_t width = tap_width(&model->config, (enum tap_level)level, i, (enum tap_point)point);
                cr_expect_eq(seen.widths[i][point], width, "layer %u, %s", i, tap_point_name((enum tap_point)point));
                cr_expect_eq(seen.rows[i][point], width ? 4 : 0, "layer %u, %s", i,
                             tap_point_name((enum tap_point)point));
            }
    }
    engine_close(&engine);
}

#if defined(__SSE__)
Test(step, sets_its_own_floating_environment_and_gives_it_back)
{
    const struct model *model = odd();
    struct engine *engine = open_default(model);
    const float *expected = run(engine, model, 4);
    const unsigned saved = _mm_getcsr(), strange = saved | 0x8040 | 0x6000; // flush, round toward zero
    _mm_setcsr(strange);
    engine->class->reset(engine);
    const float *found = run(engine, model, 4);
    const unsigned left = _mm_getcsr();
    _mm_setcsr(saved);
    cr_expect(same(expected, found, 4 * model->config.vocabulary));
    cr_expect_eq(left & 0xFFC0, strange & 0xFFC0);
    engine_close(&engine);
}
#endif

// --- state

Test(state, saved_and_loaded_continues_with_the_same_bits)
{
    const struct model *models[] = {odd(), mini(WEIGHT_Q8)};
    for (int i = 0; i < 2; i++) {
        const struct model *model = models[i];
        struct engine *whole = open_default(model), *resumed = open_default(model);
        run(whole, model, 34);
        const struct state state = save(whole);
        cr_assert_eq(resumed->class->load(resumed, &state, NULL), 0);
        cr_expect_eq(resumed->position, 34);
        const struct state again = save(resumed);
        cr_expect(same_state(&state, &again));
        for (uint32_t t = 34; t < 40; t++)
            cr_expect(
                same(step(whole, token_at(model, t)), step(resumed, token_at(model, t)), model->config.vocabulary));
        whole->class->reset(whole);
        struct engine *fresh = open_default(model);
        cr_expect(same(run(whole, model, 3), run(fresh, model, 3), 3 * model->config.vocabulary),
                  "reset is a fresh start");
        engine_close(&whole);
        engine_close(&resumed);
        engine_close(&fresh);
    }
}

Test(state, is_rounded_to_half_on_load_and_an_overflow_is_refused_by_name)
{
    const struct model *model = odd();
    struct engine *engine = open_default(model);
    run(engine, model, 5);
    struct state state = save(engine), before = save(engine);
    struct error error = {0};
    float *first_v = state.tensors[2].data; // conv of layer 0, k and v of layer 1
    cr_assert_eq(state.tensors[2].kind, STATE_V);
    first_v[3] = 65519.99f;    // below the tie: the largest half
    first_v[4] = 1 + 0x1p-11f; // a tie: to even
    first_v[5] = NAN;
    cr_assert_eq(engine->class->load(engine, &state, &error), 0, "%s", error.text);
    const struct state loaded = save(engine);
    cr_expect_eq(loaded.tensors[2].data[3], 65504);
    cr_expect_eq(loaded.tensors[2].data[4], 1);
    cr_expect(isnan(loaded.tensors[2].data[5]));
    cr_assert_eq(engine->class->load(engine, &before, NULL), 0);
    first_v[3] = 65520;
    cr_expect_eq(engine->class->load(engine, &state, &error), ERROR_RUNTIME);
    cr_expect(strstr(error.text, "state.1.v") && strstr(error.text, "65520"), "%s", error.text);
    const struct state kept = save(engine);
    cr_expect(same_state(&before, &kept), "a refused load changes nothing");
    engine_close(&engine);
}

Test(state, of_another_model_or_too_long_is_refused)
{
    struct engine *engine = open_default(odd()), *other = open_default(mini(WEIGHT_Q8));
    struct error error = {0};
    const struct state foreign = save(other);
    cr_expect_eq(engine->class->load(engine, &foreign, &error), ERROR_CONTRACT);
    struct state longer;
    cr_assert_eq(state_make(&arena, engine->config, CAPACITY + 1, &longer, NULL), 0);
    cr_expect_eq(engine->class->load(engine, &longer, &error), ERROR_USAGE);
    engine_close(&engine);
    engine_close(&other);
}

Test(engine, refuses_unknown_tokens_and_more_positions_than_it_has)
{
    const struct model *model = odd();
    struct engine *engine = open_default(model);
    const float *logits;
    struct error error = {0};
    cr_expect_eq(engine->class->step(engine, model->config.vocabulary, NULL, &logits, &error), ERROR_INPUT);
    cr_expect(strstr(error.text, "67"), "%s", error.text);
    cr_expect_eq(engine->position, 0);
    run(engine, model, CAPACITY);
    cr_expect_eq(engine->class->step(engine, 1, NULL, &logits, &error), ERROR_USAGE);
    cr_expect(strstr(error.text, "72"), "%s", error.text);
    engine_close(&engine);
}
