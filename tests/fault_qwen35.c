// Faults of Qwen3.5's step: what each changes, what it must leave alone, and which are refused.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/floating.h"
#include "runtime/kernels.h"
#include "tests/qwen35_models.h"

TestSuite(fault_qwen35, .fini = release_models);

// Largest |difference| of the logits at position 0 and after it (infinite where one is NaN), and whether the state of
// each kind differs.
struct effect {
    double first, later;
    bool states[STATE_KINDS];
};

static double distance(float a, float b)
{
    const double off = fabs((double)a - (double)b);
    return isnan(off) ? INFINITY : off;
}

static struct effect effect_of(enum fault fault)
{
    const struct model *model = mini_qwen35(WEIGHT_Q8);
    const uint32_t n = 12, vocabulary = model->config.vocabulary;
    struct engine *sound = open_default(model), *faulty = open_faulty(model, fault);
    const float *a = run(sound, model, n), *b = run(faulty, model, n);
    const struct state right = save(sound), wrong = save(faulty);
    struct effect effect = {0};
    for (size_t i = 0; i < (size_t)n * vocabulary; i++) {
        double *most = i < vocabulary ? &effect.first : &effect.later;
        *most = fmax(*most, distance(a[i], b[i]));
    }
    for (size_t i = 0; i < right.n; i++)
        effect.states[right.tensors[i].kind] |=
            !same(right.tensors[i].data, wrong.tensors[i].data, right.tensors[i].elements);
    fprintf(stderr, "# %s: logits %.3g at position 0, %.3g later; state%s%s%s%s\n", fault_name(fault), effect.first,
            effect.later, effect.states[STATE_K] ? " k" : "", effect.states[STATE_V] ? " v" : "",
            effect.states[STATE_CONV] ? " conv" : "", effect.states[STATE_DELTA] ? " delta" : "");
    engine_close(&sound);
    engine_close(&faulty);
    return effect;
}

Test(fault_qwen35, none_changes_nothing)
{
    const struct effect effect = effect_of(FAULT_NONE);
    cr_expect(effect.first == 0 && effect.later == 0);
    for (int kind = 0; kind < STATE_KINDS; kind++)
        cr_expect_not(effect.states[kind]);
}

// The first token sees no state and turns by the angle 0: its logits stay. Later ones move by more than the noise of
// int8: 0.1 is about ten times its sigma on this model.
Test(fault_qwen35, of_state_or_position_keeps_the_first_logits_and_changes_the_later_ones)
{
    const enum fault faults[] = {
        FAULT_CONV_STATE_LOST,  FAULT_CONV_STATE_ACTIVATED,   FAULT_ROPE_THETA,        FAULT_ROTARY_ALL, FAULT_KV_SLOT,
        FAULT_DELTA_STATE_LOST, FAULT_DELTA_STATE_TRANSPOSED, FAULT_DECAY_WITHOUT_EXP,
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const struct effect effect = effect_of(faults[i]);
        cr_expect_eq(effect.first, 0, "%s", fault_name(faults[i]));
        cr_expect_gt(effect.later, 0.1, "%s", fault_name(faults[i]));
    }
}

Test(fault_qwen35, of_the_arithmetic_changes_the_first_logits)
{
    const enum fault faults[] = {FAULT_GATE_UP_SWAPPED,   FAULT_NORM_WITHOUT_ONE,     FAULT_QUERY_GATE_SWAPPED,
                                 FAULT_L2_NORM_MISSING,   FAULT_BETA_WITHOUT_SIGMOID, FAULT_Z_GATE_MISSING};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        cr_expect_gt(effect_of(faults[i]).first, 0.1, "%s", fault_name(faults[i]));
}

// A consistent shift, frequencies in half, and a norm after the rotation (whose length it leaves alone, so that only
// the weights of the turned dimensions are exchanged) hardly move these logits: the keys tell.
Test(fault_qwen35, that_logits_hardly_show_is_visible_in_the_keys)
{
    const enum fault faults[] = {FAULT_ROPE_OFF_BY_ONE, FAULT_ROPE_FREQUENCY_F16, FAULT_NORM_AFTER_ROPE};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const struct effect effect = effect_of(faults[i]);
        cr_expect_eq(effect.first, 0, "%s", fault_name(faults[i]));
        cr_expect(effect.later < 0.1 && effect.states[STATE_K], "%s", fault_name(faults[i]));
    }
}

// --- the delta net's state

