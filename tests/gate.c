// The gate's verdicts over measurements made by hand: a healthy control first, then one thing wrong at a time.
#include "harness/judge/gate.h"

#include "tests/gate_bench.h"

TestSuite(gate, .init = setup, .fini = teardown);

// Turns row `index` into a disagreement.
static struct compared_position *flip(size_t index, double gap)
{
    struct compared_position *p = &bench.positions[index];
    p->metric.pick = 9;
    p->metric.gap = gap;
    p->metric.margin = gap;
    p->agreement = gap < 0.0002 ? TIE : gap < 0.1 ? NEAR_TIE : REAL_FLIP;
    p->introduced = p->agreement == REAL_FLIP;
    p->undecidable = gap < 0.1;
    return p;
}

Test(gate, control_a_healthy_bundle_passes)
{
    judge();
    for (int check = 0; check < CHECK_COUNT; check++)
        cr_assert_eq(line((enum check)check)->verdict, VERDICT_PASS, "%s: %s", check_name((enum check)check),
                     line((enum check)check)->detail);
    cr_assert_eq(bench.report->verdict, VERDICT_PASS);
    cr_assert_eq(bench.report->exit_code, 0);
    cr_assert_eq(bench.report->positions, CASES * ROWS);
    // no event at all: design effect 2 by rule
    cr_assert_float_eq(bench.report->bound, statistic_lower_bound(CASES * ROWS / 2.0, CASES * ROWS / 2.0, 0.95), 1e-15);
}

Test(gate, one_introduced_real_flip_fails_each_check_that_counts_it)
{
    flip(3, 0.2); // a sweep row
    expect(CHECK_SWEEP, VERDICT_FAIL, 1);
    cr_assert_eq(line(CHECK_FLIPS)->verdict, VERDICT_FAIL);
    cr_assert_eq(line(CHECK_SEEDED)->verdict, VERDICT_PASS);
    cr_assert_eq(bench.report->introduced, 1);
    cr_assert_eq(bench.report->worst_gap, 0.2);
    cr_assert(strstr(line(CHECK_SWEEP)->detail, "case-0 position 3"), "%s", line(CHECK_SWEEP)->detail);
}

Test(gate, a_real_flip_that_fp16_makes_too_is_listed_but_not_counted)
{
    struct compared_position *p = flip(3, 0.2);
    p->fp16_agreement = REAL_FLIP;
    p->introduced = false;
    expect(CHECK_SWEEP, VERDICT_PASS, 0);
    cr_assert_eq(bench.report->real_flips, 1);
    cr_assert_eq(bench.report->introduced, 0);
    cr_assert(strstr(line(CHECK_SWEEP)->detail, "real flip of fp16, too"), "%s", line(CHECK_SWEEP)->detail);
}

Test(gate, near_ties_pass_and_are_counted)
{
    flip(3, 0.004)->metric.margin = 0.004;
    expect(CHECK_SWEEP, VERDICT_PASS, 0);
    cr_assert_eq(bench.report->near_ties, 1);
    for (size_t i = 0; i < bench.report->n_checks; i++)
        if (bench.report->checks[i].check == CHECK_SWEEP && !strcmp(bench.report->checks[i].case_id, "case-0"))
            cr_assert_str_eq(bench.report->checks[i].detail, "15/16 + 1 near-tie");
}

Test(gate, more_flips_than_noise_explains_fail)
{
    for (size_t i = 0; i < 40; i++)
        flip(60 + ROWS * (i % CASES) + i / CASES, 0.05); // each 4 sigma away: next to none is explained
    expect(CHECK_FLIPS, VERDICT_FAIL, 1);
    cr_assert(strstr(line(CHECK_FLIPS)->detail, "explained by sigma"), "%s", line(CHECK_FLIPS)->detail);
}

Test(gate, flips_that_noise_explains_pass)
{
    for (size_t i = 0; i < 40; i++) {
        flip(60 + ROWS * (i % CASES) + i / CASES, 0.001);
        bench.positions[80 + ROWS * (i % CASES) + i / CASES].metric.margin = 0.001; // as many that did not flip
    }
    expect(CHECK_FLIPS, VERDICT_PASS, 0);
}

