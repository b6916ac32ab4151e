// Binding a bundle: weights that are stored as codes and scales.
#include <criterion/criterion.h>
#include <stdio.h>

#include "tests/small_binding.h"

TestSuite(model_codes, .init = make_scratch, .fini = remove_scratch);

// Stores `name` [rows, cols] as codes with `scales` scales a row, instead of as itself.
static void quantize(struct small_model *small, const char *name, bool q4, uint64_t scales)
{
    char full[96];
    const struct small_tensor plain = *small_find(small, name);
    small_remove(small, name);
    snprintf(full, sizeof full, "%s.%s", name, q4 ? "q4" : "q8");
    small_add(small, q4 ? DTYPE_U8 : DTYPE_I8, full, plain.shape[0], q4 ? (plain.shape[1] + 1) / 2 : plain.shape[1],
              0);
    snprintf(full, sizeof full, "%s.scale", name);
    small_add(small, DTYPE_F16, full, plain.shape[0], scales, 0);
}

static void small_bundle(struct small_model *small) // d = 64, F = 96
{
    small_config(small);
    small->config.hidden = 64;
    small->config.feed_forward = 96;
    small_tensors(small, DTYPE_F16);
}

Test(model_codes, codes_bind_with_the_block_that_the_scales_shape_says)
{
    static const char w1[] = "model.layers.0.feed_forward.w1.weight"; // [96, 64]
    static const char w2[] = "model.layers.0.feed_forward.w2.weight"; // [64, 96]
    struct small_model small;
    struct model model;
    struct error error = {0};
    small_bundle(&small);
    quantize(&small, w1, false, 2);
    quantize(&small, w2, false, 1);
    quantize(&small, "model.layers.1.self_attn.q_proj.weight", true, 2);
    quantize(&small, "model.layers.1.feed_forward.w1.weight", true, 1);
    cr_assert_eq(bind(&small, true, &model, NULL, &error), 0, "%s", error.text);
    cr_assert_eq(model.n_weights, small.n - 4); // a scale is no weight of its own
    const struct weight *gate = &model.layers[0].w1, *down = &model.layers[0].w2;
    const struct weight *query = &model.layers[1].q_proj, *gate4 = &model.layers[1].w1;
    cr_assert_str_eq(gate->name, w1);
    cr_assert(gate->format == WEIGHT_Q8 && gate->block == 32 && gate->rows == 96 && gate->cols == 64);
    cr_assert(down->format == WEIGHT_Q8 && down->block == 96 && down->rows == 64);
    cr_assert(query->format == WEIGHT_Q4 && query->block == 32 && query->cols == 64);
    cr_assert(gate4->format == WEIGHT_Q4 && gate4->block == 64);
    cr_assert(weight_row_bytes(gate) == 64 && weight_row_bytes(query) == 32);
    expect_refused("a checkpoint may not hold codes", &small, false, "quantized form");
}

Test(model_codes, a_width_of_32_has_one_scale_a_row_in_either_reading)
{
    struct small_model small;
    struct model model;
    struct error error = {0};
    small_config(&small);
    small.config.feed_forward = 32;
    small_tensors(&small, DTYPE_F16);
    quantize(&small, "model.layers.0.feed_forward.w2.weight", false, 1);
    cr_assert_eq(bind(&small, true, &model, NULL, &error), 0, "%s", error.text);
    cr_assert_eq(model.layers[0].w2.block, 32);
}

Test(model_codes, one_scale_a_row_is_not_taken_for_a_block_of_32_in_a_row_of_48)
{
    struct small_model small;
    struct model model;
    struct error error = {0};
    small_config(&small);
    small_tensors(&small, DTYPE_F16);
    quantize(&small, "model.layers.0.feed_forward.w1.weight", false, 1);
    cr_assert_eq(bind(&small, true, &model, NULL, &error), 0, "%s", error.text);
    cr_assert_eq(model.layers[0].w1.block, 48);
}

