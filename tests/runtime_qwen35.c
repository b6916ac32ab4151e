// Qwen3.5's step in the runtime: equal, bit for bit, to the slow double version of the same rounding points
// (slow_qwen35.h), on the mini model and on odd shapes; equal for every instruction set, number of threads, with taps
// and without; its states saved and loaded.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/floating.h"
#include "tests/qwen35_models.h"
#include "tests/slow_qwen35.h"

TestSuite(qwen35_step, .fini = release_models);
TestSuite(qwen35_state, .fini = release_models);

static double slow_state(const struct slow_qwen35 *slow, const struct state_tensor *tensor, uint64_t e)
{
    const struct slow *base = &slow->base;
    const uint64_t dh = base->model->config.head_width, columns = base->model->config.conv_taps - 1;
    if (tensor->kind == STATE_DELTA)
        return slow->delta[tensor->layer][e];
    if (tensor->kind == STATE_CONV) {
        const uint64_t i = e / columns, back = columns - e % columns; // tokens ago
        return back <= base->n ? slow->columns[tensor->layer][base->n - back][i] : 0;
    }
    const uint64_t head = e / (base->n * dh), t = e / dh % base->n, c = e % dh;
    return (tensor->kind == STATE_K ? base->k : base->v)[tensor->layer][t][head * dh + c];
}

static bool same_number(float found, double expected) // `expected` is a float's value
{
    return expected != expected ? found != found : float_to_bits(found) == float_to_bits((float)expected);
}

// Are n tokens' logits and the state after them those of the slow version, bit for bit? `where` names the first that
// is not.
static bool equals_slow(const struct model *model, const struct plan *plan, enum qwen35_slip slip, uint32_t n,
                        char where[128])
{
    static struct slow_qwen35 slow;
    const struct runtime_options chosen = options(plan);
    struct engine *engine = open_engine(model, &chosen);
    bool equal = true;
    memset(&slow, 0, sizeof slow);
    slow.base.model = model;
    slow.base.plan = *plan;
    slow.slip = slip;
    for (uint32_t t = 0; equal && t < n; t++) {
        const float *logits = step(engine, token_at(model, t));
        const double *expected = slow_qwen35_step(&slow, token_at(model, t));
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
    cr_assert(equals_slow(model, plan, QWEN35_SLIP_NONE, n, where), "%s", where);
}

// --- the slow version

Test(qwen35_step, equals_the_slow_double_version_on_the_mini)
{
    struct plan plan;
    plan_default(&plan);
    expect_slow(mini_qwen35(WEIGHT_Q8), &plan, 8);
    expect_slow(mini_qwen35(WEIGHT_F16), &plan, 3);
}

// 40 positions: a second block of the attention.
Test(qwen35_step, equals_the_slow_double_version_on_odd_shapes)
{
    struct plan plan;
    plan_default(&plan);
    for (int i = 0; i < ODD_QWEN35; i++)
        expect_slow(odd_qwen35(i), &plan, 40);
}

Test(qwen35_step, computes_every_precision_that_a_plan_may_ask_for)
{
    const struct {
        enum plan_row row;
        enum precision precision;
    } departures[] = {
        {PLAN_LINEAR_SUM, PRECISION_F16},     {PLAN_DEQUANT, PRECISION_F16},    {PLAN_KV_STATE, PRECISION_F32},
        {PLAN_CONV_STATE, PRECISION_F32},     {PLAN_DELTA_STATE, PRECISION_F32}, {PLAN_DELTA_NORM, PRECISION_F16},
        {PLAN_ROPE_FREQUENCY, PRECISION_F16}, {PLAN_ROPE_TABLE, PRECISION_F32}, {PLAN_LOGITS, PRECISION_F32},
    };
    for (int which = 0; which < ODD_QWEN35; which++) {
        const struct model *model = odd_qwen35(which);
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
            cr_expect(!same(usual, run(engine, model, 12), 12 * model->config.vocabulary),
                      "model %d: %s has no effect", which, plan_row_name(departures[i].row));
            engine_close(&engine);
        }
    }
}

