#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/base/number.h"
#include "harness/run/engine.h"
#include "reports/evidence.h"
#include "reports/measures.h"
#include "reports/page.h"
#include "reports/writer.h"

enum { CHECK_COLUMN = 9, COUNT_COLUMN = 22, DETAIL_COLUMN = 34 };

// --- what was compared

static void put_field(struct page *page, const char *name, const char *format, const char *value, const char *more)
{
    page_to(page, 2);
    page_print(page, 2, "%s", name);
    page_to(page, 10);
    page_print(page, 10, format, value, more);
    page_end(page);
}

static void put_head(struct page *page, const struct report *report)
{
    static const char *const kinds[ENGINE_KINDS] = {"our own", "a foreign command", "recorded traces"};
    page_print(page, 0, "assay %s", ASSAY_VERSION);
    page_gap(page);
    if (*report->model_path)
        put_field(page, "model", "%s%s", report->model_path, "");
    if (*report->bundle_path)
        put_field(page, "bundle", *report->scheme ? "%s, scheme %s" : "%s%s", report->bundle_path, report->scheme);
    put_field(page, "engine", "%s, %s", report->engine, kinds[report->kind]);
    put_field(page, "suite", "%s, %s", report->suite->name, report->suite->path);
    put_field(page, "policy", "%s, %s", report->policy->name, report->policy->path);
    page_gap(page);
}

// --- the checks, worst first

// "15/16 + 1 near-tie": such a detail says the count itself.
static bool starts_with_count(const struct report_check *check)
{
    char count[48];
    snprintf(count, sizeof count, "%" PRIu64 "/%" PRIu64, check->agree, check->of);
    const size_t length = strlen(count);
    return !strncmp(check->detail, count, length) && !(check->detail[length] >= '0' && check->detail[length] <= '9');
}

static void put_line(struct page *page, const struct report_check *check)
{
    page_verdict(page, check->verdict);
    page_to(page, CHECK_COLUMN);
    page_flow(page, CHECK_COLUMN, check_name(check->check));
    page_to(page, COUNT_COLUMN);
    if (!starts_with_count(check)) {
        if (check->of)
            page_print(page, COUNT_COLUMN, "%" PRIu64 "/%" PRIu64, check->agree, check->of);
        page_to(page, page->column < DETAIL_COLUMN ? DETAIL_COLUMN : page->column + 1);
    }
    page_flow(page, DETAIL_COLUMN, check->detail);
    page_end(page);
}

static void put_checks(struct page *page, const struct report *report)
{
    static const enum verdict worst_first[] = {VERDICT_FAIL, VERDICT_ERROR, VERDICT_NOT_RUN, VERDICT_WARN,
                                               VERDICT_PASS};
    for (size_t k = 0; k < sizeof worst_first / sizeof *worst_first; k++)
        for (size_t i = 0; i < report->n_checks; i++) {
            const struct report_check *check = &report->checks[i];
            if (*check->case_id || check->verdict != worst_first[k])
                continue;
            put_line(page, check);
            if (check->verdict != VERDICT_PASS)
                evidence_put(page, report, check);
        }
    page_gap(page);
}

// --- the cases, one line each

static const char *cell(const struct report *report, const char *id, enum check check, enum verdict *worst)
{
    for (size_t i = 0; i < report->n_checks; i++) {
        const struct report_check *line = &report->checks[i];
        if (line->check != check || !*line->case_id || strcmp(line->case_id, id))
            continue;
        if (line->verdict != VERDICT_PASS && *worst != VERDICT_FAIL)
            *worst = line->verdict;
        return line->detail;
    }
    return "";
}

// Columns of a table if they fit, otherwise running text.
struct layout {
    bool table;
    int id, width[CHECK_COUNT];
};

static struct layout lay_out(const struct report *report)
{
    struct layout layout = {.id = 4};
    int total = 0;
    for (size_t i = 0; i < report->n_checks; i++) {
        const struct report_check *line = &report->checks[i];
        if (!*line->case_id)
            continue;
        const int name = page_width(line->case_id), detail = page_width(line->detail),
                  head = page_width(check_name(line->check));
        const int wider = detail > head ? detail : head;
        layout.id = name > layout.id ? name : layout.id;
        layout.width[line->check] = wider > layout.width[line->check] ? wider : layout.width[line->check];
    }
    for (int check = 0; check < CHECK_COUNT; check++)
        total += layout.width[check] ? layout.width[check] + 2 : 0;
    layout.table = CHECK_COLUMN + layout.id + total <= PAGE_COLUMNS;
    return layout;
}

// Every cell is a bare "16/16".
static bool agrees_everywhere(const struct report *report, const struct layout *layout, const char *id)
{
    enum verdict worst = VERDICT_PASS;
    bool plain = true;
    for (int check = 0; check < CHECK_COUNT; check++)
        plain &= !layout->width[check] || !strchr(cell(report, id, (enum check)check, &worst), '+');
    return plain && worst == VERDICT_PASS;
}

