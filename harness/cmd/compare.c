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

static int compare_run(const struct options *options, struct arena *arena, struct policy **policy,
                       struct comparison **comparison, struct report **report, struct error *error)
{
    const double started = progress_clock();
    const char *path = options_text(options, "policy"), *out = options_text(options, "out");
    const char *reference = options->positional[0], *candidate = options->positional[1];
    struct trace *trace;
    const struct suite *suite;
    int code = trace_open(&trace, reference, error);
    if (code)
        return code;
    if (!path)
        code = subject_data(arena, "policies/release.json", "--policy FILE", &path, error);
    if (!code)
        code = policy_open(policy, path, family_of_type(trace->contract.model_type), NULL, error);
    trace_close(&trace);
    if (!code)
        code = compare_traces(comparison, reference, candidate, (*policy)->limit[LIMIT_FLOOR],
                              (*policy)->limit[LIMIT_REFERENCE_ERROR], &suite, error);
    if (code)
        return code;
    require_shown(*policy, *comparison);
    struct gate_input input = {.suite = suite, .policy = *policy, .comparison = *comparison, .kind = ENGINE_TRACE,
        .engine = (*comparison)->candidate.engine,
        .asked = {[CHECK_FLIPS] = true, [CHECK_DISTANCE] = true, [CHECK_STATE] = (*comparison)->declared[CHECK_STATE] > 0}};
    code = gate_judge(report, &input, error);
    if (code)
        return code;
    (*report)->command = options->line;
    (*report)->model_path = reference;
    (*report)->bundle_path = candidate;
    (*report)->seconds = progress_clock() - started;
    if (out)
        code = writer_all(*report, out, error);
    return code;
}

static int run_compare(const struct options *options, struct error *error)
{
    struct arena arena = {0};
    struct policy *policy = NULL;
    struct comparison *comparison = NULL;
    struct report *report = NULL;
    struct output *output;
    files_guard_signals(options->line);
    int code = compare_run(options, &arena, &policy, &comparison, &report, error);
    if (!code && options->json && !(code = output_open(&output, "/dev/stdout", error))) {
        writer_json.write(output, report);
        code = output_commit(&output, error);
    } else if (!code) {
        const char *text = writer_text_render(&arena, report, isatty(STDOUT_FILENO));
        code = text ? 0 : error_set(error, ERROR_RUNTIME, "out of memory");
        if (text)
            fputs(text, stdout);
    }
    const int status = code ? code : report->exit_code;
    gate_close(&report);
    compare_close(&comparison);
    policy_close(&policy);
    arena_close(&arena);
    return status;
}

const struct command command_compare = {
    "compare", "REFERENCE.safetensors CANDIDATE.safetensors", "compare two traces of the same tokens",
    "Flips, distances and end states of the candidate against the reference, judged by the policy's budget and caps. There is\n"
    "no fp16 arm in two bare traces: every real flip counts as introduced.",
    "assay compare out/reference.safetensors out/int8.safetensors",
    compare_options, 2, 2, run_compare};
