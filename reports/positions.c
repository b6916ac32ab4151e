#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/csv.h"
#include "harness/base/floating.h"
#include "reports/writer.h"

static const char *const columns[] = {
    "case",
    "position",
    "seeded",
    "checks",
    "reference_class",
    "class",
    "agreement",
    "fp16_agreement",
    "introduced",
    "undecidable",
    "top1",
    "top2",
    "pick",
    "top1_logit",
    "top1_logit_hex",
    "top2_logit",
    "top2_logit_hex",
    "pick_logit",
    "pick_logit_hex",
    "gap",
    "gap_hex",
    "margin",
    "margin_hex",
    "probability_margin",
    "probability_margin_hex",
    "kl",
    "kl_hex",
    "noise",
    "noise_hex",
    "max_abs",
    "max_abs_hex",
    "square_sum",
    "square_sum_hex",
    "overlap",
    "route_layer",
    "route_position",
};

static void put_flag(struct output *output, bool value)
{
    csv_put(output, value ? "1" : "0", 0);
}

static void put_count(struct output *output, uint64_t value, int last)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    csv_put(output, text, last);
}

// Empty where the row has none.
static void put_id(struct output *output, int64_t value, int last)
{
    if (value < 0)
        csv_put(output, "", last);
    else
        put_count(output, (uint64_t)value, last);
}

// Decimal for people and spreadsheets, %a for exactness.
static void put_number(struct output *output, double value)
{
    char decimal[32], exact[40];
    snprintf(decimal, sizeof decimal, "%.9g", value);
    snprintf(exact, sizeof exact, "%a", value);
    csv_put(output, isnan(value) ? "nan" : decimal, 0); // the sign of a NaN differs between machines
    csv_put(output, isnan(value) ? "nan" : exact, 0);
}

static void put_checks(struct output *output, const bool checks[CHECK_COUNT])
{
    char names[128] = "";
    for (int check = 0; check < CHECK_COUNT; check++)
        if (checks[check]) {
            strcat(names, *names ? "+" : "");
            strcat(names, check_name((enum check)check));
        }
    csv_put(output, names, 0);
}

static void put_position(struct output *output, const struct report *report, const struct compared_position *position)
{
    const struct metric_position *metric = &position->metric;
    csv_put(output, report->suite->cases[position->case_index].id, 0);
    put_count(output, position->position, 0);
    put_flag(output, position->seeded);
    put_checks(output, position->checks);
    csv_put(output, metric_row_class_name(metric->reference_class), 0);
    csv_put(output, metric_row_class_name(metric->candidate_class), 0);
    csv_put(output, agreement_name(position->agreement), 0);
    csv_put(output, position->has_fp16 ? agreement_name(position->fp16_agreement) : "", 0);
    put_flag(output, position->introduced);
    put_flag(output, position->undecidable);
    put_id(output, metric->top1, 0);
    put_id(output, metric->top2, 0);
    put_id(output, metric->pick, 0);
    put_number(output, (double)metric->top1_logit);
    put_number(output, (double)metric->top2_logit);
    put_number(output, (double)metric->pick_logit);
    put_number(output, metric->gap);
    put_number(output, metric->margin);
    put_number(output, metric->probability_margin);
    put_number(output, metric->kl);
    put_number(output, metric->noise);
    put_number(output, metric->max_abs);
    put_number(output, metric->square_sum);
    put_count(output, metric->overlap, 0);
    put_id(output, position->route_layer, 0);
    put_id(output, position->route_position, 1);
}

static void write(struct output *output, const struct report *report)
{
    enum { N = sizeof columns / sizeof *columns };
    for (size_t i = 0; i < N; i++)
        csv_put(output, columns[i], i == N - 1);
    for (size_t i = 0; report->comparison && i < report->comparison->n_positions; i++)
        put_position(output, report, &report->comparison->positions[i]);
}

const struct writer writer_positions = {"positions", "positions.csv", write};
