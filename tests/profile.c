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

static void setup_lfm2moe(void)
{
    open_model(ASSAY_FIXTURES "/models/lfm2moe-mini");
}

static void setup_qwen35(void)
{
    open_model(ASSAY_FIXTURES "/models/qwen35-mini");
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

TestSuite(profile, .init = setup, .fini = teardown);
TestSuite(profile_lfm2moe, .init = setup_lfm2moe, .fini = teardown);
TestSuite(profile_qwen35, .init = setup_qwen35, .fini = teardown);
TestSuite(profile_qwen35moe, .init = setup_qwen35moe, .fini = teardown);

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

// Steps a plain and a profiled engine side by side: equal bits.
static void run_profiled(bool reference)
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
    engine_close(&plain);
    engine_close(&watched);
}

struct expected_row {
    const char *name;
    uint64_t calls; // of a step
};

// Every operator is charged, with the bytes that it reads; `vectors`: bytes of norms, biases and convolutions of a
// step, which the engines hold in fp32.
static void expect_rows(const struct expected_row *rows, size_t n, uint64_t vectors)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const struct profile_row *row = profile_find(&profile, rows[i].name);
        cr_assert(row, "%s", rows[i].name);
        cr_expect_eq(row->calls, CAPACITY * rows[i].calls, "%s: %llu calls", row->name, (unsigned long long)row->calls);
        cr_expect(row->seconds >= 0, "%s", row->name);
        bytes += strcmp(row->name, "attention") && strcmp(row->name, "delta rule") ? row->bytes : 0; // not states
    }
    cr_expect_eq(bytes, CAPACITY * (model_step_traffic(&model).bytes - vectors), "%llu bytes charged, of %llu",
                 (unsigned long long)bytes,
                 (unsigned long long)(CAPACITY * (model_step_traffic(&model).bytes - vectors)));
}

