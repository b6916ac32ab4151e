// Faults: what each changes, and what it must leave alone.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/floating.h"
#include "tests/runtime_models.h"

TestSuite(fault, .fini = release_models);

Test(fault, names_itself_in_the_engine)
{
    struct engine *engine = open_faulty(odd(), FAULT_ROPE_THETA), *sound = open_default(odd());
    cr_expect_str_eq(engine->name, "int8+fault:rope_theta");
    cr_expect_str_eq(sound->name, "int8");
    cr_expect_str_eq(sound->precision, "float16");
    engine_close(&engine);
    engine_close(&sound);
}

Test(fault, has_a_name_that_parses_back_and_a_description)
{
    struct error error = {0};
    for (int i = 0; i < FAULT_COUNT; i++) {
        enum fault parsed;
        cr_assert_eq(fault_parse(fault_name((enum fault)i), &parsed, &error), 0, "%s", error.text);
        cr_expect_eq((int)parsed, i);
        cr_expect(strlen(fault_description((enum fault)i)) > 5);
    }
    enum fault parsed;
    cr_expect_eq(fault_parse("rope_thet", &parsed, &error), ERROR_USAGE);
    cr_expect(strstr(error.text, "rope_thet") && strstr(error.text, "restore_loses_conv"), "%s", error.text);
}

// Largest |difference| of the logits at position 0 and after it, and whether the state of each kind differs.
struct effect {
    double first, later;
    bool k, v, conv;
};

static struct effect effect_of(enum fault fault)
{
    const struct model *model = mini(WEIGHT_Q8);
    const uint32_t n = 12, vocabulary = model->config.vocabulary;
    struct engine *sound = open_default(model), *faulty = open_faulty(model, fault);
    const float *a = run(sound, model, n), *b = run(faulty, model, n);
    const struct state right = save(sound), wrong = save(faulty);
    struct effect effect = {0};
    for (size_t i = 0; i < (size_t)n * vocabulary; i++) {
        double *most = i < vocabulary ? &effect.first : &effect.later;
        const double off = fabs((double)a[i] - (double)b[i]);
        if (!(off <= *most))
            *most = off;
    }
    for (size_t i = 0; i < right.n; i++) {
        const struct state_tensor *tensor = &right.tensors[i];
        bool *differs = tensor->kind == STATE_K ? &effect.k : tensor->kind == STATE_V ? &effect.v : &effect.conv;
        *differs = *differs || !same(tensor->data, wrong.tensors[i].data, tensor->elements);
    }
    fprintf(stderr, "# %s: logits %.3g at position 0, %.3g later; state%s%s%s\n", fault_name(fault), effect.first,
            effect.later, effect.k ? " k" : "", effect.v ? " v" : "", effect.conv ? " conv" : "");
    engine_close(&sound);
    engine_close(&faulty);
    return effect;
}

// A fault is a wrong rule, not noise: the second run is the first.
Test(fault, is_repeatable)
{
    const struct model *model = odd();
    for (int fault = FAULT_NONE; fault < FAULT_COUNT; fault++) {
        if (fault == FAULT_STATE_NOT_RESET || !fault_applies((enum fault)fault, &model->config))
            continue;
        struct engine *engine = open_faulty(model, (enum fault)fault);
        const float *first = run(engine, model, 6);
        engine->class->reset(engine);
        cr_expect(same(first, run(engine, model, 6), 6 * model->config.vocabulary), "%s",
                  fault_name((enum fault)fault));
        engine_close(&engine);
    }
}

Test(fault, none_changes_nothing)
{
    const struct effect effect = effect_of(FAULT_NONE);
    cr_expect(effect.first == 0 && effect.later == 0 && !effect.k && !effect.v && !effect.conv);
}

