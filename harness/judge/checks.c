#include "harness/judge/checks.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/base/number.h"
#include "harness/judge/checks_routing.h"
#include "harness/judge/line.h"
#include "harness/judge/tally.h"

// --- rows

static const char *describe_flip(struct judging *j, const struct compared_position *p)
{
    const char *flip = LINE_PRINT(j, "%s position %" PRIu32 ": %" PRId64 " where the reference has %" PRId64 ", gap %s nat",
                                  line_case(j, p->case_index), p->position, p->metric.pick, p->metric.top1,
                                  NUMBER(p->metric.gap, 4));
    return p->route_layer < 0 ? flip
                              : LINE_PRINT(j, "%s; layer %" PRId64 " had chosen other experts at position %" PRId64, flip,
                                           p->route_layer, p->route_position);
}

// Classes first, then the budget, then whether enough was compared. Sweep, seeded, rollout and flips alike.
static void judge_rows(struct judging *j, enum check check, enum limit least, const struct tally *tally)
{
    const struct policy *policy = j->input->policy;
    const struct comparison *comparison = j->comparison;
    if (tally->bad_rows) {
        const struct compared_position *bad = tally->bad;
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%" PRIu64 " rows of logits are %s, first %s position %" PRIu32, tally->bad_rows,
                                    metric_row_class_name(bad->metric.candidate_class != ROW_FINITE
                                                              ? bad->metric.candidate_class
                                                              : bad->metric.reference_class),
                                    line_case(j, bad->case_index), bad->position));
    }
    if (tally->rows) {
        const char *worst = tally->introduced && tally->worst ? describe_flip(j, tally->worst) : "";
        line_number_within(j, "introduced real flips", (double)tally->introduced, tally_budget(policy, tally->rows),
                           LIMIT_INTRODUCED, worst);
        line_number(j, "unexplained real flips", (double)tally->unexplained, LIMIT_UNEXPLAINED, false, "");
    }
    const uint64_t compared = comparison->compared[check], declared = comparison->declared[check];
    if (compared == 0 || compared < declared)
        line_rule(j, VERDICT_NOT_RUN, LINE_PRINT(j, "compared %" PRIu64 " of %" PRIu64 " declared", compared, declared));
    else if (least != LIMIT_COUNT && (double)compared < policy->limit[least])
        line_rule(j, VERDICT_NOT_RUN, LINE_PRINT(j, "compared %" PRIu64 ", the policy's least is %.0f", compared, policy->limit[least]));
    else if ((double)comparison->distinct_top1[check] < policy->limit[LIMIT_MIN_TOP1])
        line_rule(j, VERDICT_NOT_RUN, LINE_PRINT(j, "only %" PRIu64 " distinct reference tokens, the policy's least is %.0f: the text "
                                       "repeats itself", comparison->distinct_top1[check], policy->limit[LIMIT_MIN_TOP1]));
    if (tally->known)
        line_rule(j, VERDICT_WARN, LINE_PRINT(j, "%" PRIu64 " known deviations accepted", tally->known));
}

static const char *describe_counts(struct judging *j, const struct tally *tally)
{
    const char *text = LINE_PRINT(j, "%" PRIu64 "/%" PRIu64, tally->agree, tally->rows);
    const struct { uint64_t n; const char *one, *many; } kinds[] = {
        {tally->ties, "tie", "ties"}, {tally->near_ties, "near-tie", "near-ties"},
        {tally->real_flips - tally->introduced, "real flip of fp16, too", "real flips of fp16, too"},
        {tally->introduced, "introduced flip", "introduced flips"},
        {tally->bad_rows, "row without a pick", "rows without a pick"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].n)
            text = LINE_PRINT(j, "%s + %" PRIu64 " %s", text, kinds[i].n, kinds[i].n == 1 ? kinds[i].one : kinds[i].many);
    return text;
}

static void check_rows(struct judging *j, enum check check, enum limit least)
{
    struct tally tally;
    tally_count(j->input, check, TALLY_ALL_CASES, tally_sigma(j->comparison), &tally);
    j->line->agree = tally.agree;
    j->line->of = tally.rows;
    line_remark(j, tally.worst ? LINE_PRINT(j, "%s; largest gap %s nat", describe_counts(j, &tally), NUMBER(tally.worst->metric.gap, 4))
                          : describe_counts(j, &tally));
    judge_rows(j, check, least, &tally);
}

