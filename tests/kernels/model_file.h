// model_file: a bound model as one flat file, so that the check program reads it with no JSON and no safetensors.
//
// write_model.c writes it from what the loader has verified and check_traces trusts it; it lives in the build
// directory and is nobody's input. Words are 32 bits, little-endian: MODEL_FILE_MAGIC, struct model_head, the mixers
// [L], then every weight: format, rows, cols, block, and the bytes of its elements or codes, of its scales, biases
// and codebooks.
#ifndef ASSAY_TESTS_KERNELS_MODEL_FILE_H
#define ASSAY_TESTS_KERNELS_MODEL_FILE_H

#include "harness/model/model.h"
#include "runtime/plan.h"

#define MODEL_FILE_MAGIC UINT32_C(0x4D595341)

struct model_head {
    char name[64]; // "lfm2-mini.reference": the row of the committed hashes
    uint32_t is_runtime, family;
    uint32_t vocabulary, hidden, layers, query_heads, key_heads, head_width, rotary_width, conv_taps;
    uint32_t delta_key_heads, delta_value_heads, delta_key_width, delta_value_width;
    uint32_t feed_forward, dense_layers, experts, experts_per_token, expert_width, shared_width;
    uint32_t expert_normalise;
    float expert_scale, norm_eps;
    uint32_t plan[PLAN_ROWS]; // of a bundle
    double rope_theta;
};

// Calls visit for every weight in the file's order, those that are not there too; experts that are stored in one are
// not visited one by one.
typedef void (*model_file_fn)(void *context, struct weight *weight);
static inline void model_file_expert(struct expert *expert, model_file_fn visit, void *context)
{
    visit(context, &expert->gate);
    visit(context, &expert->up);
    visit(context, &expert->down);
}

static inline void model_file_layer(struct layer *w, uint32_t experts, model_file_fn visit, void *context)
{
    struct weight *weights[] = {
        &w->mixer_norm,    &w->in_proj,   &w->in_proj_bias, &w->conv,        &w->conv_bias,     &w->conv_out,
        &w->conv_out_bias, &w->q_proj,    &w->k_proj,       &w->v_proj,      &w->q_bias,        &w->k_bias,
        &w->v_bias,        &w->attn_out,  &w->q_norm,       &w->k_norm,      &w->attn_out_bias, &w->qkv_proj,
        &w->z_proj,        &w->b_proj,    &w->a_proj,       &w->delta_conv,  &w->a_log,         &w->dt_bias,
        &w->delta_norm,    &w->delta_out, &w->ffn_norm,     &w->w1,          &w->w3,            &w->w2,
        &w->router,        &w->gate_up,   &w->expert_bias,  &w->shared_gate, &w->down,
    };
    for (size_t k = 0; k < sizeof weights / sizeof *weights; k++)
        visit(context, weights[k]);
    model_file_expert(&w->shared, visit, context);
    for (uint32_t e = 0; w->gate_up.format == WEIGHT_NONE && e < experts; e++)
        model_file_expert(&w->experts[e], visit, context);
}

static inline void model_file_weights(struct model *model, model_file_fn visit, void *context)
{
    visit(context, &model->embedding);
    visit(context, &model->final_norm);
    visit(context, &model->head);
    for (uint32_t i = 0; i < model->config.layers; i++)
        model_file_layer(&model->layers[i], config_is_sparse(&model->config, i) ? model->config.experts : 0, visit,
                         context);
}

static inline uint64_t model_file_scales(const struct weight *weight) // bytes
{
    return weight->block ? (uint64_t)weight->rows * (weight->cols / weight->block) * sizeof(uint16_t) : 0;
}

static inline uint64_t model_file_biases(const struct weight *weight) // bytes
{
    return weight->format == WEIGHT_A4 ? model_file_scales(weight) : 0;
}

static inline uint64_t model_file_books(const struct weight *weight) // bytes
{
    const uint64_t entries = weight->format == WEIGHT_K8 ? 256 : weight->format == WEIGHT_K4 ? 16 : 0;
    return weight->rows / WEIGHT_BOOK_ROWS * entries * sizeof(uint16_t);
}

#endif
