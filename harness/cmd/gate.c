// assay gate: the main job. Runs the reference, the candidate and its control arms over a suite, compares, judges, reports.
#include "harness/judge/gate.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/progress.h"
#include "harness/cmd/arms.h"
#include "harness/cmd/options.h"
#include "harness/cmd/recording.h"
#include "harness/cmd/subject.h"
#include "harness/judge/validate.h"
#include "harness/run/record.h"
#include "reports/writer.h"
#include "runtime/audit.h"

static const struct option gate_options[] = {
    {"bundle", "DIR", "the int8 bundle to judge"},
    {"suite", "FILE", "prompts and checks, JSON or CSV (default: the standard suite of the family)"},
    {"policy", "FILE", "the limits (default: policies/release.json)"},
    {"engine", "NAME", "int8 (default), fp16, expected, dequant, or trace:DIR with one CASE.safetensors a case"},
    {"checks", "LIST", "only these of the suite's checks, separated by commas"},
    {"mode", "MODE", "how the reference runs: batch (default), chunk:N or s1; the same bits"},
    {"out", "DIR", "write report.json, report.txt, positions.csv and junit.xml there"},
    {"keep-traces", NULL, "keep every trace under OUT/traces"},
    {"fault", "NAME", "plant a fault in the int8 runtime, to see this gate catch it"},
    RECORDING_OPTIONS,
    {0},
};

// One gate from open to report; everything is closed by gate_run_close in the reverse order.
struct gate_run {
    const struct options *options;
    struct arena arena;
    double started;
    struct subject *subject;
    struct policy *policy;
    struct suite *suite;
    struct bundle *bundle;
    struct cache *cache;          // of the reference's traces; NULL: none
    struct arms arms;
    const char *foreign;          // DIR of --engine trace:DIR, or NULL
    enum arm_kind candidate;
    enum fault fault;
    const char *engine_name;
    bool asked[CHECK_COUNT];
    char *scratch;                // removed at the end
    const char *traces;           // directory with one directory per arm
    struct audit audit;
    bool audited;
    struct comparison *comparison;
    struct validation *validation;
    struct report *report;
};

static void gate_run_close(struct gate_run *run)
{
    gate_close(&run->report);
    validate_close(&run->validation);
    compare_close(&run->comparison);
    arms_close(&run->arms);
    cache_close(&run->cache);
    bundle_close(&run->bundle);
    suite_close(&run->suite);
    policy_close(&run->policy);
    subject_close(&run->subject);
    if (run->scratch)
        directory_remove(run->scratch);
    arena_close(&run->arena);
}

static int out_of_memory(struct error *error)
{
    return error_set(error, ERROR_RUNTIME, "out of memory");
}

// --- what was asked

