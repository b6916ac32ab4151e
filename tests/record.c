#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/hash.h"
#include "harness/run/record.h"
#include "tests/equal_traces.h"

#define WEIGHTS "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER_WEIGHTS "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// --- two cases: one with everything, one for determinism only

static uint32_t long_tokens[] = {1, 5, 16, 3, 3, 9, 0, 2, 11}, short_tokens[] = {4};
static struct suite_case cases[] = {{.id = "long",
                                     .domain = "",
                                     .n = 9,
                                     .tokens = long_tokens,
                                     .seeded = 4,
                                     .rollout = 6,
                                     .checks = {false, true, true, true, true, true, true, true, true}},
                                    {.id = "short",
                                     .domain = "",
                                     .n = 1,
                                     .tokens = short_tokens,
                                     .checks = {[CHECK_DETERMINISM] = true, [CHECK_PATHS] = true}}};
static const struct suite suite = {.name = "two", .n_cases = 2, .cases = cases};

static struct arena arena;
static char *directory;
static const char *reference_directory, *candidate_directory;

static void make_directories(void)
{
    setenv("ASSAY_NO_CACHE", "1", 1); // hash_file must not write elsewhere
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
    reference_directory = file_join(&arena, directory, "reference");
    candidate_directory = file_join(&arena, directory, "candidate");
}

