// compare_routing: traces of a model with experts, written on purpose, through comparison and gate: what is found of
// changed expert sets, which flips they answer for, and what may not pass.
#include "harness/judge/compare.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "harness/base/files.h"
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

TestSuite(compare_routing, .init = setup, .fini = teardown);

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

// What one check says of a candidate; `piece` (or NULL) must stand in its sentence.
static void expect(const struct variant *candidate, enum check check, enum engine_kind kind, enum verdict verdict,
                   const char *piece)
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
    cr_expect(!piece || strstr(report->checks[0].detail, piece), "no '%s' in: %s", piece, report->checks[0].detail);
    gate_close(&report);
    compare_close(&comparison);
}

// What is said of two traces in which nothing is wrong.
static const char alone[] = "no `expected` arm: judged by the policy's caps alone";

// The whole runs alone, as `assay compare` sees them: what it says of their distance.
static struct comparison *compared_pair(const struct variant *candidate, const struct model *of, enum verdict verdict,
                                        const char *piece)
{
    struct error error = {0};
    struct comparison *comparison;
    struct report *report;
    const struct suite *pair;
    write_arm("candidate", candidate);
    const struct compare_request request = {
        .reference = record_path(&arena, file_join(&arena, directory, "reference"), "one", NULL),
        .arms = {[ARM_CANDIDATE] = record_path(&arena, file_join(&arena, directory, "candidate"), "one", NULL)},
        .floor = policy->limit[LIMIT_FLOOR], .reference_error = policy->limit[LIMIT_REFERENCE_ERROR], .model = of,
        .routing_sd = policy->limit[LIMIT_ROUTING_SD]};
    cr_assert_eq(compare_traces(&comparison, &request, &pair, &error), 0, "%s", error.text);
    const struct gate_input input = {.suite = pair, .policy = policy, .comparison = comparison, .kind = ENGINE_TRACE,
        .engine = "int8", .asked = {[CHECK_DISTANCE] = true}};
    cr_assert_eq(gate_judge(&report, &input, &error), 0, "%s", error.text);
    cr_expect_eq(report->checks[0].verdict, verdict, "%s: %s", verdict_name(report->checks[0].verdict),
                 report->checks[0].detail);
    const char *detail = report->checks[0].detail;
    cr_expect(piece == alone ? !strcmp(detail, alone) : strstr(detail, piece) != NULL, "no '%s' in: %s", piece, detail);
    gate_close(&report);
    return comparison;
}

static void expect_distance(const struct variant *candidate, enum verdict verdict, const char *piece)
{
    expect(candidate, CHECK_DISTANCE, ENGINE_OWN, verdict, piece);
}

// --- what is measured

Test(compare_routing, control_equal_routers_differ_in_nothing)
{
    struct comparison *c = compared(&plain);
    cr_assert(c->routing_known && c->n_layers == 2 && c->layers[0].layer == 1 && c->layers[1].layer == 2);
    cr_assert_eq(c->routing_declared, 2 * (N + SEEDED));
    cr_assert_eq(c->routing_compared, c->routing_declared);
    cr_assert_eq(c->n_routes, 0);
    for (size_t i = 0; i < 2; i++) {
        const struct compared_layer *layer = &c->layers[i];
        cr_assert(layer->rows == N + SEEDED && !layer->unsound && !layer->changed && !layer->misrouted);
        cr_assert(layer->sigma == 0.0 && layer->weight_error == 0.0 && layer->largest_depth == 0.0);
        cr_assert_eq(layer->expected_rows, N + SEEDED);
        cr_assert_float_eq(layer->expected_sigma, 1.4826 * 0.02, 1e-6);
    }
    compare_close(&c);
    expect_distance(&plain, VERDICT_PASS, NULL);
    expect_distance(&noisy, VERDICT_PASS, NULL);
}

