#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/hash.h"
#include "harness/run/sweep.h"
#include "tests/fake_engine.h"

enum { CASES = 11, ARMS = 3 };

static uint32_t tokens[CASES][20];
static char ids[CASES][16];
static struct suite_case cases[CASES];
static const struct suite suite = {.name = "eleven", .n_cases = CASES, .cases = cases};
static struct arena arena;
static char *scratch;

static void setup(void)
{
    setenv("ASSAY_NO_CACHE", "1", 1);
    cr_assert_eq(directory_scratch(&arena, &scratch, NULL), 0);
    for (uint32_t i = 0; i < CASES; i++) {
        for (uint32_t t = 0; t < 20; t++)
            tokens[i][t] = (7 * i + t * t) % V;
        snprintf(ids[i], sizeof ids[i], "case-%u", i);
        cases[i] = (struct suite_case){.id = ids[i], .domain = "", .n = 20 - i, .tokens = tokens[i], .seeded = 4,
            .rollout = i, .checks = {false, true, true, true, true, true, true, i % 2 == 0, true}};
    }
}

static void teardown(void)
{
    directory_remove(scratch);
    arena_close(&arena);
}

TestSuite(sweep, .init = setup, .fini = teardown);

// --- a reference and two candidates, the second with a flaw

struct run {
    struct sweep_arm arms[ARMS];
    struct fake engines[ARMS][SWEEP_LANES];
};

static void prepare(struct run *run, const char *name, enum flaw flaw)
{
    static const char *const arms[ARMS] = {"reference", "int8", "expected"};
    const char *directory = file_join(&arena, scratch, name);
    memset(run, 0, sizeof *run);
    for (size_t arm = 0; arm < ARMS; arm++) {
        struct record *record = &run->arms[arm].record;
        *record = (struct record){.directory = file_join(&arena, directory, arms[arm]), .quiet = true,
            .reference = arm ? file_join(&arena, directory, "reference") : NULL, .logits = DTYPE_F32,
            .contract = {.model = "fake", .model_type = "lfm2", .weights_sha256 = "", .config_sha256 = "",
                         .bundle_sha256 = "", .tokenizer_sha256 = "", .engine = "", .engine_version = "", .device = "",
                         .precision = "", .mode = "", .start = ""}};
        memset(record->checks, true, sizeof record->checks);
        for (size_t lane = 0; lane < SWEEP_LANES; lane++) {
            run->engines[arm][lane] = fake_make(arm == 2 ? flaw : HEALTHY);
            run->arms[arm].lanes[lane] = &run->engines[arm][lane].engine;
        }
    }
}

// Digest of every trace of every arm, in one text.
static const char *digests(const struct run *run)
{
    static const char *const purposes[] = {"", "prefix", "seeded", "again", "middle", "restored"};
    const char *text = "";
    for (size_t arm = 0; arm < ARMS; arm++)
        for (size_t i = 0; i < CASES; i++)
            for (size_t p = 0; p < sizeof purposes / sizeof *purposes; p++) {
                char hex[HASH_HEX] = "absent";
                const char *path = record_path(&arena, run->arms[arm].record.directory, cases[i].id, purposes[p]);
                if (file_exists(path))
                    cr_assert_eq(hash_file(path, hex, NULL), 0);
                text = arena_print(&arena, "%s%zu %s %s %s\n", text, arm, cases[i].id, purposes[p], hex);
            }
    return text;
}

static const char *swept(const char *name, enum flaw flaw, size_t lanes, unsigned threads)
{
    static struct run run;
    struct error error = {0};
    prepare(&run, name, flaw);
    cr_assert_eq(sweep_suite(run.arms, ARMS, lanes, &suite, threads, true, &error), 0, "%s", error.text);
    return digests(&run);
}

static const char *one_after_another(const char *name, enum flaw flaw)
{
    static struct run run;
    prepare(&run, name, flaw);
    for (size_t arm = 0; arm < ARMS; arm++)
        cr_assert_eq(record_suite(&run.arms[arm].record, &suite, run.arms[arm].lanes[0], NULL), 0);
    return digests(&run);
}