static void remove_directories(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(record, .init = make_directories, .fini = remove_directories);

static struct record record_of(bool is_reference)
{
    struct record record = {.directory = is_reference ? reference_directory : candidate_directory,
                            .reference = is_reference ? NULL : reference_directory,
                            .contract = {.model = "fake",
                                         .model_type = "lfm2",
                                         .weights_sha256 = WEIGHTS,
                                         .config_sha256 = "",
                                         .bundle_sha256 = "",
                                         .tokenizer_sha256 = "",
                                         .engine = "",
                                         .engine_version = "",
                                         .device = "",
                                         .precision = "",
                                         .mode = "",
                                         .start = ""},
                            .logits = is_reference ? DTYPE_F32 : DTYPE_F16,
                            .quiet = true};
    for (size_t check = 0; check < CHECK_COUNT; check++)
        record.checks[check] = true;
    return record;
}

static void record_ok(const struct record *record, struct fake *fake)
{
    struct error error = {0};
    cr_assert_eq(record_suite(record, &suite, &fake->engine, &error), 0, "%s", error.text);
}

// The reference healthy, the candidate with `flaw`, both with all checks.
static void record_both(enum flaw flaw)
{
    struct fake fake = fake_make(HEALTHY), candidate = fake_make(flaw);
    const struct record reference_record = record_of(true), candidate_record = record_of(false);
    record_ok(&reference_record, &fake);
    record_ok(&candidate_record, &candidate);
}

static bool exists(const char *where, const char *id, const char *purpose)
{
    return file_exists(record_path(&arena, where, id, purpose));
}

static struct trace *read(const char *where, const char *id, const char *purpose)
{
    struct error error = {0};
    struct trace *trace;
    cr_assert_eq(trace_open(&trace, record_path(&arena, where, id, purpose), &error), 0, "%s", error.text);
    return trace;
}

// --- the reference

Test(record, the_reference_generates_the_lowest_index_of_the_maximum_and_marks_how_many)
{
    record_both(HEALTHY);
    struct trace *whole = read(reference_directory, "long", NULL);
    cr_assert_eq(whole->n, 15);
    cr_expect_eq(whole->contract.generated, 6);
    cr_expect_str_eq(whole->contract.start, "zero");
    cr_expect_str_eq(whole->contract.mode, "s1");
    cr_expect_str_eq(whole->contract.engine, "fake");
    cr_expect_str_eq(whole->contract.engine_version, ASSAY_VERSION);
    for (uint32_t t = 0; t < 15; t++) {
        uint32_t expected = t < 9 ? long_tokens[t] : 0;
        const float *row = t < 9 ? NULL : trace_logits(whole, t - 1, NULL);
        for (uint32_t i = 1; row && i < V; i++)
            expected = row[i] > row[expected] ? i : expected;
        cr_expect_eq((uint32_t)whole->tokens[t], expected, "token %u", t);
    }
    trace_close(&whole);
}

Test(record, the_reference_leaves_seeds_and_no_trace_that_nobody_compares)
{
    record_both(HEALTHY);
    cr_expect(exists(reference_directory, "long", "prefix"));
    cr_expect(exists(reference_directory, "long", "seeded"));
    cr_expect(exists(reference_directory, "short", NULL)); // others follow it in determinism and paths
    cr_expect_not(exists(reference_directory, "long", "again"));
    cr_expect_not(exists(reference_directory, "long", "middle"));
    cr_expect_not(exists(reference_directory, "long", "restored"));
    cr_expect_not(exists(candidate_directory, "long", "prefix"));
    cr_expect_not(exists(candidate_directory, "short", "restored")); // one token has no middle
    cr_expect(exists(candidate_directory, "short", "again"));
}

Test(record, seeded_runs_of_both_sides_start_from_the_same_file_and_continue_the_whole_run)
{
    record_both(HEALTHY);
    char digest[HASH_HEX];
    cr_assert_eq(hash_file(record_path(&arena, reference_directory, "long", "prefix"), digest, NULL), 0);
    struct trace *prefix = read(reference_directory, "long", "prefix"),
                 *whole = read(reference_directory, "long", NULL);
    cr_expect_eq(prefix->n, 5);
    cr_expect(equal_rows(prefix, 0, whole, 0, 5));
    for (size_t side = 0; side < 2; side++) {
        struct trace *seeded = read(side ? candidate_directory : reference_directory, "long", "seeded");
        cr_expect_str_eq(seeded->contract.start, digest);
        cr_expect_eq(seeded->contract.position, 5);
        cr_expect_eq(seeded->n, 4);
        cr_expect(equal_rows(seeded, 0, whole, 5, 4));
        struct state state;
        cr_assert_eq(trace_state(seeded, &arena, &state, NULL), 0);
        cr_expect_eq(state.position, 9);
        cr_expect_eq(state.n, 3);
        trace_close(&seeded);
    }
    trace_close(&prefix);
    trace_close(&whole);
}

Test(record, a_reference_row_without_a_pick_is_an_error_that_names_case_and_position)
{
    const enum flaw flaws[] = {NAN_ROW, EQUAL_ROW, INFINITE_ROW};
    for (size_t i = 0; i < 3; i++) {
        struct fake fake = fake_make(flaws[i]);
        fake.flawed_position = 10;
        const struct record record = record_of(true);
        struct error error = {0};
        cr_expect_eq(record_suite(&record, &suite, &fake.engine, &error), ERROR_RUNTIME);
        cr_expect(strstr(error.text, "case 'long'") && strstr(error.text, "position 10"), "%s", error.text);
        cr_expect_not(exists(reference_directory, "long", NULL));
    }
}

Test(record, a_reference_row_without_a_pick_is_data_where_no_pick_is_needed)
{
    struct fake fake = fake_make(NAN_ROW);
    fake.flawed_position = 14; // the last row: nothing follows
    const struct record record = record_of(true);
    record_ok(&record, &fake);
    fake.flawed_position = 2; // a token of the case follows
    record_ok(&record, &fake);
}

// --- the others

Test(record, every_other_engine_is_fed_the_continuation_of_the_reference)
{
    const enum flaw flaws[] = {OTHER_PICKS, NAN_ROW};
    for (size_t i = 0; i < 2; i++) {
        struct fake fake = fake_make(HEALTHY), candidate = fake_make(flaws[i]);
        candidate.flawed_position = 11;
        struct record reference_record = record_of(true), candidate_record = record_of(false);
        candidate_record.logits = DTYPE_F32;
        record_ok(&reference_record, &fake);
        record_ok(&candidate_record, &candidate);
        struct trace *a = read(reference_directory, "long", NULL), *b = read(candidate_directory, "long", NULL);
        struct error error = {0};
        cr_expect_eq(trace_comparable(a, b, true, &error), 0, "%s", error.text);
        cr_expect_eq(b->contract.generated, 0);
        cr_expect_not(equal_rows(a, 0, b, 0, 15));
        trace_close(&a);
        trace_close(&b);
    }
}

Test(record, a_healthy_engine_repeats_itself_bit_for_bit_and_restores_from_the_middle)
{
    record_both(HEALTHY);
    char digest[HASH_HEX], first[HASH_HEX], second[HASH_HEX];
    cr_assert_eq(hash_file(record_path(&arena, candidate_directory, "long", NULL), first, NULL), 0);
    cr_assert_eq(hash_file(record_path(&arena, candidate_directory, "long", "again"), second, NULL), 0);
    cr_expect_str_eq(first, second);

    struct trace *whole = read(candidate_directory, "long", NULL),
                 *rest = read(candidate_directory, "long", "restored");
    cr_assert_eq(hash_file(record_path(&arena, candidate_directory, "long", "middle"), digest, NULL), 0);
    cr_expect_str_eq(rest->contract.start, digest);
    cr_expect_eq(rest->contract.position, 7);
    cr_expect_eq(rest->n, 8);
    cr_expect(equal_rows(whole, 7, rest, 0, 8));
    cr_expect(equal_states(&arena, whole, rest));
    cr_expect_eq(memcmp(whole->tokens + 7, rest->tokens, 8 * sizeof *rest->tokens), 0);
    trace_close(&whole);
    trace_close(&rest);
}

Test(record, an_engine_that_loses_a_state_on_load_restores_to_other_rows)
{
    const enum flaw flaws[] = {LOAD_LOSES_CONV, LOAD_LOSES_KEYS};
    for (size_t i = 0; i < 2; i++) {
        record_both(flaws[i]);
        struct trace *whole = read(candidate_directory, "long", NULL);
        struct trace *rest = read(candidate_directory, "long", "restored");
        cr_expect_not(equal_rows(whole, 7, rest, 0, 8), "flaw %d", (int)flaws[i]);
        trace_close(&whole);
        trace_close(&rest);
    }
}

Test(record, an_engine_that_keeps_a_state_over_reset_is_another_the_second_time)
{
    record_both(RESET_KEEPS_CONV);
    struct trace *whole = read(candidate_directory, "long", NULL),
                 *again = read(candidate_directory, "long", "again");
    cr_expect_not(equal_rows(whole, 0, again, 0, 15));
    trace_close(&whole);
    trace_close(&again);
}

// --- many tokens a call

Test(record, a_reference_in_batches_leaves_the_rows_and_states_of_steps)
{
    static const char *const purposes[] = {NULL, "prefix", "seeded"};
    struct fake fake = fake_make(HEALTHY), batching = fake_batching(HEALTHY);
    struct record steps = record_of(true), batches = record_of(true);
    batches.directory = candidate_directory;
    batches.chunk = RECORD_BATCH;
    record_ok(&steps, &fake);
    record_ok(&batches, &batching);
    // 9 tokens: 5 up to the branch, 3, and the last one as a step, since tokens are generated from its row; 4 seeded;
    // the short case
    cr_expect_eq(batching.calls, 4u);
    cr_expect_eq(batching.steps, fake.steps);
    for (size_t i = 0; i < 3; i++) {
        struct trace *a = read(reference_directory, "long", purposes[i]);
        struct trace *b = read(candidate_directory, "long", purposes[i]);
        cr_assert_eq(a->n, b->n);
        cr_expect(!memcmp(a->tokens, b->tokens, a->n * sizeof *a->tokens));
        cr_expect(equal_rows(a, 0, b, 0, a->n), "%s", purposes[i] ? purposes[i] : "whole");
        cr_expect(equal_states(&arena, a, b), "%s", purposes[i] ? purposes[i] : "whole");
        cr_expect_str_eq(a->contract.mode, "s1");
        cr_expect_str_eq(b->contract.mode, "batch");
        trace_close(&a);
        trace_close(&b);
    }
}

static void expect_second_runs(enum flaw flaw, bool equal)
{
    static const struct {
        const char *purpose, *mode;
    } ways[] = {{"batch", "batch"}, {"chunk", "chunk:7"}};
    struct fake fake = fake_make(HEALTHY), candidate = fake_batching(flaw);
    const struct record reference_record = record_of(true), record = record_of(false);
    record_ok(&reference_record, &fake);
    record_ok(&record, &candidate);
    cr_expect_eq(candidate.steps, record_positions(&record, &suite, &candidate.engine));
    struct trace *whole = read(candidate_directory, "long", NULL);
    cr_expect_str_eq(whole->contract.mode, "s1");
    for (size_t i = 0; i < 2; i++) {
        struct trace *trace = read(candidate_directory, "long", ways[i].purpose);
        cr_expect_str_eq(trace->contract.mode, ways[i].mode);
        cr_expect_eq(trace->n, whole->n);
        cr_expect_eq(equal_rows(whole, 0, trace, 0, trace->n), equal, "%s", ways[i].purpose);
        trace_close(&trace);
    }
    trace_close(&whole);
}

Test(record, a_candidate_with_batches_is_run_in_both_ways_for_paths)
{
    expect_second_runs(HEALTHY, true);
}

Test(record, a_batch_that_sees_a_later_token_leaves_other_rows)
{
    expect_second_runs(BATCH_SEES_LATER, false);
}

Test(record, batches_of_an_engine_that_has_none_are_refused)
{
    struct error error = {0};
    struct fake fake = fake_make(HEALTHY);
    struct record record = record_of(true);
    record.chunk = 3;
    cr_expect_eq(record_suite(&record, &suite, &fake.engine, &error), ERROR_USAGE);
    cr_expect(strstr(error.text, "one token at a time") && strstr(error.text, "chunk:3"), "%s", error.text);
}

// --- what is asked for

Test(record, only_what_is_asked_for_runs_and_every_step_is_announced)
{
    static const char *const purposes[] = {NULL, "seeded", "again", "middle", "restored"};
    struct fake fake = fake_make(HEALTHY);
    const struct record all = record_of(true);
    record_ok(&all, &fake);
    cr_expect_eq(fake.steps, record_positions(&all, &suite, &fake.engine));
    cr_expect_eq(fake.steps, 15 + 4 + 1); // whole with prefix on the way, seeded; the short case
    const struct {
        enum check check;
        bool files[5]; // of the long case
        uint64_t steps;
    } expected[] = {
        {CHECK_WEIGHTS, {false}, 0},
        {CHECK_SWEEP, {true}, 15},
        {CHECK_SEEDED, {false, true}, 4},
        {CHECK_STATE, {true}, 15},
        {CHECK_DETERMINISM, {true, false, true}, 2 * (15 + 1)},
        {CHECK_PATHS, {true, false, false, true, true}, 15 + 8 + 1},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct fake candidate = fake_make(HEALTHY);
        struct record record = record_of(false);
        memset(record.checks, 0, sizeof record.checks);
        record.checks[expected[i].check] = true;
        directory_remove(candidate_directory);
        record_ok(&record, &candidate);
        for (size_t j = 0; j < 5; j++)
            cr_expect_eq(exists(candidate_directory, "long", purposes[j]), expected[i].files[j], "row %zu file %zu",
                         i, j);
        cr_expect_eq(candidate.steps, expected[i].steps, "row %zu", i);
        cr_expect_eq(record_positions(&record, &suite, &candidate.engine), expected[i].steps, "row %zu", i);
    }
}

Test(record, the_reference_runs_a_prefix_alone_when_no_whole_run_is_asked_for)
{
    struct fake fake = fake_make(HEALTHY);
    struct record record = record_of(true);
    memset(record.checks, 0, sizeof record.checks);
    record.checks[CHECK_SEEDED] = true;
    record_ok(&record, &fake);
    cr_expect_eq(fake.steps, 5 + 4);
    cr_expect_eq(record_positions(&record, &suite, &fake.engine), 5 + 4);
    cr_expect(exists(reference_directory, "long", "prefix"));
    cr_expect_not(exists(reference_directory, "long", NULL));
}

// --- what is refused

static void expect_suite_refused(const struct record *record, struct fake *fake, int code, const char *sentence)
{
    struct error error = {0};
    cr_expect_eq(record_suite(record, &suite, &fake->engine, &error), code, "%s", sentence);
    cr_expect(strstr(error.text, sentence), "expected \"%s\" in \"%s\"", sentence, error.text);
}

Test(record, without_the_traces_of_the_reference_nothing_can_be_followed)
{
    struct fake fake = fake_make(HEALTHY);
    const struct record record = record_of(false);
    expect_suite_refused(&record, &fake, ERROR_INPUT, "reference/long.safetensors");
}

Test(record, traces_of_other_tokens_or_of_another_model_are_refused)
{
    struct fake fake = fake_make(HEALTHY);
    const struct record reference_record = record_of(true);
    record_ok(&reference_record, &fake);
    struct record record = record_of(false);
    record.contract.weights_sha256 = OTHER_WEIGHTS;
    expect_suite_refused(&record, &fake, ERROR_CONTRACT,
                         "its weights_sha256 is " WEIGHTS ", expected " OTHER_WEIGHTS);
    record = record_of(false);
    cases[0].rollout = 5;
    expect_suite_refused(&record, &fake, ERROR_CONTRACT, "holds 15 tokens, expected 9 of the case and 5 generated");
    cases[0].rollout = 6;
    long_tokens[3] = 4;
    expect_suite_refused(&record, &fake, ERROR_CONTRACT, "token 3 is 3, in the suite it is 4");
}

Test(record, a_case_that_is_longer_than_the_engine_is_refused_by_name)
{
    struct fake fake = fake_make(HEALTHY);
    fake.engine.capacity = 14;
    const struct record record = record_of(true);
    expect_suite_refused(&record, &fake, ERROR_USAGE, "case 'long': engine 'fake' has room for 14 positions");
    cr_expect_not(exists(reference_directory, "long", NULL));
    cr_expect_not(exists(reference_directory, "long", "prefix"));
}

Test(record, case_ids_that_name_another_purpose_are_refused)
{
    struct fake fake = fake_make(HEALTHY);
    const struct record record = record_of(true);
    cases[1].id = "long.again";
    expect_suite_refused(&record, &fake, ERROR_INPUT, "case 'long.again': an id must not end in '.again'");
    cr_expect_not(file_exists(reference_directory));
}

Test(record, a_directory_that_cannot_be_made_is_an_error)
{
    struct fake fake = fake_make(HEALTHY);
    struct record record = record_of(true);
    struct output *output;
    cr_assert_eq(output_open(&output, reference_directory, NULL), 0);
    cr_assert_eq(output_commit(&output, NULL), 0);
    struct error error = {0};
    cr_expect_lt(record_suite(&record, &suite, &fake.engine, &error), 0);
    cr_expect(strstr(error.text, "reference"), "%s", error.text);
}