// One rounding point misread in the slow version, the rest as it should be: the comparison sees each. Model 1 has two
// value heads for each of three key heads, so that every one can be taken for another.
Test(qwen35_step, differs_from_a_version_that_misses_one_rounding_point)
{
    const struct model *model = odd_qwen35(1);
    struct plan plan;
    plan_default(&plan);
    expect_slow(model, &plan, 12);
    for (int slip = QWEN35_SLIP_NONE + 1; slip < QWEN35_SLIPS; slip++) {
        char where[128];
        cr_expect(!equals_slow(model, &plan, (enum qwen35_slip)slip, 12, where), "slip %d is not seen", slip);
    }
}

// No row of the plan speaks of them: whatever their format, the engine opens.
Test(qwen35_step, takes_attention_projections_in_any_format)
{
    struct model changed = *odd_qwen35(0);
    struct plan plan;
    plan_default(&plan);
    for (uint32_t i = 1; i < changed.config.layers; i += 2) {
        convert(&changed.layers[i].k_proj, WEIGHT_Q8, changed.config.hidden);
        convert(&changed.layers[i].v_proj, WEIGHT_Q4, changed.config.hidden);
        convert(&changed.layers[i].attn_out, WEIGHT_BF16, 0);
    }
    expect_slow(&changed, &plan, 4);
}

// --- the same bits, however it is run