// Which state of `model` after n tokens, with a fault and without.
static void states_of(const struct model *model, const struct plan *plan, enum fault fault, uint32_t n,
                      struct state *right, struct state *wrong)
{
    struct runtime_options chosen = options(plan);
    struct engine *sound = open_engine(model, &chosen);
    chosen.fault = fault;
    struct engine *faulty = open_engine(model, &chosen);
    run(sound, model, n);
    run(faulty, model, n);
    *right = save(sound);
    *wrong = save(faulty);
    engine_close(&sound);
    engine_close(&faulty);
}

// The first token's state is written as [dv, dk]: the transposed matrix on the mini, where dk = dv; the same values at
// the same places of the other layout on the odd models, where they differ.
Test(fault_qwen35, delta_state_transposed_writes_the_first_state_in_the_other_layout)
{
    struct plan plan;
    plan_default(&plan);
    for (int i = 0; i < 2; i++) {
        const struct model *model = i ? odd_qwen35(0) : mini_qwen35(WEIGHT_Q8);
        struct state right, wrong;
        states_of(model, &plan, FAULT_DELTA_STATE_TRANSPOSED, 1, &right, &wrong);
        const uint32_t dk = model->config.delta_key_width, dv = model->config.delta_value_width;
        cr_assert_eq(right.tensors[1].kind, STATE_DELTA); // of layer 0, which nothing wrong came before
        const float *a = right.tensors[1].data, *b = wrong.tensors[1].data;
        for (uint32_t head = 0; head < model->config.delta_value_heads; head++)
            for (uint32_t r = 0; r < dk; r++)
                for (uint32_t c = 0; c < dv; c++)
                    cr_assert_eq(b[head * dk * dv + c * dk + r], a[head * dk * dv + r * dv + c]);
    }
}

static size_t not_halves(const struct state *state)
{
    size_t n = 0;
    for (size_t i = 0; i < state->n; i++)
        for (uint64_t e = 0; state->tensors[i].kind == STATE_DELTA && e < state->tensors[i].elements; e++)
            n += state->tensors[i].data[e] != half_round(state->tensors[i].data[e]);
    return n;
}

// Distance cannot show it; that every value of a state of floats is a half, can.
Test(fault_qwen35, delta_state_f16_leaves_nothing_but_halves_in_a_state_of_floats)
{
    const struct model *model = mini_qwen35(WEIGHT_Q8);
    struct plan plan;
    struct state right, wrong;
    plan_default(&plan);
    plan.rows[PLAN_DELTA_STATE] = PRECISION_F32;
    states_of(model, &plan, FAULT_DELTA_STATE_F16, 6, &right, &wrong);
    cr_expect_gt(not_halves(&right), 10000); // of 36,864; one in 2^13 is a half by chance
    cr_expect_eq(not_halves(&wrong), 0);
}

Test(fault_qwen35, delta_state_lost_leaves_the_state_as_it_was)
{
    const struct model *model = odd_qwen35(1);
    struct plan plan;
    plan_default(&plan);
    for (int precision = PRECISION_F16; precision <= PRECISION_F32; precision++) {
        struct state right, wrong;
        plan.rows[PLAN_DELTA_STATE] = (enum precision)precision;
        states_of(model, &plan, FAULT_DELTA_STATE_LOST, 4, &right, &wrong);
        for (size_t i = 0; i < wrong.n; i++)
            for (uint64_t e = 0; wrong.tensors[i].kind == STATE_DELTA && e < wrong.tensors[i].elements; e++)
                cr_assert_eq(wrong.tensors[i].data[e], 0);
    }
}

// --- saving, resetting, loading

Test(fault_qwen35, of_saving_resetting_and_loading_shows_only_there)
{
    const enum fault faults[] = {FAULT_STATE_ZERO, FAULT_STATE_NOT_RESET, FAULT_RESTORE_LOSES_CONV,
                                 FAULT_RESTORE_LOSES_DELTA, FAULT_POSITION_RESTARTED};
    const struct model *model = mini_qwen35(WEIGHT_Q8);
    const uint32_t n = 12, vocabulary = model->config.vocabulary;
    struct engine *sound = open_default(model);
    const float *expected = run(sound, model, n);
    const struct state state = save(sound);
    for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
        const enum fault fault = faults[f];
        struct engine *faulty = open_faulty(model, fault);
        cr_expect(same(expected, run(faulty, model, n), n * vocabulary), "%s", fault_name(fault));
        const struct state saved = save(faulty);
        cr_expect_eq(same_state(&state, &saved), fault != FAULT_STATE_ZERO, "%s", fault_name(fault));
        faulty->class->reset(faulty);
        cr_expect_eq(same(expected, run(faulty, model, n), n * vocabulary), fault != FAULT_STATE_NOT_RESET, "%s",
                     fault_name(fault));

        struct engine *fresh = open_faulty(model, fault);
        double most = 0;
        cr_assert_eq(fresh->class->load(fresh, &state, NULL), 0);
        cr_assert_eq(sound->class->load(sound, &state, NULL), 0);
        for (uint32_t t = n; t < n + 8; t++) {
            const float *a = step(sound, token_at(model, t)), *b = step(fresh, token_at(model, t));
            for (uint32_t id = 0; id < vocabulary; id++)
                most = fmax(most, distance(a[id], b[id]));
        }
        fprintf(stderr, "# %s: logits %.3g after a load\n", fault_name(fault), most);
        const bool loads = fault == FAULT_STATE_ZERO || fault == FAULT_STATE_NOT_RESET;
        cr_expect(loads ? most == 0 : most > 0.1, "%s: %g", fault_name(fault), most);
        engine_close(&faulty);
        engine_close(&fresh);
    }
    engine_close(&sound);
}

