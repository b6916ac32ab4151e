// model_file: a bound model as one flat file, so that the check program reads it with no JSON and no safetensors.
//
// write_model.c writes it from what the loader has verified and check_traces trusts it; it lives in the build
// directory and is nobody's input. Words are 32 bits, little-endian: MODEL_FILE_MAGIC, struct model_head, the mixers
// [L], then every weight: format, rows, cols, block, and the bytes of its elements or codes and of its scales.
#ifndef ASSAY_TESTS_KERNELS_MODEL_FILE_H
#define ASSAY_TESTS_KERNELS_MODEL_FILE_H

#include "harness/model/model.h"
#include "runtime/plan.h"

#define MODEL_FILE_MAGIC UINT32_C(0x4D595341)

struct model_head {
    char name[64]; // "lfm2-mini.reference": the row of the committed hashes
    uint32_t is_runtime;
    uint32_t vocabulary, hidden, layers, query_heads, key_heads, head_width, feed_forward, conv_taps;
    float norm_eps;
    uint32_t plan[PLAN_ROWS]; // of a bundle
    double rope_theta;
};

// Calls visit for every weight in the file's order, those that are not there too.
typedef void (*model_file_fn)(void *context, struct weight *weight);
static inline void model_file_weights(struct model *model, model_file_fn visit, void *context)
{
    visit(context, &model->embedding);
    visit(context, &model->final_norm);
    visit(context, &model->head);
    for (uint32_t i = 0; i < model->config.layers; i++) {
        struct layer *w = &model->layers[i];
        struct weight *weights[] = {
            &w->mixer_norm, &w->in_proj,  &w->in_proj_bias, &w->conv,   &w->conv_bias, &w->conv_out,
            &w->conv_out_bias, &w->q_proj,   &w->k_proj,       &w->v_proj, &w->attn_out,  &w->q_norm,
            &w->k_norm,        &w->ffn_norm, &w->w1,           &w->w3,     &w->w2};
        for (size_t k = 0; k < sizeof weights / sizeof *weights; k++)
            visit(context, weights[k]);
    }
}

static inline uint64_t model_file_scales(const struct weight *weight) // bytes
{
    return weight->block ? (uint64_t)weight->rows * (weight->cols / weight->block) * sizeof(uint16_t) : 0;
}

#endif
