#include <criterion/criterion.h>

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/run/cache.h"
#include "harness/run/record.h"
#include "tests/fake_engine.h"

#define WEIGHTS "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define CONFIG "2123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// Steps of the reference per case: 9 + 6 generated, 4 of them again from the seed.
enum { CASES = 3, CASE_STEPS = 19, ENTRY_FILES = 3 };

static uint32_t tokens[CASES][9] = {
    {1, 5, 16, 3, 3, 9, 0, 2, 11}, {2, 5, 16, 3, 3, 9, 0, 2, 11}, {3, 5, 16, 3, 3, 9, 0, 2, 11}};
static struct suite_case cases[CASES];
static struct suite suite = {.name = "three", .n_cases = CASES, .cases = cases};
static struct arena arena;
static char *scratch;
static const char *kept; // where the entries are

static void setup(void)
{
    static const char *const ids[CASES] = {"one", "two", "three"};
    cr_assert_eq(directory_scratch(&arena, &scratch, NULL), 0);
    setenv("XDG_CACHE_HOME", scratch, 1);
    unsetenv("ASSAY_NO_CACHE");
    kept = file_join(&arena, scratch, "assay/traces");
    for (size_t i = 0; i < CASES; i++)
        cases[i] = (struct suite_case){.id = ids[i], .domain = "", .n = 9, .tokens = tokens[i], .seeded = 4,
            .rollout = 6, .checks = {[CHECK_SWEEP] = true, [CHECK_SEEDED] = true, [CHECK_ROLLOUT] = true}};
}

static void teardown(void)
{
    directory_remove(scratch);
    arena_close(&arena);
}

TestSuite(cache, .init = setup, .fini = teardown);

// --- one run of the reference over the suite, into a directory of its own

static struct trace_contract contract = {.model = "fake", .model_type = "lfm2", .weights_sha256 = WEIGHTS,
    .config_sha256 = CONFIG, .bundle_sha256 = "", .tokenizer_sha256 = "", .engine = "", .engine_version = "",
    .device = "", .precision = "", .mode = "", .start = ""};

struct outcome {
    size_t hits;
    uint64_t steps;
    int code;
};

static struct outcome run_with(struct cache *cache, const char *name, const struct trace_contract *who, enum flaw flaw)
{
    struct fake fake = fake_make(flaw);
    if (flaw == NAN_ROW)
        fake.flawed_position = 10; // among the generated ones: no pick
    struct record record = {.directory = file_join(&arena, scratch, name), .contract = *who, .logits = DTYPE_F32,
        .quiet = true, .cache = cache};
    for (size_t check = 0; check < CHECK_COUNT; check++)
        record.checks[check] = true;
    struct outcome outcome = {.code = record_suite(&record, &suite, &fake.engine, NULL)};
    outcome.steps = fake.steps;
    outcome.hits = cache_hits(cache);
    return outcome;
}

static struct outcome run(const char *name)
{
    struct cache *cache = cache_open(CACHE_DEFAULT_BYTES);
    cr_assert_not_null(cache);
    const struct outcome outcome = run_with(cache, name, &contract, HEALTHY);
    cr_assert_eq(outcome.code, 0);
    cache_close(&cache);
    return outcome;
}

static bool equal_directories(const char *a, const char *b)
{
    static const char *const endings[] = {"", "prefix", "seeded"};
    bool equal = true;
    for (size_t i = 0; i < CASES; i++)
        for (size_t j = 0; j < 3 && equal; j++) {
            char x[HASH_HEX], y[HASH_HEX];
            cr_assert_eq(hash_file(record_path(&arena, file_join(&arena, scratch, a), cases[i].id, endings[j]), x, NULL), 0);
            cr_assert_eq(hash_file(record_path(&arena, file_join(&arena, scratch, b), cases[i].id, endings[j]), y, NULL), 0);
            equal = !strcmp(x, y);
        }
    return equal;
}

// Names in a directory, sorted, dots excluded unless `hidden`.
static size_t names_in(const char *path, bool hidden, char names[16][NAME_MAX + 1])
{
    size_t n = 0;
    struct dirent **list;
    const int found = scandir(path, &list, NULL, alphasort);
    for (int i = 0; i < found; i++) {
        if (strcmp(list[i]->d_name, ".") && strcmp(list[i]->d_name, "..") && (hidden || list[i]->d_name[0] != '.'))
            snprintf(names[n++ % 16], NAME_MAX + 1, "%s", list[i]->d_name);
        free(list[i]);
    }
    if (found >= 0)
        free(list);
    return n;
}