static void expect_profile(bool reference)
{
    static const struct expected_row rows[] = { // 8 layers, 3 of them attention
        {"embedding", 1}, {"norm", 17}, {"residual", 16}, {"swiglu", 8}, {"attention", 3}, {"convolution", 5},
        {"conv.in_proj", 5}, {"conv.out_proj", 5}, {"self_attn.q_proj", 3}, {"self_attn.k_proj", 3},
        {"self_attn.v_proj", 3}, {"self_attn.out_proj", 3}, {"feed_forward.w1", 8}, {"feed_forward.w3", 8},
        {"feed_forward.w2", 8}, {"head", 1},
    };
    run_profiled(reference);
    expect_rows(rows, sizeof rows / sizeof *rows, 17 * 192 * 2 + 6 * 32 * 2 + 5 * 192 * 3 * 2);
    // keys and values: positions 1 + 2 + ... + 8 of 3 layers, 2 heads of 32
    cr_expect_eq(profile_find(&profile, "attention")->bytes, 36 * 3 * 2 * 2 * 32 * profile.state_bytes);
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

Test(profile_lfm2moe, the_reference_is_charged_the_experts_that_a_step_used)
{
    static const struct expected_row rows[] = { // 6 layers, 2 of them attention, 4 with 2 experts of 8 a token
        {"embedding", 1}, {"norm", 13}, {"residual", 12}, {"router", 4}, {"swiglu", 6}, {"attention", 2},
        {"conv.in_proj", 4}, {"conv.out_proj", 4}, {"self_attn.q_proj", 2}, {"self_attn.k_proj", 2},
        {"self_attn.v_proj", 2}, {"self_attn.out_proj", 2}, {"feed_forward.w1", 2}, {"feed_forward.w3", 2},
        {"feed_forward.w2", 2}, {"feed_forward.gate", 4}, {"feed_forward.experts.w1", 8},
        {"feed_forward.experts.w3", 8}, {"feed_forward.experts.w2", 8}, {"head", 1},
    };
    run_profiled(true);
    expect_rows(rows, sizeof rows / sizeof *rows, 13 * 192 * 2 + 4 * 32 * 2 + 4 * 192 * 3 * 2 + 4 * 8 * 4);
    // and no other: each expert is gate, up, down of [128, 192] in bf16
    cr_expect_eq(profile_find(&profile, "feed_forward.experts.w1")->bytes, CAPACITY * 8 * 128 * 192 * 2);
}

Test(profile_qwen35, the_reference_is_charged_completely_and_its_bits_stay)
{
    static const struct expected_row rows[] = { // 8 layers, 2 of them attention
        {"embedding", 1}, {"norm", 17}, {"residual", 16}, {"convolution", 6}, {"gates of the delta net", 6},
        {"delta rule", 6}, {"attention", 2}, {"head norms, rope, cache", 2}, {"swiglu", 8},
        {"linear_attn.in_proj_qkv", 6}, {"linear_attn.in_proj_z", 6}, {"linear_attn.in_proj_b", 6},
        {"linear_attn.in_proj_a", 6}, {"linear_attn.out_proj", 6}, {"self_attn.q_proj", 2}, {"self_attn.k_proj", 2},
        {"self_attn.v_proj", 2}, {"self_attn.o_proj", 2}, {"mlp.gate_proj", 8}, {"mlp.up_proj", 8},
        {"mlp.down_proj", 8}, {"head", 1},
    };
    run_profiled(true);
    const uint64_t delta = 384 * 4 * 2 + 6 * 4 + 6 * 2 + 32 * 4; // convolution, A_log, dt_bias, norm
    expect_rows(rows, sizeof rows / sizeof *rows, 17 * 192 * 2 + 2 * 2 * 64 * 2 + 6 * delta);
    // the states of 6 heads of 32 x 32, and keys and values of positions 1 + 2 + ... + 8, 2 heads of 64
    cr_expect_eq(profile_find(&profile, "delta rule")->bytes, CAPACITY * 6 * 6 * 32 * 32 * sizeof(float));
    cr_expect_eq(profile_find(&profile, "attention")->bytes, 36 * 2 * 2 * 2 * 64 * sizeof(float));
}

Test(profile, the_packing_of_a_batch_is_an_operator_without_weights)
{
    profile_open(&profile, &model, 4);
    profile_start(&profile, 0);
    profile.hook.begin(&profile);
    profile.hook.end(&profile, NULL);
    profile_stop(&profile);
    const struct profile_row *row = profile_find(&profile, "packing");
    cr_assert(row && row->calls == 1 && row->bytes == 0 && row->seconds >= 0);
}

Test(profile_qwen35moe, the_reference_is_charged_the_experts_that_a_step_used)
{
    static const struct expected_row rows[] = { // 8 layers, 2 of them attention, 2 experts of 8 and a shared one
        {"embedding", 1}, {"norm", 17}, {"residual", 16}, {"router", 8}, {"convolution", 6}, {"gates of the delta net", 6}, {"swiglu", 8}, {"attention", 2},
        {"delta rule", 6}, {"linear_attn.in_proj_qkv", 6}, {"linear_attn.in_proj_z", 6},
        {"linear_attn.in_proj_b", 6}, {"linear_attn.in_proj_a", 6}, {"linear_attn.out_proj", 6},
        {"self_attn.q_proj", 2}, {"self_attn.k_proj", 2}, {"self_attn.v_proj", 2}, {"self_attn.o_proj", 2},
        {"mlp.gate", 8}, {"mlp.experts.gate_up_proj", 32}, {"mlp.experts.down_proj", 16},
        {"mlp.shared_expert_gate", 8}, {"mlp.shared_expert.gate_proj", 8}, {"mlp.shared_expert.up_proj", 8},
        {"mlp.shared_expert.down_proj", 8}, {"head", 1},
    };
    run_profiled(true);
    const uint64_t delta = (256 * 4 + 4 + 4 + 32) * 2; // convolution, a_log, dt_bias, norm
    expect_rows(rows, sizeof rows / sizeof *rows, 17 * 160 * 2 + 2 * 2 * 64 * 2 + 6 * delta);
    cr_expect_eq(profile_find(&profile, "mlp.experts.down_proj")->bytes, CAPACITY * 16 * 160 * 64 * 2);
}