// The first token sees no state and turns by the angle 0: its logits stay; from the second on they move by more than
// the noise of int8 (0.1 is about ten times its sigma on this model).
Test(fault, of_state_or_position_keeps_the_first_logits_and_changes_the_later_ones)
{
    const enum fault faults[] = {FAULT_CONV_STATE_LOST, FAULT_CONV_STATE_RAW, FAULT_ROPE_THETA, FAULT_NORM_AFTER_ROPE,
                                 FAULT_KV_SLOT};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const struct effect effect = effect_of(faults[i]);
        cr_expect_eq(effect.first, 0, "%s", fault_name(faults[i]));
        cr_expect_gt(effect.later, 0.1, "%s", fault_name(faults[i]));
    }
}

// A consistent shift leaves every score as it was but for rounding: the keys alone tell.
Test(fault, rope_off_by_one_is_visible_in_the_keys_only)
{
    const struct effect effect = effect_of(FAULT_ROPE_OFF_BY_ONE);
    cr_expect_eq(effect.first, 0);
    cr_expect_lt(effect.later, 0.1);
    cr_expect(effect.k);
}

Test(fault, gate_up_swapped_changes_the_first_logits)
{
    cr_expect_gt(effect_of(FAULT_GATE_UP_SWAPPED).first, 0.1);
}

Test(fault, rope_frequency_f16_turns_the_keys_a_little)
{
    const struct effect effect = effect_of(FAULT_ROPE_FREQUENCY_F16);
    cr_expect_eq(effect.first, 0);
    cr_expect(effect.k && effect.later > 0);
}

Test(fault, of_the_logits_is_in_every_row)
{
    const struct model *model = mini(WEIGHT_Q8);
    const uint32_t vocabulary = model->config.vocabulary;
    struct engine *nan = open_faulty(model, FAULT_LOGIT_NAN), *zero = open_faulty(model, FAULT_LOGITS_ZERO);
    for (uint32_t t = 0; t < 3; t++) {
        const float *logits = step(nan, token_at(model, t));
        uint32_t nans = 0, others = 0;
        for (uint32_t id = 0; id < vocabulary; id++)
            nans += logits[id] != logits[id];
        logits = step(zero, token_at(model, t));
        for (uint32_t id = 0; id < vocabulary; id++)
            others += logits[id] != 0;
        cr_expect(nans == 1 && others == 0);
    }
    engine_close(&nan);
    engine_close(&zero);
}

Test(fault, of_saving_resetting_and_loading_shows_only_there)
{
    const struct model *model = mini(WEIGHT_Q8);
    const uint32_t vocabulary = model->config.vocabulary;
    struct engine *sound = open_default(model), *zero = open_faulty(model, FAULT_STATE_ZERO);
    struct engine *stale = open_faulty(model, FAULT_STATE_NOT_RESET),
                  *loses = open_faulty(model, FAULT_RESTORE_LOSES_CONV);
    const float *expected = run(sound, model, 4);
    const struct state state = save(sound);
    cr_expect(same(expected, run(zero, model, 4), 4 * vocabulary));
    cr_expect(same(expected, run(stale, model, 4), 4 * vocabulary));
    cr_expect(same(expected, run(loses, model, 4), 4 * vocabulary));

    const struct state zeros = save(zero);
    for (size_t i = 0; i < zeros.n; i++)
        for (uint64_t e = 0; e < zeros.tensors[i].elements; e++)
            cr_assert_eq(zeros.tensors[i].data[e], 0);

    sound->class->reset(sound);
    stale->class->reset(stale);
    cr_expect(same(expected, run(sound, model, 4), 4 * vocabulary));
    cr_expect(!same(expected, run(stale, model, 4), 4 * vocabulary));

    loses->class->reset(loses);
    cr_assert_eq(loses->class->load(loses, &state, NULL), 0);
    cr_assert_eq(sound->class->load(sound, &state, NULL), 0);
    cr_expect(!same(step(sound, 5), step(loses, 5), vocabulary));
    engine_close(&sound);
    engine_close(&zero);
    engine_close(&stale);
    engine_close(&loses);
}
