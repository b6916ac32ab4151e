// The fp64 oracle against transformers in float64 and, point by point, in float32; then the noise floor of fp32
// engines, measured with it.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness/run/trace.h"
#include "reference/double/double.h"
#include "reference/double/matrix.h"
#include "tests/reference_fixture.h"

static struct trace *golden_open(const char *model, const char *name)
{
    char path[512];
    struct error error = {0};
    struct trace *trace;
    snprintf(path, sizeof path, "%s/oracles/%s/%s.safetensors", ASSAY_FIXTURES, model, name);
    must(trace_open(&trace, path, &error), &error);
    return trace;
}

// [N, V], freed by the caller.
static double *oracle_run(const struct model *model, const struct trace *trace, const struct double_taps *taps)
{
    struct error error = {0};
    double *logits = calloc((size_t)trace->n * trace->vocabulary, sizeof *logits);
    cr_assert_not_null(logits);
    must(double_run(model, (const uint32_t *)trace->tokens, trace->n, logits, taps, &error), &error);
    return logits;
}

struct distance {
    double max, square, largest; // of |difference|, a NaN stays; sum of squares; of |expected|
    uint64_t n;
};

static void measure(struct distance *distance, double value, double expected)
{
    const double difference = fabs(value - expected);
    if (!isnan(distance->max) && !(difference <= distance->max))
        distance->max = difference;
    distance->square += difference * difference;
    distance->largest = fmax(distance->largest, fabs(expected));
    distance->n++;
}

static double rms(const struct distance *distance)
{
    return sqrt(distance->square / (double)distance->n);
}

// --- float64: the same mathematics in other people's code

// Two orders of double sums: seen 1.8e-14 with logits up to 16. A single value rounded to float shows as 1e-10 and
// more (the epsilon of the norms alone: 3.5e-10).
static const double LIMIT64 = 1e-12;

static double float64_distance(const struct model *model, const char *name)
{
    struct trace *trace = golden_open("lfm2-mini", name);
    const struct tensor *logits64 = safetensors_find(trace->file, "logits64");
    cr_assert(logits64 && logits64->dtype == DTYPE_F64 &&
              logits64->elements == (uint64_t)trace->n * trace->vocabulary);
    const double *expected = logits64->data;
    double *logits = oracle_run(model, trace, NULL);
    struct distance distance = {0};
    for (uint64_t i = 0; i < logits64->elements; i++)
        measure(&distance, logits[i], expected[i]);
    free(logits);
    trace_close(&trace);
    return distance.max;
}

Test(reference_double, agrees_with_transformers_in_float64)
{
    static const char *const names[] = {"chat-9.float64", "scripture-9.float64"};
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    for (size_t i = 0; i < 2; i++) {
        const double distance = float64_distance(&fixture.model, names[i]);
        fprintf(stderr, "# %s, BLIS %s: max |double - transformers| %.2g\n", names[i], matrix_blis_name(), distance);
        cr_expect(distance <= LIMIT64, "%s: %g", names[i], distance);
    }
    fixture_close(&fixture);
}

Test(reference_double, of_a_slightly_wrong_model_leaves_the_limit)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    struct model model = fixture_mutable(&fixture);
    cr_expect(float64_distance(&model, "chat-9.float64") <= LIMIT64, "control: the unchanged copy must agree");
    model.config.rope_theta *= 1 + 1e-6; // a few frequencies move by one float
    cr_expect_not(float64_distance(&model, "chat-9.float64") <= LIMIT64, "theta");
    model.config = fixture.config;
    model.config.norm_eps = nextafterf(fixture.config.norm_eps, 1);
    cr_expect_not(float64_distance(&model, "chat-9.float64") <= LIMIT64, "eps");
    model.config = fixture.config;
    const struct weight norm = model.layers[2].q_norm;
    model.layers[2].q_norm = model.layers[2].k_norm;
    cr_expect_not(float64_distance(&model, "chat-9.float64") <= LIMIT64, "q_norm");
    model.layers[2].q_norm = norm;
    const struct weight up = model.layers[7].w3;
    model.layers[7].w3 = model.layers[7].w1;
    model.layers[7].w1 = up;
    cr_expect_not(float64_distance(&model, "chat-9.float64") <= LIMIT64, "gate and up");
    fixture_close(&fixture);
}

// --- float32: every tap point, and models of odd shapes

