#include "harness/bench/bench.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reference/engine.h"
#include "runtime/engine.h"

enum { CAPACITY = 8 };

static struct arena arena;
static struct checkpoint *checkpoint;
static struct config config;
static struct model model;
static struct bench_stopwatch stopwatch; // of every engine here: they take turns

static void setup(void)
{
    struct error error = {0};
    bench_stopwatch_open(&stopwatch);
    int code = checkpoint_open(&checkpoint, ASSAY_FIXTURES "/models/lfm2-mini", &error);
    if (!code)
        code = config_open(&arena, checkpoint->config_path, &config, &error);
    if (!code)
        code = model_bind(&arena, &config, &checkpoint->table, false, &model, NULL, &error);
    cr_assert_eq(code, 0, "%s", error.text);
}

static void teardown(void)
{
    checkpoint_close(&checkpoint);
    arena_close(&arena);
}

TestSuite(bench, .init = setup, .fini = teardown);

static struct engine *open_runtime(enum isa isa, enum fault fault)
{
    struct engine *engine;
    struct plan plan;
    plan_default(&plan);
    const struct runtime_options options = {.isa = isa, .capacity = CAPACITY, .name = "int8", .plan = &plan, .fault = fault,
        .profile = &stopwatch.hook};
    cr_assert_eq(runtime_open(&engine, &model, &options, NULL), 0);
    return engine;
}

static struct engine *open_reference(enum isa isa, struct pool *pool)
{
    struct engine *engine;
    const struct reference_options options = {.pool = pool, .isa = isa, .capacity = CAPACITY, .name = "reference",
        .profile = &stopwatch.hook};
    cr_assert_eq(reference_open(&engine, &model, &options, NULL), 0);
    return engine;
}

// --- probes

static void expect_sound(const struct probe *probe)
{
    static unsigned char bytes[4096 + 64];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 167 >> 3);
    for (size_t offset = 0; offset < 3; offset++)
        for (size_t size = 0; size <= 2100; size += size < 64 ? 1 : 61) {
            uint64_t expected = 0, word;
            for (size_t at = 0; at + 8 <= size; at += 8) {
                memcpy(&word, bytes + offset + at, 8);
                expected ^= word;
            }
            cr_assert_eq(probe->read(bytes + offset, size, PROBE_MANY), expected, "%s: %zu bytes", probe->name, size);
            cr_assert_eq(probe->read(bytes + offset, size, PROBE_FEW), expected, "%s: %zu bytes", probe->name, size);
        }
    cr_expect(isfinite(probe->multiply_add(100000)) && probe->multiply_add(1) > 0, "%s", probe->name);
}

Test(bench, probes_read_every_byte_once)
{
    expect_sound(&probe_plain);
    expect_sound(probe_best());
#if defined(__x86_64__)
    if (isa_available(ISA_AVX2))
        expect_sound(&probe_avx2);
#endif
}

Test(bench, one_thread_has_no_distance_and_two_have_one)
{
    struct pool *pool;
    cr_expect_eq(machine_distance(NULL), 0);
    if (pool_default_threads() < 2)
        cr_skip_test("one processor");
    cr_assert_eq(pool_open(&pool, 2, NULL), 0);
    cr_expect(machine_distance(pool) > 0);
    pool_close(&pool);
}

// --- statistics

Test(bench, a_range_is_minimum_median_maximum)
{
    double odd[] = {5, 1, 3}, even[] = {4, 1, 2, 8}, one[] = {7};
    const struct bench_range a = bench_range(odd, 3), b = bench_range(even, 4), c = bench_range(one, 1);
    cr_expect(a.low == 1 && a.median == 3 && a.high == 5);
    cr_expect(b.low == 1 && b.median == 3 && b.high == 8);
    cr_expect(c.low == 7 && c.median == 7 && c.high == 7);
}

Test(bench, tokens_are_of_the_vocabulary_and_differ)
{
    uint32_t tokens[64], equal = 0;
    bench_tokens(80, 64, tokens);
    for (size_t t = 0; t < 64; t++) {
        cr_expect_lt(tokens[t], 80);
        equal += tokens[t] == tokens[0];
    }
    cr_expect_lt(equal, 8);
}

// --- correct before fast

static void expect_check(struct engine *engine, struct engine *definition, int code, const char *words)
{
    struct error error = {0};
    cr_expect_eq(bench_check(engine, definition, 4, &error), code, "%s", error.text);
    if (code)
        cr_expect(strstr(error.text, words), "%s", error.text);
    engine_close(&engine);
    engine_close(&definition);
}

Test(bench, fast_kernels_and_threads_pass_the_check)
{
    struct pool *pool;
    cr_assert_eq(pool_open(&pool, 2, NULL), 0);
    expect_check(open_reference(isa_best(), pool), open_reference(ISA_SCALAR, NULL), 0, "");
    expect_check(open_runtime(isa_best(), FAULT_NONE), open_runtime(ISA_SCALAR, FAULT_NONE), 0, "");
    pool_close(&pool);
}