Test(model_codes, spoilt_codes_and_scales_are_refused)
{
    static const char w1[] = "model.layers.0.feed_forward.w1.weight"; // [96, 64]
    static const struct {
        const char *name, *suffix;
        enum dtype dtype;
        uint64_t rows, cols;
        const char *expected;
    } rows[] = {
        {"codes of another dtype", ".q8", DTYPE_U8, 96, 64, "w1.weight.q8: U8 [96, 64], expected I8 [96, 64]"},
        {"codes as for 4 bits", ".q8", DTYPE_I8, 96, 32, "w1.weight.q8: I8 [96, 32], expected I8 [96, 64]"},
        {"F32 scales", ".scale", DTYPE_F32, 96, 2, "w1.weight.scale: F32 [96, 2], expected F16 [96, 2]"},
        {"a scale row missing", ".scale", DTYPE_F16, 95, 2, "w1.weight.scale: F16 [95, 2], expected F16 [96, 2]"},
        {"blocks of 16", ".scale", DTYPE_F16, 96, 4, "w1.weight.scale: F16 [96, 4], expected F16 [96, 2]"},
        {"scales without rows", ".scale", DTYPE_F16, 96, 0, "w1.weight.scale: F16 [96], expected F16 [96, 2]"},
    };
    struct small_model small;
    char full[96];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        small_bundle(&small);
        quantize(&small, w1, false, 2);
        snprintf(full, sizeof full, "%s%s", w1, rows[i].suffix);
        small_remove(&small, full);
        small_add(&small, rows[i].dtype, full, rows[i].rows, rows[i].cols, 0);
        expect_refused(rows[i].name, &small, true, rows[i].expected);
    }
    small_bundle(&small);
    quantize(&small, w1, false, 2);
    snprintf(full, sizeof full, "%s.scale", w1);
    small_remove(&small, full);
    expect_refused("no scale", &small, true, "w1.weight.scale is missing");
    small_bundle(&small);
    quantize(&small, w1, true, 2);
    small_add(&small, DTYPE_F16, w1, 96, 64, 0);
    expect_refused("both forms", &small, true, "w1.weight.q4 U8 [96, 32] belongs to no part");
    small_config(&small); // d = 48: no block of 32 divides it
    small_tensors(&small, DTYPE_F16);
    quantize(&small, w1, false, 2);
    expect_refused("48 inputs in two blocks", &small, true, "w1.weight.scale: F16 [40, 2]");
}

Test(model_codes, only_projections_and_the_head_may_be_codes)
{
    struct small_model small;
    small_bundle(&small);
    quantize(&small, "model.embed_tokens.weight", false, 2);
    expect_refused("embedding", &small, true, "tensor model.embed_tokens.weight [V, d]");
    small_bundle(&small);
    small_remove(&small, "model.layers.0.conv.conv.weight");
    small_add(&small, DTYPE_I8, "model.layers.0.conv.conv.weight.q8", 64, 3, 0);
    small_add(&small, DTYPE_F16, "model.layers.0.conv.conv.weight.scale", 64, 1, 0);
    expect_refused("depthwise conv", &small, true, "tensor model.layers.0.conv.conv.weight [d, 1, K]");
}

Test(model_codes, a_bundles_own_head_is_untied_without_a_note)
{
    static const struct {
        const char *name;
        bool codes;
    } rows[] = {{"codes", true}, {"F32 beside an F16 embedding", false}};
    for (size_t i = 0; i < 2; i++) {
        struct small_model small;
        struct model model;
        const char *note;
        struct error error = {0};
        small_bundle(&small);
        const uint64_t seed = small_find(&small, "model.embed_tokens.weight")->seed;
        small_add(&small, DTYPE_F32, "lm_head.weight", 80, 64, 0)->seed = seed;
        if (rows[i].codes)
            quantize(&small, "lm_head.weight", false, 2);
        cr_assert_eq(bind(&small, true, &model, &note, &error), 0, "%s: %s", rows[i].name, error.text);
        cr_expect(!note && !model.config.tied && model.head.data != model.embedding.data, "%s", rows[i].name);
        cr_expect_eq(model.head.format, rows[i].codes ? WEIGHT_Q8 : WEIGHT_F32, "%s", rows[i].name);
    }
}
