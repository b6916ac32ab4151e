#include "harness/judge/gate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/judge/checks.h"
#include "harness/judge/statistic.h"
#include "harness/judge/tally.h"

int gate_exit_code(bool any_fail, bool contract, bool runtime, bool unjudged)
{
    return any_fail ? 1 : contract ? 2 : runtime ? 75 : unjudged ? 3 : 0;
}

// Counts over the union of sweep, seeded, rollout and flips: a row that serves several checks counts once.
static int count_positions(struct report *report, const struct gate_input *input, struct error *error)
{
    const struct comparison *comparison = input->comparison;
    const size_t n_cases = input->suite->n_cases;
    uint32_t *events = arena_alloc(&report->arena, n_cases, sizeof *events);
    uint32_t *sizes = arena_alloc(&report->arena, n_cases, sizeof *sizes);
    if (!events || !sizes)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    const double sigma = tally_sigma(comparison);
    for (size_t i = 0; i < comparison->n_positions; i++) {
        const struct compared_position *p = &comparison->positions[i];
        const struct metric_position *m = &p->metric;
        if (!p->checks[CHECK_SWEEP] && !p->checks[CHECK_SEEDED] && !p->checks[CHECK_ROLLOUT] && !p->checks[CHECK_FLIPS])
            continue;
        report->positions++;
        report->agreed += p->agreement == AGREE;
        report->ties += p->agreement == TIE;
        report->near_ties += p->agreement == NEAR_TIE;
        report->real_flips += p->agreement == REAL_FLIP;
        report->introduced += p->introduced || p->agreement == NO_PICK;
        report->unexplained += tally_is_unexplained(p, sigma);
        report->undecidable += p->undecidable;
        sizes[p->case_index]++;
        events[p->case_index] += p->agreement != AGREE;
        if (p->agreement != AGREE && m->gap > report->worst_gap)
            report->worst_gap = m->gap;
        if (p->agreement != AGREE && m->margin > report->worst_margin)
            report->worst_margin = m->margin;
        if (p->agreement != AGREE && m->probability_margin > report->worst_probability_margin)
            report->worst_probability_margin = m->probability_margin;
    }
    for (int check = CHECK_SWEEP; check <= CHECK_FLIPS; check++) {
        struct tally tally;
        tally_count(input, (enum check)check, TALLY_ALL_CASES, sigma, &tally);
        report->n_known += tally.known;
    }
    tally_expected_flips(comparison, CHECK_FLIPS, sigma, &report->expected_flips, &report->expected_flips_sd);
    report->confidence = input->policy->limit[LIMIT_CONFIDENCE];
    report->design_effect = statistic_design_effect(events, sizes, n_cases);
    report->bound = statistic_lower_bound((double)(report->positions - report->introduced) / report->design_effect,
                                          (double)report->positions / report->design_effect, report->confidence);
    return 0;
}

static void decide(struct report *report, const struct gate_input *input)
{
    bool fail = false, error = false, unjudged = false, warn = false;
    size_t judged = 0;
    for (size_t i = 0; i < report->n_checks; i++) {
        const struct report_check *line = &report->checks[i];
        if (*line->case_id)
            continue;
        const bool required = input->policy->required[input->kind][line->check];
        fail |= line->verdict == VERDICT_FAIL;
        error |= line->verdict == VERDICT_ERROR;
        unjudged |= line->verdict == VERDICT_NOT_RUN && required;
        warn |= line->verdict == VERDICT_WARN || (line->verdict == VERDICT_NOT_RUN && !required);
        judged += line->verdict != VERDICT_NOT_RUN;
    }
    // a required check that nobody asked for was not judged either
    for (int check = 0; check < CHECK_COUNT; check++)
        unjudged |= input->policy->required[input->kind][check] && !input->asked[check];
    unjudged |= judged == 0;
    report->exit_code = gate_exit_code(fail, false, error, unjudged);
    report->verdict = fail ? VERDICT_FAIL : error ? VERDICT_ERROR : unjudged ? VERDICT_NOT_RUN : warn ? VERDICT_WARN : VERDICT_PASS;
}

// The first line that has the whole report's verdict says why.
static int explain(struct report *report, const struct gate_input *input, struct error *error)
{
    report->why = "every check passed";
    for (size_t i = report->n_checks; i-- > 0;) {
        const struct report_check *line = &report->checks[i];
        if (line->verdict == report->verdict && report->verdict != VERDICT_PASS && !*line->case_id) {
            report->why = arena_print(&report->arena, "%s: %s", check_name(line->check), line->detail);
            if (!report->why)
                return error_set(error, ERROR_RUNTIME, "out of memory");
        }
    }
    for (int check = 0; report->verdict == VERDICT_NOT_RUN && check < CHECK_COUNT; check++)
        if (input->policy->required[input->kind][check] && !input->asked[check]) {
            report->why = arena_print(&report->arena, "%s: required by policy '%s', but the suite does not ask for it",
                                      check_name((enum check)check), input->policy->name);
            return report->why ? 0 : error_set(error, ERROR_RUNTIME, "out of memory");
        }
    return 0;
}

int gate_judge(struct report **out, const struct gate_input *input, struct error *error)
{
    *out = NULL;
    struct report *report = calloc(1, sizeof *report);
    if (!report)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    *report = (struct report){.engine = input->engine, .kind = input->kind, .suite = input->suite, .policy = input->policy,
        .audit = input->audit, .comparison = input->comparison, .command = "", .model_path = "", .bundle_path = "",
        .scheme = "", .why = ""};
    const size_t lines = CHECK_COUNT * (1 + input->suite->n_cases);
    struct report_check *per_case = arena_alloc(&report->arena, lines, sizeof *per_case);
    report->checks = arena_alloc(&report->arena, lines, sizeof *report->checks);
    size_t n_per_case = 0;
    int code = per_case && report->checks ? 0 : error_set(error, ERROR_RUNTIME, "out of memory");
    for (int check = 0; !code && check < CHECK_COUNT; check++)
        if (input->asked[check])
            code = checks_judge(report, input, (enum check)check, per_case, &n_per_case, error);
    if (!code && input->comparison)
        code = count_positions(report, input, error);
    if (!code) {
        memcpy(report->checks + report->n_checks, per_case, n_per_case * sizeof *per_case);
        report->n_checks += n_per_case;
        decide(report, input);
        code = explain(report, input, error);
    }
    if (code) {
        gate_close(&report);
        return code;
    }
    *out = report;
    return 0;
}

void gate_close(struct report **report)
{
    if (!report || !*report)
        return;
    arena_close(&(*report)->arena);
    free(*report);
    *report = NULL;
}