Test(compare_routing, a_changed_set_has_its_place_and_the_margin_of_the_biased_scores)
{
    struct variant variant = plain;
    variant.changes[0] = (struct change){.layer = 1, .row = 5, .add = {-0.05f, 0.1f, 0.05f, -0.05f}};
    variant.changes[1] = (struct change){.layer = 2, .row = 7, .add = {0.8f}, .weight_add = 0.25f};
    struct comparison *c = compared(&variant);
    const double a = 1.0 / (1.0 + exp(-0.5)), b = 1.0 / (1.0 + exp(-1.0));
    cr_assert_eq(c->n_routes, 2);
    cr_assert(c->routes[0].position == 5 && c->routes[0].layer == 1 && !c->routes[0].seeded);
    cr_assert_float_eq(c->routes[0].margin, a + 0.125 - b, 1e-12);
    // noise 1.4826 x 0.05 of a logit over the slopes a (1 - a) and b (1 - b): well under one deviation
    const double deviation = 1.4826 * 0.05 * hypot(a * (1 - a), b * (1 - b));
    cr_assert_float_eq(c->routes[0].depth, (a + 0.125 - b) / deviation, 1e-5);
    cr_assert(c->routes[0].tie && c->layers[0].ties == 1);
    cr_assert(c->routes[1].position == 7 && c->routes[1].layer == 2);
    cr_assert_float_eq(c->routes[1].margin, a - 0.5, 1e-12); // without a bias
    cr_assert(isinf(c->routes[1].depth) && !c->routes[1].tie && c->layers[1].ties == 0); // one logit is no noise
    // experts 1 and 3 by 0.5 each, now 1 and 0 by 0.75 and 0.5
    cr_assert_float_eq(c->routes[1].weight_error, 0.25 + 2 * 0.5, 1e-6);
    cr_assert_float_eq(c->layers[1].weight_error, (0.25 + 2 * 0.5) / (N + SEEDED), 1e-6);
    compare_close(&c);
}

Test(compare_routing, a_seeded_decode_has_changes_of_its_own)
{
    struct variant variant = plain;
    variant.changes[0] = (struct change){.layer = 2, .row = N - 1, .add = {0.8f}};
    struct comparison *c = compared(&variant);
    cr_assert_eq(c->n_routes, 2); // both runs have that position
    cr_assert(!c->routes[0].seeded && c->routes[1].seeded && c->routes[1].position == N - 1);
    compare_close(&c);
}

// --- what the gate says

Test(compare_routing, a_change_within_noise_passes_and_one_further_out_fails)
{
    struct variant variant = noisy;
    variant.changes[0] = (struct change){.layer = 1, .row = 4, .add = {0.0f, 0.1f}};
    expect_distance(&variant, VERDICT_PASS, NULL);
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .add = {0.8f}}; // 0.1225 is 8 deviations
    expect_distance(&variant, VERDICT_FAIL, "layer 2 at one:4 chose other experts over a margin of 0.122");
}

Test(compare_routing, more_noise_than_expected_fails)
{
    struct variant variant = noisy;
    for (uint32_t i = 0; i < CHANGES; i++) // 8 times the noise at 4 of 16 rows: 4.1 times in the mean of squares
        variant.changes[i] = (struct change){.layer = 2, .row = 2 * i, .add = {-0.14f, -0.14f, 0.14f, 0.14f}};
    policy->limit[LIMIT_CAP_ROUTER] = 1.0;
    expect_distance(&variant, VERDICT_FAIL, "router noise / expected 4.09");
    policy->limit[LIMIT_RATIO_ROUTER] = 4.2;
    expect_distance(&variant, VERDICT_PASS, NULL);
}

Test(compare_routing, experts_that_the_own_logits_reject_fail)
{
    struct variant variant = noisy;
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .experts = {1, 2}};
    expect_distance(&variant, VERDICT_FAIL, "own logits do not select 1");
    variant.changes[0].experts[1] = 3; // those it would choose by itself
    expect_distance(&variant, VERDICT_PASS, NULL);
}

Test(compare_routing, what_is_no_number_never_passes)
{
    const struct change broken[] = {
        {.layer = 1, .row = 3, .add = {0.0f, NAN}}, {.layer = 2, .row = 0, .add = {INFINITY}},
        {.layer = 2, .row = N - 1, .add = {0.0f, 0.0f, -INFINITY}}, {.layer = 1, .row = 3, .weight_add = NAN},
        {.layer = 1, .row = 3, .experts = {0, E}}, {.layer = 1, .row = 3, .experts = {-1, 3}}};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        for (int kind = 0; kind < ENGINE_KINDS; kind++) {
            struct variant variant = noisy;
            variant.changes[0] = broken[i];
            expect(&variant, CHECK_DISTANCE, (enum engine_kind)kind, VERDICT_FAIL, "no set of experts, first in");
        }
    struct variant reference = plain;
    reference.changes[0] = broken[0];
    write_arm("reference", &reference);
    expect_distance(&noisy, VERDICT_FAIL, "no set of experts, first in layer 1");
}

