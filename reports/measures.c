#include "reports/measures.h"

#include <inttypes.h>
#include <math.h>

#include "harness/base/floating.h"
#include "harness/base/number.h"

// --- JSON

static void write_layer(struct sheet *sheet, const struct compared_layer *layer)
{
    sheet_open_row(sheet);
    sheet_count(sheet, "layer", layer->layer);
    sheet_count(sheet, "rows", layer->rows);
    sheet_count(sheet, "unsound", layer->unsound);
    sheet_count(sheet, "changed", layer->changed);
    sheet_count(sheet, "ties", layer->ties);
    sheet_count(sheet, "misrouted", layer->misrouted);
    sheet_number(sheet, "noise", layer->sigma);
    sheet_number(sheet, "weight_error", layer->weight_error);
    sheet_number(sheet, "largest_margin", layer->largest_margin);
    sheet_number(sheet, "largest_depth", layer->largest_depth);
    if (layer->expected_rows) {
        sheet_open(sheet, "expected");
        sheet_count(sheet, "rows", layer->expected_rows);
        sheet_number(sheet, "noise", layer->expected_sigma);
        sheet_number(sheet, "weight_error", layer->expected_weight_error);
        sheet_close(sheet);
    }
    sheet_close(sheet);
}

void measures_write_routing(struct sheet *sheet, const struct report *report)
{
    const struct comparison *comparison = report->comparison;
    if (!comparison->n_layers) {
        sheet_text(sheet, "routing", NULL);
        return;
    }
    sheet_open(sheet, "routing");
    sheet_count(sheet, "declared", comparison->routing_declared);
    sheet_count(sheet, "compared", comparison->routing_compared);
    sheet_flag(sheet, "known", comparison->routing_known);
    sheet_open_list(sheet, "layers");
    for (size_t i = 0; i < comparison->n_layers; i++)
        write_layer(sheet, &comparison->layers[i]);
    sheet_close_list(sheet);
    sheet_open_list(sheet, "changed");
    for (size_t i = 0; i < comparison->n_routes; i++) {
        const struct compared_route *route = &comparison->routes[i];
        sheet_open_row(sheet);
        sheet_text(sheet, "case", report->suite->cases[route->case_index].id);
        sheet_count(sheet, "position", route->position);
        sheet_flag(sheet, "seeded", route->seeded);
        sheet_count(sheet, "layer", route->layer);
        sheet_number(sheet, "margin", route->margin);
        sheet_number(sheet, "depth", route->depth);
        sheet_number(sheet, "weight_error", route->weight_error);
        sheet_flag(sheet, "tie", route->tie);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
    sheet_close(sheet);
}

void measures_write_states(struct sheet *sheet, const struct report *report)
{
    const struct comparison *comparison = report->comparison;
    sheet_open_list(sheet, "state_chart");
    for (size_t i = 0; i < comparison->n_snapshots; i++) {
        const struct compared_snapshot *snapshot = &comparison->snapshots[i];
        char name[48];
        sheet_open_row(sheet);
        sheet_text(sheet, "case", report->suite->cases[snapshot->case_index].id);
        sheet_count(sheet, "position", snapshot->position);
        sheet_text(sheet, "state", state_name(snapshot->layer, snapshot->kind, name));
        sheet_number(sheet, "error", snapshot->candidate.error);
        sheet_number(sheet, "max_abs", snapshot->candidate.max_abs);
        sheet_text(sheet, "class", metric_row_class_name(snapshot->candidate.candidate_class));
        if (snapshot->has_expected)
            sheet_number(sheet, "expected_error", snapshot->expected.error);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
}

// --- text

void measures_put_routing(struct page *page, const struct report *report)
{
    const struct comparison *comparison = report->comparison;
    uint64_t changed = 0, ties = 0;
    if (!comparison || !comparison->n_layers)
        return;
    for (size_t i = 0; i < comparison->n_layers; i++) {
        changed += comparison->layers[i].changed;
        ties += comparison->layers[i].ties;
    }
    page_print(page, 2, "routers: %" PRIu64 " of %" PRIu64 " choices are other experts than the reference's", changed,
               comparison->routing_compared);
    if (comparison->routing_known)
        page_print(page, 2, ", %" PRIu64 " of them within selection noise", ties);
    else
        page_print(page, 2, "; two bare traces do not tell by which scores they were chosen, --model CHECKPOINT does");
    page_end(page);
    for (size_t i = 0; i < comparison->n_layers; i++) {
        const struct compared_layer *layer = &comparison->layers[i];
        if (!layer->changed)
            continue;
        page_to(page, 4);
        page_print(page, 6, "layer %" PRIu32 ": %" PRIu64 " changed", layer->layer, layer->changed);
        if (comparison->routing_known)
            page_print(page, 6, ", %" PRIu64 " ties, largest margin %s (%s deviations)", layer->ties,
                       NUMBER(layer->largest_margin, 3), NUMBER_FIXED(layer->largest_depth, 2));
        page_print(page, 6, "; noise of a logit %s, error of the weights %s", NUMBER(layer->sigma, 3),
                   NUMBER(layer->weight_error, 3));
        page_end(page);
    }
}

enum { BARS = 32, BARS_COLUMN = 10 };

// The worst layer of one kind of state in one case, by position; several neighbours share a bar when there are many.
struct chart {
    size_t n;
    uint32_t end[BARS];
    double error[BARS], worst, worst_expected;
    uint32_t worst_layer, worst_position;
    bool has_expected;
};

static bool is_worse(double value, double worst)
{
    return value > worst || (isnan(value) && !isnan(worst));
}

static size_t count_positions(const struct comparison *comparison, uint32_t case_index)
{
    size_t n = 0;
    uint32_t last = 0; // no snapshot is of position 0
    for (size_t i = 0; i < comparison->n_snapshots; i++)
        if (comparison->snapshots[i].case_index == case_index && comparison->snapshots[i].position != last) {
            last = comparison->snapshots[i].position;
            n++;
        }
    return n;
}

static struct chart chart_make(const struct comparison *comparison, uint32_t case_index, enum state_kind kind)
{
    const size_t positions = count_positions(comparison, case_index), share = (positions + BARS - 1) / BARS;
    struct chart chart = {.worst = -1.0};
    size_t at = 0;
    uint32_t last = 0;
    for (size_t i = 0; i < comparison->n_snapshots; i++) {
        const struct compared_snapshot *snapshot = &comparison->snapshots[i];
        if (snapshot->case_index != case_index)
            continue;
        at += snapshot->position != last;
        last = snapshot->position;
        if (snapshot->kind != kind)
            continue;
        const size_t bar = (at - 1) / share;
        if (bar >= chart.n) {
            chart.n = bar + 1;
            chart.error[bar] = -1.0;
        }
        chart.end[bar] = snapshot->position;
        if (is_worse(snapshot->candidate.error, chart.error[bar]))
            chart.error[bar] = snapshot->candidate.error;
        if (is_worse(snapshot->candidate.error, chart.worst)) {
            chart.worst = snapshot->candidate.error;
            chart.worst_layer = snapshot->layer;
            chart.worst_position = snapshot->position;
            chart.has_expected = snapshot->has_expected;
            chart.worst_expected = snapshot->expected.error;
        }
    }
    return chart;
}

// Eighths of the worst error; "!" for what is no number.
static const char *bar_of(double error, double worst)
{
    static const char *const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    if (!isfinite(error))
        return "!";
    const double share = isfinite(worst) && worst > 0.0 ? error / worst : 0.0;
    const int eighth = (int)ceil(8.0 * share) - 1;
    return bars[eighth < 0 ? 0 : eighth > 7 ? 7 : eighth];
}

static void put_chart(struct page *page, const char *kind, const struct chart *chart)
{
    char bars[BARS * 3 + 1]; // three bytes a bar
    size_t used = 0;
    for (size_t i = 0; i < chart->n; i++)
        for (const char *byte = bar_of(chart->error[i], chart->worst); *byte; byte++)
            bars[used++] = *byte;
    bars[used] = '\0';
    page_to(page, 4);
    page_print(page, BARS_COLUMN, "%s", kind);
    page_to(page, BARS_COLUMN);
    page_print(page, BARS_COLUMN, "%s", bars);
    page_print(page, BARS_COLUMN, " %s after %" PRIu32 ", %s after %" PRIu32 "; worst %s in layer %" PRIu32 " after %" PRIu32,
               NUMBER(chart->error[0], 3), chart->end[0], NUMBER(chart->error[chart->n - 1], 3), chart->end[chart->n - 1],
               NUMBER(chart->worst, 3), chart->worst_layer, chart->worst_position);
    if (chart->has_expected)
        page_print(page, BARS_COLUMN, ", expected %s", NUMBER(chart->worst_expected, 3));
    page_end(page);
}

void measures_put_states(struct page *page, const struct report *report)
{
    const struct comparison *comparison = report->comparison;
    if (!comparison || !comparison->n_snapshots)
        return;
    page_print(page, 2, "state error against position (relative L2 of the worst layer; keys and values: of the columns "
                        "since the snapshot before)");
    page_end(page);
    for (uint32_t c = 0; c < report->suite->n_cases; c++) {
        if (!count_positions(comparison, c))
            continue;
        page_print(page, 2, "%s", report->suite->cases[c].id);
        page_end(page);
        for (enum state_kind kind = STATE_K; kind < STATE_KINDS; kind++) {
            const struct chart chart = chart_make(comparison, c, kind);
            if (chart.n)
                put_chart(page, state_kind_name(kind), &chart);
        }
    }
    page_gap(page);
}
