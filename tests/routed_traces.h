// routed_traces: traces of a model with experts, written on purpose, through comparison and gate.
#ifndef ASSAY_TESTS_ROUTED_TRACES_H
#define ASSAY_TESTS_ROUTED_TRACES_H

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/judge/compare.h"
#include "harness/judge/gate.h"
#include "harness/run/record.h"

enum { V = 64, N = 12, SEEDED = 4, L = 3, E = 4, K = 2, CHANGES = 4, NOWHERE = 1000 };
static enum mixer mixers[L] = {MIXER_CONV, MIXER_ATTENTION, MIXER_CONV};
static const struct config config = {.model_type = "lfm2_moe", .family = FAMILY_LFM2_MOE, .vocabulary = V,
    .hidden = 8, .layers = L, .query_heads = 2, .key_heads = 1, .head_width = 4, .rotary_width = 4,
    .feed_forward = 16, .conv_taps = 3, .dense_layers = 1, .experts = E, .experts_per_token = K, .expert_width = 8,
    .expert_bias = true, .mixers = mixers, .max_positions = 1000};

// Layer 1 adds a bias to its scores, layer 2 does not:
//   layer 1: 0.750, 0.731, 0.269, 0.747: experts 0 and 3 over 1, by 0.0164
//   layer 2: 0.500, 0.731, 0.269, 0.622: experts 1 and 3 over 0, by 0.1225
static const float router_logits[E] = {0.0f, 1.0f, -1.0f, 0.5f};
static const float biases[L][E] = {[1] = {0.25f, 0.0f, 0.0f, 0.125f}};
// 1.4826 x MAD of this is 0.0445, a deviation of 0.0136 for layer 1's margin and 0.0153 for layer 2's. Alone it changes
// no set.
static const float noise[E] = {0.02f, 0.02f, -0.02f, -0.02f};

// One row of one layer, otherwise than the reference's.
struct change {
    uint32_t layer, row;
    float add[E];       // to its logits
    int32_t experts[K]; // two equal ones: those that these logits select
    float weight_add;   // to the first weight
};

struct variant {
    const char *arm;
    struct change changes[CHANGES];
    uint32_t flips[2];  // positions with another pick, a gap of many nats
    bool noisy;         // `noise` in every row of the routers, its sign by the row, and in its first weight
    bool without_taps, without_first; // of both layers, of layer 1
    const char *wrong;  // a state, its values larger by a tenth; by NaN when `lost`
    bool lost;
    const char *model_type; // NULL: "lfm2_moe"
};

static struct arena arena;
static char *directory;
static struct suite suite;
static struct suite_case one, *writing = &one;
static struct layer layers[L];
static struct model model;
static struct policy *policy;

static double score(uint32_t layer, const float *logits, uint32_t e)
{
    return 1.0 / (1.0 + exp(-(double)logits[e])) + (double)biases[layer][e];
}

static void select_experts(uint32_t layer, const float *logits, float *experts)
{
    for (uint32_t i = 0; i < K; i++) {
        uint32_t best = E;
        for (uint32_t e = 0; e < E; e++)
            if ((i == 0 || experts[0] != (float)e) &&
                (best == E || score(layer, logits, e) > score(layer, logits, best)))
                best = e;
        experts[i] = (float)best;
    }
}

static void put_router(struct trace_writer *writer, const struct variant *variant, uint32_t layer, uint32_t row)
{
    float logits[E], experts[K], weights[K] = {variant->noisy ? 0.6f : 0.5f, 0.5f};
    for (uint32_t e = 0; e < E; e++)
        logits[e] = router_logits[e] + (variant->noisy ? row % 2 ? noise[e] : -noise[e] : 0.0f);
    const struct change *found = NULL;
    for (const struct change *change = variant->changes; change < variant->changes + CHANGES; change++)
        found = change->layer == layer && change->row == row ? change : found;
    for (uint32_t e = 0; found && e < E; e++)
        logits[e] += found->add[e];
    select_experts(layer, logits, experts);
    for (uint32_t i = 0; found && found->experts[0] != found->experts[1] && i < K; i++)
        experts[i] = (float)found->experts[i];
    weights[0] += found ? found->weight_add : 0.0f;
    const struct tap_sink *sink = trace_taps(writer);
    tap(sink, layer, TAP_ROUTER, logits, E);
    tap(sink, layer, TAP_EXPERTS, experts, K);
    tap(sink, layer, TAP_WEIGHTS, weights, K);
}