Test(compare_routing, a_candidate_without_router_taps_is_not_run_if_own_and_a_warning_if_foreign)
{
    struct variant variant = noisy;
    variant.without_taps = true;
    expect_distance(&variant, VERDICT_NOT_RUN, "compared 0 of 32 rows; record traces with --taps router");
    expect(&variant, CHECK_DISTANCE, ENGINE_EXEC, VERDICT_WARN, "compared 0 of 32 rows");
    expect(&variant, CHECK_DISTANCE, ENGINE_TRACE, VERDICT_WARN, "compared 0 of 32 rows");
    variant.without_taps = false;
    variant.without_first = true; // half of them
    expect_distance(&variant, VERDICT_NOT_RUN, "compared 16 of 32 rows");
    expect(&variant, CHECK_DISTANCE, ENGINE_EXEC, VERDICT_WARN, "compared 16 of 32 rows");
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .experts = {1, 2}}; // what is there is judged
    expect(&variant, CHECK_DISTANCE, ENGINE_EXEC, VERDICT_FAIL, "own logits do not select 1");
    variant = noisy;
    expect(&variant, CHECK_DISTANCE, ENGINE_EXEC, VERDICT_PASS, NULL);
}

Test(compare_routing, a_trace_of_another_number_of_experts_is_refused)
{
    struct error error = {0};
    struct comparison *c;
    write_arm("candidate", &plain);
    model.config.experts = E + 1;
    model.config.expert_bias = false;
    layers[1].expert_bias.format = layers[2].expert_bias.format = WEIGHT_NONE;
    cr_assert_eq(compare(&c, &error), ERROR_CONTRACT);
    cr_assert(strstr(error.text, "layer 1 chooses 2 of 4 experts"), "%s", error.text);
}

Test(compare_routing, two_bare_traces_know_sets_but_no_margins)
{
    struct variant variant = noisy;
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .experts = {1, 2}};
    struct comparison *c = compared_pair(&variant, NULL, VERDICT_WARN,
        "1 changed expert sets not judged: two bare traces do not tell by which scores they were chosen; "
        "repeat with --model CHECKPOINT");
    cr_assert(!c->routing_known && c->n_layers == 2 && c->n_routes == 1);
    cr_assert(c->routes[0].position == 4 && c->routes[0].layer == 2);
    cr_assert(isnan(c->routes[0].margin) && !c->routes[0].tie);
    cr_assert_eq(c->layers[1].misrouted, 0);
    compare_close(&c);
    c = compared_pair(&noisy, NULL, VERDICT_WARN, alone); // nothing changed, nothing to judge
    cr_assert(!c->routing_known && !c->n_routes);
    compare_close(&c);
}

Test(compare_routing, a_model_gives_two_traces_the_margins_of_its_biased_scores)
{
    struct variant variant = noisy;
    variant.changes[0] = (struct change){.layer = 1, .row = 4, .add = {0.0f, 0.1f}}; // as between two directories
    struct comparison *c = compared_pair(&variant, &model, VERDICT_WARN, alone);
    cr_assert(c->routing_known && c->n_routes == 1 && c->routes[0].tie);
    cr_assert_float_eq(c->routes[0].margin, 1.0 / (1.0 + exp(-0.5)) + 0.125 - 1.0 / (1.0 + exp(-1.0)), 1e-12);
    compare_close(&c);
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .add = {0.8f}};
    c = compared_pair(&variant, &model, VERDICT_FAIL, "layer 2 at one.safetensors:4 chose other experts over a margin of 0.122");
    compare_close(&c);
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .experts = {1, 2}};
    c = compared_pair(&variant, &model, VERDICT_FAIL, "own logits do not select 1");
    compare_close(&c);
    variant.without_taps = true;
    c = compared_pair(&variant, &model, VERDICT_WARN, "routers: compared 0 of 24 rows; record traces with --taps router");
    compare_close(&c);
}

Test(compare_routing, traces_of_qwen_tell_margins_without_a_model)
{
    // softmax of layer 2's logits: e^0, e^1, e^-1, e^0.5 over their sum; experts 1 and 3 over 0
    const double sum = 1.0 + exp(1.0) + exp(-1.0) + exp(0.5);
    struct variant variant = noisy;
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .add = {0.8f}};
    variant.model_type = "qwen3_5_moe_text";
    variant.without_first = true; // its experts are those of biased scores
    write_arm("reference", &(struct variant){.flips = {NOWHERE, NOWHERE}, .model_type = "qwen3_5_moe_text", .without_first = true});
    struct comparison *c = compared_pair(&variant, NULL, VERDICT_FAIL, "layer 2 at one.safetensors:4 chose other experts");
    cr_assert(c->routing_known && c->n_routes == 1 && !c->routes[0].tie);
    cr_assert_float_eq(c->routes[0].margin, (exp(0.5) - 1.0) / sum, 1e-12);
    compare_close(&c);
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .experts = {1, 2}};
    c = compared_pair(&variant, NULL, VERDICT_FAIL, "own logits do not select 1");
    compare_close(&c);
    variant.changes[0] = (struct change){.layer = NOWHERE};
    c = compared_pair(&variant, NULL, VERDICT_WARN, alone);
    cr_assert(c->routing_known && !c->n_routes);
    compare_close(&c);
}

