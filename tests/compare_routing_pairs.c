// Two traces of a model with experts, as `assay compare` sees them: what they tell of routers, with and without a model.
#include "tests/routed_traces.h"

TestSuite(compare_routing_pairs, .init = setup, .fini = teardown);

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

Test(compare_routing_pairs, two_bare_traces_know_sets_but_no_margins)
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

Test(compare_routing_pairs, a_model_gives_two_traces_the_margins_of_its_biased_scores)
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

Test(compare_routing_pairs, traces_of_qwen_tell_margins_without_a_model)
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