Test(gate, flips_may_exceed_their_expectation_by_three_deviations)
{
    // 100 rows one sigma from a tie: 15.87 flips expected, 3.65 the deviation, 26.8 the most
    for (size_t i = 0; i < 100; i++)
        bench.positions[20 + ROWS * (i % CASES) + i / CASES].metric.margin = 0.0125;
    for (size_t i = 0; i < 26; i++)
        flip(20 + ROWS * (i % CASES) + i / CASES, 0.0125);
    expect(CHECK_FLIPS, VERDICT_PASS, 0);
    flip(20 + ROWS * (26 % CASES) + 26 / CASES, 0.0125);
    expect(CHECK_FLIPS, VERDICT_FAIL, 1);
}

Test(gate, a_flip_within_the_noise_is_explained_but_introduced)
{
    bench.policy->limit[LIMIT_INTRODUCED] = 5;
    flip(3, 0.12)->checks[CHECK_FLIPS] = false; // of the sweep alone: `flips` judges its count, too
    expect(CHECK_SWEEP, VERDICT_FAIL, 1);       // 9.6 sigma: unexplained
    cr_assert(strstr(line(CHECK_SWEEP)->detail, "unexplained"));
    bench.comparison.distances[ARM_CANDIDATE].sigma = bench.comparison.distances[ARM_EXPECTED].sigma = 0.045;
    expect(CHECK_SWEEP, VERDICT_PASS, 0); // 2.7 sigma
}

Test(gate, a_check_without_a_least_count_still_needs_a_row)
{
    for (size_t i = 0; i < bench.comparison.n_positions; i++)
        bench.positions[i].checks[CHECK_SEEDED] = false;
    bench.comparison.compared[CHECK_SEEDED] = bench.comparison.declared[CHECK_SEEDED] = 0;
    expect(CHECK_SEEDED, VERDICT_NOT_RUN, 3);
}

Test(gate, nothing_judged_is_no_pass_even_if_nothing_is_required)
{
    memset(bench.policy->required, 0, sizeof bench.policy->required);
    bench.input.comparison = NULL;
    bench.input.audit = NULL;
    judge();
    cr_assert_eq(bench.report->exit_code, 3);
}

Test(gate, a_row_without_a_pick_fails_before_anything_else)
{
    bench.positions[3].agreement = NO_PICK;
    bench.positions[3].metric.candidate_class = ROW_NAN;
    bench.comparison.compared[CHECK_SWEEP] = 1; // too few, too: the class comes first
    expect(CHECK_SWEEP, VERDICT_FAIL, 1);
    cr_assert(strstr(line(CHECK_SWEEP)->detail, "NaN"));
    cr_assert_eq(bench.report->introduced, 1); // in the sum, too
}

Test(gate, zero_compared_is_never_a_pass)
{
    bench.comparison.n_positions = 0;
    memset(bench.comparison.compared, 0, sizeof bench.comparison.compared);
    bench.comparison.n_rows = bench.comparison.n_rollouts = bench.comparison.n_states = 0;
    memset(bench.comparison.distances, 0, sizeof bench.comparison.distances);
    judge();
    for (int check = CHECK_SWEEP; check < CHECK_COUNT; check++)
        cr_assert_eq(line((enum check)check)->verdict, VERDICT_NOT_RUN, "%s is %s", check_name((enum check)check),
                     verdict_name(line((enum check)check)->verdict));
    cr_assert_eq(bench.report->exit_code, 3);
    bench.input.comparison = NULL;
    judge();
    cr_assert_eq(bench.report->exit_code, 3);
}

Test(gate, fewer_rows_than_declared_are_not_judged)
{
    bench.comparison.compared[CHECK_SWEEP]--;
    expect(CHECK_SWEEP, VERDICT_NOT_RUN, 3);
}

Test(gate, fewer_rows_than_the_policy_wants_are_not_judged)
{
    bench.comparison.declared[CHECK_SWEEP] = bench.comparison.compared[CHECK_SWEEP] = 191;
    expect(CHECK_SWEEP, VERDICT_NOT_RUN, 3);
}

