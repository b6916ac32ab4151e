#include "reports/evidence.h"

#include <inttypes.h>
#include <math.h>

#include "harness/base/floating.h"
#include "harness/base/number.h"
#include "harness/judge/tally.h"

enum { EVIDENCE_COLUMN = 11, EVIDENCE_INDENT = 13, WORST = 3 };

// How bad a row is for a check: no pick first, then introduced flips, then by gap; for `distance` by KL. A NaN is
// worst.
static double badness(const struct compared_position *position, enum check check)
{
    if (!position->checks[check])
        return -1.0;
    const bool bad_class = position->agreement == NO_PICK || position->metric.candidate_class != ROW_FINITE;
    const double measure = check == CHECK_DISTANCE ? position->metric.kl : position->metric.gap;
    if (bad_class || isnan(measure))
        return HUGE_VAL;
    if (check == CHECK_DISTANCE)
        return measure;
    return position->agreement == AGREE ? -1.0 : position->introduced ? 1e6 + measure : measure;
}

// CASE:POSITION, as --at takes it.
static void put_position(struct page *page, const struct report *report, const struct compared_position *position)
{
    const struct metric_position *metric = &position->metric;
    page_to(page, EVIDENCE_COLUMN);
    page_print(page, EVIDENCE_INDENT, "%s:%" PRIu32, report->suite->cases[position->case_index].id,
               position->position);
    if (metric->candidate_class != ROW_FINITE || metric->reference_class != ROW_FINITE)
        page_print(page, EVIDENCE_INDENT, " logits %s, of the reference %s",
                   metric_row_class_name(metric->candidate_class), metric_row_class_name(metric->reference_class));
    else
        page_print(page, EVIDENCE_INDENT, " %s, %" PRId64 " for %" PRId64 ", gap %s nat, KL %s",
                   position->introduced ? "introduced flip" : agreement_name(position->agreement), metric->pick,
                   metric->top1, NUMBER(metric->gap, 4), NUMBER(metric->kl, 3));
    if (position->route_layer >= 0)
        page_print(page, EVIDENCE_INDENT, ", after layer %" PRId64 " chose other experts at position %" PRId64,
                   position->route_layer, position->route_position);
    page_end(page);
}

static void put_more(struct page *page, size_t more, const char *what)
{
    if (!more)
        return;
    page_to(page, EVIDENCE_COLUMN);
    page_print(page, EVIDENCE_INDENT, "and %zu more %s: see report.json", more, what);
    page_end(page);
}

static void put_positions(struct page *page, const struct report *report, enum check check)
{
    const struct comparison *comparison = report->comparison;
    const struct compared_position *worst[WORST];
    size_t n = 0, all = 0;
    for (size_t i = 0; i < comparison->n_positions; i++) {
        const struct compared_position *position = &comparison->positions[i];
        const double bad = badness(position, check);
        if (bad < 0)
            continue;
        all++;
        size_t at = n < WORST ? n++ : WORST; // insertion into the short sorted list
        while (at && badness(worst[at - 1], check) < bad) {
            if (at < WORST)
                worst[at] = worst[at - 1];
            at--;
        }
        if (at < WORST)
            worst[at] = position;
    }
    for (size_t i = 0; i < n; i++)
        put_position(page, report, worst[i]);
    if (check != CHECK_DISTANCE) // all rows have a distance
        put_more(page, all - n, "disagreements");
}

// The larger of error and ratio as multiples of their limits: over 1 for what made the check fail.
static double state_badness(const struct report *report, const struct compared_state *state)
{
    const double *limit = report->policy->limit;
    const double error = state->candidate.error / limit[tally_state_cap(state)];
    const double ratio =
        state->has_expected && state->expected.error > 0 ? state->candidate.error / state->expected.error : 0;
    const double relative = ratio / limit[state->seeded ? LIMIT_RATIO_SEEDED_STATE : LIMIT_RATIO_STATE];
    if (state->candidate.candidate_class != state->candidate.reference_class || isnan(error) || isnan(relative))
        return HUGE_VAL;
    return error > relative ? error : relative;
}

