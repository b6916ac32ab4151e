// A report made by hand, for the tests of its formats. Strings are hostile, numbers are NaN and infinite.
#ifndef ASSAY_TESTS_SAMPLE_REPORT_H
#define ASSAY_TESTS_SAMPLE_REPORT_H

#include "reports/writer.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/csv.h"
#include "harness/base/json.h"
#include "harness/base/utf8.h"

#define HOSTILE "a\"b'c<d>&e]]>\x01\x1b[31m\n\xff\xc3\xa4,"

static struct arena arena;
static char *directory;
static struct error error;

// Two cases; the tests change what they are about.
static struct sample {
    struct report report;
    struct suite suite;
    struct policy policy;
    struct audit audit;
    struct comparison comparison;
    struct suite_case cases[2];
    struct compared_position positions[3];
    struct compared_state states[2];
    struct compared_rollout rollouts[1];
    struct compared_rows rows[1];
    struct missing missing[1];
    struct report_check checks[6];
    struct report_number numbers[2];
    struct audit_finding finding;
    const char *notes[1];
} s;

static const struct trace_contract contract = {
    .model = "m",
    .model_type = "lfm2",
    .weights_sha256 = "aa11",
    .config_sha256 = "bb22",
    .bundle_sha256 = "",
    .tokenizer_sha256 = "cc",
    .engine = "int8",
    .engine_version = "1",
    .device = "cpu",
    .precision = "float16",
    .mode = "s1",
    .start = "zero",
};