// --- the checks

static void check_weights(struct judging *j)
{
    const struct audit *audit = j->input->audit;
    if (!audit) {
        line_rule(j, VERDICT_NOT_RUN, "no bundle to audit");
        return;
    }
    j->line->agree = audit->equal;
    j->line->of = audit->tensors;
    line_remark(j, LINE_PRINT(j, "%" PRIu64 " codes and %" PRIu64 " scales are what the scheme computes; %" PRIu64 " clamped, %" PRIu64
                    " subnormal scales", audit->codes, audit->scales, audit->clamped, audit->subnormal_scales));
    if (audit->tensors == 0)
        line_rule(j, VERDICT_NOT_RUN, "no tensor was compared");
    if (audit->n_findings)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%s: %s", audit->findings[0].object, audit->findings[0].what));
    if (audit->n_findings > 1)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "and %zu more findings", audit->n_findings - 1));
}

static void check_sweep(struct judging *j)
{
    check_rows(j, CHECK_SWEEP, LIMIT_MIN_SWEEP);
}

static double state_ratio(const struct compared_state *s)
{
    return line_ratio(s->candidate.error, s->expected.error);
}

// What no distance shows, since a state of halves passes as int8's noise: the plan promises floats, `expected` has them, and
// here every value is a half.
static void judge_state_precision(struct judging *j, bool seeded)
{
    const struct compared_state *first = NULL;
    size_t n = 0;
    for (size_t i = 0; i < j->comparison->n_states; i++) {
        const struct compared_state *s = &j->comparison->states[i];
        if (s->seeded != seeded || !j->input->float_state[s->kind] || !s->has_expected || s->expected.halves ||
            s->candidate.candidate_class == ROW_ZERO || !s->candidate.halves)
            continue;
        first = first ? first : s;
        n++;
    }
    char name[48];
    if (first)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%zu states hold halves alone where the plan keeps floats, first %s of %s", n,
                                              state_name(first->layer, first->kind, name), line_case(j, first->case_index)));
}

// The largest error under either cap. Nothing under the narrow one is no pass: every error is then excused. Returns how
// many states are under each; "" for a model without experts.
static const char *judge_state_caps(struct judging *j, bool seeded)
{
    const struct compared_state *worst[2] = {NULL}; // [after_tie]
    size_t n[2] = {0};
    for (size_t i = 0; i < j->comparison->n_states; i++) {
        const struct compared_state *s = &j->comparison->states[i];
        if (s->seeded != seeded)
            continue;
        n[s->after_tie]++;
        if (!worst[s->after_tie] || line_exceeds(s->candidate.error, worst[s->after_tie]->candidate.error))
            worst[s->after_tie] = s;
    }
    const char *counts = "";
    if (n[0] + n[1] && j->comparison->n_layers) {
        counts = LINE_PRINT(j, "; %zu states under cap_state, %zu after a tie of a router under cap_state_tie", n[0],
                            n[1]);
        line_remark(j, LINE_PRINT(j, "%s%s", j->line->detail, counts));
    }
    for (int tie = 0; tie < 2; tie++) {
        char name[48];
        if (!worst[tie])
            continue;
        line_number(j, tie ? "state error after a tie of a router" : "state error", worst[tie]->candidate.error,
                    tally_state_cap(worst[tie]), false,
                    LINE_PRINT(j, "%s of %s%s", state_name(worst[tie]->layer, worst[tie]->kind, name),
                               line_case(j, worst[tie]->case_index), counts));
    }
    if (n[1] && !n[0])
        line_rule(j, VERDICT_NOT_RUN, LINE_PRINT(j, "no state shows the arithmetic alone%s", counts));
    return counts;
}