Test(sweep, healthy_engines_give_the_traces_of_one_engine_after_another)
{
    const char *expected = one_after_another("serial", HEALTHY);
    static const unsigned threads[] = {1, 2, 3, 7, 40};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++)
        for (size_t lanes = 1; lanes <= SWEEP_LANES; lanes += 3)
            cr_expect_str_eq(swept(arena_print(&arena, "%u-%zu", threads[i], lanes), HEALTHY, lanes, threads[i]),
                             expected, "%u threads, %zu lanes", threads[i], lanes);
}

Test(sweep, an_engine_that_carries_something_over_gives_the_same_traces_for_every_number_of_threads)
{
    const char *expected = swept("one", RESET_KEEPS_CONV, SWEEP_LANES, 1);
    cr_expect_str_neq(expected, one_after_another("healthy", HEALTHY), "the flaw is there");
    for (int i = 0; i < 6; i++) // the threads meet differently each time
        cr_expect_str_eq(swept(arena_print(&arena, "again-%d", i), RESET_KEEPS_CONV, SWEEP_LANES, 2 + (unsigned)i % 4),
                         expected);
    cr_expect_str_eq(swept("one-lane", RESET_KEEPS_CONV, 1, 3), one_after_another("serial", RESET_KEEPS_CONV));
}

Test(sweep, repetitions_follow_other_work)
{
    swept("flawed", RESET_KEEPS_CONV, SWEEP_LANES, 2);
    size_t different = 0, repeated = 0;
    const char *directory = file_join(&arena, scratch, "flawed/expected");
    for (size_t i = 0; i < CASES; i += 2, repeated++) {
        char first[HASH_HEX], again[HASH_HEX];
        cr_assert_eq(hash_file(record_path(&arena, directory, cases[i].id, NULL), first, NULL), 0);
        cr_assert_eq(hash_file(record_path(&arena, directory, cases[i].id, "again"), again, NULL), 0);
        different += strcmp(first, again) != 0;
    }
    cr_expect_eq(different, repeated, "%zu of %zu repetitions show the flaw", different, repeated);
}

Test(sweep, the_first_failure_stops_the_others_and_names_the_case)
{
    static const unsigned threads[] = {1, 2, 5};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        static struct run run;
        struct error error = {0};
        prepare(&run, arena_print(&arena, "failing-%zu", i), HEALTHY);
        for (size_t lane = 0; lane < SWEEP_LANES; lane++) {
            run.engines[0][lane].flaw = NAN_ROW;
            run.engines[0][lane].flawed_position = 18; // generated from in "case-2" and later ones only
        }
        cr_expect_eq(sweep_suite(run.arms, ARMS, SWEEP_LANES, &suite, threads[i], true, &error), ERROR_RUNTIME);
        cr_expect(strstr(error.text, "case 'case-"), "%s", error.text);
        uint64_t steps = 0;
        for (size_t lane = 0; lane < SWEEP_LANES; lane++)
            steps += run.engines[2][lane].steps;
        cr_expect_lt(steps, record_positions(&run.arms[2].record, &suite, run.arms[2].lanes[0]), "the arm came to its end");
    }
}

Test(sweep, a_suite_shorter_than_the_lanes_and_one_arm_alone)
{
    static struct run run;
    struct suite two = suite;
    two.n_cases = 2;
    prepare(&run, "short", HEALTHY);
    cr_assert_eq(sweep_suite(run.arms, 1, SWEEP_LANES, &two, 8, true, NULL), 0);
    cr_expect_gt(run.engines[0][1].steps, 0);
    cr_expect_eq(run.engines[0][2].steps, 0);
    cr_assert_eq(sweep_suite(&run.arms[1], 1, 1, &two, 8, true, NULL), 0, "the reference's traces are there already");
    cr_expect_gt(run.engines[1][0].steps, 0);
}