static void put_state(struct page *page, const struct report *report, const struct compared_state *state)
{
    char name[48];
    page_to(page, EVIDENCE_COLUMN);
    page_print(page, EVIDENCE_INDENT, "%s %s: %s, error %s", report->suite->cases[state->case_index].id,
               state_name(state->layer, state->kind, name), metric_row_class_name(state->candidate.candidate_class),
               NUMBER(state->candidate.error, 4));
    if (state->has_expected)
        page_print(page, EVIDENCE_INDENT, ", expected %s", NUMBER(state->expected.error, 4));
    if (state->after_tie)
        page_print(page, EVIDENCE_INDENT, ", after a tie of a router");
    page_end(page);
}

static void put_states(struct page *page, const struct report *report, bool seeded)
{
    const struct comparison *comparison = report->comparison;
    const struct compared_state *worst[WORST];
    size_t n = 0, all = 0;
    for (size_t i = 0; i < comparison->n_states; i++) {
        const struct compared_state *state = &comparison->states[i];
        const double bad = state_badness(report, state);
        if (state->seeded != seeded || !(bad > 1))
            continue;
        all++;
        size_t at = n < WORST ? n++ : WORST; // insertion into the short sorted list
        while (at && state_badness(report, worst[at - 1]) < bad) {
            if (at < WORST)
                worst[at] = worst[at - 1];
            at--;
        }
        if (at < WORST)
            worst[at] = state;
    }
    for (size_t i = 0; i < n; i++)
        put_state(page, report, worst[i]);
    put_more(page, all - n, "states");
}

static void put_findings(struct page *page, const struct audit *audit)
{
    for (size_t i = 1; i < audit->n_findings && i <= WORST; i++) { // the first stands on the check's own line
        page_to(page, EVIDENCE_COLUMN);
        page_print(page, EVIDENCE_INDENT, "%s: %s", audit->findings[i].object, audit->findings[i].what);
        page_end(page);
    }
    put_more(page, audit->n_findings > WORST + 1 ? audit->n_findings - WORST - 1 : 0, "findings");
}

static void put_second_runs(struct page *page, const struct report *report, enum check check)
{
    const struct comparison *comparison = report->comparison;
    size_t printed = 0, more = 0;
    for (size_t i = 0; i < comparison->n_rows; i++) {
        const struct compared_rows *rows = &comparison->rows[i];
        if (rows->check != check || (rows->equal == rows->rows && (!rows->has_state || rows->state_equal)))
            continue;
        if (printed == WORST) {
            more++;
            continue;
        }
        page_to(page, EVIDENCE_COLUMN);
        page_print(page, EVIDENCE_INDENT, "%s: %" PRIu32 "/%" PRIu32 " rows bit-equal, %" PRIu32 " real flips%s",
                   report->suite->cases[rows->case_index].id, rows->equal, rows->rows, rows->real_flips,
                   !rows->has_state    ? ""
                   : rows->state_equal ? ", end states equal"
                                       : ", end states differ");
        page_end(page);
        printed++;
    }
    put_more(page, more, "runs");
}

static void put_missing(struct page *page, const struct report *report, enum check check)
{
    const struct comparison *comparison = report->comparison;
    size_t printed = 0, more = 0;
    for (size_t i = 0; i < comparison->n_missing; i++) {
        const struct missing *missing = &comparison->missing[i];
        if (missing->check != check)
            continue;
        if (printed == WORST) {
            more++;
            continue;
        }
        page_to(page, EVIDENCE_COLUMN);
        page_print(page, EVIDENCE_INDENT, "%s: %" PRIu32 " rows missing: %s",
                   report->suite->cases[missing->case_index].id, missing->rows, missing->why);
        page_end(page);
        printed++;
    }
    put_more(page, more, "cases");
}

void evidence_put(struct page *page, const struct report *report, const struct report_check *check)
{
    if (check->check == CHECK_WEIGHTS) {
        if (report->audit)
            put_findings(page, report->audit);
        return;
    }
    if (!report->comparison)
        return;
    if (check->verdict == VERDICT_FAIL) {
        if (check->check == CHECK_DETERMINISM || check->check == CHECK_PATHS)
            put_second_runs(page, report, check->check);
        else
            put_positions(page, report, check->check);
        if (check->check == CHECK_SEEDED || check->check == CHECK_STATE)
            put_states(page, report, check->check == CHECK_SEEDED);
    }
    put_missing(page, report, check->check);
}
