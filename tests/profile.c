#include "harness/run/profile.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/engine.h"
#include "runtime/engine.h"

enum { CAPACITY = 8 };

static struct arena arena;
static struct checkpoint *checkpoint;
static struct config config;
static struct model model;
static struct profile profile;

static void setup(void)
{
    struct error error = {0};
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

TestSuite(profile, .init = setup, .fini = teardown);

static struct engine *open_engine(bool reference, const struct profile_hook *hook)
{
    struct engine *engine;
    struct error error = {0};
    struct plan plan;
    plan_default(&plan);
    const struct reference_options exact = {.isa = isa_best(), .capacity = CAPACITY, .name = "reference", .profile = hook};
    const struct runtime_options runtime = {.isa = isa_best(), .capacity = CAPACITY, .name = "int8", .plan = &plan,
        .profile = hook};
    const int code = reference ? reference_open(&engine, &model, &exact, &error) : runtime_open(&engine, &model, &runtime, &error);
    cr_assert_eq(code, 0, "%s", error.text);
    return engine;
}

// Steps a plain and a profiled engine side by side: equal bits, and every operator is charged.
static void expect_profile(bool reference)
{
    profile_open(&profile, &model, reference ? 4 : 2);
    struct engine *plain = open_engine(reference, NULL), *watched = open_engine(reference, &profile.hook);
    for (uint32_t t = 0; t < CAPACITY; t++) {
        const float *expected, *found;
        cr_assert_eq(plain->class->step(plain, 100 + t, NULL, &expected, NULL), 0);
        profile_start(&profile, t);
        cr_assert_eq(watched->class->step(watched, 100 + t, &profile.sink, &found, NULL), 0);
        profile_stop(&profile);
        cr_assert_eq(memcmp(expected, found, config.vocabulary * sizeof *found), 0);
    }
    static const struct {
        const char *name;
        uint64_t calls; // of a step: 8 layers, 3 of them attention
    } rows[] = {
        {"embedding", 1}, {"norm", 17}, {"residual", 16}, {"swiglu", 8}, {"attention", 3}, {"convolution", 5},
        {"conv.in_proj", 5}, {"conv.out_proj", 5}, {"self_attn.q_proj", 3}, {"self_attn.k_proj", 3},
        {"self_attn.v_proj", 3}, {"self_attn.out_proj", 3}, {"feed_forward.w1", 8}, {"feed_forward.w3", 8},
        {"feed_forward.w2", 8}, {"head", 1},
    };
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct profile_row *row = profile_find(&profile, rows[i].name);
        cr_assert(row, "%s", rows[i].name);
        cr_expect_eq(row->calls, CAPACITY * rows[i].calls, "%s: %llu calls", row->name, (unsigned long long)row->calls);
        cr_expect(row->seconds >= 0, "%s", row->name);
        bytes += strcmp(row->name, "attention") ? row->bytes : 0;
    }
    // what a step reads, but for norms and the convolution's taps, which the engines hold in fp32
    const uint64_t vectors = 17 * 192 * 2 + 6 * 32 * 2 + 5 * 192 * 3 * 2;
    cr_expect_eq(bytes, CAPACITY * (model_step_traffic(&model).bytes - vectors));
    // keys and values: positions 1 + 2 + ... + 8 of 3 layers, 2 heads of 32
    cr_expect_eq(profile_find(&profile, "attention")->bytes, 36 * 3 * 2 * 2 * 32 * profile.state_bytes);
    engine_close(&plain);
    engine_close(&watched);
}

Test(profile, the_reference_is_charged_completely_and_its_bits_stay)
{
    expect_profile(true);
}

Test(profile, the_runtime_is_charged_completely_and_its_bits_stay)
{
    expect_profile(false);
}

Test(profile, an_operator_that_never_ran_has_no_row)
{
    profile_open(&profile, &model, 4);
    cr_assert_null(profile_find(&profile, "attention"));
}