static size_t entries(void)
{
    char names[16][NAME_MAX + 1];
    return names_in(kept, true, names);
}

static const char *entry(size_t index)
{
    char names[16][NAME_MAX + 1];
    cr_assert_lt(index, names_in(kept, true, names));
    return file_join(&arena, kept, names[index]);
}

static const char *entry_file(size_t index, size_t file)
{
    char names[16][NAME_MAX + 1];
    const char *directory = entry(index);
    cr_assert_eq(names_in(directory, true, names), ENTRY_FILES);
    return file_join(&arena, directory, names[file]);
}

// --- what it is for

Test(cache, the_second_run_computes_nothing_and_has_the_same_bytes)
{
    const struct outcome first = run("first"), second = run("second");
    cr_expect_eq(first.hits, 0);
    cr_expect_eq(first.steps, CASES * CASE_STEPS);
    cr_expect_eq(second.hits, CASES);
    cr_expect_eq(second.steps, 0);
    cr_expect(equal_directories("first", "second"));
    cr_expect_eq(entries(), CASES);
}

Test(cache, without_a_cache_the_bytes_are_the_same)
{
    run("first");
    cr_assert_eq(run_with(NULL, "second", &contract, HEALTHY).steps, CASES * CASE_STEPS);
    cr_expect(equal_directories("first", "second"));
}

Test(cache, what_a_stopped_run_finished_is_there)
{
    struct cache *cache = cache_open(CACHE_DEFAULT_BYTES);
    suite.n_cases = 2;
    run_with(cache, "first", &contract, HEALTHY);
    suite.n_cases = CASES;
    cache_close(&cache);
    const struct outcome next = run("second");
    cr_expect_eq(next.hits, 2);
    cr_expect_eq(next.steps, CASE_STEPS);
}

Test(cache, a_run_that_failed_keeps_nothing_of_the_case)
{
    struct cache *cache = cache_open(CACHE_DEFAULT_BYTES);
    cr_assert_eq(run_with(cache, "first", &contract, NAN_ROW).code, ERROR_RUNTIME);
    cache_close(&cache);
    cr_expect_eq(entries(), 0);
}

Test(cache, a_candidate_is_never_kept)
{
    run("reference");
    struct cache *cache = cache_open(CACHE_DEFAULT_BYTES);
    struct fake fake = fake_make(HEALTHY);
    struct record record = {.directory = file_join(&arena, scratch, "candidate"), .contract = contract,
        .reference = file_join(&arena, scratch, "reference"), .logits = DTYPE_F16, .quiet = true, .cache = cache};
    memset(record.checks, true, sizeof record.checks);
    cr_assert_eq(record_suite(&record, &suite, &fake.engine, NULL), 0);
    cr_expect_eq(fake.steps, CASES * CASE_STEPS);
    cr_expect_eq(cache_hits(cache), 0);
    cr_expect_eq(entries(), CASES);
    cache_close(&cache);
}

Test(cache, it_can_be_switched_off)
{
    setenv("ASSAY_NO_CACHE", "1", 1);
    cr_expect_null(cache_open(CACHE_DEFAULT_BYTES));
    unsetenv("ASSAY_NO_CACHE");
    setenv("XDG_CACHE_HOME", "/dev/null", 1); // no place: no cache, and no failure
    cr_expect_null(cache_open(CACHE_DEFAULT_BYTES));
}

// --- what belongs to another question

Test(cache, other_inputs_have_other_entries)
{
    run("first");
    struct trace_contract others[] = {contract, contract, contract, contract};
    others[0].weights_sha256 = OTHER;
    others[1].config_sha256 = OTHER;
    others[2].tokenizer_sha256 = OTHER;
    others[3].model = "renamed";
    struct cache *cache = cache_open(CACHE_DEFAULT_BYTES);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        cr_expect_eq(run_with(cache, "second", &others[i], HEALTHY).hits, 0, "%zu", i);
    cases[0].rollout = 5; // each differs from the entries by one number
    cases[1].seeded = 3;
    tokens[2][8] = 12;
    cr_expect_eq(run_with(cache, "second", &contract, HEALTHY).hits, 0);
    tokens[2][8] = 11;
    cases[2].checks[CHECK_SEEDED] = false; // fewer files
    cr_expect_eq(run_with(cache, "second", &contract, HEALTHY).hits, 2, "the two of the run before");
    cache_close(&cache);
}

