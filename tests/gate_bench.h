// A comparison made by hand in which everything passes; the tests of the gate each make one thing wrong.
#ifndef ASSAY_TESTS_GATE_BENCH_H
#define ASSAY_TESTS_GATE_BENCH_H

#include "harness/judge/gate.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/judge/statistic.h"
#include "harness/judge/tally.h"

// 16 cases of 144 rows: more than the release policy's least of everything.
enum { CASES = 16, ROWS = 144, STATES = 8 };

struct bench {
    struct suite suite;
    struct suite_case cases[CASES];
    char ids[CASES][16];
    struct policy *policy;
    struct comparison comparison;
    struct compared_position positions[CASES * ROWS];
    struct compared_state states[STATES];
    struct compared_rollout rollouts[CASES];
    struct compared_rows rows[2 * CASES];
    struct audit audit;
    struct audit_finding finding;
    struct gate_input input;
    struct report *report;
};

static struct bench bench;

static void fill_distances(void)
{
    for (int arm = 0; arm < ARM_COUNT; arm++) {
        struct distance *d = &bench.comparison.distances[arm];
        *d = (struct distance){.rows = CASES * ROWS, .rms = 0.01, .rms_median = 0.002, .max_abs = 0.1, .sigma = 0.0125, .kl_mean = 5e-5,
            .kl_p99 = 4e-4, .kl_max = 1e-3};
        const float r[] = {1.0f, 2.0f, 4.0f, 7.0f};
        float wide_r[4 * METRIC_BINS];
        for (int i = 0; i < 4 * METRIC_BINS; i++)
            wide_r[i] = r[i % 4];
        metric_coverage_add(&d->coverage, wide_r, wide_r, 4 * METRIC_BINS);
    }
}

static void setup(void)
{
    struct error error = {0};
    memset(&bench, 0, sizeof bench);
    cr_assert_eq(policy_open(&bench.policy, ASSAY_FIXTURES "/policies/release.json", "lfm2", "2026-01-01", &error), 0, "%s",
                 error.text);
    bench.suite = (struct suite){.name = "bench", .n_cases = CASES, .cases = bench.cases};
    struct comparison *c = &bench.comparison;
    for (uint32_t i = 0; i < CASES; i++) {
        snprintf(bench.ids[i], sizeof bench.ids[i], "case-%u", i);
        bench.cases[i] = (struct suite_case){.id = bench.ids[i], .n = ROWS, .rollout = 24};
        for (int check = 0; check < CHECK_COUNT; check++)
            bench.cases[i].checks[check] = check != CHECK_WEIGHTS;
        for (uint32_t t = 0; t < ROWS; t++)
            bench.positions[i * ROWS + t] = (struct compared_position){.case_index = i, .position = t, .has_fp16 = true,
                .route_layer = -1, .route_position = -1,
                .checks = {[CHECK_SWEEP] = t < 16, [CHECK_SEEDED] = t >= 140, [CHECK_ROLLOUT] = t >= 120, [CHECK_FLIPS] = true,
                           [CHECK_DISTANCE] = true},
                .metric = {.top1 = 5, .pick = 5, .margin = 1.0, .probability_margin = 0.3, .noise = 0.0125}};
        bench.rollouts[i] = (struct compared_rollout){.case_index = i, .n = 24, .equal = 24, .first_divergence = 24,
            .strict = i < 2};
        bench.rows[2 * i] = (struct compared_rows){.case_index = i, .check = CHECK_DETERMINISM, .rows = ROWS, .equal = ROWS,
            .has_state = true, .state_equal = true};
        bench.rows[2 * i + 1] = bench.rows[2 * i];
        bench.rows[2 * i + 1].check = CHECK_PATHS;
    }
    for (uint32_t i = 0; i < STATES; i++)
        bench.states[i] = (struct compared_state){.case_index = 0, .layer = i, .kind = STATE_CONV, .seeded = i % 2 == 1,
            .has_expected = true, .candidate = {.error = 0.01}, .expected = {.error = 0.01}};
    *c = (struct comparison){.n_positions = CASES * ROWS, .positions = bench.positions, .n_states = STATES,
        .states = bench.states, .n_rollouts = CASES, .rollouts = bench.rollouts, .n_rows = 2 * CASES, .rows = bench.rows,
        .vocabulary = 4 * METRIC_BINS};
    fill_distances();
    const uint64_t counts[CHECK_COUNT] = {[CHECK_SWEEP] = CASES * 16, [CHECK_SEEDED] = CASES * 4, [CHECK_ROLLOUT] = CASES,
        [CHECK_FLIPS] = CASES * ROWS, [CHECK_DISTANCE] = CASES * ROWS, [CHECK_STATE] = STATES / 2,
        [CHECK_DETERMINISM] = CASES * ROWS, [CHECK_PATHS] = CASES * ROWS};
    for (int check = 0; check < CHECK_COUNT; check++) {
        c->declared[check] = c->compared[check] = counts[check];
        c->distinct_top1[check] = 50;
        bench.input.asked[check] = true;
    }
    bench.audit = (struct audit){.tensors = 60, .equal = 60, .codes = 1000, .scales = 100};
    bench.input.suite = &bench.suite;
    bench.input.policy = bench.policy;
    bench.input.comparison = c;
    bench.input.audit = &bench.audit;
    bench.input.kind = ENGINE_OWN;
    bench.input.engine = "int8";
    bench.input.exact_kernel = true;
    bench.comparison.kernel_rows = bench.comparison.kernel_equal = CASES * ROWS;
}

static void teardown(void)
{
    gate_close(&bench.report);
    policy_close(&bench.policy);
}

static const struct report_check *line(enum check check)
{
    for (size_t i = 0; i < bench.report->n_checks; i++)
        if (bench.report->checks[i].check == check && !*bench.report->checks[i].case_id)
            return &bench.report->checks[i];
    cr_assert_fail("no line for %s", check_name(check));
    return NULL;
}

static void judge(void)
{
    struct error error = {0};
    gate_close(&bench.report);
    cr_assert_eq(gate_judge(&bench.report, &bench.input, &error), 0, "%s", error.text);
}

static void expect(enum check check, enum verdict verdict, int exit_code)
{
    judge();
    cr_assert_eq(line(check)->verdict, verdict, "%s is %s: %s", check_name(check), verdict_name(line(check)->verdict),
                 line(check)->detail);
    cr_assert_eq(bench.report->exit_code, exit_code, "exit %d: %s", bench.report->exit_code, bench.report->why);
}

#endif
