// small_model: an LFM2 of a few thousand random weights, of any legal shape, as a list of tensors that a test may
// spoil before it is written. The list is this file's own: it does not share code or tables with the loader.
#ifndef ASSAY_TESTS_SMALL_MODEL_H
#define ASSAY_TESTS_SMALL_MODEL_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/half.h"
#include "harness/model/config.h"
#include "harness/model/safetensors.h"

enum { SMALL_TENSORS = 64, SMALL_LAYERS = 3 };

struct small_tensor {
    char name[96];
    enum dtype dtype;
    uint32_t rank;
    uint64_t shape[3];
    uint64_t seed; // equal seeds give equal values in equal dtypes, and near ones in others
};

struct small_model {
    struct config config;
    enum mixer mixers[SMALL_LAYERS];
    size_t n;
    struct small_tensor tensors[SMALL_TENSORS];
};

// d = 48, 4 query heads of width 8 over 2, F = 40, K = 3, V = 80, layers conv, attention, conv, tied. A test changes
// what it likes and then calls small_tensors.
static inline void small_config(struct small_model *model)
{
    *model = (struct small_model){.mixers = {MIXER_CONV, MIXER_ATTENTION, MIXER_CONV}};
    model->config = (struct config){.model_type = "lfm2",
                                    .vocabulary = 80,
                                    .hidden = 48,
                                    .layers = SMALL_LAYERS,
                                    .query_heads = 4,
                                    .key_heads = 2,
                                    .head_width = 8,
                                    .rotary_width = 8,
                                    .feed_forward = 40,
                                    .conv_taps = 3,
                                    .tied = true,
                                    .norm_eps = 1e-5F,
                                    .rope_theta = 1e6,
                                    .max_positions = 128,
                                    .n_eos = 1,
                                    .eos = {7},
                                    .bos = 1};
}

static inline struct small_tensor *small_add(struct small_model *model, enum dtype dtype, const char *name,
                                             uint64_t a, uint64_t b, uint64_t c)
{
    cr_assert_lt(model->n, SMALL_TENSORS);
    struct small_tensor *tensor = &model->tensors[model->n++];
    *tensor = (struct small_tensor){.dtype = dtype, .rank = c ? 3 : b ? 2 : 1, .shape = {a, b, c}, .seed = model->n};
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    return tensor;
}

static inline void small_add_layer(struct small_model *model, uint32_t layer, enum dtype dtype, const char *name,
                                   uint64_t a, uint64_t b, uint64_t c)
{
    char full[96];
    snprintf(full, sizeof full, "model.layers.%u.%s", layer, name);
    small_add(model, dtype, full, a, b, c);
}

// Every tensor of model->config, all of one dtype, without lm_head.
static inline void small_tensors(struct small_model *model, enum dtype dtype)
{
    const struct config *config = &model->config;
    const uint64_t d = config->hidden, F = config->feed_forward;
    const uint64_t q = (uint64_t)config->query_heads * config->head_width;
    const uint64_t kv = (uint64_t)config->key_heads * config->head_width;
    model->config.mixers = model->mixers;
    model->n = 0;
    small_add(model, dtype, "model.embed_tokens.weight", config->vocabulary, d, 0);
    small_add(model, dtype, "model.embedding_norm.weight", d, 0, 0);
    for (uint32_t i = 0; i < config->layers; i++) {
        small_add_layer(model, i, dtype, "operator_norm.weight", d, 0, 0);
        small_add_layer(model, i, dtype, "ffn_norm.weight", d, 0, 0);
        small_add_layer(model, i, dtype, "feed_forward.w1.weight", F, d, 0);
        small_add_layer(model, i, dtype, "feed_forward.w2.weight", d, F, 0);
        small_add_layer(model, i, dtype, "feed_forward.w3.weight", F, d, 0);
        if (model->mixers[i] == MIXER_ATTENTION) {
            small_add_layer(model, i, dtype, "self_attn.q_proj.weight", q, d, 0);
            small_add_layer(model, i, dtype, "self_attn.k_proj.weight", kv, d, 0);
            small_add_layer(model, i, dtype, "self_attn.v_proj.weight", kv, d, 0);
            small_add_layer(model, i, dtype, "self_attn.out_proj.weight", d, q, 0);
            small_add_layer(model, i, dtype, "self_attn.q_layernorm.weight", config->head_width, 0, 0);
            small_add_layer(model, i, dtype, "self_attn.k_layernorm.weight", config->head_width, 0, 0);
            continue;
        }
        small_add_layer(model, i, dtype, "conv.in_proj.weight", 3 * d, d, 0);
        small_add_layer(model, i, dtype, "conv.conv.weight", d, 1, config->conv_taps);
        small_add_layer(model, i, dtype, "conv.out_proj.weight", d, d, 0);
        if (config->conv_bias) {
            small_add_layer(model, i, dtype, "conv.in_proj.bias", 3 * d, 0, 0);
            small_add_layer(model, i, dtype, "conv.conv.bias", d, 0, 0);
            small_add_layer(model, i, dtype, "conv.out_proj.bias", d, 0, 0);
        }
    }
}