// The largest ratio (or a bad class) among the end states of whole runs or of seeded decodes.
static void judge_states(struct judging *j, bool seeded, enum limit ratio_limit)
{
    const struct compared_state *worst = NULL, *bad = NULL;
    size_t n_bad = 0, n = 0;
    for (size_t i = 0; i < j->comparison->n_states; i++) {
        const struct compared_state *s = &j->comparison->states[i];
        if (s->seeded != seeded)
            continue;
        const enum row_class class = s->candidate.candidate_class;
        if (class == ROW_NAN || class == ROW_INFINITE || (class == ROW_ZERO && s->candidate.reference_class != ROW_ZERO)) {
            bad = bad ? bad : s;
            n_bad++;
        }
        if (s->has_expected && (!worst || line_exceeds(state_ratio(s), state_ratio(worst))))
            worst = s;
        n++;
    }
    char name[48];
    if (bad)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%zu states are %s, first %s of %s", n_bad,
                                    metric_row_class_name(bad->candidate.candidate_class),
                                    state_name(bad->layer, bad->kind, name), line_case(j, bad->case_index)));
    judge_state_precision(j, seeded);
    if (worst)
        line_number(j, "state error / expected", state_ratio(worst), ratio_limit, false,
               LINE_PRINT(j, "%s of %s: error %s, expected %s", state_name(worst->layer, worst->kind, name),
                     line_case(j, worst->case_index), NUMBER(worst->candidate.error, 3), NUMBER(worst->expected.error, 3)));
    const char *counts = judge_state_caps(j, seeded);
    if (n && !worst)
        line_rule(j, VERDICT_WARN, LINE_PRINT(j, "no `expected` arm: judged by the policy's caps alone%s", counts));
}

// On the way a state is charted, not measured against limits: those are for its end. But its class is judged.
static void judge_snapshots(struct judging *j)
{
    const struct compared_snapshot *bad = NULL;
    size_t n_bad = 0;
    for (size_t i = 0; i < j->comparison->n_snapshots; i++) {
        const struct compared_snapshot *s = &j->comparison->snapshots[i];
        const enum row_class class = s->candidate.candidate_class;
        if (class == ROW_NAN || class == ROW_INFINITE || (class == ROW_ZERO && s->candidate.reference_class != ROW_ZERO)) {
            bad = bad ? bad : s;
            n_bad++;
        }
    }
    char name[48];
    if (bad)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%zu snapshots are %s, first %s of %s after %" PRIu32 " positions", n_bad,
                                              metric_row_class_name(bad->candidate.candidate_class),
                                              state_name(bad->layer, bad->kind, name), line_case(j, bad->case_index),
                                              bad->position));
}

static void check_seeded(struct judging *j)
{
    check_rows(j, CHECK_SEEDED, LIMIT_COUNT);
    judge_states(j, true, LIMIT_RATIO_SEEDED_STATE);
}

static void check_state(struct judging *j)
{
    const struct comparison *comparison = j->comparison;
    j->line->of = comparison->compared[CHECK_STATE];
    for (size_t i = 0; i < comparison->n_states; i++) {
        const struct compared_state *s = &comparison->states[i];
        j->line->agree += !s->seeded && s->candidate.error <= j->input->policy->limit[tally_state_cap(s)] &&
                          (!s->has_expected || state_ratio(s) <= j->input->policy->limit[LIMIT_RATIO_STATE]);
    }
    line_remark(j, "end states within the limits");
    judge_states(j, false, LIMIT_RATIO_STATE);
    judge_snapshots(j);
    if (j->line->of == 0 || j->line->of < comparison->declared[CHECK_STATE])
        line_rule(j, VERDICT_NOT_RUN, LINE_PRINT(j, "compared %" PRIu64 " of %" PRIu64 " declared states", j->line->of,
                                       comparison->declared[CHECK_STATE]));
}