Test(bench, an_engine_with_other_bits_is_not_timed)
{
    expect_check(open_runtime(isa_best(), FAULT_GATE_UP_SWAPPED), open_runtime(ISA_SCALAR, FAULT_NONE), ERROR_CONTRACT,
                 "expected the same bits");
}

Test(bench, a_state_that_is_lost_is_seen_at_the_second_token)
{
    expect_check(open_runtime(isa_best(), FAULT_CONV_STATE_LOST), open_runtime(ISA_SCALAR, FAULT_NONE), ERROR_CONTRACT,
                 "token 1,");
}

Test(bench, equal_nans_are_not_timed_either)
{
    expect_check(open_runtime(isa_best(), FAULT_LOGIT_NAN), open_runtime(ISA_SCALAR, FAULT_LOGIT_NAN), ERROR_CONTRACT,
                 "expected a finite number");
}

// --- a whole run

static void fill(struct bench *bench, struct bench_mode modes[2], double sibling_ns)
{
    *bench = (struct bench){.rounds = 3, .sibling_ns = sibling_ns, .quiet = true, .modes = modes, .n_modes = 2};
    modes[0] = (struct bench_mode){.model = "mini", .way = &bench_ways[0], .stopwatch = &stopwatch,
        .engine = open_reference(isa_best(), bench->pool), .weights = &model, .tokens = 4};
    modes[1] = (struct bench_mode){.model = "mini", .way = &bench_ways[0], .stopwatch = &stopwatch,
        .engine = open_runtime(isa_best(), FAULT_NONE), .weights = &model, .tokens = 2};
}

static bool ordered(struct bench_range range)
{
    return range.low > 0 && range.low <= range.median && range.median <= range.high && isfinite(range.high);
}

Test(bench, every_mode_gets_its_figures)
{
    struct bench bench;
    struct bench_mode modes[2];
    struct error error = {0};
    fill(&bench, modes, 25);
    cr_assert_eq(bench_run(&bench, &error), 0, "%s", error.text);
    cr_expect_eq(bench.kept, 3);
    cr_expect_eq(bench.dropped_near, 0); // one thread shares no core with itself
    cr_expect(ordered(bench.peak) && ordered(bench.cores_share) && ordered(bench.running));
    for (size_t i = 0; i < 2; i++) {
        const struct bench_mode *mode = &modes[i];
        cr_expect(ordered(mode->tokens_per_s) && ordered(mode->bandwidth_share) && ordered(mode->fma_share));
        cr_expect(ordered(mode->linear_fma_share) && mode->linear_fma_share.low >= mode->fma_share.low,
                  "linear layers are part of a step, and so take less time");
        cr_expect(ordered(mode->read_bytes_per_s) && ordered(mode->times[1 - i]));
        uint64_t bytes = 0; // the read pass covers the whole file, nothing twice
        for (size_t s = 0; s < mode->n_spans; s++)
            bytes += mode->spans[s].size;
        cr_expect_eq(bytes, 2 * 3889344);
        engine_close(&modes[i].engine);
    }
    cr_expect(modes[0].times[0].low == 1 && modes[0].times[0].high == 1);
    cr_expect_float_eq(modes[0].times[1].median * modes[1].times[0].median, 1, 1e-9); // three rounds: the middle one
    bench_close(&bench);
}

Test(bench, rounds_without_the_processor_are_dropped)
{
    struct bench bench;
    struct bench_mode modes[2];
    fill(&bench, modes, 0);
    bench.least_running = 2; // no thread runs twice as long as the clock
    cr_expect_eq(bench_run(&bench, NULL), ERROR_RUNTIME);
    cr_expect_eq(bench.dropped_waiting, 9);
    engine_close(&modes[0].engine);
    engine_close(&modes[1].engine);
    bench_close(&bench);
}

Test(bench, rounds_on_one_core_are_dropped_and_a_run_of_only_such_is_an_error)
{
    struct bench bench;
    struct bench_mode modes[2];
    struct error error = {0};
    if (pool_default_threads() < 2)
        cr_skip_test("one processor");
    fill(&bench, modes, 1e12);
    cr_assert_eq(pool_open(&bench.pool, 2, NULL), 0);
    cr_expect_eq(bench_run(&bench, &error), ERROR_RUNTIME);
    cr_expect_eq(bench.kept, 0);
    cr_expect_eq(bench.dropped_near, 9);
    cr_expect(strstr(error.text, "--keep-all"), "%s", error.text);
    engine_close(&modes[0].engine);
    engine_close(&modes[1].engine);
    pool_close(&bench.pool);
    bench_close(&bench);
}
