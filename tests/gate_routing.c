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

// States after a tie of a router: 0.1 is twice over the cap and says nothing of the arithmetic there.

static void set_error(struct compared_state *state, double error, bool after_tie)
{
    state->candidate.error = state->expected.error = error;
    state->after_tie = after_tie;
}

static void expect_states(enum verdict verdict, int exit_code, const char *piece)
{
    expect(CHECK_STATE, verdict, exit_code);
    cr_assert(strstr(line(CHECK_STATE)->detail, piece), "no '%s' in: %s", piece, line(CHECK_STATE)->detail);
}

Test(gate_routing, a_state_after_a_tie_has_a_cap_of_its_own_and_is_counted)
{
    add_experts();
    struct compared_state *state = &bench.states[2];
    set_error(state, 0.1, false);
    expect_states(VERDICT_FAIL, 1, "state error 0.1, limit 0.05, state.2.conv of case-0; 4 states under");
    set_error(state, 0.1, true);
    expect_states(VERDICT_PASS, 0, "3 states under cap_state, 1 after a tie of a router under cap_state_tie");
    cr_assert_eq(line(CHECK_STATE)->agree, STATES / 2);
    set_error(&bench.states[4], 0.06, false); // excuses no other state
    expect_states(VERDICT_FAIL, 1, "state error 0.06, limit 0.05, state.4.conv");
    set_error(&bench.states[4], 0.01, false);
    set_error(state, 0.51, true); // lost, whatever came before
    expect_states(VERDICT_FAIL, 1, "state error after a tie of a router 0.51, limit 0.5, state.2.conv");
    set_error(state, 0.1, true);
    state->expected.error = 0.04; // `expected` is no further off than before
    expect_states(VERDICT_FAIL, 1, "state error / expected 2.5");
}

Test(gate_routing, states_without_an_expected_arm_are_counted_too)
{
    add_experts();
    for (size_t i = 0; i < STATES; i++)
        bench.states[i].has_expected = false;
    set_error(&bench.states[2], 0.1, true);
    expect(CHECK_STATE, VERDICT_WARN, 0);
    cr_assert(strstr(line(CHECK_STATE)->detail, "caps alone; 3 states under cap_state, 1 after a tie"), "%s",
              line(CHECK_STATE)->detail);
}

Test(gate_routing, a_state_after_a_tie_that_is_no_number_fails)
{
    add_experts();
    struct compared_state *state = &bench.states[2];
    set_error(state, NAN, true);
    expect_states(VERDICT_FAIL, 1, "state error after a tie of a router NaN");
    state->has_expected = false;
    expect_states(VERDICT_FAIL, 1, "state error after a tie of a router NaN");
    set_error(state, 0.1, true);
    state->candidate.candidate_class = ROW_NAN;
    expect_states(VERDICT_FAIL, 1, "1 states are");
}

Test(gate_routing, when_every_state_follows_a_tie_none_has_passed_the_cap)
{
    add_experts();
    for (size_t i = 0; i < STATES; i++)
        bench.states[i].after_tie = !bench.states[i].seeded;
    expect_states(VERDICT_NOT_RUN, 3, "0 states under cap_state, 4 after a tie");
    cr_assert_eq(line(CHECK_SEEDED)->verdict, VERDICT_PASS); // whole runs and seeded decodes apart
    for (size_t i = 0; i < STATES; i++)
        bench.states[i].after_tie = bench.states[i].seeded;
    expect(CHECK_SEEDED, VERDICT_NOT_RUN, 3);
    cr_assert_eq(line(CHECK_STATE)->verdict, VERDICT_PASS);
    bench.states[1].candidate.error = NAN;
    expect(CHECK_SEEDED, VERDICT_FAIL, 1);
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