static void put_case(struct page *page, const struct report *report, const struct layout *layout, const char *id)
{
    enum verdict worst = VERDICT_PASS;
    const char *cells[CHECK_COUNT], *separator = ":";
    bool any = false;
    for (int check = 0; check < CHECK_COUNT; check++) {
        cells[check] = layout->width[check] ? cell(report, id, (enum check)check, &worst) : "";
        any |= *cells[check] != '\0';
    }
    if (!any)
        return;
    if (worst != VERDICT_PASS)
        page_verdict(page, worst);
    page_to(page, CHECK_COLUMN);
    page_flow(page, CHECK_COLUMN, id);
    int column = CHECK_COLUMN + layout->id + 2;
    for (int check = 0; check < CHECK_COUNT; check++) {
        if (layout->table && layout->width[check]) {
            if (*cells[check]) {
                page_to(page, column);
                page_flow(page, column, cells[check]);
            }
            column += layout->width[check] + 2;
        } else if (*cells[check]) {
            page_print(page, CHECK_COLUMN + 2, "%s %s %s", separator, check_name((enum check)check), cells[check]);
            separator = ";";
        }
    }
    page_end(page);
}

static void put_cases(struct page *page, const struct report *report)
{
    const struct layout layout = lay_out(report);
    bool any = false;
    for (int check = 0; check < CHECK_COUNT; check++)
        any |= layout.width[check] > 0;
    if (!any)
        return;
    if (layout.table) {
        int column = CHECK_COLUMN + layout.id + 2;
        page_to(page, CHECK_COLUMN);
        page_flow(page, CHECK_COLUMN, "case");
        for (int check = 0; check < CHECK_COUNT; check++)
            if (layout.width[check]) {
                page_to(page, column);
                page_flow(page, column, check_name((enum check)check));
                column += layout.width[check] + 2;
            }
        page_end(page);
    }
    size_t plain = 0; // as running text, only the cases that have something to say
    for (size_t i = 0; i < report->suite->n_cases; i++) {
        const char *id = report->suite->cases[i].id;
        const bool leave_out = !layout.table && agrees_everywhere(report, &layout, id);
        plain += leave_out;
        if (!leave_out)
            put_case(page, report, &layout, id);
    }
    if (plain) {
        page_to(page, CHECK_COLUMN);
        page_print(page, CHECK_COLUMN, "%zu more cases agree at every position", plain);
    }
    page_gap(page);
}

// --- the sum, and the verdict last

static void put_sum(struct page *page, const struct report *report)
{
    for (size_t i = 0; i < report->n_notes; i++) {
        page_flow(page, 2, "note:");
        page_print(page, 8, " %s", report->notes[i]);
        page_end(page);
    }
    if (report->n_known) {
        page_print(page, 2, "%zu known deviations of the policy were used", report->n_known);
        page_end(page);
    }
    if (report->positions) {
        page_print(page, 2, "%" PRIu64 " positions: %" PRIu64 " agreed, %" PRIu64 " ties, %" PRIu64 " near-ties",
                   report->positions, report->agreed, report->ties, report->near_ties);
        page_print(page, 2, ", %" PRIu64 " real flips (%" PRIu64 " introduced, %" PRIu64 " unexplained)",
                   report->real_flips, report->introduced, report->unexplained);
        page_end(page);
        page_print(page, 2, "undecidable (the reference's own margin is under the floor): %" PRIu64,
                   report->undecidable);
        page_end(page);
        page_print(
            page, 2,
            "share of positions without an introduced flip: at least %s (%g %% one-sided, design effect %s)",
            NUMBER_FIXED(report->bound, 4), 100 * report->confidence, NUMBER(report->design_effect, 2));
        page_end(page);
        if (report->expected_flips > 0) {
            page_print(page, 2, "flips that the margins and the measured noise predict: %s +- %s",
                       NUMBER_FIXED(report->expected_flips, 1), NUMBER_FIXED(report->expected_flips_sd, 1));
            page_end(page);
        }
        if (report->agreed < report->positions) {
            page_print(page, 2, "worst disagreement: gap %s nat, margin %s nat, probability margin %s",
                       NUMBER(report->worst_gap, 4), NUMBER(report->worst_margin, 4),
                       NUMBER(report->worst_probability_margin, 4));
            page_end(page);
        }
    }
    measures_put_routing(page, report);
    if (*report->command) {
        page_print(page, 2, "repeat with: %s", report->command);
        page_end(page);
    }
    page_gap(page);
    page_verdict(page, report->verdict);
    page_to(page, CHECK_COLUMN);
    page_flow(page, CHECK_COLUMN, report->why);
    page_print(page, CHECK_COLUMN, " (exit %d, %.1f s)", report->exit_code, report->seconds);
    page_end(page);
}

char *writer_text_render(struct arena *arena, const struct report *report, bool colour)
{
    struct page page;
    if (page_open(&page, colour))
        return NULL;
    put_head(&page, report);
    put_checks(&page, report);
    put_cases(&page, report);
    measures_put_states(&page, report);
    put_sum(&page, report);
    return page_take(&page, arena);
}

static void write(struct output *output, const struct report *report)
{
    struct arena arena = {0};
    const char *text = writer_text_render(&arena, report, false);
    if (text)
        output_append(output, text, strlen(text));
    else
        output_lacks_memory(output);
    arena_close(&arena);
}

const struct writer writer_text = {"text", "report.txt", write};