Test(cache, without_hashes_nothing_is_kept)
{
    struct trace_contract unknown = contract;
    unknown.weights_sha256 = "";
    struct cache *cache = cache_open(CACHE_DEFAULT_BYTES);
    cr_expect_eq(run_with(cache, "first", &unknown, HEALTHY).code, 0);
    cr_expect_eq(entries(), 0);
    cache_close(&cache);
}

// --- what is not what it says

// One byte is another, at `part` of 7 of the file.
static void write_byte(const char *path, unsigned part, int change)
{
    // a new file, as a damaged disk would show it: the first run's directory may hold a link to the old one
    char *text;
    uint64_t size;
    cr_assert_eq(file_read(&arena, path, 1 << 20, &text, &size, NULL), 0);
    cr_assert_eq(unlink(path), 0);
    const uint64_t at = (size - 1) * part / 7;
    text[at] = (char)(text[at] ^ change);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(text, 1, size, file), size);
    fclose(file);
}

// After damage to one entry: found, computed again, and whole for the run after.
static void expect_repaired(const char *what)
{
    const struct outcome second = run("second"), third = run("third");
    cr_expect_eq(second.hits, CASES - 1, "%s: %zu hits", what, second.hits);
    cr_expect_eq(second.steps, CASE_STEPS, "%s", what);
    cr_expect_eq(third.hits, CASES, "%s", what);
    cr_expect(equal_directories("first", "second") && equal_directories("first", "third"), "%s", what);
    cr_expect_eq(entries(), CASES, "%s", what);
}

Test(cache, a_flipped_bit_anywhere_is_found)
{
    run("first");
    for (size_t file = 0; file < ENTRY_FILES; file++)
        for (unsigned part = 0; part <= 7; part++) {
            write_byte(entry_file(1, file), part, 0x10);
            expect_repaired("flipped bit");
        }
}

Test(cache, a_cut_file_is_found)
{
    run("first");
    for (size_t file = 0; file < ENTRY_FILES; file++) {
        write_byte(entry_file(1, file), 0, 0);
        cr_assert_eq(truncate(entry_file(1, file), 100), 0);
        expect_repaired("cut");
    }
}

Test(cache, a_missing_doubled_or_foreign_file_is_found)
{
    run("first");
    cr_assert_eq(unlink(entry_file(0, 2)), 0);
    expect_repaired("missing");
    const char *one = entry_file(0, 0);
    cr_assert_eq(link(one, arena_print(&arena, "%s/whole-" OTHER ".safetensors", entry(0))), 0);
    expect_repaired("doubled");
    cr_assert_eq(link(entry_file(0, 0), arena_print(&arena, "%s/notes.txt", entry(0))), 0);
    expect_repaired("foreign");
    cr_assert_eq(link(entry_file(0, 0), arena_print(&arena, "%s/middle-" OTHER ".safetensors", entry(0))), 0);
    expect_repaired("unknown purpose");
}

Test(cache, a_whole_entry_of_another_case_under_this_name_is_found)
{
    run("first");
    const char *a = entry(0), *b = entry(1), *aside = file_join(&arena, kept, "aside");
    cr_assert(!rename(a, aside) && !rename(b, a) && !rename(aside, b));
    const struct outcome second = run("second");
    cr_expect_eq(second.hits, CASES - 2, "every hash is right, the tokens are another's");
    cr_expect(equal_directories("first", "second"));
    cr_expect_eq(run("third").hits, CASES);
}

Test(cache, a_whole_entry_of_another_model_under_this_name_is_found)
{
    struct trace_contract other = contract;
    other.weights_sha256 = OTHER;
    suite.n_cases = 1;
    run("first");
    const char *mine = entry(0), *aside = file_join(&arena, scratch, "aside");
    cr_assert_eq(rename(mine, aside), 0);
    struct cache *cache = cache_open(CACHE_DEFAULT_BYTES);
    cr_assert_eq(run_with(cache, "other", &other, HEALTHY).code, 0);
    cr_assert_eq(rename(entry(0), mine), 0);
    cr_expect_eq(run_with(cache, "second", &contract, HEALTHY).hits, 0);
    cache_close(&cache);
    suite.n_cases = CASES;
}

