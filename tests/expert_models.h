// expert_models: sparse layers as a bundle would hold them: the minis with their experts in any format, and a layer
// of random weights of any shape.
#ifndef ASSAY_TESTS_EXPERT_MODELS_H
#define ASSAY_TESTS_EXPERT_MODELS_H

#include <math.h>

#include "tests/runtime_models.h"

// --- codes

static inline void put_code(unsigned char *row, enum weight_format format, uint32_t k, uint8_t code)
{
    if (format == WEIGHT_K8)
        row[k] = code;
    else
        row[k / 2] = (unsigned char)(row[k / 2] | code << (k % 2 ? 4 : 0));
}

struct range {
    float low, high;
};

static inline struct range range_of(const float *w, size_t n)
{
    struct range range = {w[0], w[0]};
    for (size_t i = 1; i < n; i++) {
        range.low = w[i] < range.low ? w[i] : range.low;
        range.high = w[i] > range.high ? w[i] : range.high;
    }
    return range;
}

// One scale and bias for 32 inputs, from their range; code 15 may not reach its end. Good enough for arithmetic.
static inline void code_affine(struct weight *made, const float *w, unsigned char *data)
{
    const uint32_t cols = made->cols, blocks = cols / 32;
    uint16_t *scale = arena_alloc(&arena, made->rows, blocks * sizeof *scale);
    uint16_t *bias = arena_alloc(&arena, made->rows, blocks * sizeof *bias);
    for (size_t block = 0; block < (size_t)made->rows * blocks; block++) {
        const struct range range = range_of(w + 32 * block, 32);
        scale[block] = half_from_float((range.high - range.low) / 15);
        bias[block] = half_from_float(range.low);
        for (uint32_t i = 0; i < 32; i++) {
            const float step = rintf((w[32 * block + i] - half_to_float(bias[block])) / half_to_float(scale[block]));
            const uint32_t k = (uint32_t)(block % blocks) * 32 + i;
            put_code(data + block / blocks * weight_row_bytes(made), made->format, k,
                     (uint8_t)(step < 0 ? 0 : step > 15 ? 15 : step));
        }
    }
    made->scale = scale;
    made->bias = bias;
    made->block = 32;
}

// Entries at even steps over the range of 32 rows.
static inline void code_by_book(struct weight *made, const float *w, unsigned char *data)
{
    const uint32_t entries = made->format == WEIGHT_K8 ? 256 : 16, books = made->rows / WEIGHT_BOOK_ROWS;
    const size_t of_book = (size_t)WEIGHT_BOOK_ROWS * made->cols;
    uint16_t *lut = arena_alloc(&arena, books, entries * sizeof *lut);
    for (uint32_t b = 0; b < books; b++) {
        const struct range range = range_of(w + b * of_book, of_book);
        const float step = (range.high - range.low) / (float)(entries - 1);
        for (uint32_t i = 0; i < entries; i++)
            lut[b * entries + i] = half_from_float(range.low + step * (float)i);
        for (size_t i = b * of_book; i < (b + 1) * of_book; i++)
            put_code(data + i / made->cols * weight_row_bytes(made), made->format, (uint32_t)(i % made->cols),
                     (uint8_t)rintf((w[i] - range.low) / step));
    }
    made->lut = lut;
}

// The same weight in `format`, with blocks of 32 inputs or books of 32 rows, which must fit.
static inline void convert_expert(struct weight *w, enum weight_format format)
{
    if (format != WEIGHT_A4 && format != WEIGHT_K8 && format != WEIGHT_K4) {
        convert(w, format, 32);
        return;
    }
    struct weight made = {.name = w->name, .format = format, .rows = w->rows, .cols = w->cols};
    float *values = arena_alloc(&arena, w->rows, w->cols * sizeof *values);
    unsigned char *data = arena_alloc(&arena, w->rows, weight_row_bytes(&made));
    for (uint32_t row = 0; row < w->rows; row++)
        weight_row(w, row, values + (size_t)row * w->cols);
    made.data = data;
    if (format == WEIGHT_A4)
        code_affine(&made, values, data);
    else
        code_by_book(&made, values, data);
    *w = made;
}