static int choose_checks(struct gate_run *run, struct error *error)
{
    memcpy(run->asked, run->suite->checks, sizeof run->asked);
    const char *list = options_text(run->options, "checks");
    if (!list)
        return 0;
    bool chosen[CHECK_COUNT] = {0};
    char *words = arena_print(&run->arena, "%s", list), *rest = NULL;
    if (!words)
        return out_of_memory(error);
    for (char *word = strtok_r(words, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        enum check check;
        const int code = check_parse(word, &check, error);
        if (code)
            return code;
        if (!run->suite->checks[check])
            return error_set(error, ERROR_USAGE, "--checks %s: suite '%s' does not ask for it", word, run->suite->name);
        chosen[check] = true;
    }
    memcpy(run->asked, chosen, sizeof chosen);
    return 0;
}

static int choose_engine(struct gate_run *run, struct error *error)
{
    const char *name = options_text(run->options, "engine"), *fault = options_text(run->options, "fault");
    int code = 0;
    run->candidate = ARM_KIND_INT8;
    if (name && !strncmp(name, "trace:", 6)) {
        run->foreign = name + 6;
        if (!file_is_directory(run->foreign))
            return error_set(error, ERROR_INPUT, "%s: expected a directory with one CASE.safetensors per case of the suite",
                             run->foreign);
    } else if (name) {
        code = arms_parse(name, &run->candidate, error);
    }
    if (!code && fault)
        code = fault_parse(fault, &run->fault, error);
    if (!code && run->fault != FAULT_NONE && (run->foreign || run->candidate != ARM_KIND_INT8))
        code = error_set(error, ERROR_USAGE, "--fault: planted in the int8 runtime only, found --engine %s", name);
    if (!code && !options_text(run->options, "bundle") && !run->foreign && run->candidate != ARM_KIND_FP16)
        code = error_set(error, ERROR_USAGE, "which bundle? Make one with: assay quantize %s --scheme int8hu_block32_sym --out "
                         "BUNDLE, then add --bundle BUNDLE", run->options->positional[0]);
    run->engine_name = run->foreign ? "trace" : arms_name(run->candidate);
    return code;
}

static int open_inputs(struct gate_run *run, struct error *error)
{
    const struct options *options = run->options;
    const char *policy = options_text(options, "policy"), *suite = options_text(options, "suite");
    const char *bundle = options_text(options, "bundle");
    int code = choose_engine(run, error);
    if (!code)
        code = subject_open(&run->subject, options->positional[0], error);
    if (!code && !policy)
        code = subject_data(&run->arena, "policies/release.json", "--policy FILE", &policy, error);
    if (!code)
        code = policy_open(&run->policy, policy, family_name(run->subject->config.family), NULL, error);
    if (!code && !suite)
        code = subject_suite(&run->arena, &run->subject->config, &suite, error);
    if (!code)
        code = suite_open(&run->suite, suite, &run->subject->config, run->subject->tokenizer, error);
    if (!code)
        code = choose_checks(run, error);
    if (!code && bundle && !(code = bundle_open(&run->bundle, bundle, error)))
        code = bundle_matches(run->bundle, &run->subject->hashes, error);
    return code;
}

static int open_places(struct gate_run *run, struct error *error)
{
    const char *out = options_text(run->options, "out");
    const bool keep = options_flag(run->options, "keep-traces");
    if (keep && !out)
        return error_set(error, ERROR_USAGE, "--keep-traces: expected --out DIR beside it");
    int code = directory_scratch(&run->arena, &run->scratch, error);
    if (!code && out)
        code = directory_make(out, error); // before the work, so that a wrong place is told at once
    if (!code && out && access(out, W_OK) != 0)
        code = error_set(error, ERROR_USAGE, "%s: the directory cannot be written to; choose another --out", out);
    if (!code) {
        run->traces = keep ? file_join(&run->arena, out, "traces") : run->scratch;
        code = run->traces ? recording_cache(run->options, &run->cache, error) : out_of_memory(error);
    }
    run->arms = (struct arms){.isa = run->options->isa, .subject = run->subject, .bundle = run->bundle,
        .policy = run->policy, .scratch = run->scratch, .quiet = run->options->quiet};
    return code;
}

// --- the numbers

// What one arm records where; the arms run what the candidate's checks compare them on, and nothing else.
static int plan_arm(struct gate_run *run, enum arm_kind kind, struct recording_arm *arm, struct error *error)
{
    const bool is_reference = kind == ARM_KIND_REFERENCE, is_candidate = kind == run->candidate;
    const char *reference = file_join(&run->arena, run->traces, "reference");
    const char *directory = file_join(&run->arena, run->traces, arms_name(kind));
    if (!reference || !directory)
        return out_of_memory(error);
    *arm = (struct recording_arm){.kind = kind, .fault = is_candidate ? run->fault : FAULT_NONE,
        .record = {.directory = directory, .reference = is_reference ? NULL : reference, .contract = run->subject->contract,
                   .quiet = run->options->quiet, .cache = is_reference ? run->cache : NULL}};
    bool *checks = arm->record.checks;
    memcpy(checks, run->asked, sizeof run->asked);
    if (is_reference)
        return options_mode(run->options, RECORD_BATCH, &arm->record.chunk, error);
    if (!is_candidate)
        checks[CHECK_DETERMINISM] = checks[CHECK_PATHS] = false;
    if (!is_candidate && kind == ARM_KIND_EXPECTED)
        checks[CHECK_SWEEP] = checks[CHECK_ROLLOUT] = checks[CHECK_FLIPS] = false;
    const int code = arms_prepare(&run->arms, kind, error);
    const struct bundle *bundle = kind == ARM_KIND_FP16 ? run->arms.fp16 : kind == ARM_KIND_EXPECTED ? run->arms.expected
                                                                         : run->bundle;
    return code ? code : subject_bundle_contract(&run->arena, bundle, &arm->record.contract, error);
}

static int record_arms(struct gate_run *run, struct error *error)
{
    const enum arm_kind kinds[] = {ARM_KIND_REFERENCE, run->candidate, ARM_KIND_FP16, ARM_KIND_EXPECTED};
    const bool wanted[] = {true, !run->foreign, run->candidate != ARM_KIND_FP16,
                           run->bundle && run->candidate != ARM_KIND_EXPECTED};
    struct recording_arm list[sizeof kinds / sizeof *kinds];
    size_t n = 0;
    int code = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && !code; i++)
        if (wanted[i])
            code = plan_arm(run, kinds[i], &list[n++], error);
    if (!code)
        code = recording_run(&run->arms, list, n, run->suite, run->options->threads, error);
    if (!code && !run->foreign && !(run->engine_name = arena_print(&run->arena, "%s", list[1].engine)))
        code = out_of_memory(error);
    return code;
}

