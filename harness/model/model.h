// model: is this the architecture we think? Named weights whose shapes and dtypes were checked once; then trusted.
//
// Weights point into the mapped files: nothing is copied or converted, so a model costs no memory of its own.
#ifndef ASSAY_MODEL_H
#define ASSAY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/model/checkpoint.h"
#include "harness/model/config.h"
#include "harness/model/weight.h"

struct lfm2_layer {
    enum mixer mixer;
    struct weight operator_norm;               // [d]
    // short convolution
    struct weight in_proj, in_proj_bias;       // [3d, d] rows B | C | x; [3d] or none
    struct weight conv, conv_bias;             // [d, K], tap K-1 is the current token; [d] or none
    struct weight conv_out, conv_out_bias;     // [d, d]; [d] or none
    // attention
    struct weight q_proj, k_proj, v_proj;      // [Hq dh, d], [Hkv dh, d], [Hkv dh, d]
    struct weight attn_out;                    // [d, Hq dh]
    struct weight q_norm, k_norm;              // [dh], shared by the heads
    // feed-forward
    struct weight ffn_norm;                    // [d]
    struct weight w1, w3, w2;                  // gate [F, d], up [F, d], down [d, F]
};

struct model {
    struct config config;
    struct weight embedding;     // [V, d]
    struct weight final_norm;    // [d]; model.embedding_norm
    struct weight head;          // [V, d]; == embedding when tied
    struct lfm2_layer *layers;   // [L]
    uint32_t n_weights;          // weights that model_visit visits; codes with their scales are one
};

// Binds every tensor of the architecture by name. A tensor NAME.weight may be stored as itself (F32, F16, BF16, mixed
// as it pleases) or, where `quantized` allows, for a projection or the head, as NAME.weight.q8 (I8 [rows, cols]) or
// NAME.weight.q4 (U8 [rows, (cols + 1) / 2]) with NAME.weight.scale (F16, [rows, cols / 32] or [rows, 1]). Missing,
// misshapen, of an unusable dtype, or left over (not bound, and not "pad.<n>") -> ERROR_INPUT with tensor, found and
// expected.
//
// The head is transformers' (architecture.md 15.3), and model.config.tied says what it came to:
//   config.tied  lm_head           embedding  head
//   yes          none              stored     the embedding
//   yes          equal values      stored     the embedding
//   yes          other values      stored     lm_head, untied, with a sentence in *head_note
//   yes          stored            none       lm_head serves as both, with a sentence in *head_note
//   yes          another format    stored     lm_head, untied (`quantized` only: a bundle's own copy)
//   no           stored            stored     lm_head
//   no           one of the two is missing    error (transformers would take random values and warn)
//
// *head_note (head_note may be NULL) is NULL unless said above. layers and names live in `arena`; the tensors must
// outlive the model.
int model_bind(struct arena *arena, const struct config *config, const struct tensor_table *table, bool quantized,
               struct model *model, const char **head_note, struct error *error);

// Every tensor that a checkpoint with this config has, as model_bind asks for it, in an order of its own, all of one
// dtype: what safetensors_create takes. A tied head is not stored. In `arena`.
int model_declare(struct arena *arena, const struct config *config, enum dtype dtype,
                  struct tensor_declaration **tensors, size_t *n, struct error *error);

// What one token costs whatever came before it: bytes of weights that are read (codes with their scales, one row of
// the embedding unless it serves as head, too) and multiplications of the linear layers.
struct model_traffic {
    uint64_t bytes, multiplications;
};
struct model_traffic model_step_traffic(const struct model *model);

// Calls visit for every weight in a fixed order: embedding, layers (fields in the order above), final norm, head if
// it is not the embedding. Weights of format NONE are left out.
typedef void (*model_visit_fn)(void *context, const struct weight *weight);
void model_visit(const struct model *model, model_visit_fn visit, void *context);

#endif
