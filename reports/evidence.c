#include "reports/evidence.h"

#include <inttypes.h>
#include <math.h>

#include "harness/base/floating.h"

enum { EVIDENCE_COLUMN = 11, EVIDENCE_INDENT = 13, WORST = 8 };

static void put_numbers(struct page *page, const struct report_check *check)
{
    for (size_t i = 0; i < check->n_numbers; i++) {
        const struct report_number *number = &check->numbers[i];
        if (number->ok)
            continue;
        page_to(page, EVIDENCE_COLUMN);
        page_print(page, EVIDENCE_INDENT, "%s %.4g, limit %s %.4g: %s", number->name, number->value,
                   number->at_least ? "at least" : "at most", number->limit, number->reason ? number->reason : "");
        page_end(page);
    }
}

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

static void put_position(struct page *page, const struct report *report, const struct compared_position *position)
{
    const struct metric_position *metric = &position->metric;
    const char *id = report->suite->cases[position->case_index].id;
    page_to(page, EVIDENCE_COLUMN);
    if (metric->candidate_class != ROW_FINITE || metric->reference_class != ROW_FINITE)
        page_print(page, EVIDENCE_INDENT, "%s position %" PRIu32 ": logits %s, of the reference %s", id,
                   position->position, metric_row_class_name(metric->candidate_class),
                   metric_row_class_name(metric->reference_class));
    else
        page_print(page, EVIDENCE_INDENT,
                   "%s position %" PRIu32 ": %s%s, picks %" PRId64 " for %" PRId64 ", gap %.4g nat, KL %.3g", id,
                   position->position, agreement_name(position->agreement),
                   position->introduced ? " (introduced)" : "", metric->pick, metric->top1, metric->gap, metric->kl);
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

static double state_badness(const struct compared_state *state)
{
    if (state->candidate.candidate_class != state->candidate.reference_class)
        return HUGE_VAL;
    const double ratio =
        state->has_expected ? state->candidate.error / state->expected.error : state->candidate.error;
    return isnan(ratio) ? (state->candidate.error == 0 ? 0 : HUGE_VAL) : ratio;
}

static void put_states(struct page *page, const struct report *report, bool seeded)
{
    const struct comparison *comparison = report->comparison;
    double below = INFINITY;
    size_t printed = 0;
    // one pass per printed value: lists are short, and equal values (a whole class of bad states) come out in order
    while (printed < WORST) {
        double next = -1.0;
        for (size_t i = 0; i < comparison->n_states; i++) {
            const struct compared_state *state = &comparison->states[i];
            const double bad = state_badness(state);
            if (state->seeded == seeded && (printed ? bad < below : true) && bad > next)
                next = bad;
        }
        if (!(next > 0))
            break;
        for (size_t i = 0; i < comparison->n_states && printed < WORST; i++) {
            const struct compared_state *state = &comparison->states[i];
            char name[48];
            if (state->seeded != seeded || state_badness(state) != next)
                continue;
            page_to(page, EVIDENCE_COLUMN);
            page_print(page, EVIDENCE_INDENT, "%s %s: %s, error %.4g", report->suite->cases[state->case_index].id,
                       state_name(state->layer, state->kind, name),
                       metric_row_class_name(state->candidate.candidate_class), state->candidate.error);
            if (state->has_expected)
                page_print(page, EVIDENCE_INDENT, ", expected %.4g", state->expected.error);
            page_end(page);
            printed++;
        }
        below = next;
    }
}

static void put_findings(struct page *page, const struct audit *audit)
{
    for (size_t i = 0; i < audit->n_findings && i < WORST; i++) {
        page_to(page, EVIDENCE_COLUMN);
        page_print(page, EVIDENCE_INDENT, "%s: %s", audit->findings[i].object, audit->findings[i].what);
        page_end(page);
    }
    put_more(page, audit->n_findings > WORST ? audit->n_findings - WORST : 0, "findings");
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
    put_numbers(page, check);
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