static void check_rollout(struct judging *j)
{
    const struct comparison *comparison = j->comparison;
    const struct compared_rollout *broken = NULL;
    uint64_t diverged = 0, strict = 0;
    for (size_t i = 0; i < comparison->n_rollouts; i++) {
        const struct compared_rollout *rollout = &comparison->rollouts[i];
        diverged += rollout->equal < rollout->n;
        strict += rollout->strict;
        if (rollout->strict && rollout->equal < rollout->n && !broken)
            broken = rollout;
    }
    struct tally tally;
    tally_count(j->input, CHECK_ROLLOUT, TALLY_ALL_CASES, tally_sigma(comparison), &tally);
    j->line->of = comparison->n_rollouts;
    j->line->agree = comparison->n_rollouts - diverged;
    line_remark(j, LINE_PRINT(j, "%s tokens; %" PRIu64 " prompts with every margin over the floor, all identical",
                    describe_counts(j, &tally), strict));
    if (broken && tally.bad_rows == 0)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%s: %" PRIu32 "/%" PRIu32 " where every reference margin is over the floor, first "
                                    "divergence at token %" PRIu32, line_case(j, broken->case_index), broken->equal, broken->n,
                                    broken->first_divergence + 1));
    if (comparison->n_rollouts)
        line_number(j, "share of diverged prompts", (double)diverged / (double)comparison->n_rollouts, LIMIT_ROLLOUT_DIVERGED, false,
               "");
    judge_rows(j, CHECK_ROLLOUT, LIMIT_MIN_ROLLOUTS, &tally);
}

static void check_flips(struct judging *j)
{
    const double sigma = tally_sigma(j->comparison);
    double expected, sd;
    struct tally tally;
    check_rows(j, CHECK_FLIPS, LIMIT_MIN_FLIPS);
    tally_expected_flips(j->comparison, CHECK_FLIPS, sigma, &expected, &sd);
    tally_count(j->input, CHECK_FLIPS, TALLY_ALL_CASES, sigma, &tally);
    if (tally.rows == 0)
        return;
    // real flips that the fp16 arm makes, too, are the reference's resolution and not this bundle's noise
    const double flips = (double)(tally.ties + tally.near_ties + tally.introduced + tally.known);
    line_number(j, "flips over those that noise explains, in deviations", flips <= expected ? 0.0 : (flips - expected) / sd,
           LIMIT_SHAPE_SD, false, LINE_PRINT(j, "%.0f flips, %s +- %s explained by sigma %s", flips, NUMBER_FIXED(expected, 1),
                                             NUMBER_FIXED(sd, 1), NUMBER(sigma, 4)));
}

static void judge_coverage(struct judging *j, const struct distance *d)
{
    uint32_t low = 0, high = 0, first, end;
    double slope[METRIC_BINS];
    for (uint32_t bin = 0; bin < METRIC_BINS; bin++) {
        slope[bin] = metric_coverage_slope(&d->coverage, bin);
        if (line_exceeds(-slope[bin], -slope[low]))
            low = bin;
        if (line_exceeds(slope[bin], slope[high]))
            high = bin;
    }
    metric_coverage_bin(j->comparison->vocabulary, low, &first, &end);
    line_number(j, "smallest head slope", slope[low], LIMIT_SLOPE_LOW, true, LINE_PRINT(j, "ids %" PRIu32 " to %" PRIu32, first, end - 1));
    metric_coverage_bin(j->comparison->vocabulary, high, &first, &end);
    line_number(j, "largest head slope", slope[high], LIMIT_SLOPE_HIGH, false, LINE_PRINT(j, "ids %" PRIu32 " to %" PRIu32, first, end - 1));
}

// What weights cannot explain. Our int8 runtime promises the bits of `expected`; a foreign one, or another arm, rounds at other
// points, so its kernel error is not judged here.
static void judge_kernel(struct judging *j)
{
    const struct comparison *comparison = j->comparison;
    const struct distance *fp16 = &comparison->distances[ARM_FP16];
    if (!j->input->exact_kernel || !comparison->kernel_rows || !fp16->rows)
        return;
    const char *equal = LINE_PRINT(j, "%" PRIu64 " of %" PRIu64 " rows have the bits of `expected`", comparison->kernel_equal,
                                   comparison->kernel_rows);
    line_number(j, "kernel error / fp16 error", comparison->kernel_rms == 0.0 ? 0.0 : comparison->kernel_rms / fp16->rms,
           LIMIT_RATIO_KERNEL, false, equal);
    // with experts, the few rows whose routing half precision turns are nearly all of fp16's RMS, and would excuse much
    const double median = comparison->kernel_rms_median;
    line_number(j, "kernel error / fp16 error, of the median row", median == 0.0 ? 0.0 : median / fp16->rms_median,
           LIMIT_RATIO_KERNEL, false, equal);
}