static void make_sample(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
    s = (struct sample){
        .cases = {{.id = "first"}, {.id = "second"}},
        .positions =
            {
                {.case_index = 0,
                 .position = 3,
                 .checks = {[CHECK_SWEEP] = true, [CHECK_FLIPS] = true},
                 .agreement = AGREE,
                 .route_layer = -1,
                 .route_position = -1,
                 .metric = {.top1 = 5, .top2 = 6, .pick = 5, .top1_logit = 0.1f, .margin = 1.5, .overlap = 10}},
                {.case_index = 1,
                 .position = 9,
                 .checks = {[CHECK_SWEEP] = true},
                 .agreement = REAL_FLIP,
                 .route_layer = 3,
                 .route_position = 8,
                 .introduced = true,
                 .has_fp16 = true,
                 .fp16_agreement = AGREE,
                 .metric = {.top1 = 5,
                            .top2 = 6,
                            .pick = 7,
                            .top1_logit = 0.1f,
                            .pick_logit = -0.4f,
                            .gap = 0.5,
                            .margin = 0.4,
                            .probability_margin = 0.125,
                            .kl = INFINITY,
                            .noise = 1e-300,
                            .overlap = 9}},
                {.case_index = 1,
                 .position = 10,
                 .checks = {[CHECK_SWEEP] = true},
                 .agreement = NO_PICK,
                 .route_layer = -1,
                 .route_position = -1,
                 .metric = {.candidate_class = ROW_NAN,
                            .top1 = 5,
                            .top2 = 6,
                            .pick = -1,
                            .pick_logit = NAN,
                            .gap = NAN,
                            .kl = -NAN}},
            },
        .states = {{.case_index = 0,
                    .layer = 2,
                    .kind = STATE_CONV,
                    .has_expected = true,
                    .candidate = {.candidate_class = ROW_ZERO, .error = 1.0},
                    .expected = {.error = 0.001}},
                   {.case_index = 1,
                    .layer = 4,
                    .kind = STATE_K,
                    .has_expected = true,
                    .candidate = {.error = 0.002},
                    .expected = {.error = 0.001}}},
        .rollouts = {{.case_index = 1, .n = 24, .equal = 20, .first_divergence = 20}},
        .rows = {{.case_index = 0,
                  .check = CHECK_DETERMINISM,
                  .rows = 8,
                  .equal = 8,
                  .has_state = true,
                  .state_equal = true}},
        .missing = {{.case_index = 1, .check = CHECK_SEEDED, .rows = 4, .why = "no such file"}},
        .numbers = {{.name = "introduced real flips", .value = 1, .limit = 0, .ok = false, .reason = HOSTILE},
                    {.name = "sigma", .value = NAN, .limit = 0.1, .ok = false, .reason = "noise"}},
        .checks =
            {
                {.check = CHECK_SWEEP,
                 .case_id = "",
                 .verdict = VERDICT_FAIL,
                 .agree = 1,
                 .of = 3,
                 .detail = HOSTILE,
                 .n_numbers = 2},
                {.check = CHECK_SEEDED,
                 .case_id = "",
                 .verdict = VERDICT_NOT_RUN,
                 .detail = "compared 0 of 4 declared"},
                {.check = CHECK_STATE, .case_id = "", .verdict = VERDICT_ERROR, .detail = "out of memory"},
                {.check = CHECK_DETERMINISM,
                 .case_id = "",
                 .verdict = VERDICT_PASS,
                 .agree = 8,
                 .of = 8,
                 .detail = "bit-equal"},
                {.check = CHECK_SWEEP,
                 .case_id = "first",
                 .verdict = VERDICT_PASS,
                 .agree = 1,
                 .of = 1,
                 .detail = "1/1"},
                {.check = CHECK_SWEEP,
                 .case_id = "second",
                 .verdict = VERDICT_FAIL,
                 .agree = 0,
                 .of = 2,
                 .detail = "0/2 + 1 flip"},
            },
        .finding = {"model.layers.0.w", HOSTILE},
        .notes = {HOSTILE},
    };
    s.checks[0].numbers = s.numbers;
    s.suite =
        (struct suite){.path = (char *)(uintptr_t) "s.json", .name = "standard", .n_cases = 2, .cases = s.cases};
    s.policy = (struct policy){
        .path = (char *)(uintptr_t) "p.json",
        .name = "release",
        .limit = {[LIMIT_CAP_STATE] = 0.05, [LIMIT_RATIO_STATE] = 1.5, [LIMIT_RATIO_SEEDED_STATE] = 1.5},
    };
    s.audit = (struct audit){.tensors = 2, .equal = 1, .n_findings = 1, .findings = &s.finding};
    s.comparison = (struct comparison){
        .n_positions = 3,
        .positions = s.positions,
        .n_states = 2,
        .states = s.states,
        .n_rollouts = 1,
        .rollouts = s.rollouts,
        .n_rows = 1,
        .rows = s.rows,
        .n_missing = 1,
        .missing = s.missing,
        .class_count = {[ROW_FINITE] = 2, [ROW_NAN] = 1},
        .reference = contract,
        .candidate = contract,
        .vocabulary = 64,
    };
    s.comparison.distances[ARM_CANDIDATE] =
        (struct distance){.rows = 1, .sigma = 0.1, .rms = NAN, .kl_max = INFINITY};
    s.report = (struct report){
        .verdict = VERDICT_FAIL,
        .exit_code = 1,
        .why = "sweep: " HOSTILE,
        .n_checks = 6,
        .checks = s.checks,
        .engine = "int8",
        .suite = &s.suite,
        .policy = &s.policy,
        .audit = &s.audit,
        .comparison = &s.comparison,
        .positions = 3,
        .agreed = 1,
        .real_flips = 1,
        .introduced = 1,
        .worst_gap = 0.5,
        .bound = 0.1,
        .confidence = 0.95,
        .design_effect = 2,
        .seconds = 1.25,
        .command = "assay gate " HOSTILE,
        .model_path = "models/" HOSTILE,
        .bundle_path = "bundle",
        .scheme = "int8lin",
        .n_notes = 1,
        .notes = s.notes,
    };
}

static void drop_sample(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

static char *written(const struct writer *writer)
{
    char *path = file_join(&arena, directory, writer->file), *text;
    uint64_t size;
    struct output *output;
    cr_assert_eq(output_open(&output, path, NULL), 0);
    writer->write(output, &s.report);
    cr_assert_eq(output_commit(&output, &error), 0, "%s", error.text);
    cr_assert_eq(file_read(&arena, path, 1 << 22, &text, &size, &error), 0, "%s", error.text);
    cr_assert_eq(strlen(text), size);
    return text;
}

static void expect_utf8(const char *text)
{
    uint32_t code;
    for (size_t n; *text; text += n) {
        n = utf8_character(text, &code);
        cr_assert(n, "not UTF-8: %.20s", text);
        cr_assert(code >= 0x20 || code == '\n', "control character %u", code);
    }
}

static size_t times(const char *text, const char *piece)
{
    size_t n = 0;
    for (; (text = strstr(text, piece)) != NULL; text += strlen(piece))
        n++;
    return n;
}

#endif