static int audit(struct gate_run *run, struct error *error)
{
    if (!run->bundle || !run->asked[CHECK_WEIGHTS])
        return 0;
    const char **allowed = arena_alloc(&run->arena, run->policy->n_allowed, sizeof *allowed);
    if (!allowed)
        return out_of_memory(error);
    for (size_t i = 0; i < run->policy->n_allowed; i++)
        allowed[i] = run->policy->allowed[i].plan;
    int code = arms_prepare(&run->arms, ARM_KIND_EXPECTED, error);
    if (!code)
        code = audit_bundle(&run->arena, run->bundle, run->arms.expected, &run->subject->model, allowed, run->policy->n_allowed,
                            &run->audit, error);
    run->audited = !code;
    return code;
}

static int compare(struct gate_run *run, struct error *error)
{
    const char *candidate = run->foreign ? run->foreign : file_join(&run->arena, run->traces, arms_name(run->candidate));
    const bool has_expected = run->bundle || run->candidate == ARM_KIND_EXPECTED;
    struct compare_request request = {.suite = run->suite,
        .reference = file_join(&run->arena, run->traces, "reference"),
        .arms = {[ARM_CANDIDATE] = candidate, [ARM_FP16] = file_join(&run->arena, run->traces, "fp16"),
                 [ARM_EXPECTED] = has_expected ? file_join(&run->arena, run->traces, "expected") : NULL},
        .floor = run->policy->limit[LIMIT_FLOOR], .reference_error = run->policy->limit[LIMIT_REFERENCE_ERROR],
        .model = &run->subject->model, .routing_sd = run->policy->limit[LIMIT_ROUTING_SD]};
    if (!request.reference || !candidate || !request.arms[ARM_FP16] || (has_expected && !request.arms[ARM_EXPECTED]))
        return out_of_memory(error);
    memcpy(request.checks, run->asked, sizeof request.checks);
    int code = compare_suite(&run->comparison, &request, error);
    if (!code)
        code = validate_suite(&run->validation, run->suite, &run->subject->config, run->policy, request.reference, error);
    return code;
}

// --- the verdict