// Positions [first, first + n).
static void write_trace(const struct variant *variant, const char *purpose, uint32_t first, uint32_t n)
{
    struct error error = {0};
    struct trace_writer *writer;
    struct state state;
    struct config recorded = config;
    recorded.dense_layers += variant->without_first;
    const struct trace_spec spec = {.config = &recorded, .n = n, .logits = DTYPE_F32, .state = true,
        .taps = variant->without_taps ? TAPS_NONE : TAPS_ROUTER,
        .contract = {.model = "m", .model_type = variant->model_type ? variant->model_type : "lfm2_moe", .weights_sha256 = "", .config_sha256 = "",
            .bundle_sha256 = "", .tokenizer_sha256 = "", .engine = variant->arm, .engine_version = "1",
            .device = "cpu", .precision = "float32", .mode = "s1", .position = first,
            .start = first ? "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" : "zero"}};
    const char *folder = file_join(&arena, directory, variant->arm);
    cr_assert_eq(directory_make(folder, &error), 0, "%s", error.text);
    const char *path = record_path(&arena, folder, writing->id, purpose);
    cr_assert_eq(trace_create(&writer, path, &spec, &error), 0, "%s", error.text);
    for (uint32_t t = 0; t < n; t++) {
        float row[V];
        for (uint32_t id = 0; id < V; id++)
            row[id] = (float)((id * 37 + (first + t) * 11) % V) * 0.25f; // every row a permutation
        for (uint32_t i = 0; i < 2; i++)
            row[12] += variant->flips[i] == first + t ? 40.0f : 0.0f;
        trace_row(writer, t);
        for (uint32_t layer = recorded.dense_layers; layer < L && !variant->without_taps; layer++)
            put_router(writer, variant, layer, first + t);
        trace_put(writer, t, first + t, row);
    }
    cr_assert_eq(state_make(&arena, &config, first + n, &state, &error), 0);
    for (size_t i = 0; i < state.n; i++) {
        char name[48];
        const bool wrong = variant->wrong &&
                           !strcmp(variant->wrong, state_name(state.tensors[i].layer, state.tensors[i].kind, name));
        for (uint64_t k = 0; k < state.tensors[i].elements; k++)
            state.tensors[i].data[k] = !wrong ? 1.0f : variant->lost ? NAN : 1.1f;
    }
    trace_put_state(writer, &state);
    cr_assert_eq(trace_commit(&writer, &error), 0, "%s", error.text);
}

static const struct variant plain = {.flips = {NOWHERE, NOWHERE}};
static const struct variant noisy = {.flips = {NOWHERE, NOWHERE}, .noisy = true};

static void write_arm(const char *arm, const struct variant *variant)
{
    struct variant named = *variant;
    named.arm = arm;
    write_trace(&named, NULL, 0, N);
    write_trace(&named, "seeded", N - SEEDED, SEEDED);
}

static void setup(void)
{
    static uint32_t tokens[N];
    struct error error = {0};
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
    for (uint32_t t = 0; t < N; t++)
        tokens[t] = t;
    one = (struct suite_case){.id = "one", .domain = "", .n = N, .tokens = tokens, .seeded = SEEDED,
        .checks = {[CHECK_SEEDED] = true, [CHECK_FLIPS] = true, [CHECK_DISTANCE] = true}};
    suite = (struct suite){.name = "one", .n_cases = 1, .cases = &one};
    memcpy(suite.checks, one.checks, sizeof suite.checks);
    model = (struct model){.config = config, .layers = layers};
    for (uint32_t layer = 0; layer < L; layer++)
        layers[layer] = (struct layer){.expert_bias = {.name = "expert_bias", .format = WEIGHT_F32, .rows = 1,
            .cols = E, .data = biases[layer]}};
    const char *path = ASSAY_FIXTURES "/policies/release.json";
    cr_assert_eq(policy_open(&policy, path, "lfm2_moe", "2026-01-01", &error), 0, "%s", error.text);
    // A few rows of one case: no policy's least of anything.
    policy->limit[LIMIT_MIN_TOP1] = policy->limit[LIMIT_MIN_FLIPS] = policy->limit[LIMIT_MIN_DISTANCE] = 1;
    write_arm("reference", &plain);
    write_arm("expected", &noisy);
}

static void teardown(void)
{
    policy_close(&policy);
    directory_remove(directory);
    arena_close(&arena);
}


static int compare(struct comparison **comparison, struct error *error)
{
    struct compare_request request = {.suite = &suite, .reference = file_join(&arena, directory, "reference"),
        .arms = {[ARM_CANDIDATE] = file_join(&arena, directory, "candidate"),
                 [ARM_EXPECTED] = file_join(&arena, directory, "expected")},
        .floor = policy->limit[LIMIT_FLOOR], .reference_error = policy->limit[LIMIT_REFERENCE_ERROR], .model = &model,
        .routing_sd = policy->limit[LIMIT_ROUTING_SD]};
    memcpy(request.checks, suite.checks, sizeof request.checks);
    return compare_suite(comparison, &request, error);
}

static struct comparison *compared(const struct variant *candidate)
{
    struct error error = {0};
    struct comparison *comparison;
    write_arm("candidate", candidate);
    cr_assert_eq(compare(&comparison, &error), 0, "%s", error.text);
    return comparison;
}

// What one check says of a candidate; `piece` must stand in its sentence.
static inline void expect(const struct variant *candidate, enum check check, enum engine_kind kind,
                          enum verdict verdict, const char *piece)
{
    struct error error = {0};
    struct report *report;
    struct comparison *comparison = compared(candidate);
    struct gate_input input = {.suite = &suite, .policy = policy, .comparison = comparison, .kind = kind,
        .engine = "int8"};
    input.asked[check] = true;
    cr_assert_eq(gate_judge(&report, &input, &error), 0, "%s", error.text);
    cr_expect_eq(report->checks[0].verdict, verdict, "%s: %s", verdict_name(report->checks[0].verdict),
                 report->checks[0].detail);
    cr_expect(strstr(report->checks[0].detail, piece), "no '%s' in: %s", piece, report->checks[0].detail);
    gate_close(&report);
    compare_close(&comparison);
}

#endif
