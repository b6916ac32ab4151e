// Snapshots of the recurrent states: what a run writes every so many tokens, and what continues from there.
#include <criterion/criterion.h>

#include <string.h>

#include "harness/base/files.h"
#include "harness/run/record.h"
#include "tests/fake_engine.h"

enum { N = 11, EVERY = 4 };
static const uint32_t tokens[N] = {1, 5, 16, 3, 3, 9, 0, 2, 11, 4, 7};
static struct arena arena;
static char *directory;
static struct error error;
static const struct record record = {.contract = {.model = "fake", .model_type = "lfm2", .weights_sha256 = "",
    .config_sha256 = "", .bundle_sha256 = "", .tokenizer_sha256 = "", .engine = "", .engine_version = "", .device = "",
    .precision = "", .mode = "", .start = ""}, .logits = DTYPE_F32, .quiet = true};

static void make_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
}

static void remove_directory(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(snapshot, .init = make_directory, .fini = remove_directory);

static const char *place(const char *name)
{
    return file_join(&arena, directory, name);
}

static struct trace *recorded(const struct record_run *run, struct fake *fake, uint32_t chunk, const char *name)
{
    struct trace *trace;
    struct record how = record;
    how.chunk = chunk;
    cr_assert_eq(record_run(&how, run, &fake->engine, place(name), &error), 0, "%s", error.text);
    cr_assert_eq(trace_open(&trace, place(name), &error), 0, "%s", error.text);
    return trace;
}

static struct state *snapshots_of(const struct trace *trace, size_t *n)
{
    struct state *snapshots;
    cr_assert_eq(trace_snapshots(trace, &arena, &snapshots, n, &error), 0, "%s", error.text);
    return snapshots;
}

static const struct record_run whole = {.tokens = tokens, .n = N, .state = true, .state_every = EVERY};

Test(snapshot, each_is_the_recurrent_part_of_the_state_after_so_many_tokens)
{
    struct fake fake = fake_make(HEALTHY);
    struct trace *trace = recorded(&whole, &fake, 0, "whole");
    size_t n;
    const struct state *snapshots = snapshots_of(trace, &n);
    cr_assert_eq(n, 2);
    cr_assert_str_eq(safetensors_metadata(trace->file, "state_every"), "4");
    for (size_t i = 0; i < n; i++) {
        const struct record_run part = {.tokens = tokens, .n = snapshots[i].position, .state = true};
        struct trace *short_run = recorded(&part, &fake, 0, "part");
        struct state end, at;
        cr_assert_eq(snapshots[i].position, (i + 1) * EVERY);
        cr_assert_eq(snapshots[i].n, 1);
        cr_assert_eq(snapshots[i].tensors[0].kind, STATE_CONV);
        cr_assert_eq(trace_state(short_run, &arena, &end, &error), 0);
        cr_assert_eq(trace_state_at(trace, snapshots[i].position, &arena, &at, &error), 0, "%s", error.text);
        cr_assert(at.n == end.n && at.position == end.position);
        for (size_t k = 0; k < at.n; k++) { // keys and values are cut out of the end state
            cr_assert_eq(at.tensors[k].elements, end.tensors[k].elements);
            cr_assert_eq(at.tensors[k].kind, end.tensors[k].kind);
            cr_assert_eq(memcmp(at.tensors[k].data, end.tensors[k].data, end.tensors[k].elements * sizeof(float)), 0);
        }
        trace_close(&short_run);
    }
    trace_close(&trace);
}

Test(snapshot, in_batches_they_are_the_same)
{
    struct fake single = fake_make(HEALTHY), many = fake_batching(HEALTHY);
    struct trace *one = recorded(&whole, &single, 0, "one"), *two = recorded(&whole, &many, RECORD_BATCH, "two");
    size_t n, m;
    const struct state *a = snapshots_of(one, &n), *b = snapshots_of(two, &m);
    cr_assert(n == 2 && m == 2);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(memcmp(a[i].tensors[0].data, b[i].tensors[0].data, a[i].tensors[0].elements * sizeof(float)), 0);
    trace_close(&one);
    trace_close(&two);
}

static void continues(enum flaw flaw, bool equal)
{
    struct fake fake = fake_make(flaw);
    struct trace *trace = recorded(&whole, &fake, 0, "whole");
    const struct record_run rest = {.tokens = tokens + EVERY, .n = N - EVERY, .from = place("whole"), .at = EVERY,
        .state = true, .state_every = EVERY};
    struct trace *second = recorded(&rest, &fake, 0, "rest");
    float x[V], y[V];
    cr_expect_eq(second->contract.position, EVERY);
    const bool same = !memcmp(trace_logits(trace, N - 1, x), trace_logits(second, N - EVERY - 1, y), sizeof x);
    cr_expect_eq(same, equal);
    size_t n;
    const struct state *snapshots = snapshots_of(second, &n);
    cr_expect_eq(n, 1); // positions are absolute: 8 alone
    cr_expect_eq(snapshots[0].position, 2 * EVERY);
    trace_close(&second);
    trace_close(&trace);
}

Test(snapshot, a_run_continued_from_one_equals_the_run_that_never_stopped)
{
    continues(HEALTHY, true);
}

Test(snapshot, an_engine_that_loses_a_state_on_loading_shows)
{
    continues(LOAD_LOSES_CONV, false);
    continues(LOAD_LOSES_KEYS, false);
}

Test(snapshot, that_is_not_there_is_refused)
{
    struct fake fake = fake_make(HEALTHY);
    struct trace *trace = recorded(&whole, &fake, 0, "whole");
    struct state state;
    cr_expect_eq(trace_state_at(trace, 5, &arena, &state, &error), ERROR_INPUT);
    cr_expect(strstr(error.text, "no snapshot after 5 positions; there are 2, from 4 to 8"), "%s", error.text);
    cr_expect_eq(trace_state_at(trace, N, &arena, &state, &error), 0); // the end state
    cr_expect_eq(state.n, 3);
    trace_close(&trace);
    const struct record_run without = {.tokens = tokens, .n = N, .state = true};
    trace = recorded(&without, &fake, 0, "without");
    cr_expect_eq(trace_state_at(trace, 4, &arena, &state, &error), ERROR_INPUT);
    cr_expect(strstr(error.text, "no snapshot after 4 positions, the trace has 11; record it with --state-every N and --state"),
              "%s", error.text);
    trace_close(&trace);
}

// Keys and values stand in the end state, so that --state-every alone keeps half of each state on the way.
Test(snapshot, without_an_end_state_is_refused_by_the_option_that_keeps_it)
{
    struct fake fake = fake_make(HEALTHY);
    const struct record_run snapshots = {.tokens = tokens, .n = N, .state_every = EVERY};
    struct trace *trace = recorded(&snapshots, &fake, 0, "snapshots");
    trace_close(&trace);
    const struct record_run rest = {.tokens = tokens + EVERY, .n = N - EVERY, .from = place("snapshots"), .at = EVERY};
    cr_expect_eq(record_run(&record, &rest, &fake.engine, place("rest"), &error), ERROR_INPUT);
    cr_expect(strstr(error.text, "no keys and values") && strstr(error.text, "record it with --state, beside"), "%s",
              error.text);
    cr_expect_not(file_exists(place("rest")));
    continues(HEALTHY, true); // the control: with both
}

// A trace of N tokens whose snapshot is called `name`.
static int open_foreign(const char *name, enum dtype dtype, uint32_t rank)
{
    struct safetensors_writer *writer;
    struct trace *trace = NULL;
    const struct tensor_declaration tensors[] = {{.name = "tokens", .dtype = DTYPE_I32, .rank = 1, .shape = {N}},
        {.name = "logits", .dtype = DTYPE_F32, .rank = 2, .shape = {N, V}},
        {.name = name, .dtype = dtype, .rank = rank, .shape = {2, 2, 2}}};
    const char *metadata[] = {"schema", TRACE_SCHEMA};
    static const float zeros[N * V];
    cr_assert_eq(safetensors_create(&writer, place("foreign"), tensors, 3, metadata, 1, 8, &error), 0, "%s", error.text);
    safetensors_write(writer, 0, 0, tokens, sizeof tokens);
    safetensors_write(writer, 1, 0, zeros, sizeof zeros);
    safetensors_write(writer, 2, 0, zeros, (size_t)(rank == 3 ? 8 : 4) * sizeof *zeros);
    cr_assert_eq(safetensors_commit(&writer, &error), 0, "%s", error.text);
    const int code = trace_open(&trace, place("foreign"), &error);
    trace_close(&trace);
    return code;
}

Test(snapshot, of_a_wrong_name_place_or_shape_is_refused)
{
    cr_expect_eq(open_foreign("snapshot.4.0.conv", DTYPE_F32, 2), 0, "%s", error.text);
    cr_expect_eq(open_foreign("snapshot.11.3.delta", DTYPE_F32, 3), 0, "%s", error.text);
    const struct {
        const char *name, *sentence;
        enum dtype dtype;
        uint32_t rank;
    } mutants[] = {
        {"snapshot.12.0.conv", "is of position 12; this trace holds positions 1 to 11", DTYPE_F32, 2},
        {"snapshot.0.0.conv", "is of position 0", DTYPE_F32, 2},
        {"snapshot.4.0.k", "keys and values stand in the end state", DTYPE_F32, 3},
        {"snapshot.4.0.memory", "is no snapshot that this build knows", DTYPE_F32, 2},
        {"snapshot.04.0.conv", "is no snapshot that this build knows", DTYPE_F32, 2},
        {"snapshot.4.0.conv", "expected F32 [channels, K-1]", DTYPE_I32, 2},
        {"snapshot.4.0.conv", "expected F32 [channels, K-1]", DTYPE_F32, 3},
        {"snapshot.4.0.delta", "expected F32 [Hv, dk, dv]", DTYPE_F32, 2},
    };
    for (size_t i = 0; i < sizeof mutants / sizeof *mutants; i++) {
        cr_expect_eq(open_foreign(mutants[i].name, mutants[i].dtype, mutants[i].rank), ERROR_INPUT, "%zu", i);
        cr_expect(strstr(error.text, mutants[i].sentence), "expected \"%s\" in \"%s\"", mutants[i].sentence, error.text);
    }
}