// A reset keeps both kinds: each is enough to change the second run.
Test(fault_qwen35, state_not_reset_keeps_the_delta_state_too)
{
    struct model model = *odd_qwen35(0);
    model.config.conv_taps = 1; // no columns to remember
    for (uint32_t i = 0; i < model.config.layers; i += 2)
        model.layers[i].delta_conv.cols = 1;
    struct engine *stale = open_faulty(&model, FAULT_STATE_NOT_RESET), *sound = open_default(&model);
    const float *expected = run(sound, &model, 4);
    cr_expect(same(expected, run(stale, &model, 4), 4 * model.config.vocabulary));
    stale->class->reset(stale);
    sound->class->reset(sound);
    cr_expect(!same(expected, run(stale, &model, 4), 4 * model.config.vocabulary));
    cr_expect(same(expected, run(sound, &model, 4), 4 * model.config.vocabulary));
    engine_close(&stale);
    engine_close(&sound);
}

// --- what a model cannot have

static void expect_refused(const struct model *model, const struct plan *plan, enum fault fault)
{
    struct runtime_options chosen = options(plan);
    struct engine *engine;
    struct error error = {0};
    chosen.fault = fault;
    cr_expect_eq(runtime_open(&engine, model, &chosen, &error), ERROR_USAGE, "%s", fault_name(fault));
    cr_expect_null(engine);
    cr_expect(strstr(error.text, fault_name(fault)) && strstr(error.text, fault_description(fault)), "%s",
              error.text);
}

static void expect_opens(const struct model *model, const struct plan *plan, enum fault fault)
{
    struct runtime_options chosen = options(plan);
    chosen.fault = fault;
    struct engine *engine = open_engine(model, &chosen);
    engine_close(&engine);
}

Test(fault_qwen35, without_effect_is_refused_by_name)
{
    struct plan plan;
    plan_default(&plan);
    const struct model *lfm2 = odd(), *qwen35 = odd_qwen35(0);
    for (int fault = FAULT_CONV_STATE_ACTIVATED; fault < FAULT_COUNT; fault++)
        expect_refused(lfm2, &plan, (enum fault)fault);
    for (int fault = FAULT_EXPERT_BIAS_WEIGHS; fault < FAULT_COUNT; fault++)
        expect_refused(qwen35, &plan, (enum fault)fault);
    expect_refused(qwen35, &plan, FAULT_CONV_STATE_RAW);
    expect_opens(lfm2, &plan, FAULT_CONV_STATE_RAW);
    expect_opens(lfm2, &plan, FAULT_POSITION_RESTARTED);

    expect_opens(qwen35, &plan, FAULT_ROTARY_ALL);
    expect_refused(odd_qwen35(2), &plan, FAULT_ROTARY_ALL); // R = dh
    struct model changed = *qwen35;
    changed.config.rope_theta = FAULT_THETA;
    expect_refused(&changed, &plan, FAULT_ROPE_THETA);
    expect_opens(qwen35, &plan, FAULT_ROPE_THETA);

    expect_refused(qwen35, &plan, FAULT_DELTA_STATE_F16);
    plan.rows[PLAN_DELTA_STATE] = PRECISION_F32;
    expect_opens(qwen35, &plan, FAULT_DELTA_STATE_F16);
}

