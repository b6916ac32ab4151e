// 4,096 positions of lfm2-mini and qwen35-mini: memory grows by the caches alone, a step by what attention reads, and
// an engine that is full says so.
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/model/model.h"
#include "harness/run/profile.h"
#include "reference/engine.h"
#include "runtime/engine.h"

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 }; // its shadow grows with what is touched
#else
enum { SANITIZED = 0 };
#endif

enum { POSITIONS = 4096, FEW = 256, WARM = 64 };

static struct arena arena;
static struct checkpoint *checkpoint;
static struct config config;
static struct model model;
static struct profile profile;

static void open_model(const char *path)
{
    struct error error = {0};
    int code = checkpoint_open(&checkpoint, path, &error);
    if (!code)
        code = config_open(&arena, checkpoint->config_path, &config, &error);
    if (!code)
        code = model_bind(&arena, &config, &checkpoint->table, false, &model, NULL, &error);
    cr_assert_eq(code, 0, "%s", error.text);
}

static void setup(void)
{
    open_model(ASSAY_FIXTURES "/models/lfm2-mini");
}

static void setup_qwen35(void)
{
    open_model(ASSAY_FIXTURES "/models/qwen35-mini");
}

static void teardown(void)
{
    checkpoint_close(&checkpoint);
    arena_close(&arena);
}

TestSuite(long_context, .init = setup, .fini = teardown);
TestSuite(long_context_qwen35, .init = setup_qwen35, .fini = teardown);

static struct engine *open_engine(bool reference, uint32_t capacity)
{
    struct engine *engine;
    struct error error = {0};
    struct plan plan;
    plan_default(&plan);
    const struct reference_options exact = {.isa = isa_best(), .capacity = capacity, .name = "reference",
        .profile = &profile.hook};
    const struct runtime_options runtime = {.isa = isa_best(), .capacity = capacity, .name = "int8",
        .plan = &plan, .profile = &profile.hook};
    const int code = reference ? reference_open(&engine, &model, &exact, &error) : runtime_open(&engine, &model, &runtime, &error);
    cr_assert_eq(code, 0, "%s", error.text);
    return engine;
}

static long anonymous_bytes(void)
{
    char line[256];
    long kilobytes = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "RssAnon:", 8))
            sscanf(line + 8, "%ld", &kilobytes);
    if (status)
        fclose(status);
    return 1024 * kilobytes;
}

static void step(struct engine *engine, uint32_t position, bool profiled)
{
    struct error error = {0};
    const float *logits;
    if (profiled)
        profile_start(&profile, position);
    cr_assert_eq(engine->class->step(engine, 24 + position * 37 % 4000, profiled ? &profile.sink : NULL, &logits, &error),
                 0, "%s", error.text);
    if (profiled)
        profile_stop(&profile);
}

// What one step at `position` cost: calls of all operators, and bytes without attention's.
static void cost(struct engine *engine, uint32_t position, size_t state_bytes, uint64_t *calls, uint64_t *bytes,
                 uint64_t *attention)
{
    profile_open(&profile, &model, state_bytes);
    step(engine, position, true);
    *calls = *bytes = 0;
    *attention = profile_find(&profile, "attention")->bytes;
    for (size_t i = 0; i < profile.n; i++) {
        *calls += profile.rows[i].calls;
        *bytes += profile.rows[i].bytes;
    }
    *bytes -= *attention;
}