// 68 positions, so that heads of the attention are split as well.
Test(qwen35_step, gives_the_same_bits_for_every_number_of_threads)
{
    const struct model *model = wide_qwen35();
    struct plan plan;
    plan_default(&plan);
    struct runtime_options chosen = options(&plan);
    struct engine *engine = open_engine(model, &chosen);
    const float *expected = run(engine, model, 68);
    const struct state state = save(engine);
    engine_close(&engine);
    const unsigned threads[] = {2, 3, 7};
    for (int i = 0; i < 3; i++) {
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

Test(qwen35_step, gives_the_same_bits_for_every_isa)
{
    const struct model *models[] = {odd_qwen35(0), odd_qwen35(1), odd_qwen35(2), wide_qwen35(), mini_qwen35(WEIGHT_Q8)};
    for (int i = 0; i < 10; i++) {
        const struct model *model = models[i / 2];
        struct plan plan;
        plan_default(&plan);
        if (i % 2) {
            plan.rows[PLAN_DELTA_STATE] = PRECISION_F32;
            plan.rows[PLAN_DELTA_NORM] = PRECISION_F16;
        }
        struct runtime_options chosen = options(&plan);
        chosen.isa = ISA_SCALAR;
        struct engine *engine = open_engine(model, &chosen);
        const float *expected = run(engine, model, 5);
        const struct state state = save(engine);
        engine_close(&engine);
        for (int isa = ISA_AVX2; isa < ISA_COUNT; isa++) {
            if (!isa_available((enum isa)isa))
                continue;
            chosen.isa = (enum isa)isa;
            engine = open_engine(model, &chosen);
            cr_expect(same(expected, run(engine, model, 5), 5 * model->config.vocabulary), "%s",
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

// The gates of the delta net, the factor of its q and the experts' weights are fp32 throughout; all else is halves.
static void note(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct seen *seen = context;
    seen->rows[layer][point]++;
    seen->widths[layer][point] = width;
    if (point == TAP_Q || point == TAP_BETA || point == TAP_G || point == TAP_WEIGHTS)
        return;
    for (uint32_t i = 0; i < width; i++)
        seen->halves = seen->halves && float_to_bits(row[i]) == float_to_bits(half_round(row[i]));
}

Test(qwen35_step, gives_the_same_bits_with_taps_and_every_tap_once)
{
    const char *const names[] = {"qwen35-mini", "qwen35moe-mini"};
    for (int which = 0; which < 2; which++) {
        const struct model *model = stored_qwen35(names[which], WEIGHT_Q8);
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
                    const uint32_t width =
                        tap_width(&model->config, (enum tap_level)level, i, (enum tap_point)point);
                    const char *name = tap_point_name((enum tap_point)point);
                    cr_expect_eq(seen.widths[i][point], width, "layer %u, %s", i, name);
                    cr_expect_eq(seen.rows[i][point], width ? 4 : 0, "layer %u, %s", i, name);
                }
        }
        engine_close(&engine);
    }
}

// --- state

// In the middle of a block, of the convolution's window (1 and 2 tokens of 3) and past a block.
Test(qwen35_state, saved_and_loaded_continues_with_the_same_bits)
{
    const uint32_t stops[] = {1, 2, 34};
    for (int i = 0; i < 2 * 4; i++) {
        const struct model *model = i / 2 < ODD_QWEN35 ? odd_qwen35(i / 2) : mini_qwen35(WEIGHT_Q8);
        struct plan plan;
        plan_default(&plan);
        plan.rows[PLAN_DELTA_STATE] = i % 2 ? PRECISION_F32 : PRECISION_F16;
        plan.rows[PLAN_CONV_STATE] = plan.rows[PLAN_KV_STATE] = plan.rows[PLAN_DELTA_STATE];
        const struct runtime_options chosen = options(&plan);
        struct engine *whole = open_engine(model, &chosen), *resumed = open_engine(model, &chosen);
        for (size_t s = 0; s < sizeof stops / sizeof *stops; s++) {
            whole->class->reset(whole);
            run(whole, model, stops[s]);
            const struct state state = save(whole);
            cr_assert_eq(resumed->class->load(resumed, &state, NULL), 0);
            const struct state again = save(resumed);
            cr_expect(same_state(&state, &again));
            for (uint32_t t = stops[s]; t < stops[s] + 4; t++)
                cr_expect(same(step(whole, token_at(model, t)), step(resumed, token_at(model, t)),
                               model->config.vocabulary));
            const struct state end = save(whole), other = save(resumed);
            cr_expect(same_state(&end, &other));
        }
        whole->class->reset(whole);
        struct engine *fresh = open_engine(model, &chosen);
        cr_expect(same(run(whole, model, 3), run(fresh, model, 3), 3 * model->config.vocabulary),
                  "reset is a fresh start");
        engine_close(&whole);
        engine_close(&resumed);
        engine_close(&fresh);
    }
}

static struct state_tensor *first_of(struct state *state, enum state_kind kind)
{
    for (size_t i = 0; i < state->n; i++)
        if (state->tensors[i].kind == kind)
            return &state->tensors[i];
    return NULL;
}

Test(qwen35_state, of_the_delta_net_is_rounded_to_half_on_load_and_an_overflow_is_refused_by_name)
{
    const struct model *model = odd_qwen35(0);
    struct engine *engine = open_default(model);
    run(engine, model, 5);
    struct state state = save(engine), before = save(engine);
    struct error error = {0};
    float *delta = first_of(&state, STATE_DELTA)->data;
    delta[3] = 65519.99f;    // below the tie: the largest half
    delta[4] = 1 + 0x1p-11f; // a tie: to even
    delta[5] = NAN;
    cr_assert_eq(engine->class->load(engine, &state, &error), 0, "%s", error.text);
    struct state loaded = save(engine);
    const float *found = first_of(&loaded, STATE_DELTA)->data;
    cr_expect(found[3] == 65504 && found[4] == 1 && isnan(found[5]));
    cr_assert_eq(engine->class->load(engine, &before, NULL), 0);
    delta[3] = 65520;
    cr_expect_eq(engine->class->load(engine, &state, &error), ERROR_RUNTIME);
    cr_expect(strstr(error.text, "state.0.delta") && strstr(error.text, "65520"), "%s", error.text);
    const struct state kept = save(engine);
    cr_expect(same_state(&before, &kept), "a refused load changes nothing");
    engine_close(&engine);
}

// The same number in a state of floats is nothing special.
Test(qwen35_state, in_f32_keeps_every_float)
{
    const struct model *model = odd_qwen35(0);
    struct plan plan;
    plan_default(&plan);
    plan.rows[PLAN_DELTA_STATE] = PRECISION_F32;
    const struct runtime_options chosen = options(&plan);
    struct engine *engine = open_engine(model, &chosen);
    struct state state = save(engine);
    float *delta = first_of(&state, STATE_DELTA)->data;
    delta[3] = 65520;
    delta[4] = 1 + 0x1p-23f;
    cr_assert_eq(engine->class->load(engine, &state, NULL), 0);
    struct state loaded = save(engine);
    const float *found = first_of(&loaded, STATE_DELTA)->data;
    cr_expect(found[3] == 65520 && found[4] == 1 + 0x1p-23f);
    engine_close(&engine);
}
