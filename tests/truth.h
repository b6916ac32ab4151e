// truth: the fp64 oracle on a golden's tokens, and how far something else is from it.
#ifndef ASSAY_TESTS_TRUTH_H
#define ASSAY_TESTS_TRUTH_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness/run/trace.h"
#include "reference/double/double.h"
#include "tests/reference_fixture.h"

static inline struct trace *truth_golden(const char *model, const char *name)
{
    char path[512];
    struct error error = {0};
    struct trace *trace;
    snprintf(path, sizeof path, "%s/oracles/%s/%s.safetensors", ASSAY_FIXTURES, model, name);
    must(trace_open(&trace, path, &error), &error);
    return trace;
}

// [N, V], freed by the caller.
static inline double *truth_run(const struct model *model, const struct trace *trace, const struct double_taps *taps)
{
    struct error error = {0};
    double *logits = calloc((size_t)trace->n * trace->vocabulary, sizeof *logits);
    cr_assert_not_null(logits);
    must(double_run(model, (const uint32_t *)trace->tokens, trace->n, logits, taps, &error), &error);
    return logits;
}

// Every point and state of a run of the oracle, kept: rows [N, width], NULL where a layer has no such point.
enum { TRUTH_LAYERS = 8 };
struct truth_kept {
    struct arena arena;
    double *taps[TRUTH_LAYERS][TAP_POINTS], *states[TRUTH_LAYERS][STATE_KINDS];
};

static inline double *truth_copy(struct truth_kept *kept, const double *values, uint64_t n)
{
    return memcpy(arena_alloc(&kept->arena, n, sizeof *values), values, n * sizeof *values);
}

static inline void truth_put(void *context, uint32_t layer, enum tap_point point, const double *rows, uint32_t n,
                             uint32_t width)
{
    struct truth_kept *kept = context;
    cr_assert(layer < TRUTH_LAYERS);
    kept->taps[layer][point] = truth_copy(kept, rows, (uint64_t)n * width);
}

static inline void truth_put_state(void *context, uint32_t layer, enum state_kind kind, const double *values,
                                   uint64_t elements)
{
    struct truth_kept *kept = context;
    cr_assert(layer < TRUTH_LAYERS);
    kept->states[layer][kind] = truth_copy(kept, values, elements);
}

// Closed by arena_close.
static inline void truth_keep(struct truth_kept *kept, const struct model *model, const struct trace *trace)
{
    memset(kept, 0, sizeof *kept);
    const struct double_taps taps = {.context = kept, .put = truth_put, .put_state = truth_put_state};
    free(truth_run(model, trace, &taps));
}

// y [n, rows] = x [n, cols] weight^T, by plain loops.
static inline void truth_multiply(const struct weight *weight, const double *x, uint32_t n, double *y)
{
    float *row = calloc(weight->cols, sizeof *row);
    cr_assert_not_null(row);
    for (uint32_t r = 0; r < weight->rows; r++) {
        weight_row(weight, r, row);
        for (uint32_t t = 0; t < n; t++) {
            double sum = 0;
            for (uint32_t k = 0; k < weight->cols; k++)
                sum += (double)row[k] * x[(size_t)t * weight->cols + k];
            y[(size_t)t * weight->rows + r] = sum;
        }
    }
    free(row);
}

struct distance {
    double max, square, largest; // of |difference|, a NaN stays; sum of squares; of |expected|
    uint64_t n;
};

static inline void distance_add(struct distance *distance, double value, double expected)
{
    const double difference = fabs(value - expected);
    if (!isnan(distance->max) && !(difference <= distance->max))
        distance->max = difference;
    distance->square += difference * difference;
    distance->largest = fmax(distance->largest, fabs(expected));
    distance->n++;
}

// In units of the largest expected value; what was never measured is nowhere near.
static inline double distance_relative(const struct distance *distance)
{
    return distance->n ? distance->max / distance->largest : INFINITY;
}

static inline double distance_rms(const struct distance *distance)
{
    return sqrt(distance->square / (double)distance->n);
}

#endif