Test(gate, a_text_that_repeats_itself_is_not_judged)
{
    bench.comparison.distinct_top1[CHECK_FLIPS] = 7;
    expect(CHECK_FLIPS, VERDICT_NOT_RUN, 3);
}

Test(gate, a_required_check_that_nobody_asked_for_is_not_judged)
{
    bench.input.asked[CHECK_STATE] = false;
    judge();
    cr_assert_eq(bench.report->exit_code, 3);
    cr_assert(strstr(bench.report->why, "state"));
}

Test(gate, a_strict_prompt_must_be_identical)
{
    bench.rollouts[1].equal = 23;
    bench.rollouts[1].first_divergence = 5;
    expect(CHECK_ROLLOUT, VERDICT_FAIL, 1);
    cr_assert(strstr(line(CHECK_ROLLOUT)->detail, "23/24"));
}

Test(gate, at_most_half_of_the_prompts_may_diverge)
{
    for (int i = 2; i < 10; i++)
        bench.rollouts[i].equal = 23;
    expect(CHECK_ROLLOUT, VERDICT_PASS, 0);
    bench.rollouts[10].equal = 23;
    expect(CHECK_ROLLOUT, VERDICT_FAIL, 1);
}

Test(gate, distances_are_held_against_expected_and_against_caps)
{
    struct distance *d = &bench.comparison.distances[ARM_CANDIDATE];
    d->sigma = 0.025;
    expect(CHECK_DISTANCE, VERDICT_PASS, 0); // exactly twice
    d->sigma = 0.026;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
    d->sigma = bench.comparison.distances[ARM_EXPECTED].sigma = 0.06; // as bad as its scheme: the cap says no
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
    d->sigma = bench.comparison.distances[ARM_EXPECTED].sigma = NAN;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
}

Test(gate, an_own_kernel_must_be_as_near_as_half_the_fp16_error)
{
    bench.comparison.kernel_rms = 0.005; // the fp16 arm's RMS is 0.01
    expect(CHECK_DISTANCE, VERDICT_PASS, 0);
    bench.comparison.kernel_rms = 0.0051;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
    bench.comparison.kernel_rms = NAN;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
    bench.comparison.kernel_rms = 0.0015;
    expect(CHECK_DISTANCE, VERDICT_PASS, 0);
    bench.comparison.kernel_rms_median = 0.0011; // the fp16 arm's is 0.002: a few of its rows make up its RMS
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
    bench.comparison.kernel_rms_median = 0.0010;
    expect(CHECK_DISTANCE, VERDICT_PASS, 0);
    bench.comparison.kernel_rms_median = NAN;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
    bench.input.exact_kernel = false; // rounds at other points by its nature
    expect(CHECK_DISTANCE, VERDICT_PASS, 0);
}

Test(gate, every_distance_can_fail_alone)
{
    const size_t fields[] = {offsetof(struct distance, rms), offsetof(struct distance, kl_mean), offsetof(struct distance, kl_p99)};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        double *value = (double *)((char *)&bench.comparison.distances[ARM_CANDIDATE] + fields[i]);
        const double healthy = *value;
        *value = 2.5 * healthy;
        expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
        *value = NAN;
        expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
        *value = healthy;
        expect(CHECK_DISTANCE, VERDICT_PASS, 0);
    }
}

Test(gate, dead_and_scaled_head_rows_are_named)
{
    struct metric_coverage *coverage = &bench.comparison.distances[ARM_CANDIDATE].coverage;
    coverage->q[31] = coverage->rq[31] = 0.0;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
    cr_assert(strstr(line(CHECK_DISTANCE)->detail, "ids 124 to 127"), "%s", line(CHECK_DISTANCE)->detail);
    fill_distances();
    coverage->q[2] *= 16.0;
    coverage->rq[2] *= 16.0;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
    cr_assert(strstr(line(CHECK_DISTANCE)->detail, "ids 8 to 11"), "%s", line(CHECK_DISTANCE)->detail);
    fill_distances();
    coverage->rq[7] = NAN;
    expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
}