static void check_distance(struct judging *j)
{
    const struct comparison *comparison = j->comparison;
    const struct distance *d = &comparison->distances[ARM_CANDIDATE], *e = &comparison->distances[ARM_EXPECTED];
    struct tally tally;
    tally_count(j->input, CHECK_DISTANCE, TALLY_ALL_CASES, tally_sigma(comparison), &tally);
    j->line->of = tally.rows;
    j->line->agree = tally.agree;
    const char *healthy = e->rows ? LINE_PRINT(j, "; expected: sigma %s, KL mean %s", NUMBER(e->sigma, 4), NUMBER(e->kl_mean, 3))
                                  : "";
    line_remark(j, LINE_PRINT(j, "sigma %s, RMS %s, KL mean %s, p99 %s, max %s%s", NUMBER(d->sigma, 4), NUMBER(d->rms, 4),
                              NUMBER(d->kl_mean, 3), NUMBER(d->kl_p99, 3), NUMBER(d->kl_max, 3), healthy));
    if (d->rows) {
        judge_coverage(j, d);
        if (e->rows) {
            line_number(j, "sigma / expected", line_ratio(d->sigma, e->sigma), LIMIT_RATIO_SIGMA, false, "");
            line_number(j, "RMS / expected", line_ratio(d->rms, e->rms), LIMIT_RATIO_RMS, false, "");
            line_number(j, "mean KL / expected", line_ratio(d->kl_mean, e->kl_mean), LIMIT_RATIO_KL_MEAN, false, "");
            line_number(j, "p99 KL / expected", line_ratio(d->kl_p99, e->kl_p99), LIMIT_RATIO_KL_P99, false, "");
            judge_kernel(j);
        } else {
            line_rule(j, VERDICT_WARN, "no `expected` arm: judged by the policy's caps alone");
        }
        line_number(j, "sigma", d->sigma, LIMIT_CAP_SIGMA, false, "");
        line_number(j, "RMS", d->rms, LIMIT_CAP_RMS, false, "");
        line_number(j, "mean KL", d->kl_mean, LIMIT_CAP_KL_MEAN, false, "");
        line_number(j, "p99 KL", d->kl_p99, LIMIT_CAP_KL_P99, false, "");
        checks_routing(j);
    }
    if (tally.bad_rows)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%" PRIu64 " rows of logits are %s", tally.bad_rows,
                                    metric_row_class_name(tally.bad->metric.candidate_class)));
    const uint64_t declared = comparison->declared[CHECK_DISTANCE];
    if (tally.rows == 0 || tally.rows < declared || (double)tally.rows < j->input->policy->limit[LIMIT_MIN_DISTANCE])
        line_rule(j, VERDICT_NOT_RUN, LINE_PRINT(j, "compared %" PRIu64 " of %" PRIu64 " declared, the policy's least is %.0f", tally.rows,
                                       declared, j->input->policy->limit[LIMIT_MIN_DISTANCE]));
    else if ((double)comparison->distinct_top1[CHECK_DISTANCE] < j->input->policy->limit[LIMIT_MIN_TOP1])
        line_rule(j, VERDICT_NOT_RUN, "the text repeats itself");
}

