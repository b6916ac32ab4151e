// qwen35_models: models of Qwen3.5 as a bundle would hold them, beside those of runtime_models.h.
#ifndef ASSAY_TESTS_QWEN35_MODELS_H
#define ASSAY_TESTS_QWEN35_MODELS_H

#include "tests/runtime_models.h"

// The checkpoint fixtures/models/NAME with every linear layer but router and head in `format`, a scale for 32 inputs
// (for a row, where they do not divide), and everything else as a bundle stores it.
static inline const struct model *stored_qwen35(const char *name, enum weight_format format)
{
    struct model *model = arena_alloc(&arena, 1, sizeof *model);
    struct config *config = arena_alloc(&arena, 1, sizeof *config);
    struct error error = {0};
    char path[256];
    snprintf(path, sizeof path, ASSAY_FIXTURES "/models/%s", name);
    checkpoint_close(&checkpoint);
    cr_assert_eq(checkpoint_open(&checkpoint, path, &error), 0, "%s", error.text);
    cr_assert_eq(config_open(&arena, checkpoint->config_path, config, &error), 0, "%s", error.text);
    cr_assert_eq(model_bind(&arena, config, &checkpoint->table, false, model, NULL, &error), 0, "%s", error.text);
    convert(&model->embedding, WEIGHT_F16, 0);
    convert(&model->head, WEIGHT_F16, 0);
    for (uint32_t i = 0; i < config->layers; i++) {
        struct layer *w = &model->layers[i];
        struct weight *body[] = {&w->qkv_proj, &w->z_proj, &w->b_proj, &w->a_proj,   &w->delta_out,  &w->q_proj,
                                 &w->k_proj,   &w->v_proj, &w->attn_out, &w->w1,     &w->w3,         &w->w2,
                                 &w->shared.gate, &w->shared.up, &w->shared.down};
        for (size_t n = 0; n < sizeof body / sizeof *body; n++)
            convert(body[n], format, body[n]->cols % 32 ? body[n]->cols : 32);
    }
    return model;
}

static inline const struct model *mini_qwen35(enum weight_format format)
{
    return stored_qwen35("qwen35-mini", format);
}

struct qwen35_shape {
    uint32_t hidden, feed_forward, query_heads, key_heads, head_width, rotary_width, vocabulary, taps;
    uint32_t delta_key_heads, delta_value_heads, delta_key_width, delta_value_width;
    float spread; // of the projections' weights
    bool bias;
};