Test(cache, an_entry_that_is_a_file_or_a_link_to_nowhere_is_replaced)
{
    run("first");
    const char *one = entry(0);
    directory_remove(one);
    cr_assert_eq(symlink("/nonexistent", one), 0);
    expect_repaired("link to nowhere");
    one = entry(0);
    directory_remove(one);
    cr_assert_eq(link(record_path(&arena, file_join(&arena, scratch, "first"), "one", NULL), one), 0);
    expect_repaired("file");
}

// --- room

static uint64_t size_of(const char *path)
{
    struct stat status;
    cr_assert_eq(stat(path, &status), 0);
    return (uint64_t)status.st_size;
}

Test(cache, least_recently_used_entries_go_first)
{
    run("first");
    uint64_t bytes = 0;
    for (size_t file = 0; file < ENTRY_FILES; file++)
        bytes += size_of(entry_file(0, file));
    for (size_t i = 0; i < CASES; i++) { // long ago, in the order of the cases
        const struct timespec then[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
        cr_assert_eq(utimensat(AT_FDCWD, entry(i), then, 0), 0);
    }
    suite.n_cases = 1; // case "one" is used
    run("second");
    suite.n_cases = CASES;
    struct cache *cache = cache_open(bytes + bytes / 2); // room for one
    cr_expect_eq(entries(), 1);
    cr_expect_eq(run_with(cache, "third", &contract, HEALTHY).hits, 1, "the one that was used last");
    cr_expect_eq(entries(), 1, "each new one takes the place of the one before");
    cache_close(&cache);
    cache = cache_open(bytes / 2);
    cr_expect_eq(run_with(cache, "fourth", &contract, HEALTHY).hits, 0);
    cr_expect_eq(entries(), 0, "a case that is larger than the limit is not kept");
    cache_close(&cache);
    cr_expect(equal_directories("first", "third") && equal_directories("first", "fourth"));
}

// --- other processes

Test(cache, what_a_dead_process_left_is_removed_and_a_living_one_s_is_not)
{
    run("first");
    const pid_t child = fork();
    if (!child)
        _exit(0);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    const char *dead = arena_print(&arena, "%s/.assay-%ld-0.part", kept, (long)child);
    const char *alive = arena_print(&arena, "%s/.assay-%ld-0.part", kept, (long)getppid());
    cr_assert(!mkdir(dead, 0777) && !mkdir(alive, 0777));
    cr_assert_eq(link(entry_file(2, 0), file_join(&arena, dead, "whole.safetensors")), 0);
    cr_expect_eq(run("second").hits, CASES);
    cr_expect(!file_exists(dead));
    cr_expect(file_exists(alive));
}

static void *run_thread(void *argument)
{
    struct arena own = {0};
    struct fake fake = fake_make(HEALTHY);
    struct cache *cache = cache_open(CACHE_DEFAULT_BYTES);
    const struct record record = {.directory = argument, .contract = contract, .logits = DTYPE_F32, .quiet = true,
        .cache = cache, .checks = {[CHECK_SWEEP] = true, [CHECK_SEEDED] = true, [CHECK_ROLLOUT] = true}};
    const int code = record_suite(&record, &suite, &fake.engine, NULL);
    cache_close(&cache);
    arena_close(&own);
    return code ? argument : NULL;
}

Test(cache, several_at_once_leave_one_whole_entry_per_case)
{
    pthread_t threads[8];
    char *names[8];
    for (int i = 0; i < 8; i++)
        names[i] = file_join(&arena, scratch, arena_print(&arena, "at-once-%d", i));
    for (int i = 0; i < 8; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, run_thread, names[i]), 0);
    for (int i = 0; i < 8; i++) {
        void *failed;
        cr_assert_eq(pthread_join(threads[i], &failed), 0);
        cr_expect_null(failed);
    }
    for (int i = 1; i < 8; i++)
        cr_expect(equal_directories("at-once-0", arena_print(&arena, "at-once-%d", i)));
    cr_expect_eq(entries(), CASES);
    cr_expect_eq(run("after").hits, CASES);
}
