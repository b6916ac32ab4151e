// What the gate makes of routers: noise is no fault, a wrong choice is, and nothing compared is no pass.
#include "harness/judge/gate.h"

#include <stddef.h>

#include "tests/gate_bench.h"

TestSuite(gate_routing, .init = setup, .fini = teardown);

static struct compared_layer sparse;

// A healthy layer with experts; each test makes one thing wrong.
static void add_experts(void)
{
    sparse = (struct compared_layer){.layer = 2, .rows = 100, .changed = 1, .ties = 1, .sigma = 0.01, .weight_error = 0.001,
        .largest_margin = 0.002, .largest_depth = 1.0, .expected_rows = 100, .expected_sigma = 0.01,
        .expected_weight_error = 0.001, .common_sigma = 0.01, .common_weight_error = 0.001};
    bench.comparison.n_layers = 1;
    bench.comparison.layers = &sparse;
    bench.comparison.routing_known = true;
    bench.comparison.routing_declared = bench.comparison.routing_compared = 100;
}

Test(gate_routing, control_a_changed_expert_set_within_noise_passes)
{
    add_experts();
    expect(CHECK_DISTANCE, VERDICT_PASS, 0);
}

Test(gate_routing, a_wrong_router_fails_the_distance)
{
    static const struct { size_t at; double value; } faults[] = {
        {offsetof(struct compared_layer, largest_depth), 6.5}, {offsetof(struct compared_layer, largest_depth), NAN},
        {offsetof(struct compared_layer, common_sigma), 0.0201}, {offsetof(struct compared_layer, common_sigma), NAN},
        {offsetof(struct compared_layer, common_weight_error), 0.0021},
        {offsetof(struct compared_layer, common_weight_error), NAN}, {offsetof(struct compared_layer, sigma), 0.036}};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        add_experts();
        memcpy((char *)&sparse + faults[i].at, &faults[i].value, sizeof faults[i].value);
        expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
        gate_close(&bench.report);
    }
    add_experts();
    sparse.misrouted = 1;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
    gate_close(&bench.report);
    add_experts();
    sparse.unsound = 1;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
}

Test(gate_routing, routers_that_were_not_compared_are_not_passed)
{
    add_experts();
    bench.comparison.routing_compared = 0;
    expect(CHECK_DISTANCE, VERDICT_NOT_RUN, 3);
    gate_close(&bench.report);
    bench.comparison.routing_compared = 99;
    expect(CHECK_DISTANCE, VERDICT_NOT_RUN, 3);
}

Test(gate_routing, a_budget_grows_with_the_text_where_the_policy_says_so)
{
    bench.policy->limit[LIMIT_INTRODUCED] = 2;
    bench.policy->limit[LIMIT_INTRODUCED_PER_2048] = 3;
    cr_assert_eq(tally_budget(bench.policy, 0), 2.0);
    cr_assert_eq(tally_budget(bench.policy, 1024), 2.0);
    cr_assert_eq(tally_budget(bench.policy, 4096), 6.0);
}

Test(gate_routing, a_flip_where_a_router_chose_otherwise_is_explained_and_one_elsewhere_is_not)
{
    struct compared_position flip = {.position = 9, .introduced = true, .route_position = 9, .metric = {.gap = 0.5}};
    cr_assert_not(tally_is_unexplained(&flip, 0.01));
    flip.route_position = 8;
    cr_assert(tally_is_unexplained(&flip, 0.01));
    flip.metric.gap = NAN;
    cr_assert(tally_is_unexplained(&flip, 0.01));
}
