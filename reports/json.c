#include "harness/base/floating.h"
#include "harness/run/engine.h"
#include "reports/measures.h"
#include "reports/sheet.h"
#include "reports/writer.h"

// --- the parts, in the order of the file

static void write_contract(struct sheet *sheet, const char *key, const struct trace_contract *contract)
{
    sheet_open(sheet, key);
    sheet_text(sheet, "model", contract->model);
    sheet_text(sheet, "model_type", contract->model_type);
    sheet_text(sheet, "weights_sha256", contract->weights_sha256);
    sheet_text(sheet, "config_sha256", contract->config_sha256);
    sheet_text(sheet, "bundle_sha256", contract->bundle_sha256);
    sheet_text(sheet, "tokenizer_sha256", contract->tokenizer_sha256);
    sheet_text(sheet, "engine", contract->engine);
    sheet_text(sheet, "engine_version", contract->engine_version);
    sheet_text(sheet, "device", contract->device);
    sheet_text(sheet, "precision", contract->precision);
    sheet_text(sheet, "mode", contract->mode);
    sheet_text(sheet, "start", contract->start);
    sheet_close(sheet);
}

static void write_subject(struct sheet *sheet, const struct report *report)
{
    static const char *const kinds[ENGINE_KINDS] = {"own", "exec", "trace"};
    sheet_text(sheet, "assay_version", ASSAY_VERSION);
    sheet_text(sheet, "command", report->command);
    sheet_text(sheet, "model", report->model_path);
    sheet_text(sheet, "bundle", report->bundle_path);
    sheet_text(sheet, "scheme", report->scheme);
    sheet_text(sheet, "engine", report->engine);
    sheet_text(sheet, "engine_kind", kinds[report->kind]);
    sheet_open(sheet, "suite");
    sheet_text(sheet, "name", report->suite->name);
    sheet_text(sheet, "path", report->suite->path);
    sheet_count(sheet, "cases", report->suite->n_cases);
    sheet_close(sheet);
    sheet_open(sheet, "policy");
    sheet_text(sheet, "name", report->policy->name);
    sheet_text(sheet, "path", report->policy->path);
    sheet_close(sheet);
    if (!report->comparison) {
        sheet_text(sheet, "contract", NULL);
        return;
    }
    sheet_open(sheet, "contract");
    write_contract(sheet, "reference", &report->comparison->reference);
    write_contract(sheet, "candidate", &report->comparison->candidate);
    sheet_close(sheet);
}

