// parity: an engine of the reference against the golden traces of Hugging Face transformers: other people's code,
// another order of summation.
//
// Limit, for logits, every tap point and the states alike: |difference| at most PARITY_LIMIT times transformers' own
// noise in that very golden, relative to the largest golden value of the kind. Its noise is the difference between its
// two modes, one token at a time and all at once (`check.mode_max_abs` in the golden, relative to the largest logit):
// what the order of summation alone does to it. The limit leaves room for another order, not for another formula; the
// tests that use it state the worst they measured. The ids of the experts must be equal.
#ifndef ASSAY_TESTS_PARITY_H
#define ASSAY_TESTS_PARITY_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness/run/trace.h"
#include "tests/reference_fixture.h"

#define PARITY_LIMIT 4.0

static inline struct trace *parity_golden(const char *model, const char *name)
{
    char path[512];
    struct error error = {0};
    struct trace *trace;
    snprintf(path, sizeof path, "%s/oracles/%s/%s.safetensors", ASSAY_FIXTURES, model, name);
    must(trace_open(&trace, path, &error), &error);
    return trace;
}

struct parity_distance {
    double max, square; // largest |difference|, a NaN stays; sum of squares
    double largest;     // |golden|
    uint64_t n;
};

static inline void parity_measure(struct parity_distance *distance, const float *ours, const float *golden, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double error = fabs((double)ours[i] - golden[i]);
        if (!isnan(distance->max) && !(error <= distance->max))
            distance->max = error;
        distance->square += error * error;
        distance->largest = fmax(distance->largest, fabs((double)golden[i]));
    }
    distance->n += n;
}

// In units of the golden's own noise; 0 where nothing was compared.
static inline double parity_noise(const struct parity_distance *distance, double noise)
{
    return distance->n ? distance->max / distance->largest / noise : 0;
}

struct parity {
    const struct trace *golden;
    double noise; // transformers' own, relative
    uint32_t t, top1;
    uint64_t ids, wrong_ids; // of experts
    struct parity_distance logits, state, taps[TAP_POINTS];
};

static inline void parity_experts(struct parity *parity, uint32_t layer, const float *row, uint32_t width)
{
    uint32_t k = 0;
    const int32_t *golden = trace_experts(parity->golden, parity->t, layer, &k);
    if (!golden)
        return;
    cr_assert_eq(width, k, "layer %u: %u experts, golden %u", layer, width, k);
    for (uint32_t slot = 0; slot < k; slot++)
        parity->wrong_ids += row[slot] != (float)golden[slot];
    parity->ids += k;
}

static inline void parity_tap(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct parity *parity = context;
    uint32_t golden_width = 0;
    if (tap_is_integer(point)) {
        parity_experts(parity, layer, row, width);
        return;
    }
    const float *golden = trace_tap(parity->golden, parity->t, layer, point, &golden_width);
    if (!golden)
        return;
    cr_assert_eq(width, golden_width, "layer %u, %s: %u values, golden %u", layer, tap_point_name(point), width,
                 golden_width);
    parity_measure(&parity->taps[point], row, golden, width);
}

