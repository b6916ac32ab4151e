// Which states a tie of a router excuses from the cap of rounding.
#include "tests/routed_traces.h"

TestSuite(compare_routing_states, .init = setup, .fini = teardown);

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

Test(compare_routing_states, a_state_above_a_tie_is_not_under_the_cap_of_rounding)
{
    struct variant variant = noisy;
    variant.wrong = "state.2.conv";
    expect_state(&variant, VERDICT_FAIL, "state error 0.1, limit 0.027, state.2.conv of one; 4 states under cap_state");
    variant.changes[0] = tie;
    expect_state(&variant, VERDICT_PASS, "3 states under cap_state, 1 after a tie");
    variant.lost = true;
    expect_state(&variant, VERDICT_FAIL, "states are NaN");
}

Test(compare_routing_states, a_tie_in_the_same_layer_or_above_excuses_no_state)
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

Test(compare_routing_states, a_change_that_is_no_tie_excuses_no_state)
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
Test(compare_routing_states, a_tie_in_another_run_or_case_excuses_no_state)
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
