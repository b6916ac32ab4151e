// The runtime with weights in half precision against transformers' goldens: logits, every tap, every state. The slow
// double version shows the roundings; this shows that both compute the model.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/run/trace.h"
#include "tests/qwen35_models.h"

TestSuite(runtime_parity, .fini = release_models);

// Largest difference of a tap, a state or the logits, in units of the golden's largest value of that kind. Measured:
// half precision leaves 0.0016 on the mini and at most 0.016 on the odd models (narrow rows, up to 2^5 roundings deep:
// 2^5 x 2^-11), the least of the faults 0.117.
#define LIMIT 0.03

struct comparison {
    const struct trace *golden;
    uint32_t t;
    double off[64][TAP_POINTS], most[64][TAP_POINTS]; // by layer
};

static void note_row(double *off, double *most, const float *expected, const float *found, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double distance = fabs((double)expected[i] - (double)found[i]);
        *off = fmax(*off, isnan(distance) ? INFINITY : distance);
        *most = fmax(*most, fabs((double)expected[i]));
    }
}

static void compare_tap(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct comparison *comparison = context;
    uint32_t expected_width;
    const float *expected = trace_tap(comparison->golden, comparison->t, layer, point, &expected_width);
    cr_assert(expected && expected_width == width, "layer %u, %s", layer, tap_point_name(point));
    note_row(&comparison->off[layer][point], &comparison->most[layer][point], expected, row, width);
}

static double worst_state(const struct trace *golden, const struct engine *engine)
{
    struct state expected;
    const struct state found = save(engine);
    double worst = 0;
    cr_assert_eq(trace_state(golden, &arena, &expected, NULL), 0);
    cr_assert_eq(expected.n, found.n);
    for (size_t i = 0; i < found.n; i++) {
        double off = 0, most = 0;
        cr_assert_eq(expected.tensors[i].elements, found.tensors[i].elements);
        note_row(&off, &most, expected.tensors[i].data, found.tensors[i].data, found.tensors[i].elements);
        worst = fmax(worst, most > 0 ? off / most : off);
    }
    return worst;
}

// The worst of all taps, states and logits of one golden.
static double worst_of(const char *name, const char *sequence, enum fault fault)
{
    static struct comparison comparison;
    char path[256];
    struct trace *golden;
    struct error error = {0};
    snprintf(path, sizeof path, ASSAY_FIXTURES "/oracles/%s/%s.safetensors", name, sequence);
    cr_assert_eq(trace_open(&golden, path, &error), 0, "%s", error.text);
    memset(&comparison, 0, sizeof comparison);
    comparison.golden = golden;
    const struct tap_sink sink = {TAPS_ALL, &comparison, compare_tap};
    const struct model *model = stored_qwen35(name, WEIGHT_F16);
    struct engine *engine = open_faulty(model, fault);
    double off = 0, most = 0;
    for (uint32_t t = 0; t < golden->n; t++) {
        const float *logits;
        comparison.t = t;
        cr_assert_eq(engine->class->step(engine, (uint32_t)golden->tokens[t], &sink, &logits, &error), 0, "%s",
                     error.text);
        note_row(&off, &most, trace_logits(golden, t, NULL), logits, golden->vocabulary);
    }
    double worst = fmax(off / most, worst_state(golden, engine));
    for (uint32_t i = 0; i < model->config.layers; i++)
        for (int point = 0; point < TAP_POINTS; point++)
            if (comparison.most[i][point] > 0)
                worst = fmax(worst, comparison.off[i][point] / comparison.most[i][point]);
    fprintf(stderr, "# %s, %s, %s: %.3g\n", name, sequence, fault_name(fault), worst);
    engine_close(&engine);
    trace_close(&golden);
    return worst;
}

Test(runtime_parity, qwen35_in_half_precision_computes_what_transformers_does)
{
    const char *const names[] = {
        "odd-qwen35-all-attention",     "odd-qwen35-group1-taps2", "odd-qwen35-group3-taps3-bias",
        "odd-qwen35-group8-values4",    "odd-qwen35-head-only",    "odd-qwen35-mixed-sharded",
        "odd-qwen35-one-attention",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        cr_expect_lt(worst_of(names[i], "random", FAULT_NONE), LIMIT, "%s", names[i]);
    cr_expect_lt(worst_of("qwen35-mini", "narrative", FAULT_NONE), LIMIT);
    cr_expect_lt(worst_of("qwen35-mini", "chat", FAULT_NONE), LIMIT);
}

Test(runtime_parity, qwen35_that_computes_another_model_is_seen)
{
    const enum fault faults[] = {
        FAULT_CONV_STATE_LOST,      FAULT_ROPE_THETA,         FAULT_ROPE_OFF_BY_ONE,        FAULT_KV_SLOT,
        FAULT_GATE_UP_SWAPPED,      FAULT_NORM_AFTER_ROPE,    FAULT_CONV_STATE_ACTIVATED,   FAULT_NORM_WITHOUT_ONE,
        FAULT_QUERY_GATE_SWAPPED,   FAULT_ROTARY_ALL,         FAULT_L2_NORM_MISSING,        FAULT_Z_GATE_MISSING,
        FAULT_BETA_WITHOUT_SIGMOID, FAULT_DECAY_WITHOUT_EXP,  FAULT_DELTA_STATE_TRANSPOSED, FAULT_DELTA_STATE_LOST,
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        cr_expect_not(worst_of("qwen35-mini", "narrative", faults[i]) < LIMIT, "%s", fault_name(faults[i]));
}