static inline struct small_tensor *small_find(struct small_model *model, const char *name)
{
    for (size_t i = 0; i < model->n; i++) {
        if (!strcmp(model->tensors[i].name, name))
            return &model->tensors[i];
    }
    cr_assert_fail("the small model has no %s", name);
    return NULL;
}

static inline void small_remove(struct small_model *model, const char *name)
{
    struct small_tensor *tensor = small_find(model, name);
    *tensor = model->tensors[--model->n];
}

// A value in [-1, 1) from seed and index, with 7 bits: BF16, F16 and F32 hold it exactly.
static inline float small_value(uint64_t seed, uint64_t index)
{
    uint64_t z = (seed << 32 ^ index) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 29) * 0xBF58476D1CE4E5B9u;
    return (float)(int64_t)(z >> 56) / 128 - 1;
}

static inline void small_put(struct safetensors_writer *writer, size_t index, const struct small_tensor *tensor,
                             uint64_t elements)
{
    static unsigned char data[1 << 16];
    const size_t size = dtype_size(tensor->dtype);
    cr_assert_leq(elements * size, sizeof data);
    for (uint64_t i = 0; i < elements; i++) {
        const float value = small_value(tensor->seed, i);
        const uint32_t bits = float_to_bits(value);
        const uint16_t half = tensor->dtype == DTYPE_F16 ? half_from_float(value) : (uint16_t)(bits >> 16);
        const int8_t code = (int8_t)(value * 127);
        const double wide = value;
        const void *const by_size[] = {[1] = &code, [2] = &half, [4] = &bits, [8] = &wide};
        memcpy(data + i * size, by_size[size], size);
    }
    safetensors_write(writer, index, 0, data, elements * size);
}

// Writes the tensors [first, end) of the list to `path`. Alignment 8 only when all have one dtype.
static inline void small_write(const struct small_model *model, size_t first, size_t end, uint64_t alignment,
                               const char *path)
{
    struct tensor_declaration declarations[SMALL_TENSORS];
    struct safetensors_writer *writer;
    struct error error = {0};
    for (size_t i = first; i < end; i++) {
        const struct small_tensor *tensor = &model->tensors[i];
        declarations[i - first] = (struct tensor_declaration){tensor->name, tensor->dtype, tensor->rank, {0}};
        memcpy(declarations[i - first].shape, tensor->shape, sizeof tensor->shape);
    }
    cr_assert_eq(safetensors_create(&writer, path, declarations, end - first, NULL, 0, alignment, &error), 0, "%s",
                 error.text);
    for (size_t i = first; i < end; i++) {
        uint64_t elements = 1;
        for (uint32_t j = 0; j < model->tensors[i].rank; j++)
            elements *= model->tensors[i].shape[j];
        small_put(writer, i - first, &model->tensors[i], elements);
    }
    cr_assert_eq(safetensors_commit(&writer, &error), 0, "%s", error.text);
}

#endif
