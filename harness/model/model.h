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

// gate [F, d], up [F, d], down [d, F]: the weights of a SwiGLU.
struct expert {
    struct weight gate, up, down;
};

struct layer {
    enum mixer mixer;
    bool sparse;                               // experts, else w1, w3, w2
    struct weight mixer_norm;                  // [d]; operator_norm, input_layernorm
    // short convolution
    struct weight in_proj, in_proj_bias;       // [3d, d] rows B | C | x; [3d] or none
    struct weight conv, conv_bias;             // [d, K], tap K-1 is the current token; [d] or none
    struct weight conv_out, conv_out_bias;     // [d, d]; [d] or none
    // attention
    struct weight q_proj, k_proj, v_proj;      // [Hq dh, d] (Qwen3.5: [Hq 2 dh, d], per head query, then gate),
                                               // [Hkv dh, d], [Hkv dh, d]
    struct weight q_bias, k_bias, v_bias;      // as the rows above, or none
    struct weight attn_out, attn_out_bias;     // [d, Hq dh]; [d] or none
    struct weight q_norm, k_norm;              // [dh], shared by the heads
    // gated delta net
    struct weight qkv_proj, z_proj;            // [C, d] rows q | k | v; [Hv dv, d]
    struct weight b_proj, a_proj;              // [Hv, d]
    struct weight delta_conv;                  // [C, K], tap K-1 is the current token
    struct weight a_log, dt_bias;              // [Hv]
    struct weight delta_norm;                  // [dv], shared by the heads
    struct weight delta_out;                   // [d, Hv dv]
    // feed-forward
    struct weight ffn_norm;                    // [d]
    struct weight w1, w3, w2;                  // gate [F, d], up [F, d], down [d, F]
    struct weight router, expert_bias;         // [E, d]; [E] or none
    struct weight shared_gate;                 // [1, d] or none
    struct expert shared;                      // Fs; or none
    struct weight gate_up, down;               // as stored in one: [E 2 Fm, d] gate rows, then up rows of each expert;
                                               // [E d, Fm]. None when the experts are stored one by one.
    struct expert *experts;                    // [E], Fm; of gate_up and down where these are there
};

// Tensors that belong to other parts of a released checkpoint and are not read.
struct model_left_out {
    uint32_t vision, prediction; // model.visual.*, mtp.*
    uint64_t bytes;
};

struct model {
    struct config config;
    struct weight embedding;     // [V, d]
    struct weight final_norm;    // [d]; model.embedding_norm, model.norm
    struct weight head;          // [V, d]; == embedding when tied
    struct layer *layers;        // [L]
    const char *prefix;          // of the tensors' names: "model." or "model.language_model."
    const char *embedding_name;  // checkpoint name, whatever serves as embedding
    uint32_t n_weights;          // weights that model_visit visits; codes with their scales are one
    struct model_left_out left_out;
};

// Binds every tensor of the architecture by name: layer by layer architecture.md 2.4, 3, 4.3 and 5. Qwen3.5's stand
// under "model.language_model." or, in a model of text alone, under "model."; its experts in one tensor or one by one.
// A tensor NAME.weight may be stored as itself (F32, F16, BF16, mixed as it pleases) or, where `quantized` allows,
// for a projection, an expert or the head, in codes with what belongs to them: NAME.weight.q8 or .q4 with .scale,
// .bias or .lut (runtime/README.md has their shapes). Missing, misshapen, of an unusable dtype, or left over (not
// bound, not left_out's and not "pad.<n>") -> ERROR_INPUT with tensor, found and expected.
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

// What one token costs whatever came before it: bytes of weights that are read (codes with their scales, k of E
// experts, one row of the embedding unless it serves as head, too) and multiplications of the linear layers.
struct model_traffic {
    uint64_t bytes, multiplications;
};
struct model_traffic model_step_traffic(const struct model *model);

// Calls visit for every weight in a fixed order: embedding, layers (the architecture's order; experts last, each gate,
// up, down, or gate_up and down where they are stored in one), final norm, head if it is not the embedding. Weights of
// format NONE are left out.
typedef void (*model_visit_fn)(void *context, const struct weight *weight);
void model_visit(const struct model *model, model_visit_fn visit, void *context);

#endif