// The same engine twice: bit-equal for our own; a foreign one may round otherwise on another path, but not flip.
static void judge_second_run(struct judging *j, enum check check, const char *what)
{
    const bool own = j->input->kind == ENGINE_OWN || check == CHECK_DETERMINISM;
    const struct compared_rows *bad = NULL;
    uint64_t compared = 0, equal = 0;
    for (size_t i = 0; i < j->comparison->n_rows; i++) {
        const struct compared_rows *rows = &j->comparison->rows[i];
        if (rows->check != check)
            continue;
        compared += rows->rows;
        equal += rows->equal;
        const bool ok = own ? rows->equal == rows->rows && (!rows->has_state || rows->state_equal) : rows->real_flips == 0;
        bad = ok || bad ? bad : rows;
    }
    j->line->agree = equal;
    j->line->of = compared;
    line_remark(j, LINE_PRINT(j, "%s: rows and end states %s", what, own ? "bit-equal" : "without a real flip"));
    if (bad)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%s: %s gives %" PRIu32 " of %" PRIu32 " rows equal, %" PRIu32 " real flips, end states "
                                    "%s", line_case(j, bad->case_index), bad->way ? bad->way : what, bad->equal, bad->rows, bad->real_flips,
                                    !bad->has_state ? "absent" : bad->state_equal ? "equal" : "different"));
    if (compared == 0 || compared < j->comparison->declared[check])
        line_rule(j, VERDICT_NOT_RUN, LINE_PRINT(j, "compared %" PRIu64 " of %" PRIu64 " rows", compared, j->comparison->declared[check]));
}

static void check_determinism(struct judging *j)
{
    judge_second_run(j, CHECK_DETERMINISM, "a second run");
}

static void check_paths(struct judging *j)
{
    bool batched = false;
    for (size_t i = 0; i < j->comparison->n_rows; i++) {
        const char *way = j->comparison->rows[i].way;
        batched = batched || (way && !strcmp(way, "batch"));
    }
    judge_second_run(j, CHECK_PATHS, batched ? "S=1, batch, chunks, saved and restored" : "S=1 saved and restored");
}

static void (*const judges[CHECK_COUNT])(struct judging *) = {
    [CHECK_WEIGHTS] = check_weights, [CHECK_SWEEP] = check_sweep, [CHECK_SEEDED] = check_seeded,
    [CHECK_ROLLOUT] = check_rollout, [CHECK_FLIPS] = check_flips, [CHECK_DISTANCE] = check_distance,
    [CHECK_STATE] = check_state, [CHECK_DETERMINISM] = check_determinism, [CHECK_PATHS] = check_paths,
};

// --- lines per case: the count of each case, "16/16", "15/16 + 1 near-tie"

static void judge_case(struct judging *j, enum check check, uint32_t case_index)
{
    struct tally tally, all; // the budget is one for all cases together
    tally_count(j->input, check, case_index, tally_sigma(j->comparison), &tally);
    tally_count(j->input, check, TALLY_ALL_CASES, tally_sigma(j->comparison), &all);
    j->line->agree = tally.agree;
    j->line->of = tally.rows;
    j->line->detail = describe_counts(j, &tally);
    if (tally.rows == 0)
        line_rule(j, VERDICT_NOT_RUN, "nothing compared");
    else if (tally.bad_rows || !((double)tally.introduced <= tally_budget(j->input->policy, all.rows)))
        j->line->verdict = VERDICT_FAIL;
    else if (tally.known)
        j->line->verdict = VERDICT_WARN;
}

int checks_judge(struct report *report, const struct gate_input *input, enum check check, struct report_check *per_case,
                 size_t *n_per_case, struct error *error)
{
    struct judging j = {.input = input, .comparison = input->comparison, .report = report,
        .line = &report->checks[report->n_checks++]};
    *j.line = (struct report_check){.check = check, .case_id = "", .verdict = VERDICT_PASS, .detail = ""};
    j.line->numbers = arena_alloc(&report->arena, LINE_NUMBERS, sizeof *j.line->numbers);
    if (!j.line->numbers)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    if (check != CHECK_WEIGHTS && !input->comparison)
        line_rule(&j, VERDICT_NOT_RUN, "nothing was recorded");
    else
        judges[check](&j);
    const bool has_rows = check >= CHECK_SWEEP && check <= CHECK_FLIPS;
    for (size_t i = 0; has_rows && input->comparison && i < input->suite->n_cases; i++) {
        if (!input->suite->cases[i].checks[check])
            continue;
        j.line = &per_case[(*n_per_case)++];
        *j.line = (struct report_check){.check = check, .case_id = input->suite->cases[i].id, .verdict = VERDICT_PASS};
        judge_case(&j, check, (uint32_t)i);
    }
    return j.out_of_memory ? error_set(error, ERROR_RUNTIME, "out of memory") : 0;
}
