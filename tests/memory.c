// What a run costs in memory: weights are mapped, never copied, and a step allocates nothing.
#include <criterion/criterion.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/model/model.h"
#include "reference/engine.h"
#include "runtime/engine.h"

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 }; // its allocator and shadow hide both figures
#else
enum { SANITIZED = 0 };
#endif

enum { CAPACITY = 64 };

// Every allocation of this program goes through here, pairs of malloc and free included.
static atomic_long allocations;
#if !defined(__SANITIZE_ADDRESS__)
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    allocations++;
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    allocations++;
    return __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    allocations++;
    return __libc_memalign(alignment, size);
}
#endif

static struct arena arena;
static struct checkpoint *checkpoint;
static struct config config;
static struct model model;

static void open_model(const char *path)
{
    struct error error = {0};
    const char *note;
    int code = checkpoint_open(&checkpoint, path, &error);
    if (!code)
        code = config_open(&arena, checkpoint->config_path, &config, &error);
    if (!code)
        code = model_bind(&arena, &config, &checkpoint->table, false, &model, &note, &error);
    cr_assert_eq(code, 0, "%s", error.text);
}

static void setup(void)
{
    open_model(ASSAY_FIXTURES "/models/lfm2-mini");
}

static void setup_lfm2moe(void)
{
    open_model(ASSAY_FIXTURES "/models/lfm2moe-mini");
}

static void setup_qwen35moe(void)
{
    open_model(ASSAY_FIXTURES "/models/qwen35moe-mini");
}

static void teardown(void)
{
    checkpoint_close(&checkpoint);
    arena_close(&arena);
}

TestSuite(memory, .init = setup, .fini = teardown);
TestSuite(memory_lfm2moe, .init = setup_lfm2moe, .fini = teardown);
TestSuite(memory_qwen35moe, .init = setup_qwen35moe, .fini = teardown);

static struct engine *open_engine(bool reference)
{
    struct engine *engine;
    struct error error = {0};
    struct plan plan;
    plan_default(&plan);
    const struct reference_options exact = {.isa = isa_best(), .capacity = CAPACITY, .name = "reference"};
    const struct runtime_options runtime = {.isa = isa_best(), .capacity = CAPACITY, .name = "int8", .plan = &plan};
    const int code = reference ? reference_open(&engine, &model, &exact, &error) : runtime_open(&engine, &model, &runtime, &error);
    cr_assert_eq(code, 0, "%s", error.text);
    return engine;
}

static void run(struct engine *engine, uint32_t n)
{
    struct error error = {0};
    const float *logits;
    for (uint32_t t = 0; t < n; t++)
        cr_assert_eq(engine->class->step(engine, 1 + t * 37 % 4000, NULL, &logits, &error), 0, "%s", error.text);
}

static long anonymous_kilobytes(void)
{
    char line[256];
    long kilobytes = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "RssAnon:", 8))
            sscanf(line + 8, "%ld", &kilobytes);
    if (status)
        fclose(status);
    return kilobytes;
}

static void expect_small(bool reference, long limit)
{
    if (SANITIZED)
        cr_skip_test("memory of a sanitized program says nothing");
    const long before = anonymous_kilobytes();
    struct engine *engine = open_engine(reference);
    run(engine, CAPACITY);
    const long grown = anonymous_kilobytes() - before;
    cr_assert(before > 0);
    // The checkpoints have 7,600 KB and more; one widened copy of the weights alone would be twice as much.
    cr_assert(grown <= limit, "%ld KB of anonymous memory", grown);
    engine->class->close(engine);
}

Test(memory, a_reference_run_does_not_copy_the_weights)
{
    // As the runtime below, with keys and values in fp32.
    expect_small(true, 1000);
}

Test(memory, a_runtime_run_does_not_copy_the_weights)
{
    // KV of 64 positions 100 KB, logits and rows 50 KB, widened norms 15 KB; pages and the allocator double that at
    // most.
    expect_small(false, 1000);
}

static void expect_no_allocation(bool reference)
{
    if (SANITIZED)
        cr_skip_test("the sanitizer's allocator keeps no such count");
    struct engine *engine = open_engine(reference);
    const long before = allocations;
    run(engine, CAPACITY);
    cr_assert_eq(allocations, before);
    cr_assert(before > 0); // opening did allocate, so the count works
    engine->class->close(engine);
}

static void ignore_row(void *context, uint32_t t, const float *logits)
{
    (void)context;
    (void)t;
    (void)logits;
}

static void expect_batches_allocate_once(void)
{
    if (SANITIZED)
        cr_skip_test("the sanitizer's allocator keeps no such count");
    struct error error = {0};
    const uint32_t tokens[CAPACITY] = {1, 2, 3};
    const struct batch_sink sink = {.row = ignore_row};
    struct engine *engine = open_engine(true);
    const long opened = allocations;
    cr_assert_eq(engine->class->batch(engine, tokens, 2, &sink, &error), 0, "%s", error.text);
    const long first = allocations;
    cr_assert(first > opened);
    for (uint32_t width = 1; engine->position + width <= CAPACITY; width += 3)
        cr_assert_eq(engine->class->batch(engine, tokens, width, &sink, &error), 0, "%s", error.text);
    cr_assert_eq(allocations, first);
    engine->class->close(engine);
}

Test(memory, only_the_first_batch_of_the_reference_allocates)
{
    expect_batches_allocate_once();
}

Test(memory, a_step_of_the_reference_allocates_nothing)
{
    expect_no_allocation(true);
}

Test(memory, a_step_of_the_runtime_allocates_nothing)
{
    expect_no_allocation(false);
}

// Experts are read where they lie: 4,608 and 3,840 KB of them, of which a step uses a quarter.
Test(memory_lfm2moe, a_reference_run_does_not_copy_the_experts)
{
    expect_small(true, 1000);
}

Test(memory_lfm2moe, a_step_allocates_nothing_and_batches_once)
{
    expect_no_allocation(true);
    expect_batches_allocate_once();
}

Test(memory_qwen35moe, a_reference_run_does_not_copy_the_experts)
{
    expect_small(true, 1000);
}

Test(memory_qwen35moe, a_step_allocates_nothing_and_batches_once)
{
    expect_no_allocation(true);
    expect_batches_allocate_once();
}