// --- states: 0.1 from the reference's, in `expected` too, is over cap_state and under cap_state_tie

static const struct change tie = {.layer = 1, .row = 4, .add = {0.0f, 0.1f}};

static void expect_state(const struct variant *candidate, enum verdict verdict, const char *piece)
{
    struct variant expected = noisy;
    expected.wrong = candidate->wrong;
    write_arm("expected", &expected);
    suite.checks[CHECK_STATE] = one.checks[CHECK_STATE] = true;
    expect(candidate, CHECK_STATE, ENGINE_OWN, verdict, piece);
}

Test(compare_routing, a_state_above_a_tie_is_not_under_the_cap_of_rounding)
{
    struct variant variant = noisy;
    variant.wrong = "state.2.conv";
    expect_state(&variant, VERDICT_FAIL, "state error 0.1, limit 0.027, state.2.conv of one; 4 states under cap_state");
    variant.changes[0] = tie;
    expect_state(&variant, VERDICT_PASS, "3 states under cap_state, 1 after a tie");
    variant.lost = true;
    expect_state(&variant, VERDICT_FAIL, "states are NaN");
}

Test(compare_routing, a_tie_in_the_same_layer_or_above_excuses_no_state)
{
    struct variant variant = noisy;
    variant.changes[0] = tie;
    const char *const below[] = {"state.0.conv", "state.1.k", "state.1.v"};
    for (size_t i = 0; i < sizeof below / sizeof *below; i++) {
        variant.wrong = below[i];
        expect_state(&variant, VERDICT_FAIL, below[i]);
    }
    variant.wrong = "state.2.conv"; // layer 2's own experts come after its convolution
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .add = {0.8f, 0.4f, 0.1f, -0.2f}};
    expect_state(&variant, VERDICT_FAIL, "4 states under cap_state, 0 after");
}

Test(compare_routing, a_change_that_is_no_tie_excuses_no_state)
{
    struct variant variant = plain;
    variant.wrong = "state.2.conv";
    variant.changes[0] = tie; // but without any noise
    expect_state(&variant, VERDICT_FAIL, "4 states under cap_state, 0 after");
    policy->limit[LIMIT_ROUTING_SD] = 2;
    variant.changes[1] = (struct change){.layer = 1, .row = 6, .add = {-0.05f, 0.1f, 0.05f, -0.05f}}; // 0.7 deviations
    expect_state(&variant, VERDICT_FAIL, "4 states under cap_state, 0 after"); // the other one is 2.9 away
    variant.changes[0] = variant.changes[1];
    expect_state(&variant, VERDICT_PASS, "3 states under cap_state, 1 after");
    variant = noisy;
    variant.wrong = "state.2.conv";
    variant.changes[0] = (struct change){.layer = 1, .row = 6, .experts = {0, 1}}; // as near, but not its own choice
    expect_state(&variant, VERDICT_FAIL, "4 states under cap_state, 0 after");
    variant.changes[0] = tie;
    expect_state(&variant, VERDICT_PASS, "3 states under cap_state, 1 after");
    variant.without_taps = true; // nothing is known of its routers
    expect_state(&variant, VERDICT_FAIL, "4 states under cap_state, 0 after");
}