// Which states the candidate owes in fp32. The arms beside the bundle have plans of their own.
static void promised_states(const struct gate_run *run, bool float_state[STATE_KINDS])
{
    static const enum plan_row rows[STATE_KINDS] = {[STATE_K] = PLAN_KV_STATE, [STATE_V] = PLAN_KV_STATE,
                                                    [STATE_CONV] = PLAN_CONV_STATE, [STATE_DELTA] = PLAN_DELTA_STATE};
    const bool of_bundle = run->bundle && (run->foreign || run->candidate == ARM_KIND_INT8);
    for (int kind = 0; kind < STATE_KINDS; kind++)
        float_state[kind] = of_bundle && run->bundle->plan.rows[rows[kind]] == PRECISION_F32;
}

static int judge(struct gate_run *run, struct error *error)
{
    struct gate_input input = {.suite = run->suite, .policy = run->policy, .comparison = run->comparison,
        .audit = run->audited ? &run->audit : NULL, .kind = run->foreign ? ENGINE_TRACE : ENGINE_OWN, .engine = run->engine_name,
        .exact_kernel = !run->foreign && (run->candidate == ARM_KIND_INT8 || run->candidate == ARM_KIND_EXPECTED)};
    memcpy(input.asked, run->asked, sizeof input.asked);
    promised_states(run, input.float_state);
    const int code = gate_judge(&run->report, &input, error);
    if (code)
        return code;
    struct report *report = run->report;
    report->command = run->options->line;
    report->model_path = run->subject->checkpoint->path;
    report->bundle_path = run->bundle ? run->bundle->path : "";
    report->scheme = run->bundle ? run->bundle->scheme_name : "";
    report->notes = arena_alloc(&report->arena, run->validation->n + 2, sizeof *report->notes);
    if (!report->notes)
        return out_of_memory(error);
    const char *from_cache = recording_note(&run->arena, run->cache, run->suite);
    if (run->subject->head_note)
        report->notes[report->n_notes++] = run->subject->head_note;
    if (from_cache)
        report->notes[report->n_notes++] = from_cache;
    for (size_t i = 0; i < run->validation->n; i++)
        report->notes[report->n_notes++] = run->validation->findings[i];
    report->seconds = progress_clock() - run->started;
    return 0;
}

static int publish(struct gate_run *run, struct error *error)
{
    const char *out = options_text(run->options, "out");
    struct output *output;
    int code = out ? writer_all(run->report, out, error) : 0;
    if (code)
        return code;
    if (!run->options->json) {
        const char *text = writer_text_render(&run->arena, run->report, isatty(STDOUT_FILENO));
        if (!text)
            return out_of_memory(error);
        fputs(text, stdout);
    } else if (!(code = output_open(&output, "/dev/stdout", error))) {
        writer_json.write(output, run->report);
        code = output_commit(&output, error);
    }
    return code;
}

static int run_gate(const struct options *options, struct error *error)
{
    struct gate_run run = {.options = options, .started = progress_clock()};
    files_guard_signals(options->line);
    int code = open_inputs(&run, error);
    if (!code)
        code = open_places(&run, error);
    if (!code)
        code = audit(&run, error);
    if (!code)
        code = record_arms(&run, error);
    if (!code)
        code = compare(&run, error);
    if (!code)
        code = judge(&run, error);
    if (!code)
        code = publish(&run, error);
    const int status = code ? code : run.report->exit_code;
    gate_run_close(&run);
    return status;
}

const struct command command_gate = {
    "gate", "MODEL --bundle DIR [--suite F] [--policy F] [--out DIR]", "judge an int8 bundle against its fp32 checkpoint",
    "Runs the fp32 reference of MODEL, the bundle in the portable int8 runtime, and the control arms fp16 and expected over\n"
    "a suite; compares every position, state, weight and choice of experts; judges by the policy's limits.\n"
    "Exit: 0 pass, 1 fail, 2 usage or unreadable input or things that do not belong together, 3 could not judge,\n"
    "75 trouble at run time (retry).",
    "assay gate fixtures/models/lfm2-mini --bundle out/lfm2_mini_decode_int8hu_block32_sym --out out/report",
    gate_options, 1, 1, run_gate};