Test(gate, states_are_judged_by_class_then_by_ratio)
{
    bench.states[2].candidate.error = 0.021;
    expect(CHECK_STATE, VERDICT_FAIL, 1);
    cr_assert(strstr(line(CHECK_STATE)->detail, "state.2.conv"), "%s", line(CHECK_STATE)->detail);
    bench.states[2].candidate.error = 0.01;
    bench.states[3].candidate.error = NAN; // after the seeded decode
    expect(CHECK_SEEDED, VERDICT_FAIL, 1);
    cr_assert_eq(line(CHECK_STATE)->verdict, VERDICT_PASS); // whole runs and seeded decodes apart
    bench.states[3].candidate.error = 0.01;
    bench.states[2].candidate.error = bench.states[2].expected.error = 0.0;
    expect(CHECK_STATE, VERDICT_PASS, 0); // 0 of 0 is as near as expected
    bench.states[2].candidate.error = bench.states[2].expected.error = 0.01;
    bench.states[4].candidate.candidate_class = ROW_ZERO;
    expect(CHECK_STATE, VERDICT_FAIL, 1);
    bench.states[4].candidate.reference_class = ROW_ZERO; // zero where the reference is zero
    expect(CHECK_STATE, VERDICT_PASS, 0);
}

Test(gate, a_state_of_halves_where_the_plan_keeps_floats_fails)
{
    bench.states[2].candidate.halves = true;
    expect(CHECK_STATE, VERDICT_PASS, 0); // the default plan keeps halves
    bench.input.float_state[STATE_DELTA] = true;
    expect(CHECK_STATE, VERDICT_PASS, 0); // a promise about another state
    bench.input.float_state[STATE_CONV] = true;
    expect(CHECK_STATE, VERDICT_FAIL, 1);
    cr_assert(strstr(line(CHECK_STATE)->detail, "state.2.conv"), "%s", line(CHECK_STATE)->detail);
    cr_assert_eq(line(CHECK_SEEDED)->verdict, VERDICT_PASS); // whole runs and seeded decodes apart
    bench.states[2].expected.halves = true; // keys of the first position: RoPE turns by 0, floats are halves
    expect(CHECK_STATE, VERDICT_PASS, 0);
    bench.states[2].expected.halves = bench.states[2].candidate.halves = false;
    expect(CHECK_STATE, VERDICT_PASS, 0);
    bench.states[3].candidate.halves = true;
    expect(CHECK_SEEDED, VERDICT_FAIL, 1);
    bench.states[3].candidate.candidate_class = bench.states[3].candidate.reference_class = ROW_ZERO;
    expect(CHECK_SEEDED, VERDICT_PASS, 0); // zeros tell nothing about their precision
}

Test(gate, a_second_run_must_give_the_same_bits)
{
    bench.rows[0].equal--;
    expect(CHECK_DETERMINISM, VERDICT_FAIL, 1);
    bench.rows[0].equal++;
    bench.rows[1].state_equal = false;
    expect(CHECK_PATHS, VERDICT_FAIL, 1);
    cr_assert_not(strstr(line(CHECK_PATHS)->detail, "batch"));
    bench.rows[1].way = "batch";
    expect(CHECK_PATHS, VERDICT_FAIL, 1);
    cr_assert(strstr(line(CHECK_PATHS)->detail, "batch gives"), "%s", line(CHECK_PATHS)->detail);
    bench.input.kind = ENGINE_EXEC; // a foreign engine may round otherwise on another path, but not flip
    expect(CHECK_PATHS, VERDICT_PASS, 0);
    bench.rows[0].equal--;
    expect(CHECK_DETERMINISM, VERDICT_FAIL, 1); // but the same path twice must give the same bits
    bench.rows[0].equal++;
    bench.rows[1].real_flips = 1;
    expect(CHECK_PATHS, VERDICT_FAIL, 1);
    bench.rows[1].real_flips = 0;
    bench.comparison.declared[CHECK_PATHS]++;
    expect(CHECK_PATHS, VERDICT_NOT_RUN, 3);
}