// What torch's own rounding leaves between its values and the truth, relative to the largest value of the tap.
// Measured worst: 2.7e-6 (attn of odd-mixed-sharded); the limit is three times that.
static const double LIMIT32 = 8e-6;

struct points {
    const struct trace *golden;
    struct distance distances[TAP_POINTS];
    uint32_t calls, layers_seen[TAP_POINTS];
    const struct config *config;
};

static void measure_tap(void *context, uint32_t layer, enum tap_point point, const double *rows, uint32_t n, uint32_t width)
{
    struct points *points = context;
    cr_assert_eq(width, tap_width(points->config, TAPS_ALL, layer, point));
    cr_assert_eq(n, points->golden->n);
    for (uint32_t t = 0; t < n; t++) {
        uint32_t golden_width;
        const float *row = trace_tap(points->golden, t, layer, point, &golden_width);
        cr_assert(row && golden_width == width, "%s of layer %u", tap_point_name(point), layer);
        for (uint32_t i = 0; i < width; i++)
            measure(&points->distances[point], rows[(size_t)t * width + i], (double)row[i]);
    }
    points->layers_seen[point]++;
    points->calls++;
}

// Largest distance of a point in units of the point's largest value; logits too.
static double worst_point(const struct model *model, const char *model_name, const char *name)
{
    struct trace *golden = golden_open(model_name, name);
    struct points points = {.golden = golden, .config = &model->config};
    const struct double_taps taps = {.context = &points, .put = measure_tap};
    double *logits = oracle_run(model, golden, &taps);
    struct distance head = {0};
    for (uint32_t t = 0; t < golden->n; t++)
        for (uint32_t i = 0; i < golden->vocabulary; i++)
            measure(&head, logits[(size_t)t * golden->vocabulary + i], (double)trace_logits(golden, t, NULL)[i]);
    double worst = head.max / head.largest;
    uint32_t expected_calls = 0;
    const char *worst_name = "logits";
    for (enum tap_point point = 0; point < TAP_POINTS; point++) {
        for (uint32_t layer = 0; layer < model->config.layers; layer++)
            expected_calls += tap_width(&model->config, TAPS_ALL, layer, point) > 0;
        const struct distance *distance = &points.distances[point];
        if (distance->n && !isnan(worst) && !(distance->max / distance->largest <= worst)) {
            worst = distance->max / distance->largest;
            worst_name = tap_point_name(point);
        }
    }
    cr_expect_eq(points.calls, expected_calls, "every point of every layer, once");
    fprintf(stderr, "# %s/%s: worst of %u taps and logits: %s, %.2g of its largest value\n", model_name, name,
            points.calls, worst_name, worst);
    free(logits);
    trace_close(&golden);
    return worst;
}

Test(reference_double, agrees_with_transformers_at_every_tap_point_and_in_odd_shapes)
{
    static const char *const names[] = {"chat", "code", "high-ids", "scripture"};
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    for (size_t i = 0; i < 4; i++)
        cr_expect(worst_point(&fixture.model, "lfm2-mini", names[i]) <= LIMIT32);
    fixture_close(&fixture);
    for (size_t i = 0; i < N_ODD; i++) {
        fixture_open(&fixture, ODD[i]);
        cr_expect(worst_point(&fixture.model, ODD[i], "random") <= LIMIT32);
        fixture_close(&fixture);
    }
}

// --- NaN and bad input

Test(reference_double, shows_a_nan_weight_in_every_row_that_depends_on_it_and_in_no_other)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    struct model model = fixture_mutable(&fixture);
    uint32_t tokens[] = {1, 300, 4000, 77, 300, 5};
    enum { N = 6 };
    const uint32_t V = fixture.config.vocabulary;
    double *healthy = calloc((size_t)N * V, sizeof *healthy), *logits = calloc((size_t)N * V, sizeof *logits);
    cr_assert(healthy && logits);
    cr_assert_eq(double_run(&model, tokens, N, healthy, NULL, NULL), 0);

    // A row of the embedding belongs to one token; the head is another matrix here, so that only position 3 and later
    // see it.
    model.embedding.data = memcpy(arena_alloc(&fixture.arena, (size_t)V, weight_row_bytes(&model.embedding)),
                                  model.embedding.data, (size_t)V * weight_row_bytes(&model.embedding));
    cr_assert_eq(model.embedding.format, WEIGHT_BF16);
    ((uint16_t *)(uintptr_t)model.embedding.data)[77 * fixture.config.hidden + 5] = 0x7FC0;
    cr_assert_eq(double_run(&model, tokens, N, logits, NULL, NULL), 0);
    for (uint32_t t = 0; t < N; t++)
        for (uint32_t i = 0; i < V; i++)
            if (t < 3)
                cr_assert_eq(logits[(size_t)t * V + i], healthy[(size_t)t * V + i], "row %u", t);
            else
                cr_assert(isnan(logits[(size_t)t * V + i]), "row %u", t);
    free(healthy);
    free(logits);
    fixture_close(&fixture);
}

