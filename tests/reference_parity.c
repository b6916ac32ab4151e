// The reference against the golden traces of Hugging Face transformers: other people's code, another order of
// summation.
//
// Limit, for logits, every tap point and the states alike: |difference| at most LIMIT times transformers' own noise
// in that very golden, relative to the largest golden value of the kind. Its noise is the difference between its two
// modes, one token at a time and all at once (`check.mode_max_abs` in the golden, relative to the largest logit):
// what the order of summation alone does to it. Measured worst, in units of that noise: logits 1.6 (odd-head-only),
// taps 2.3 (attn of odd-one-attention), states 1.1 (odd-one-attention); the limit leaves room for another order, not
// for another formula.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness/run/trace.h"
#include "tests/reference_fixture.h"

#define LIMIT 4.0

static struct trace *golden_open(const char *model, const char *name)
{
    char path[512];
    struct error error = {0};
    struct trace *trace;
    snprintf(path, sizeof path, "%s/oracles/%s/%s.safetensors", ASSAY_FIXTURES, model, name);
    must(trace_open(&trace, path, &error), &error);
    return trace;
}

struct distance {
    double max, square; // largest |difference|, a NaN stays; sum of squares
    double largest;     // |golden|
    uint64_t n;
};

static void measure(struct distance *distance, const float *ours, const float *golden, size_t n)
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
static double in_noise(const struct distance *distance, double noise)
{
    return distance->n ? distance->max / distance->largest / noise : 0;
}

struct parity {
    const struct trace *golden;
    double noise; // transformers' own, relative
    uint32_t t, top1;
    struct distance logits, state, taps[TAP_POINTS];
};

static void compare_tap(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct parity *parity = context;
    uint32_t golden_width = 0;
    const float *golden = trace_tap(parity->golden, parity->t, layer, point, &golden_width);
    if (!golden)
        return;
    cr_assert_eq(width, golden_width, "layer %u, %s: %u values, golden %u", layer, tap_point_name(point), width,
                 golden_width);
    measure(&parity->taps[point], row, golden, width);
}

static uint32_t argmax(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static void compare_states(struct parity *parity, const struct config *config, const struct engine *engine)
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
        measure(&parity->state, a->data, b->data, a->elements);
    }
    arena_close(&arena);
}

// Runs a golden's tokens through the model and measures everything that the golden holds.
static void run(const struct model *model, const struct trace *golden, struct parity *parity)
{
    const uint32_t v = golden->vocabulary;
    memset(parity, 0, sizeof *parity);
    parity->golden = golden;
    const struct tap_sink taps = {TAPS_ALL, parity, compare_tap};
    struct engine *engine = fixture_engine(model, NULL, isa_best(), golden->n);
    for (uint32_t t = 0; t < golden->n; t++) {
        const float *expected = trace_logits(golden, t, NULL);
        parity->t = t;
        const float *logits = fixture_step(engine, (uint32_t)golden->tokens[t], &taps);
        measure(&parity->logits, logits, expected, v);
        parity->top1 += argmax(logits, v) == argmax(expected, v);
    }
    compare_states(parity, &model->config, engine);
    engine_close(&engine);
    const char *mode = safetensors_metadata(golden->file, "check.mode_max_abs");
    cr_assert(mode && atof(mode) > 0);
    parity->noise = atof(mode) / parity->logits.largest;
}

// Accept form: a NaN is no agreement.
static bool agrees(const struct parity *parity)
{
    bool ok = parity->top1 == parity->golden->n && in_noise(&parity->logits, parity->noise) <= LIMIT &&
              in_noise(&parity->state, parity->noise) <= LIMIT;
    for (int point = 0; point < TAP_POINTS; point++)
        ok = ok && in_noise(&parity->taps[point], parity->noise) <= LIMIT;
    return ok;
}

static void print(const char *model, const char *name, const struct parity *parity)
{
    int worst = 0;
    for (int point = 0; point < TAP_POINTS; point++)
        if (!(in_noise(&parity->taps[point], parity->noise) <= in_noise(&parity->taps[worst], parity->noise)))
            worst = point;
    fprintf(
        stderr,
        "# %s/%s: top-1 %u/%u, |reference - transformers| logits max %.3g rms %.3g (largest %.3g); in units of its "
        "noise %.2g: logits %.2f, state %.2f, worst tap %s %.2f; limit %g\n",
        model, name, parity->top1, parity->golden->n, parity->logits.max,
        sqrt(parity->logits.square / (double)parity->logits.n), parity->logits.largest, parity->noise,
        in_noise(&parity->logits, parity->noise), in_noise(&parity->state, parity->noise),
        tap_point_name((enum tap_point)worst), in_noise(&parity->taps[worst], parity->noise), LIMIT);
}

