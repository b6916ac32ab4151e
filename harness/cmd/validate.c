// assay validate: is this suite able to judge, and does the reference give the answers that were published with it?
#include "harness/judge/validate.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/cmd/arms.h"
#include "harness/cmd/options.h"
#include "harness/cmd/recording.h"
#include "harness/cmd/subject.h"

static const struct option validate_options[] = {
    {"suite", "FILE", "the suite, JSON or CSV (default: the standard suite of the family)"},
    {"policy", "FILE", "the limits (default: policies/release.json)"},
    RECORDING_OPTIONS,
    {0},
};

static void print_text(const struct validation *v, const struct suite *suite, const char *note)
{
    printf("suite %s: %zu cases; sweep %" PRIu64 " positions, flips %" PRIu64 ", distance %" PRIu64 ", rollouts %" PRIu64
           " (%" PRIu64 " strict), undecidable %" PRIu64 "\n", suite->name, suite->n_cases, v->sweep_positions,
           v->flips_positions, v->distance_positions, v->rollouts, v->strict_rollouts, v->undecidable);
    for (size_t i = 0; i < v->n; i++)
        printf("finding: %s\n", v->findings[i]);
    for (size_t i = 0; i < v->answers; i++)
        printf("answer:  %s\n", v->answer_lines[i]);
    if (note)
        printf("note:    %s\n", note);
    if (v->answers)
        printf("%s: %zu of %zu published continuations reproduced\n", v->answers_equal == v->answers ? "PASS" : "FAIL",
               v->answers_equal, v->answers);
}

static void print_list(struct arena *arena, const char *name, const char *const *lines, size_t n)
{
    printf("\"%s\": [", name);
    for (size_t i = 0; i < n; i++)
        printf("%s%s", i ? ", " : "", json_quote(arena, lines[i]));
    printf("]");
}

static void print_json(struct validation *v, const struct suite *suite, const char *note)
{
    printf("{\"suite\": %s, \"sweep_positions\": %" PRIu64 ", \"flips_positions\": %" PRIu64 ", \"distance_positions\": %" PRIu64
           ", \"rollouts\": %" PRIu64 ", \"strict_rollouts\": %" PRIu64 ", \"undecidable\": %" PRIu64 ", \"answers\": %zu, "
           "\"answers_equal\": %zu, ", json_quote(&v->arena, suite->name), v->sweep_positions, v->flips_positions,
           v->distance_positions, v->rollouts, v->strict_rollouts, v->undecidable, v->answers, v->answers_equal);
    print_list(&v->arena, "findings", v->findings, v->n);
    printf(", ");
    print_list(&v->arena, "answer_lines", v->answer_lines, v->answers);
    printf(", ");
    print_list(&v->arena, "notes", &note, note != NULL);
    printf("}\n");
}

struct validate_run {
    struct arena arena;
    struct subject *subject;
    struct policy *policy;
    struct suite *suite;
    struct cache *cache;
    struct validation *validation;
    char *scratch;
};

static int record_reference(struct validate_run *run, const struct options *options, struct error *error)
{
    struct arms arms = {.isa = options->isa, .subject = run->subject, .scratch = run->scratch, .quiet = options->quiet};
    struct recording_arm arm = {.kind = ARM_KIND_REFERENCE,
        .record = {.directory = run->scratch, .contract = run->subject->contract, .quiet = options->quiet, .cache = run->cache}};
    memcpy(arm.record.checks, run->suite->checks, sizeof arm.record.checks);
    return recording_run(&arms, &arm, 1, run->suite, options->threads, error);
}

static int validate(struct validate_run *run, const struct options *options, struct error *error)
{
    const char *suite = options_text(options, "suite"), *policy = options_text(options, "policy");
    int code = subject_open(&run->subject, options->positional[0], error);
    if (!code && !policy)
        code = subject_data(&run->arena, "policies/release.json", "--policy FILE", &policy, error);
    if (!code && !suite)
        code = subject_suite(&run->arena, &run->subject->config, &suite, error);
    if (!code)
        code = policy_open(&run->policy, policy, family_name(run->subject->config.family), NULL, error);
    if (!code)
        code = suite_open(&run->suite, suite, &run->subject->config, run->subject->tokenizer, error);
    if (!code)
        code = directory_scratch(&run->arena, &run->scratch, error);
    if (!code)
        code = recording_cache(options, &run->cache, error);
    if (!code)
        code = record_reference(run, options, error);
    if (!code)
        code = validate_suite(&run->validation, run->suite, &run->subject->config, run->policy, run->scratch, error);
    return code;
}

static int run_validate(const struct options *options, struct error *error)
{
    struct validate_run run = {0};
    files_guard_signals(options->line);
    int status = validate(&run, options, error);
    if (!status) {
        const char *note = recording_note(&run.arena, run.cache, run.suite);
        if (options->json)
            print_json(run.validation, run.suite, note);
        else
            print_text(run.validation, run.suite, note);
        status = run.validation->answers_equal < run.validation->answers;
    }
    validate_close(&run.validation);
    cache_close(&run.cache);
    suite_close(&run.suite);
    policy_close(&run.policy);
    subject_close(&run.subject);
    if (run.scratch)
        directory_remove(run.scratch);
    arena_close(&run.arena);
    return status;
}

const struct command command_validate = {
    "validate", "MODEL [--suite FILE]", "what a suite can judge, and whether its published answers come out",
    "Runs the reference alone: counts decidable positions, says what the suite cannot see, and compares the greedy\n"
    "continuations with those that were published with the suite. Exit 1 when a published continuation is not reproduced.",
    "assay validate fixtures/models/qwen35moe-mini --suite fixtures/suites/known/qwen35moe-mini.json",
    validate_options, 1, 1, run_validate};
