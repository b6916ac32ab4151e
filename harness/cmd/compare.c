// assay compare: two trace files, one verdict.
#include "harness/judge/compare.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/progress.h"
#include "harness/cmd/options.h"
#include "harness/cmd/subject.h"
#include "harness/judge/gate.h"
#include "reports/writer.h"

static const struct option compare_options[] = {
    {"policy", "FILE", "the limits (default: policies/release.json)"},
    {"model", "CHECKPOINT", "that both are of: by its bias the experts of LFM2-MoE were chosen, which traces do not hold"},
    {"out", "DIR", "write report.json, report.txt, positions.csv and junit.xml there"},
    {0},
};

// Two bare traces carry neither a second run nor the arms: what they can show is required, nothing else.
static void require_shown(struct policy *policy, const struct comparison *comparison)
{
    memset(policy->required, 0, sizeof policy->required);
    policy->required[ENGINE_TRACE][CHECK_FLIPS] = true;
    policy->required[ENGINE_TRACE][CHECK_DISTANCE] = true;
    policy->limit[LIMIT_MIN_FLIPS] = 1.0;
    policy->reason[LIMIT_MIN_FLIPS] = "a pair of traces is compared as long as it is";
    policy->limit[LIMIT_MIN_DISTANCE] = 1.0;
    policy->reason[LIMIT_MIN_DISTANCE] = policy->reason[LIMIT_MIN_FLIPS];
    const double distinct = (double)comparison->distinct_top1[CHECK_FLIPS];
    if (comparison->compared[CHECK_FLIPS] < (uint64_t)policy->limit[LIMIT_MIN_TOP1])
        policy->limit[LIMIT_MIN_TOP1] = distinct < 1.0 ? 1.0 : distinct;
}

struct pair {
    struct arena arena;
    struct subject *subject; // NULL without --model
    struct policy *policy;
    struct comparison *comparison;
    struct report *report;
};

static void close_pair(struct pair *pair)
{
    gate_close(&pair->report);
    compare_close(&pair->comparison);
    policy_close(&pair->policy);
    subject_close(&pair->subject);
    arena_close(&pair->arena);
}

// Weights and config of the trace, where it states them, are the checkpoint's.
static int belongs(const struct subject *subject, const struct trace *trace, struct error *error)
{
    const struct {
        const char *key, *trace, *model;
    } hashes[] = {{"weights_sha256", trace->contract.weights_sha256, subject->contract.weights_sha256},
                  {"config_sha256", trace->contract.config_sha256, subject->contract.config_sha256}};
    for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++)
        if (hashes[i].trace[0] && strcmp(hashes[i].trace, hashes[i].model))
            return error_set(error, ERROR_CONTRACT, "%s: %s is %s, and %s in --model %s; name the checkpoint that the trace "
                             "was recorded from", trace->file->path, hashes[i].key, hashes[i].trace, hashes[i].model,
                             subject->checkpoint->path);
    return 0;
}

static int open_pair(struct pair *pair, const struct options *options, struct error *error)
{
    const char *path = options_text(options, "policy"), *model = options_text(options, "model");
    struct trace *trace = NULL;
    int code = model ? subject_open(&pair->subject, model, error) : 0;
    if (!code && pair->subject && !(code = trace_open(&trace, options->positional[1], error)))
        code = belongs(pair->subject, trace, error);
    trace_close(&trace);
    if (!code)
        code = trace_open(&trace, options->positional[0], error);
    if (!code && pair->subject)
        code = belongs(pair->subject, trace, error);
    if (!code && !path)
        code = subject_data(&pair->arena, "policies/release.json", "--policy FILE", &path, error);
    if (!code)
        code = policy_open(&pair->policy, path, family_of_type(trace->contract.model_type), NULL, error);
    trace_close(&trace);
    return code;
}

static int compare_run(struct pair *pair, const struct options *options, struct error *error)
{
    const double started = progress_clock();
    const char *out = options_text(options, "out");
    const struct suite *suite;
    int code = open_pair(pair, options, error);
    if (code)
        return code;
    const struct compare_request request = {.reference = options->positional[0],
        .arms = {[ARM_CANDIDATE] = options->positional[1]}, .floor = pair->policy->limit[LIMIT_FLOOR],
        .reference_error = pair->policy->limit[LIMIT_REFERENCE_ERROR],
        .model = pair->subject ? &pair->subject->model : NULL, .routing_sd = pair->policy->limit[LIMIT_ROUTING_SD]};
    code = compare_traces(&pair->comparison, &request, &suite, error);
    if (code)
        return code;
    const struct comparison *comparison = pair->comparison;
    require_shown(pair->policy, comparison);
    struct gate_input input = {.suite = suite, .policy = pair->policy, .comparison = comparison, .kind = ENGINE_TRACE,
        .engine = comparison->candidate.engine,
        .asked = {[CHECK_FLIPS] = true, [CHECK_DISTANCE] = true, [CHECK_STATE] = comparison->declared[CHECK_STATE] > 0}};
    code = gate_judge(&pair->report, &input, error);
    if (code)
        return code;
    pair->report->command = options->line;
    pair->report->model_path = request.reference;
    pair->report->bundle_path = request.arms[ARM_CANDIDATE];
    pair->report->seconds = progress_clock() - started;
    if (out)
        code = writer_all(pair->report, out, error);
    return code;
}

static int run_compare(const struct options *options, struct error *error)
{
    struct pair pair = {0};
    struct output *output;
    files_guard_signals(options->line);
    int code = compare_run(&pair, options, error);
    if (!code && options->json && !(code = output_open(&output, "/dev/stdout", error))) {
        writer_json.write(output, pair.report);
        code = output_commit(&output, error);
    } else if (!code) {
        const char *text = writer_text_render(&pair.arena, pair.report, isatty(STDOUT_FILENO));
        code = text ? 0 : error_set(error, ERROR_RUNTIME, "out of memory");
        if (text)
            fputs(text, stdout);
    }
    const int status = code ? code : pair.report->exit_code;
    close_pair(&pair);
    return status;
}

const struct command command_compare = {
    "compare", "REFERENCE.safetensors CANDIDATE.safetensors", "compare two traces of the same tokens",
    "Flips, distances, choices of experts (recorded with --taps router) and end states of the candidate against the\n"
    "reference, judged by the policy's budget and caps. There is no fp16 arm in two bare traces: every real flip counts as\n"
    "introduced.",
    "assay compare out/reference.safetensors out/int8.safetensors",
    compare_options, 2, 2, run_compare};