Test(fault_qwen35, of_experts_needs_a_model_that_has_them)
{
    enum mixer mixers[2] = {MIXER_DELTA, MIXER_ATTENTION};
    struct config config = {.family = FAMILY_QWEN35_MOE, .layers = 2, .mixers = mixers, .conv_taps = 4,
                            .experts = 8, .experts_per_token = 2, .expert_normalise = true, .shared_width = 16};
    cr_expect(fault_applies(FAULT_EXPERT_DOWN, &config) && fault_applies(FAULT_ROUTER_SCORE, &config));
    cr_expect(fault_applies(FAULT_EXPERT_ROW_SHARED, &config) && fault_applies(FAULT_SHARED_GATE_MISSING, &config));
    cr_expect(fault_applies(FAULT_ROUTER_NOT_NORMALISED, &config));
    cr_expect_not(fault_applies(FAULT_EXPERT_BIAS_WEIGHS, &config));
    config.expert_bias = true;
    config.expert_normalise = false;
    config.shared_width = 0;
    config.experts_per_token = 1;
    cr_expect(fault_applies(FAULT_EXPERT_BIAS_WEIGHS, &config));
    cr_expect_not(fault_applies(FAULT_ROUTER_NOT_NORMALISED, &config));
    cr_expect_not(fault_applies(FAULT_SHARED_GATE_MISSING, &config));
    cr_expect_not(fault_applies(FAULT_EXPERT_ROW_SHARED, &config));
    config.dense_layers = 2;
    cr_expect_not(fault_applies(FAULT_EXPERT_BIAS_WEIGHS, &config));
}

// With one expert the next one's matrix is its own. With one slot a softmax over itself is 1, as a sigmoid is; LFM2
// adds 1e-6 to the sum, so that its weight tells them apart.
Test(fault_qwen35, of_experts_that_could_change_nothing_is_refused)
{
    enum mixer mixers[1] = {MIXER_ATTENTION};
    struct config config = {.family = FAMILY_QWEN35_MOE, .layers = 1, .mixers = mixers, .experts = 8,
                            .experts_per_token = 1, .expert_normalise = true};
    cr_expect_not(fault_applies(FAULT_ROUTER_SCORE, &config) || fault_applies(FAULT_ROUTER_SCORES_F16, &config));
    cr_expect(fault_applies(FAULT_EXPERT_DOWN, &config));
    cr_expect(fault_applies(FAULT_ROUTER_NOT_NORMALISED, &config));
    config.experts_per_token = 2;
    cr_expect(fault_applies(FAULT_ROUTER_SCORE, &config));
    config.experts_per_token = 1;
    config.family = FAMILY_LFM2_MOE;
    cr_expect(fault_applies(FAULT_ROUTER_SCORE, &config));
    config.experts = 1;
    cr_expect_not(fault_applies(FAULT_EXPERT_DOWN, &config));
    cr_expect_not(fault_applies(FAULT_ROUTER_SCORE, &config));
}

Test(fault_qwen35, of_the_score_with_one_slot_is_seen_in_lfm2_only)
{
    const float logits[5] = {-3.5f, 2.25f, 2.25f, 0.125f, -40.0f};
    const float epsilons[2] = {0, 1e-6f}; // Qwen3.5, LFM2
    for (int i = 0; i < 2; i++) {
        struct router router = {.experts = 5, .slots = 1, .normalised = true, .epsilon = epsilons[i], .scaling = 1};
        float scores[5], softmax, sigmoid;
        uint32_t by_softmax, by_sigmoid;
        router.score = ROUTER_SOFTMAX;
        kernels_route(&router, logits, NULL, scores, &by_softmax, &softmax);
        router.score = ROUTER_SIGMOID;
        kernels_route(&router, logits, NULL, scores, &by_sigmoid, &sigmoid);
        cr_expect(by_softmax == 1 && by_sigmoid == 1);
        cr_expect_eq(softmax == sigmoid, i == 0);
    }
}

// A fault is a wrong rule, not noise: the second run is the first, and threads do not change it.
Test(fault_qwen35, is_repeatable)
{
    const struct model *model = odd_qwen35(1);
    struct pool *pool;
    cr_assert_eq(pool_open(&pool, 2, NULL), 0);
    for (int fault = FAULT_NONE; fault < FAULT_COUNT; fault++) {
        struct plan plan;
        plan_default(&plan);
        plan.rows[PLAN_DELTA_STATE] = PRECISION_F32;
        if (fault == FAULT_STATE_NOT_RESET || !fault_applies((enum fault)fault, &model->config))
            continue;
        struct runtime_options chosen = options(&plan);
        chosen.fault = (enum fault)fault;
        struct engine *engine = open_engine(model, &chosen);
        const float *first = run(engine, model, 6);
        engine_close(&engine);
        chosen.pool = pool;
        engine = open_engine(model, &chosen);
        for (int again = 0; again < 2; again++) {
            engine->class->reset(engine);
            cr_expect(same(first, run(engine, model, 6), 6 * model->config.vocabulary), "%s",
                      fault_name((enum fault)fault));
        }
        engine_close(&engine);
    }
    pool_close(&pool);
}