static void check(const char *name, const char *golden_name, bool has_taps)
{
    struct fixture fixture;
    struct parity parity;
    fixture_open(&fixture, name);
    struct trace *golden = golden_open(name, golden_name);
    run(&fixture.model, golden, &parity);
    print(name, golden_name, &parity);
    cr_expect(agrees(&parity), "%s/%s is further from transformers than its rounding explains", name, golden_name);
    cr_expect_eq(parity.state.n > 0, has_taps);
    for (int point = 0; point < TAP_POINTS; point++) // nothing compared is no agreement
        cr_expect(parity.taps[point].n > 0 || !has_taps || tap_is_detail((enum tap_point)point),
                  "%s was not compared", tap_point_name((enum tap_point)point));
    trace_close(&golden);
    fixture_close(&fixture);
}

Test(reference_parity, logits_taps_and_states_of_lfm2_mini_are_those_of_transformers)
{
    check("lfm2-mini", "chat", true);
    check("lfm2-mini", "code", true);
    check("lfm2-mini", "high-ids", true);
    check("lfm2-mini", "scripture", true);
}

Test(reference_parity, logits_of_long_texts_are_those_of_transformers)
{
    check("lfm2-mini", "dialogue-64", false);
    check("lfm2-mini", "narrative-201", false);
}

Test(reference_parity, models_of_odd_shapes_agree_with_transformers)
{
    for (size_t i = 0; i < N_ODD; i++)
        check(ODD[i], "random", true);
}

// The first nine positions of `chat` exist in double as well: both fp32 engines against the truth.
Test(reference_parity, the_reference_is_as_near_to_double_as_transformers_is)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    struct trace *golden = golden_open("lfm2-mini", "chat"), *truth = golden_open("lfm2-mini", "chat-9.float64");
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
            "# chat, 9 positions: |reference - fp64| max %.3g rms %.3g, |transformers - fp64| max %.3g rms %.3g: "
            "ratio of rms %.3f\n",
            ours_max, sqrt(ours_square / (9.0 * (double)v)), theirs_max, sqrt(theirs_square / (9.0 * (double)v)),
            ratio);
    cr_expect(ratio <= 1.2, "rms ratio %g: the 32 lanes should be no worse than torch's sums", ratio);
    cr_expect(ours_max <= 1.5 * theirs_max);
    engine_close(&engine);
    trace_close(&golden);
    trace_close(&truth);
    fixture_close(&fixture);
}

// --- wrong on purpose: each must be further away than the limit

static struct weight copied(struct fixture *fixture, const struct weight *weight)
{
    struct weight copy = *weight;
    const size_t bytes = weight_row_bytes(weight) * weight->rows;
    void *data = arena_alloc(&fixture->arena, bytes, 1);
    memcpy(data, weight->data, bytes);
    copy.data = data;
    return copy;
}

static bool is_caught(const struct model *model)
{
    struct parity parity;
    struct trace *golden = golden_open("lfm2-mini", "chat");
    run(model, golden, &parity);
    const bool caught = !agrees(&parity);
    trace_close(&golden);
    return caught;
}

Test(reference_parity, a_wrong_model_does_not_agree)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    struct model model = fixture_mutable(&fixture);
    cr_expect(!is_caught(&model), "control: the unchanged copy must agree");

    model.config.norm_eps *= 1.01f;
    cr_expect(is_caught(&model), "an eps one percent too large");
    model.config = fixture.config;

    model.config.rope_theta *= 1.0001;
    cr_expect(is_caught(&model), "theta 1e-4 too large");
    model.config = fixture.config;

    struct layer *conv = &model.layers[0], *attention = &model.layers[2];
    cr_assert(conv->mixer == MIXER_CONV && attention->mixer == MIXER_ATTENTION);
    const struct weight gate = conv->w1;
    conv->w1 = conv->w3;
    conv->w3 = gate;
    cr_expect(is_caught(&model), "gate and up swapped");
    conv->w3 = conv->w1;
    conv->w1 = gate;

    const struct weight q_norm = attention->q_norm;
    attention->q_norm = attention->k_norm;
    cr_expect(is_caught(&model), "the norm of k used for q");
    attention->q_norm = q_norm;

    conv->w2 = copied(&fixture, &conv->w2);
    cr_assert_eq(conv->w2.format, WEIGHT_BF16);
    ((uint16_t *)(uintptr_t)conv->w2.data)[777] ^= 1;
    cr_expect(is_caught(&model), "one bf16 weight of 3.9 million, one unit in the last place off");

    fixture_close(&fixture);
}