static inline void convert_experts(struct layer *layer, uint32_t experts, enum weight_format format)
{
    struct expert *own = arena_alloc(&arena, experts, sizeof *own);
    memcpy(own, layer->experts, experts * sizeof *own);
    layer->experts = own;
    for (uint32_t e = 0; e < experts; e++) {
        convert_expert(&own[e].gate, format);
        convert_expert(&own[e].up, format);
        convert_expert(&own[e].down, format);
    }
    convert(&layer->router, WEIGHT_F16, 0);
    convert(&layer->shared_gate, WEIGHT_F16, 0);
    struct weight *shared[] = {&layer->shared.gate, &layer->shared.up, &layer->shared.down};
    for (int w = 0; w < 3; w++)
        convert(shared[w], shared[w]->cols % 32 ? WEIGHT_F16 : WEIGHT_Q8, 32);
}

// --- models

// A mini checkpoint with the experts in `format` and, for LFM2-MoE, everything else as `int8lin` stores it.
static inline const struct model *sparse_mini(const char *folder, enum weight_format format)
{
    static struct model model;
    static struct config config;
    struct error error = {0};
    checkpoint_close(&checkpoint);
    cr_assert_eq(checkpoint_open(&checkpoint, folder, &error), 0, "%s", error.text);
    cr_assert_eq(config_open(&arena, checkpoint->config_path, &config, &error), 0, "%s", error.text);
    cr_assert_eq(model_bind(&arena, &config, &checkpoint->table, false, &model, NULL, &error), 0, "%s", error.text);
    for (uint32_t i = 0; i < config.layers; i++) {
        struct layer *layer = &model.layers[i];
        struct weight *body[] = {&layer->in_proj, &layer->conv_out, &layer->w1, &layer->w3, &layer->w2};
        struct weight *projections[] = {&layer->q_proj, &layer->k_proj, &layer->v_proj, &layer->attn_out};
        for (int w = 0; config_is_lfm2(&config) && w < 5; w++)
            convert(body[w], WEIGHT_Q8, 32);
        for (int w = 0; config_is_lfm2(&config) && w < 4; w++)
            convert(projections[w], WEIGHT_F32, 0);
        if (layer->sparse)
            convert_experts(layer, config.experts, format);
    }
    convert(&model.embedding, WEIGHT_F16, 0);
    convert(&model.head, WEIGHT_F16, 0);
    return &model;
}

struct shape_of_experts {
    enum family family;
    uint32_t d, width, shared, experts, k; // d, Fm, Fs, E, k
    enum weight_format format;
    bool biased, raw; // with expert_bias; weights not normalised
};

// One sparse layer of random weights. The bias is as wide as the scores, so that it decides.
static inline const struct model *sparse_layer(const struct shape_of_experts *shape)
{
    static enum mixer mixers[1] = {MIXER_CONV};
    static struct layer layer;
    static struct model model;
    const uint32_t d = shape->d, width = shape->width, shared = shape->shared;
    const float spread = 2 / sqrtf((float)d), down = 2 / sqrtf((float)width);
    layer = (struct layer){.mixer = MIXER_CONV, .sparse = true};
    layer.router = random_weight("router", shape->experts, d, 0, spread);
    if (shape->biased)
        layer.expert_bias = random_weight("expert_bias", 1, shape->experts, 0, 0.5f);
    if (shared) {
        layer.shared_gate = random_weight("shared_expert_gate", 1, d, 0, spread);
        layer.shared.gate = random_weight("shared gate", shared, d, 0, spread);
        layer.shared.up = random_weight("shared up", shared, d, 0, spread);
        layer.shared.down = random_weight("shared down", d, shared, 0, down);
    }
    layer.experts = arena_alloc(&arena, shape->experts, sizeof *layer.experts);
    for (uint32_t e = 0; e < shape->experts; e++)
        layer.experts[e] = (struct expert){.gate = random_weight("gate", width, d, 0, spread),
                                           .up = random_weight("up", width, d, 0, spread),
                                           .down = random_weight("down", d, width, 0, down)};
    convert_experts(&layer, shape->experts, shape->format);
    model = (struct model){
        .config = {.family = shape->family,
                   .vocabulary = 2,
                   .hidden = d,
                   .layers = 1,
                   .mixers = mixers,
                   .query_heads = 1,
                   .key_heads = 1,
                   .head_width = 2,
                   .rotary_width = 2,
                   .conv_taps = 2,
                   .rope_theta = 1e6,
                   .experts = shape->experts,
                   .experts_per_token = shape->k,
                   .expert_width = width,
                   .shared_width = shared,
                   .expert_bias = shape->biased,
                   .expert_normalise = !shape->raw,
                   .expert_scale = shape->family == FAMILY_LFM2_MOE ? 1.3f : 1},
        .layers = &layer,
    };
    return &model;
}

#endif