static void expect_only_caches_grow(bool reference)
{
    const size_t state_bytes = reference ? sizeof(float) : sizeof(uint16_t);
    struct error error = {0};
    const float *logits;
    uint64_t calls, bytes, attention, late_calls, late_bytes, late_attention;
    profile_open(&profile, &model, state_bytes);
    const long before = anonymous_bytes();
    struct engine *small = open_engine(reference, FEW);
    const long between = anonymous_bytes();
    struct engine *engine = open_engine(reference, POSITIONS);
    const long opened = anonymous_bytes();
    for (uint32_t t = 0; t < WARM; t++)
        step(engine, t, false);
    cost(engine, WARM, state_bytes, &calls, &bytes, &attention);
    for (uint32_t t = WARM + 1; t < POSITIONS - 1; t++)
        step(engine, t, false);
    const long stepped = anonymous_bytes();
    cost(engine, POSITIONS - 1, state_bytes, &late_calls, &late_bytes, &late_attention);

    // the same operators over the same weights, and keys and values of every position once
    cr_expect_eq(late_calls, calls);
    cr_expect_eq(late_bytes, bytes);
    cr_expect_eq(late_attention * (WARM + 1), attention * POSITIONS);

    // keys and values of the attention layers, of the reference the scores of the query heads as well; the delta net
    // and the convolutions remember as much after one token as after 4,096
    size_t values = 0;
    for (uint32_t i = 0; i < config.layers; i++)
        values += config.mixers[i] == MIXER_ATTENTION ? 2 * (size_t)config.key_heads * config.head_width : 0;
    const long position = (long)(values * state_bytes + (reference ? config.query_heads * sizeof(float) : 0));
    const long caches = position * (POSITIONS - FEW);
    // what the second engine took beyond the first, which has the same rows, norms and logits; a third of a MB for
    // pages begun and for the allocator, which hands the first one memory that was there before
    if (!SANITIZED) {
        const long more = opened - between - (between - before);
        cr_expect(labs(more - caches) <= 300000, "%ld bytes for %d more positions, caches %ld", more, POSITIONS - FEW,
                  caches);
        cr_expect(stepped - opened <= 32 * 4096, "%ld bytes in 4,096 steps", stepped - opened); // stacks
    }

    cr_expect_eq(engine->class->step(engine, 1, NULL, &logits, &error), ERROR_USAGE);
    cr_expect(strstr(error.text, "4096"), "%s", error.text);
    cr_expect_eq(engine->position, POSITIONS); // refused before anything changed: the state can still be saved
    engine_close(&engine);
    engine_close(&small);
}

Test(long_context, the_reference_grows_by_its_caches_alone)
{
    expect_only_caches_grow(true);
}

Test(long_context_qwen35, the_reference_grows_by_its_caches_alone)
{
    expect_only_caches_grow(true);
}

Test(long_context, the_runtime_grows_by_its_caches_alone)
{
    expect_only_caches_grow(false);
}

// A state of n positions needs room for n; continuing from it in a tighter engine gives the bits of the longer one.
static void expect_capacity(bool reference)
{
    struct engine *wide = open_engine(reference, 200), *tight = open_engine(reference, 101),
                  *small = open_engine(reference, 99);
    struct state state;
    struct error error = {0};
    const float *expected, *found;
    for (uint32_t t = 0; t < 100; t++)
        step(wide, t, false);
    cr_assert_eq(state_make(&arena, &config, 100, &state, NULL), 0);
    wide->class->save(wide, &state);
    cr_expect_eq(small->class->load(small, &state, &error), ERROR_USAGE);
    cr_expect(strstr(error.text, "100") && strstr(error.text, "99"), "%s", error.text);
    cr_expect_eq(small->position, 0);
    cr_assert_eq(tight->class->load(tight, &state, &error), 0, "%s", error.text);
    cr_assert_eq(wide->class->step(wide, 77, NULL, &expected, NULL), 0);
    cr_assert_eq(tight->class->step(tight, 77, NULL, &found, NULL), 0);
    cr_expect_eq(memcmp(expected, found, config.vocabulary * sizeof *found), 0);
    cr_expect_eq(tight->class->step(tight, 77, NULL, &found, &error), ERROR_USAGE);
    engine_close(&wide);
    engine_close(&tight);
    engine_close(&small);
}

Test(long_context, capacity_is_of_positions_and_changes_no_bit)
{
    profile_open(&profile, &model, 4);
    expect_capacity(true);
    expect_capacity(false);
}