// The seeded decode of positions 8 to 11 begins from the reference's state: what was chosen at 4 is not in it.
Test(compare_routing, a_tie_in_another_run_or_case_excuses_no_state)
{
    struct variant variant = noisy, other = noisy;
    variant.wrong = "state.2.conv";
    variant.changes[0] = tie;
    write_arm("expected", &variant);
    expect(&variant, CHECK_SEEDED, ENGINE_OWN, VERDICT_FAIL, "4 states under cap_state, 0 after");
    variant.changes[0].row = N - SEEDED;
    expect(&variant, CHECK_SEEDED, ENGINE_OWN, VERDICT_PASS, "3 states under cap_state, 1 after a tie");

    struct suite_case two[] = {one, one};
    two[1].id = "two";
    suite.cases = two;
    suite.n_cases = 2;
    two[0].checks[CHECK_STATE] = two[1].checks[CHECK_STATE] = suite.checks[CHECK_STATE] = true;
    other.changes[0] = tie;
    variant.changes[0] = (struct change){0};
    writing = &two[1]; // `expect` writes the candidate's first case
    write_arm("reference", &plain);
    write_arm("expected", &other);
    write_arm("candidate", &other);
    writing = &one;
    expect(&variant, CHECK_STATE, ENGINE_OWN, VERDICT_FAIL, "state.2.conv of one; 7 states under cap_state, 1 after");
}

// --- flips

static const struct compared_position *at(const struct comparison *c, uint32_t position, bool seeded)
{
    for (size_t i = 0; i < c->n_positions; i++)
        if (c->positions[i].position == position && c->positions[i].seeded == seeded)
            return &c->positions[i];
    cr_assert_fail("no position %u", position);
    return NULL;
}

Test(compare_routing, a_flip_is_laid_to_the_first_layer_of_the_latest_change_before_it)
{
    struct variant variant = noisy;
    variant.changes[0] = (struct change){.layer = 2, .row = 3, .add = {0.8f}};
    variant.changes[1] = (struct change){.layer = 1, .row = 5, .add = {0.0f, 0.1f}};
    variant.changes[2] = (struct change){.layer = 2, .row = 5, .add = {0.8f}};
    const struct { uint32_t flip; int64_t position, layer; } rows[] = {
        {2, -1, -1}, {3, 3, 2}, {4, 3, 2}, {5, 5, 1}, {7, 5, 1}, {11, 5, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        variant.flips[0] = rows[i].flip;
        struct comparison *c = compared(&variant);
        const struct compared_position *p = at(c, rows[i].flip, false);
        cr_assert_eq(p->agreement, REAL_FLIP);
        cr_assert_eq(p->route_position, rows[i].position, "flip at %u", rows[i].flip);
        cr_assert_eq(p->route_layer, rows[i].layer, "flip at %u", rows[i].flip);
        cr_assert_eq(at(c, 6, false)->route_position, -1); // agrees
        compare_close(&c);
    }
    // the seeded decode begins at 8 from the reference's state: nothing before it came along
    struct comparison *c = compared(&variant);
    cr_assert_eq(at(c, 11, true)->agreement, REAL_FLIP);
    cr_assert_eq(at(c, 11, true)->route_position, -1);
    compare_close(&c);
}

Test(compare_routing, a_flip_at_a_changed_set_is_in_the_budget_and_one_elsewhere_is_not)
{
    struct variant variant = noisy;
    policy->limit[LIMIT_SHAPE_SD] = INFINITY; // so few rows explain no flip; the budget is what is asked here
    policy->limit[LIMIT_INTRODUCED] = 1;
    policy->limit[LIMIT_INTRODUCED_PER_2048] = 0;
    variant.changes[0] = (struct change){.layer = 1, .row = 5, .add = {0.0f, 0.1f}};
    variant.flips[0] = 5;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_PASS, NULL);
    variant.flips[0] = 6; // its state may carry the change on; that is said, and not forgiven
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_FAIL, "unexplained real flips 1");
    variant.flips[0] = 4;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_FAIL, "unexplained real flips 1");
    policy->limit[LIMIT_INTRODUCED] = 0;
    variant.flips[0] = 6;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_FAIL, "layer 1 had chosen other experts at position 5");
}

Test(compare_routing, the_budget_grows_with_the_rows_compared)
{
    struct variant variant = noisy;
    policy->limit[LIMIT_SHAPE_SD] = INFINITY;
    policy->limit[LIMIT_INTRODUCED] = 1;
    policy->limit[LIMIT_INTRODUCED_PER_2048] = 2.01 * 2048.0 / N; // 2 in the rows of this case
    variant.changes[0] = (struct change){.layer = 1, .row = 5, .add = {0.0f, 0.1f}};
    variant.changes[1] = (struct change){.layer = 1, .row = 7, .add = {0.0f, 0.1f}};
    variant.flips[0] = 5;
    variant.flips[1] = 7;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_PASS, "10/12 + 2 introduced flips");
    policy->limit[LIMIT_INTRODUCED_PER_2048] = 1.99 * 2048.0 / N;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_FAIL, "introduced real flips 2, limit 1.99");
}