Test(reference_double, refuses_a_token_outside_the_vocabulary)
{
    struct fixture fixture;
    fixture_open(&fixture, "odd-head-only");
    const uint32_t tokens[] = {1, fixture.config.vocabulary};
    struct error error = {0};
    double logits[1];
    cr_expect_eq(double_run(&fixture.model, tokens, 2, logits, NULL, &error), ERROR_INPUT);
    cr_expect(strstr(error.text, "token 1 is 64"), "%s", error.text);
    fixture_close(&fixture);
}

// --- the noise floor

struct floor {
    struct distance ours, theirs;
};

static double rms_ratio(const struct floor *noise)
{
    return rms(&noise->ours) / rms(&noise->theirs);
}

// How far the reference over `model` and transformers, both fp32 and one token at a time, are from the truth: pooled.
static struct floor noise_floor(struct fixture *fixture, const struct model *model)
{
    static const char *const names[] = {"chat", "code", "dialogue-64", "high-ids", "narrative-201", "scripture"};
    struct floor noise = {0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct trace *golden = golden_open("lfm2-mini", names[i]);
        cr_assert_str_eq(golden->contract.mode, "s1");
        cr_assert_str_eq(golden->contract.precision, "float32");
        double *truth = oracle_run(&fixture->model, golden, NULL);
        struct engine *engine = fixture_engine(model, NULL, isa_best(), golden->n);
        for (uint32_t t = 0; t < golden->n; t++) {
            const float *a = fixture_step(engine, (uint32_t)golden->tokens[t], NULL),
                        *b = trace_logits(golden, t, NULL);
            const double *row = truth + (size_t)t * golden->vocabulary;
            for (uint32_t j = 0; j < golden->vocabulary; j++) {
                measure(&noise.ours, (double)a[j], row[j]);
                measure(&noise.theirs, (double)b[j], row[j]);
            }
        }
        engine_close(&engine);
        free(truth);
        trace_close(&golden);
    }
    return noise;
}

Test(reference_double, finds_the_reference_as_near_to_the_truth_as_transformers_in_float32)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    const struct floor noise = noise_floor(&fixture, &fixture.model);
    const double max_ratio = noise.ours.max / noise.theirs.max;
    fprintf(
        stderr,
        "# %llu logits up to %.3g: |reference - fp64| rms %.3g max %.3g, |transformers - fp64| rms %.3g max %.3g: "
        "ratio of rms %.3f, of max %.3f\n",
        (unsigned long long)noise.ours.n, noise.ours.largest, rms(&noise.ours), noise.ours.max, rms(&noise.theirs),
        noise.theirs.max, rms_ratio(&noise), max_ratio);
    cr_expect(rms_ratio(&noise) <= 1.2, "%g", rms_ratio(&noise));
    cr_expect(max_ratio <= 1.5, "%g", max_ratio);
    fixture_close(&fixture);
}

// No flip would ever show these: the floor is what sees them.
Test(reference_double, finds_an_fp32_engine_with_a_tiny_fault_further_from_the_truth)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    struct model model = fixture_mutable(&fixture);
    model.config.rope_theta *= 1 + 1e-4; // 1e-6 is below the rounding of an fp32 engine: ratio 0.64
    const struct floor theta = noise_floor(&fixture, &model);
    model.config = fixture.config;
    model.config.norm_eps *= 1.001f;
    const struct floor eps = noise_floor(&fixture, &model);
    fprintf(stderr, "# ratio of rms with theta 1e-4 off %.3f, with eps 1e-3 off %.3f\n", rms_ratio(&theta),
            rms_ratio(&eps));
    cr_expect_not(rms_ratio(&theta) <= 1.2);
    cr_expect_not(rms_ratio(&eps) <= 1.2);
    fixture_close(&fixture);
}