static void write_checks(struct sheet *sheet, const struct report *report)
{
    sheet_open_list(sheet, "checks");
    for (size_t i = 0; i < report->n_checks; i++) {
        const struct report_check *check = &report->checks[i];
        sheet_open(sheet, NULL);
        sheet_text(sheet, "name", check_name(check->check));
        sheet_text(sheet, "case", check->case_id);
        sheet_text(sheet, "verdict", verdict_name(check->verdict));
        sheet_count(sheet, "agree", check->agree);
        sheet_count(sheet, "of", check->of);
        sheet_text(sheet, "detail", check->detail);
        sheet_open_list(sheet, "numbers");
        for (size_t k = 0; k < check->n_numbers; k++) {
            const struct report_number *one = &check->numbers[k];
            sheet_open_row(sheet);
            sheet_text(sheet, "name", one->name);
            sheet_number(sheet, "value", one->value);
            sheet_number(sheet, "limit", one->limit);
            sheet_text(sheet, "accepts", one->at_least ? ">=" : "<=");
            sheet_flag(sheet, "ok", one->ok);
            sheet_text(sheet, "reason", one->reason);
            sheet_close(sheet);
        }
        sheet_close_list(sheet);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
}

static void write_counts(struct sheet *sheet, const struct report *report)
{
    sheet_open(sheet, "counts");
    sheet_count(sheet, "positions", report->positions);
    sheet_count(sheet, "agreed", report->agreed);
    sheet_count(sheet, "ties", report->ties);
    sheet_count(sheet, "near_ties", report->near_ties);
    sheet_count(sheet, "real_flips", report->real_flips);
    sheet_count(sheet, "introduced", report->introduced);
    sheet_count(sheet, "unexplained", report->unexplained);
    sheet_count(sheet, "undecidable", report->undecidable);
    sheet_close(sheet);
    sheet_open(sheet, "worst_disagreement");
    sheet_number(sheet, "gap", report->worst_gap);
    sheet_number(sheet, "margin", report->worst_margin);
    sheet_number(sheet, "probability_margin", report->worst_probability_margin);
    sheet_close(sheet);
    sheet_open(sheet, "shape");
    sheet_number(sheet, "expected_flips", report->expected_flips);
    sheet_number(sheet, "expected_flips_sd", report->expected_flips_sd);
    sheet_close(sheet);
    sheet_open(sheet, "agreement");
    sheet_number(sheet, "lower_bound", report->bound);
    sheet_number(sheet, "confidence", report->confidence);
    sheet_number(sheet, "design_effect", report->design_effect);
    sheet_close(sheet);
}

static void write_known(struct sheet *sheet, const struct report *report)
{
    sheet_open(sheet, "known_deviations");
    sheet_count(sheet, "used", report->n_known);
    sheet_open_list(sheet, "list");
    for (size_t i = 0; i < report->policy->n_known; i++) {
        const struct known_deviation *known = &report->policy->known[i];
        sheet_open_row(sheet);
        sheet_text(sheet, "check", check_name(known->check));
        sheet_text(sheet, "case", known->case_id);
        sheet_id(sheet, "position", known->position);
        sheet_text(sheet, "owner", known->owner);
        sheet_text(sheet, "reason", known->reason);
        sheet_text(sheet, "expires", known->expires);
        sheet_flag(sheet, "expired", known->expired);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
    sheet_close(sheet);
}

static void write_audit(struct sheet *sheet, const struct audit *audit)
{
    if (!audit) {
        sheet_text(sheet, "audit", NULL);
        return;
    }
    sheet_open(sheet, "audit");
    sheet_count(sheet, "tensors", audit->tensors);
    sheet_count(sheet, "equal", audit->equal);
    sheet_count(sheet, "codes", audit->codes);
    sheet_count(sheet, "wrong_codes", audit->wrong_codes);
    sheet_count(sheet, "scales", audit->scales);
    sheet_count(sheet, "wrong_scales", audit->wrong_scales);
    sheet_count(sheet, "clamped", audit->clamped);
    sheet_count(sheet, "subnormal_scales", audit->subnormal_scales);
    sheet_open_list(sheet, "findings");
    for (size_t i = 0; i < audit->n_findings; i++) {
        sheet_open_row(sheet);
        sheet_text(sheet, "object", audit->findings[i].object);
        sheet_text(sheet, "what", audit->findings[i].what);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
    sheet_close(sheet);
}

static void write_distances(struct sheet *sheet, const struct comparison *comparison)
{
    static const char *const arms[ARM_COUNT] = {"candidate", "fp16", "expected"};
    sheet_open(sheet, "distances");
    for (int arm = 0; arm < ARM_COUNT; arm++) {
        const struct distance *distance = &comparison->distances[arm];
        sheet_open(sheet, arms[arm]);
        sheet_count(sheet, "rows", distance->rows);
        if (distance->rows) {
            sheet_number(sheet, "sigma", distance->sigma);
            sheet_number(sheet, "rms", distance->rms);
            sheet_number(sheet, "max_abs", distance->max_abs);
            sheet_number(sheet, "kl_mean", distance->kl_mean);
            sheet_number(sheet, "kl_p99", distance->kl_p99);
            sheet_number(sheet, "kl_max", distance->kl_max);
            sheet_open_list(sheet, "head_slopes");
            for (uint32_t bin = 0; bin < METRIC_BINS; bin++) {
                uint32_t first, end;
                metric_coverage_bin(comparison->vocabulary, bin, &first, &end);
                sheet_open_row(sheet);
                sheet_count(sheet, "first_id", first);
                sheet_count(sheet, "end_id", end);
                sheet_number(sheet, "slope", metric_coverage_slope(&distance->coverage, bin));
                sheet_close(sheet);
            }
            sheet_close_list(sheet);
        }
        sheet_close(sheet);
    }
    sheet_open(sheet, "kernel"); // the candidate against `expected`
    sheet_count(sheet, "rows", comparison->kernel_rows);
    sheet_count(sheet, "equal", comparison->kernel_equal);
    if (comparison->kernel_rows) {
        sheet_number(sheet, "rms", comparison->kernel_rms);
        sheet_number(sheet, "rms_median", comparison->kernel_rms_median);
    }
    sheet_close(sheet);
    sheet_close(sheet);
}

static void write_tensor(struct sheet *sheet, const char *key, const struct metric_tensor *tensor)
{
    sheet_open(sheet, key);
    sheet_text(sheet, "class", metric_row_class_name(tensor->candidate_class));
    sheet_number(sheet, "error", tensor->error);
    sheet_number(sheet, "max_abs", tensor->max_abs);
    sheet_count(sheet, "worst", tensor->worst);
    sheet_close(sheet);
}

static void write_states(struct sheet *sheet, const struct report *report)
{
    const struct comparison *comparison = report->comparison;
    sheet_open_list(sheet, "states");
    for (size_t i = 0; i < comparison->n_states; i++) {
        const struct compared_state *state = &comparison->states[i];
        char name[48];
        sheet_open_row(sheet);
        sheet_text(sheet, "case", report->suite->cases[state->case_index].id);
        sheet_text(sheet, "state", state_name(state->layer, state->kind, name));
        sheet_flag(sheet, "seeded", state->seeded);
        sheet_flag(sheet, "after_tie", state->after_tie);
        sheet_text(sheet, "reference_class", metric_row_class_name(state->candidate.reference_class));
        write_tensor(sheet, "candidate", &state->candidate);
        if (state->has_expected)
            write_tensor(sheet, "expected", &state->expected);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
}

static void write_runs(struct sheet *sheet, const struct report *report)
{
    const struct comparison *comparison = report->comparison;
    sheet_open_list(sheet, "rollouts");
    for (size_t i = 0; i < comparison->n_rollouts; i++) {
        const struct compared_rollout *rollout = &comparison->rollouts[i];
        sheet_open_row(sheet);
        sheet_text(sheet, "case", report->suite->cases[rollout->case_index].id);
        sheet_count(sheet, "equal", rollout->equal);
        sheet_count(sheet, "of", rollout->n);
        sheet_id(sheet, "first_divergence", rollout->equal < rollout->n ? (int64_t)rollout->first_divergence : -1);
        sheet_flag(sheet, "strict", rollout->strict);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
    sheet_open_list(sheet, "second_runs");
    for (size_t i = 0; i < comparison->n_rows; i++) {
        const struct compared_rows *rows = &comparison->rows[i];
        sheet_open_row(sheet);
        sheet_text(sheet, "check", check_name(rows->check));
        sheet_text(sheet, "case", report->suite->cases[rows->case_index].id);
        sheet_count(sheet, "equal", rows->equal);
        sheet_count(sheet, "of", rows->rows);
        sheet_count(sheet, "real_flips", rows->real_flips);
        if (rows->has_state)
            sheet_flag(sheet, "state_equal", rows->state_equal);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
    sheet_open_list(sheet, "missing");
    for (size_t i = 0; i < comparison->n_missing; i++) {
        const struct missing *missing = &comparison->missing[i];
        sheet_open_row(sheet);
        sheet_text(sheet, "check", check_name(missing->check));
        sheet_text(sheet, "case", report->suite->cases[missing->case_index].id);
        sheet_count(sheet, "rows", missing->rows);
        sheet_text(sheet, "why", missing->why);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
}

static void write_coverage(struct sheet *sheet, const struct comparison *comparison)
{
    sheet_open_list(sheet, "coverage");
    for (int check = 0; check < CHECK_COUNT; check++) {
        if (!comparison->declared[check] && !comparison->compared[check])
            continue;
        sheet_open_row(sheet);
        sheet_text(sheet, "check", check_name((enum check)check));
        sheet_count(sheet, "declared", comparison->declared[check]);
        sheet_count(sheet, "compared", comparison->compared[check]);
        sheet_count(sheet, "distinct_top1", comparison->distinct_top1[check]);
        sheet_close(sheet);
    }
    sheet_close_list(sheet);
    sheet_open(sheet, "row_classes");
    for (int class = 0; class <= ROW_CONSTANT; class ++)
        sheet_count(sheet, metric_row_class_name((enum row_class) class), comparison->class_count[class]);
    sheet_close(sheet);
}

static bool is_worth_listing(const struct compared_position *position)
{
    return position->agreement != AGREE || position->metric.candidate_class != ROW_FINITE ||
           position->metric.reference_class != ROW_FINITE;
}

static void write_position(struct sheet *sheet, const struct report *report, const struct compared_position *position)
{
    const struct metric_position *metric = &position->metric;
    sheet_open_row(sheet);
    sheet_text(sheet, "case", report->suite->cases[position->case_index].id);
    sheet_count(sheet, "position", position->position);
    sheet_flag(sheet, "seeded", position->seeded);
    sheet_open_list(sheet, "checks");
    for (int check = 0; check < CHECK_COUNT; check++)
        if (position->checks[check])
            sheet_text(sheet, NULL, check_name((enum check)check));
    sheet_close_list(sheet);
    sheet_text(sheet, "agreement", agreement_name(position->agreement));
    sheet_text(sheet, "fp16_agreement", position->has_fp16 ? agreement_name(position->fp16_agreement) : NULL);
    sheet_flag(sheet, "introduced", position->introduced);
    sheet_flag(sheet, "undecidable", position->undecidable);
    sheet_text(sheet, "reference_class", metric_row_class_name(metric->reference_class));
    sheet_text(sheet, "class", metric_row_class_name(metric->candidate_class));
    sheet_id(sheet, "top1", metric->top1);
    sheet_id(sheet, "top2", metric->top2);
    sheet_id(sheet, "pick", metric->pick);
    sheet_number(sheet, "top1_logit", (double)metric->top1_logit);
    sheet_number(sheet, "top2_logit", (double)metric->top2_logit);
    sheet_number(sheet, "pick_logit", (double)metric->pick_logit);
    sheet_number(sheet, "gap", metric->gap);
    sheet_number(sheet, "margin", metric->margin);
    sheet_number(sheet, "probability_margin", metric->probability_margin);
    sheet_number(sheet, "kl", metric->kl);
    sheet_number(sheet, "noise", metric->noise);
    sheet_number(sheet, "max_abs", metric->max_abs);
    sheet_count(sheet, "overlap", metric->overlap);
    sheet_id(sheet, "route_layer", position->route_layer);
    sheet_id(sheet, "route_position", position->route_position);
    sheet_close(sheet);
}

static void write_comparison(struct sheet *sheet, const struct report *report)
{
    const struct comparison *comparison = report->comparison;
    write_distances(sheet, comparison);
    write_coverage(sheet, comparison);
    write_states(sheet, report);
    write_runs(sheet, report);
    measures_write_routing(sheet, report);
    measures_write_states(sheet, report);
    sheet_count(sheet, "positions_compared", comparison->n_positions);
    sheet_open_list(sheet, "positions"); // the whole table is positions.csv
    for (size_t i = 0; i < comparison->n_positions; i++)
        if (is_worth_listing(&comparison->positions[i]))
            write_position(sheet, report, &comparison->positions[i]);
    sheet_close_list(sheet);
}

static void write(struct output *output, const struct report *report)
{
    struct sheet sheet = {.output = output, .first = true};
    sheet_open(&sheet, NULL);
    sheet_text(&sheet, "schema", REPORT_SCHEMA);
    sheet_text(&sheet, "verdict", verdict_name(report->verdict));
    sheet_count(&sheet, "exit_code", (uint64_t)report->exit_code);
    sheet_text(&sheet, "why", report->why);
    write_subject(&sheet, report);
    write_checks(&sheet, report);
    write_counts(&sheet, report);
    write_known(&sheet, report);
    sheet_open_list(&sheet, "notes");
    for (size_t i = 0; i < report->n_notes; i++)
        sheet_text(&sheet, NULL, report->notes[i]);
    sheet_close_list(&sheet);
    sheet_number(&sheet, "seconds", report->seconds);
    write_audit(&sheet, report->audit);
    if (report->comparison) {
        write_comparison(&sheet, report);
    } else {
        sheet_count(&sheet, "positions_compared", 0);
        sheet_open_list(&sheet, "positions");
        sheet_close_list(&sheet);
    }
    sheet_close(&sheet);
    output_print(output, "\n");
    arena_close(&sheet.arena);
}

const struct writer writer_json = {"json", "report.json", write};