Test(gate, a_finding_in_the_weights_fails_and_stops_nothing)
{
    bench.finding = (struct audit_finding){"lm_head.weight.scale", "123 of 24576 scales differ"};
    bench.audit.n_findings = 1;
    bench.audit.findings = &bench.finding;
    expect(CHECK_WEIGHTS, VERDICT_FAIL, 1);
    cr_assert(strstr(bench.report->why, "lm_head.weight.scale"));
    cr_assert_eq(line(CHECK_PATHS)->verdict, VERDICT_PASS);
    bench.input.audit = NULL;
    expect(CHECK_WEIGHTS, VERDICT_NOT_RUN, 3);
}

Test(gate, a_known_deviation_warns_until_it_expires)
{
    struct known_deviation known = {.check = CHECK_SWEEP, .case_id = "case-0", .position = 3, .owner = "numerics",
        .reason = "published transcript", .expires = "2027-01-01"};
    flip(3, 0.2);
    bench.positions[3].checks[CHECK_FLIPS] = false;
    bench.policy->known = &known;
    bench.policy->n_known = 1;
    expect(CHECK_SWEEP, VERDICT_WARN, 0);
    cr_assert_eq(bench.report->n_known, 1);
    known.expired = true;
    expect(CHECK_SWEEP, VERDICT_FAIL, 1);
    cr_assert_eq(bench.report->n_known, 0);
    known.expired = false;
    known.position = 4;
    expect(CHECK_SWEEP, VERDICT_FAIL, 1);
    bench.policy->n_known = 0;
}

Test(gate, a_mixture_has_the_first_of_fail_contract_runtime_unjudged)
{
    cr_assert_eq(gate_exit_code(false, false, false, false), 0);
    cr_assert_eq(gate_exit_code(true, true, true, true), 1);
    cr_assert_eq(gate_exit_code(false, true, true, true), 2);
    cr_assert_eq(gate_exit_code(false, false, true, true), 75);
    cr_assert_eq(gate_exit_code(false, false, false, true), 3);
    flip(3, 0.2);
    bench.comparison.compared[CHECK_SEEDED] = 0;
    expect(CHECK_SEEDED, VERDICT_NOT_RUN, 1); // FAIL of the sweep comes before NOT_RUN
}

Test(gate, expected_flips_are_the_sum_of_normal_tails)
{
    double expected, sd;
    bench.comparison.n_positions = 2;
    bench.positions[0].metric.margin = 0.0125;
    bench.positions[1].metric.margin = 0.0;
    tally_expected_flips(&bench.comparison, CHECK_FLIPS, 0.0125, &expected, &sd);
    const double tail = statistic_normal_tail(1.0);
    cr_assert_float_eq(expected, tail + 0.5, 1e-15);
    cr_assert_float_eq(sd, sqrt(tail * (1 - tail) + 0.25), 1e-15);
}

// The sign of a NaN differs between machines, and so would the sentence.
Test(gate, a_nan_of_either_sign_fails_and_reads_nan)
{
    const double nans[] = {(double)NAN, copysign((double)NAN, -1.0)};
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        struct distance *d = &bench.comparison.distances[ARM_CANDIDATE];
        d->sigma = d->rms = d->kl_mean = d->kl_p99 = bench.states[0].candidate.error = nans[i];
        expect(CHECK_DISTANCE, VERDICT_FAIL, 1);
        cr_expect(strstr(line(CHECK_DISTANCE)->detail, "RMS NaN, limit 0.05"), "%s", line(CHECK_DISTANCE)->detail);
        cr_expect_not(strstr(line(CHECK_DISTANCE)->detail, "nan"), "%s", line(CHECK_DISTANCE)->detail);
        expect(CHECK_STATE, VERDICT_FAIL, 1);
        cr_expect(strstr(line(CHECK_STATE)->detail, "error NaN, expected 0.01"), "%s", line(CHECK_STATE)->detail);
        cr_expect_not(strstr(line(CHECK_STATE)->detail, "nan"), "%s", line(CHECK_STATE)->detail);
    }
}