static inline uint32_t parity_argmax(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static inline void parity_states(struct parity *parity, const struct config *config, const struct engine *engine)
{
    struct error error = {0};
    struct arena arena = {0};
    struct state ours, golden;
    must(trace_state(parity->golden, &arena, &golden, &error), &error);
    must(state_make(&arena, config, engine->position, &ours, &error), &error);
    engine->class->save(engine, &ours);
    cr_assert(golden.n == 0 || golden.n == ours.n);
    for (size_t i = 0; i < golden.n; i++) {
        const struct state_tensor *a = &ours.tensors[i], *b = &golden.tensors[i];
        cr_assert(a->layer == b->layer && a->kind == b->kind && a->elements == b->elements);
        parity_measure(&parity->state, a->data, b->data, a->elements);
    }
    arena_close(&arena);
}

// parity_run with an engine of one's own and another sink than parity_tap: its context has `parity`, and what it does
// with a row is its own.
static inline void parity_run_engine(struct engine *engine, const struct trace *golden, const struct tap_sink *taps,
                                     struct parity *parity)
{
    const uint32_t v = golden->vocabulary;
    memset(parity, 0, sizeof *parity);
    parity->golden = golden;
    for (uint32_t t = 0; t < golden->n; t++) {
        const float *expected = trace_logits(golden, t, NULL);
        parity->t = t;
        const float *logits = fixture_step(engine, (uint32_t)golden->tokens[t], taps);
        parity_measure(&parity->logits, logits, expected, v);
        parity->top1 += parity_argmax(logits, v) == parity_argmax(expected, v);
    }
    parity_states(parity, engine->config, engine);
    const char *mode = safetensors_metadata(golden->file, "check.mode_max_abs");
    cr_assert(mode && atof(mode) > 0);
    parity->noise = atof(mode) / parity->logits.largest;
}

static inline void parity_run_tapped(const struct model *model, const struct trace *golden,
                                     const struct tap_sink *taps, struct parity *parity)
{
    struct engine *engine = fixture_engine(model, NULL, isa_best(), golden->n);
    parity_run_engine(engine, golden, taps, parity);
    engine_close(&engine);
}

// Runs a golden's tokens through the model and measures everything that the golden holds.
static inline void parity_run(const struct model *model, const struct trace *golden, struct parity *parity)
{
    const struct tap_sink taps = {TAPS_ALL, parity, parity_tap};
    parity_run_tapped(model, golden, &taps, parity);
}

// Accept form: a NaN is no agreement.
static inline bool parity_agrees(const struct parity *parity)
{
    bool ok = parity->top1 == parity->golden->n && parity->wrong_ids == 0 &&
              parity_noise(&parity->logits, parity->noise) <= PARITY_LIMIT &&
              parity_noise(&parity->state, parity->noise) <= PARITY_LIMIT;
    for (int point = 0; point < TAP_POINTS; point++)
        ok = ok && parity_noise(&parity->taps[point], parity->noise) <= PARITY_LIMIT;
    return ok;
}

static inline void parity_print(const char *model, const char *name, const struct parity *parity)
{
    int worst = 0;
    for (int point = 0; point < TAP_POINTS; point++)
        if (!(parity_noise(&parity->taps[point], parity->noise) <= parity_noise(&parity->taps[worst], parity->noise)))
            worst = point;
    fprintf(
        stderr,
        "# %s/%s: top-1 %u/%u, |reference - transformers| logits max %.3g rms %.3g (largest %.3g); in units of its "
        "noise %.2g: logits %.2f, state %.2f, worst tap %s %.2f; limit %g; other experts %llu/%llu\n",
        model, name, parity->top1, parity->golden->n, parity->logits.max,
        sqrt(parity->logits.square / (double)parity->logits.n), parity->logits.largest, parity->noise,
        parity_noise(&parity->logits, parity->noise), parity_noise(&parity->state, parity->noise),
        tap_point_name((enum tap_point)worst), parity_noise(&parity->taps[worst], parity->noise), PARITY_LIMIT,
        (unsigned long long)parity->wrong_ids, (unsigned long long)parity->ids);
}

// Has any layer of the model such a point?
static inline bool parity_expects(const struct config *config, enum tap_point point)
{
    for (uint32_t i = 0; i < config->layers; i++)
        if (tap_width(config, TAPS_ALL, i, point))
            return true;
    return false;
}

// What a golden holds: logits, also the state after the last token, also every tap point of the model.
enum parity_content { PARITY_LOGITS, PARITY_STATE, PARITY_TAPS };

static inline void parity_check(const char *name, const char *golden_name, enum parity_content content)
{
    struct fixture fixture;
    struct parity parity;
    fixture_open(&fixture, name);
    struct trace *golden = parity_golden(name, golden_name);
    parity_run(&fixture.model, golden, &parity);
    parity_print(name, golden_name, &parity);
    cr_expect(parity_agrees(&parity), "%s/%s is further from transformers than its rounding explains", name,
              golden_name);
    cr_expect_eq(parity.state.n > 0, content >= PARITY_STATE, "%s/%s: %llu values of the state compared", name,
                 golden_name, (unsigned long long)parity.state.n); // nothing compared is no agreement
    for (int i = 0; i < TAP_POINTS; i++) {
        const enum tap_point point = (enum tap_point)i;
        const uint64_t n = tap_is_integer(point) ? parity.ids : parity.taps[point].n;
        cr_expect_eq(n > 0, content == PARITY_TAPS && parity_expects(&fixture.config, point), "%s/%s: %llu values of %s compared",
                     name, golden_name, (unsigned long long)n, tap_point_name(point));
    }
    trace_close(&golden);
    fixture_close(&fixture);
}

// The first nine positions of a golden exist in double as well: both fp32 engines against the truth. The 32 lanes
// should be no worse than torch's sums: rms at most 1.2 of its own, the largest at most 1.5.
static inline void parity_check_double(const char *name, const char *golden_name, const char *truth_name)
{
    struct fixture fixture;
    fixture_open(&fixture, name);
    struct trace *golden = parity_golden(name, golden_name), *truth = parity_golden(name, truth_name);
    const struct tensor *exact = safetensors_find(truth->file, "logits64");
    cr_assert(exact && exact->dtype == DTYPE_F64 && exact->shape[0] == 9 && golden->n >= 9);
    const size_t v = truth->vocabulary;
    const double *logits64 = exact->data;
    double ours_square = 0, theirs_square = 0, ours_max = 0, theirs_max = 0;
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), 9);
    for (uint32_t t = 0; t < 9; t++) {
        cr_assert_eq(golden->tokens[t], truth->tokens[t]);
        const float *ours = fixture_step(engine, (uint32_t)truth->tokens[t], NULL);
        const float *theirs = trace_logits(golden, t, NULL);
        for (size_t i = 0; i < v; i++) {
            const double a = fabs(ours[i] - logits64[t * v + i]), b = fabs(theirs[i] - logits64[t * v + i]);
            ours_square += a * a;
            theirs_square += b * b;
            ours_max = fmax(ours_max, a);
            theirs_max = fmax(theirs_max, b);
        }
    }
    const double ratio = sqrt(ours_square / theirs_square);
    fprintf(stderr,
            "# %s/%s, 9 positions: |reference - fp64| max %.3g rms %.3g, |transformers - fp64| max %.3g rms %.3g: "
            "ratio of rms %.3f\n",
            name, golden_name, ours_max, sqrt(ours_square / (9.0 * (double)v)), theirs_max,
            sqrt(theirs_square / (9.0 * (double)v)), ratio);
    cr_expect(ratio <= 1.2, "%s/%s: rms ratio %g", name, golden_name, ratio);
    cr_expect(ours_max <= 1.5 * theirs_max, "%s/%s", name, golden_name);
    engine_close(&engine);
    trace_close(&golden);
    trace_close(&truth);
    fixture_close(&fixture);
}

// --- for models that are wrong on purpose

// The same weight in memory of its own.
static inline struct weight parity_copy(struct fixture *fixture, const struct weight *weight)
{
    struct weight copy = *weight;
    const size_t bytes = weight_row_bytes(weight) * weight->rows;
    void *data = arena_alloc(&fixture->arena, bytes, 1);
    memcpy(data, weight->data, bytes);
    copy.data = data;
    return copy;
}

// Is this model further from the golden than the limit?
static inline bool parity_catches(const struct model *model, const char *name, const char *golden_name)
{
    struct parity parity;
    struct trace *golden = parity_golden(name, golden_name);
    parity_run(model, golden, &parity);
    const bool caught = !parity_agrees(&parity);
    trace_close(&golden);
    return caught;
}

#endif