// Layers delta net, attention, delta net, attention; random weights in every format.
static inline const struct model *random_qwen35(const struct qwen35_shape *shape)
{
    enum { L = 4 };
    static enum mixer mixers[L] = {MIXER_DELTA, MIXER_ATTENTION, MIXER_DELTA, MIXER_ATTENTION};
    const uint32_t d = shape->hidden, f = shape->feed_forward, dh = shape->head_width, hq = shape->query_heads;
    const uint32_t k_rows = shape->key_heads * dh, values = shape->delta_value_heads * shape->delta_value_width;
    const uint32_t channels = 2 * shape->delta_key_heads * shape->delta_key_width + values;
    const float spread = shape->spread;
    struct model *model = arena_alloc(&arena, 1, sizeof *model);
    struct layer *layers = arena_alloc(&arena, L, sizeof *layers);
    *model = (struct model){
        .config = {.model_type = "qwen3_5_text",
                   .family = FAMILY_QWEN35,
                   .vocabulary = shape->vocabulary,
                   .hidden = d,
                   .layers = L,
                   .query_heads = hq,
                   .key_heads = shape->key_heads,
                   .head_width = dh,
                   .rotary_width = shape->rotary_width,
                   .feed_forward = f,
                   .dense_layers = L,
                   .conv_taps = shape->taps,
                   .delta_key_heads = shape->delta_key_heads,
                   .delta_value_heads = shape->delta_value_heads,
                   .delta_key_width = shape->delta_key_width,
                   .delta_value_width = shape->delta_value_width,
                   .attention_bias = shape->bias,
                   .norm_eps = 1e-6f,
                   .rope_theta = 50, // so low that the second frequency counts within a few positions
                   .max_positions = 128,
                   .mixers = mixers},
        .embedding = random_weight("embedding", shape->vocabulary, d, 0, 1),
        .final_norm = random_weight("final_norm", 1, d, 0, 0.3f),
        .head = random_weight("head", shape->vocabulary, d, 0, spread),
        .layers = layers,
    };
    for (uint32_t i = 0; i < L; i++) {
        struct layer *w = &layers[i];
        *w = (struct layer){
            .mixer = mixers[i],
            .mixer_norm = random_weight("input_layernorm", 1, d, 0, 0.3f),
            .ffn_norm = random_weight("post_attention_layernorm", 1, d, 0, 0.3f),
            .w1 = random_weight("gate_proj", f, d, 0, spread),
            .w3 = random_weight("up_proj", f, d, 0, spread),
            .w2 = random_weight("down_proj", d, f, 0, spread),
            .q_proj = random_weight("q_proj", hq * 2 * dh, d, 0, spread),
            .k_proj = random_weight("k_proj", k_rows, d, 0, spread),
            .v_proj = random_weight("v_proj", k_rows, d, 0, spread),
            .attn_out = random_weight("o_proj", d, hq * dh, 0, spread),
            .q_norm = random_weight("q_norm", 1, dh, 0.5f, 1),
            .k_norm = random_weight("k_norm", 1, dh, 0.5f, 1),
            .qkv_proj = random_weight("in_proj_qkv", channels, d, 0, spread),
            .z_proj = random_weight("in_proj_z", values, d, 0, spread),
            .b_proj = random_weight("in_proj_b", shape->delta_value_heads, d, 0, spread),
            .a_proj = random_weight("in_proj_a", shape->delta_value_heads, d, 0, spread),
            .delta_conv = random_weight("conv1d", channels, shape->taps, 0, 0.8f),
            .a_log = random_weight("A_log", 1, shape->delta_value_heads, -2, 3),
            .dt_bias = random_weight("dt_bias", 1, shape->delta_value_heads, -1, 2),
            .delta_norm = random_weight("norm", 1, shape->delta_value_width, 1, 0.3f),
            .delta_out = random_weight("out_proj", d, values, 0, spread),
        };
        if (shape->bias) {
            w->q_bias = random_weight("q_proj.bias", 1, hq * 2 * dh, 0, 0.4f);
            w->k_bias = random_weight("k_proj.bias", 1, k_rows, 0, 0.4f);
            w->v_bias = random_weight("v_proj.bias", 1, k_rows, 0, 0.4f);
            w->attn_out_bias = random_weight("o_proj.bias", 1, d, 0, 0.4f);
        }
        convert(&w->qkv_proj, WEIGHT_Q8, d);
        convert(&w->q_proj, WEIGHT_Q8, d);
        convert(&w->z_proj, WEIGHT_BF16, 0);
        convert(&w->a_proj, WEIGHT_F16, 0);
        convert(&w->w1, WEIGHT_F16, 0);
        convert(&w->w2, WEIGHT_Q4, f);
        convert(&w->delta_out, WEIGHT_Q4, values);
    }
    return model;
}

enum { ODD_QWEN35 = 3 };

// Widths that are no multiple of 8 and differ between keys and values; 1, 2 and 4 value heads for a key head; 4, 3
// and 2 taps; a part of the head turned, or all of it; with biases and without.
static inline const struct model *odd_qwen35(int which)
{
    static const struct qwen35_shape shapes[ODD_QWEN35] = {
        {.hidden = 42, .feed_forward = 50, .query_heads = 6, .key_heads = 2, .head_width = 10, .rotary_width = 4,
         .vocabulary = 67, .taps = 4, .delta_key_heads = 2, .delta_value_heads = 2, .delta_key_width = 5,
         .delta_value_width = 7, .spread = 0.4f, .bias = true},
        {.hidden = 34, .feed_forward = 46, .query_heads = 3, .key_heads = 3, .head_width = 11, .rotary_width = 6,
         .vocabulary = 71, .taps = 3, .delta_key_heads = 3, .delta_value_heads = 6, .delta_key_width = 9,
         .delta_value_width = 4, .spread = 0.4f, .bias = true},
        {.hidden = 38, .feed_forward = 30, .query_heads = 8, .key_heads = 1, .head_width = 8, .rotary_width = 8,
         .vocabulary = 59, .taps = 2, .delta_key_heads = 1, .delta_value_heads = 4, .delta_key_width = 33,
         .delta_value_width = 10, .spread = 0.4f, .bias = false},
    };
    return random_qwen35(&shapes[which]);
}

// Wide enough for every kind of work to be split over threads: feed-forward and head of over 2^20 weights, delta nets
// from the first token, heads of the attention from 64 positions on.
static inline const struct model *wide_qwen35(void)
{
    static const struct qwen35_shape shape = {
        .hidden = 512, .feed_forward = 2300, .query_heads = 16, .key_heads = 4, .head_width = 64, .rotary_width = 16,
        .vocabulary = 2100, .taps = 4, .delta_key_heads = 4, .delta_value_heads = 8, .delta_key_width = 64,
        .delta_value_width = 96, .spread = 0.1f};
    return random_qwen35(&shape);
}

#endif
