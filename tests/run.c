#include <criterion/criterion.h>

#include <string.h>

#include "harness/base/files.h"
#include "harness/run/record.h"
#include "tests/equal_traces.h"

#define WEIGHTS "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER_WEIGHTS "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const uint32_t tokens[] = {1, 5, 16, 3, 3, 9, 0, 2, 11};

static struct arena arena;
static char *directory;

static void make_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
}

static void remove_directory(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(run, .init = make_directory, .fini = remove_directory);

static const struct record run_as_record = {.contract = {.model = "fake",
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
                                            .logits = DTYPE_F32,
                                            .quiet = true};

static int run_once(const struct record_run *run, struct engine *engine, const char *name, struct error *error)
{
    return record_run(&run_as_record, run, engine, file_join(&arena, directory, name), error);
}

static struct trace *read_run(const char *name)
{
    struct trace *trace;
    cr_assert_eq(trace_open(&trace, file_join(&arena, directory, name), NULL), 0);
    return trace;
}

Test(run, a_run_cut_in_two_equals_the_run_in_one)
{
    struct fake fake = fake_make(HEALTHY);
    struct record_run run = {.tokens = tokens, .n = 9, .generate = 5, .taps = TAPS_ALL, .state = true};
    struct error error = {0};
    cr_assert_eq(run_once(&run, &fake.engine, "one", &error), 0, "%s", error.text);
    run.n = 4;
    run.generate = 0;
    cr_assert_eq(run_once(&run, &fake.engine, "first", NULL), 0);
    run = (struct record_run){.tokens = tokens + 4,
                              .n = 5,
                              .generate = 5,
                              .taps = TAPS_LAYERS,
                              .state = true,
                              .from = file_join(&arena, directory, "first")};
    cr_assert_eq(run_once(&run, &fake.engine, "second", &error), 0, "%s", error.text);
    struct trace *one = read_run("one"), *second = read_run("second");
    cr_expect_eq(second->contract.position, 4);
    cr_expect_eq(second->contract.generated, 5);
    cr_expect(equal_rows(one, 4, second, 0, 10));
    cr_expect(equal_states(&arena, one, second));
    cr_expect_eq(memcmp(one->tokens + 4, second->tokens, 10 * sizeof *one->tokens), 0);
    uint32_t width;
    cr_expect_eq(trace_tap(one, 13, 1, TAP_OUT, &width)[0], trace_tap(second, 9, 1, TAP_OUT, &width)[0]);
    cr_expect_not_null(trace_tap(one, 0, 1, TAP_Q, &width));
    cr_expect_null(trace_tap(second, 0, 1, TAP_Q, &width));
    trace_close(&one);
    trace_close(&second);
}

static void expect_run_refused(const struct record_run *run, struct engine *engine, int code, const char *sentence)
{
    struct error error = {0};
    cr_expect_eq(run_once(run, engine, "refused", &error), code, "%s", sentence);
    cr_expect(strstr(error.text, sentence), "expected \"%s\" in \"%s\"", sentence, error.text);
    cr_expect_not(file_exists(file_join(&arena, directory, "refused")));
}

Test(run, a_run_that_cannot_be_is_refused_and_leaves_nothing)
{
    struct fake fake = fake_make(HEALTHY);
    struct record_run run = {.tokens = tokens, .n = 0, .generate = 3};
    expect_run_refused(&run, &fake.engine, ERROR_INPUT, "no tokens");
    run.n = 9;
    run.generate = CAPACITY - 8;
    expect_run_refused(&run, &fake.engine, ERROR_INPUT, "more than the 64 positions that the model allows");
    run.generate = UINT32_MAX;
    expect_run_refused(&run, &fake.engine, ERROR_INPUT, "9 tokens and 4294967295 to generate");
    run.generate = 0;
    const uint32_t outside[] = {1, V};
    run.tokens = outside;
    run.n = 2;
    expect_run_refused(&run, &fake.engine, ERROR_INPUT, "token 17");
}

Test(run, a_run_from_a_trace_whose_state_does_not_fit_is_refused)
{
    struct fake fake = fake_make(HEALTHY);
    struct record_run run = {.tokens = tokens, .n = 3};
    cr_assert_eq(run_once(&run, &fake.engine, "stateless", NULL), 0);
    run.state = true;
    cr_assert_eq(run_once(&run, &fake.engine, "state", NULL), 0);

    run.from = file_join(&arena, directory, "absent");
    expect_run_refused(&run, &fake.engine, ERROR_INPUT, "absent");
    run.from = file_join(&arena, directory, "stateless");
    expect_run_refused(&run, &fake.engine, ERROR_INPUT, "holds no state to continue from; record it with --state");
    run.from = file_join(&arena, directory, "state");
    struct error error = {0};
    struct record record = run_as_record;
    record.contract.weights_sha256 = OTHER_WEIGHTS;
    cr_expect_eq(record_run(&record, &run, &fake.engine, file_join(&arena, directory, "refused"), &error),
                 ERROR_CONTRACT);
    cr_expect(strstr(error.text, "its weights_sha256 is " WEIGHTS ", expected " OTHER_WEIGHTS), "%s", error.text);
    struct config other = config;
    other.conv_taps = K + 1;
    fake.engine.config = &other;
    expect_run_refused(&run, &fake.engine, ERROR_CONTRACT, "'state.0.conv' is missing or has another shape");
    other = config;
    other.layers = 1;
    expect_run_refused(&run, &fake.engine, ERROR_CONTRACT, "holds 3 state tensors; engine 'fake' has 1");
    fake.engine.config = &config;
    fake.engine.capacity = 2;
    expect_run_refused(&run, &fake.engine, ERROR_USAGE, "the state after 3 positions; engine 'fake' has room for 2");
    fake.engine.capacity = 5;
    expect_run_refused(&run, &fake.engine, ERROR_USAGE,
                       "room for 5 positions, of which 3 are taken; this run needs 3 more");
    fake.engine.capacity = 6;
    cr_expect_eq(run_once(&run, &fake.engine, "fits", NULL), 0);
}
