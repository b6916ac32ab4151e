// decoder: what the forward passes of all families share in fp32: the rows of a pass, linear layers, norms, the heads'
// attention over its cache, the dense feed-forward, and what is remembered between passes. One token at a time or
// many: the same bits.
//
// lfm2.h and qwen35.h are the forward passes, experts.h the sparse feed-forward; decoder_memory.c opens, saves and
// loads. Weights stay in the mapped files; only vectors (norms, biases, the convolutions' taps) are widened once.
// Memory is taken at open, for passes of one token, and by decoder_make_room for wider ones; a pass allocates
// nothing. Letters as in harness/model/config.h. The caller has entered the environment of harness/base/floating.h.
#ifndef ASSAY_REFERENCE_DECODER_H
#define ASSAY_REFERENCE_DECODER_H

#include "harness/base/arena.h"
#include "harness/model/model.h"
#include "harness/run/engine.h"
#include "harness/run/state.h"
#include "reference/delta.h"
#include "reference/linear.h"
#include "reference/swiglu.h"

enum { DECODER_WIDTH = 64 }; // tokens of a pass at most

// What one layer remembers, and its vectors in fp32. NULL: a layer of another kind, or no bias.
struct decoder_layer {
    const float *mixer_norm, *ffn_norm;        // [d]
    // attention
    const float *q_norm, *k_norm;              // [dh]
    const float *q_bias, *k_bias, *v_bias;     // as the projections' rows
    const float *attn_out_bias;                // [d]
    float *keys, *values;                      // [Hkv, capacity, dh], keys after norm and RoPE
    // short convolution, or the delta net's depthwise one
    const float *conv, *conv_bias;             // [channels, K], [channels]
    const float *in_proj_bias, *conv_out_bias; // [3 d], [d]
    float *columns;                            // [channels, K-1] of the convolution's input, oldest first
    // delta net
    const float *a_log, *dt_bias;              // [Hv]
    const float *delta_norm;                   // [dv]
    float *delta;                              // [Hv, dk, dv]
    // experts
    const float *expert_bias;                  // [E]
};

struct decoder {
    struct arena arena;
    const struct model *model; // borrowed
    struct linear linear;
    const struct delta_kernel *delta;
    swiglu_fn swiglu;
    uint32_t capacity;            // positions
    uint32_t width;               // tokens of a pass for which there is room, W
    float scale;                  // fl32(dh^-1/2)
    float delta_scale;            // fl32(dk^-1/2)
    struct decoder_layer *layers; // [L]
    const float *final_norm;      // [d]
    const float *frequencies;     // [R/2]
    // of the pass at hand
    struct arena activations;
    uint32_t n, position;      // tokens, positions before them
    float *cosine, *sine;      // [W, R/2]
    float *h, *u, *m;          // [W, d]: residual stream, its norm, what a mixer or feed-forward adds
    float *q, *k, *v;          // [W, Hq dh], [W, Hkv dh], [W, Hkv dh]; delta net: [W, Hk dk], [W, Hk dk], [W, Hv dv]
    float *attn;               // [W, Hq dh]
    float *scores;             // [Hq, capacity]
    double *sums;              // [Hq, dh]; delta net: [Hv, dv]
    float *gate, *up;          // [W, F]
    float *logits;             // [W, V]
    // short convolution (LFM2)
    float *bcx;                // [W, 3 d]: B | C | x
    float *bx, *c;             // [W, d]: B*x, its convolution
    // attention with an output gate, delta net (Qwen3.5)
    float *query_gate;         // [W, Hq, 2, dh]: of each head the query, then its gate
    float *mixed, *convolved;  // [W, C]: q | k | v, their convolution after silu
    float *a, *b, *g, *beta;   // [W, Hv]
    float *z, *core;           // [W, Hv dv]: the output's gate, what the state gave
    // experts
    float *router, *selection; // [W, E]: logits, selection scores
    uint32_t *chosen;          // [W, k] experts, in the order of the slots
    float *ids, *weights;      // [W, k]: the same as floats, what each is multiplied with
    float *gathered;           // [W, d]: the u of the tokens of one expert; what the shared expert adds
    float *routed;             // [W, k, d]: of each slot its expert's output
    float *shared_gate;        // [W]
    struct linear_input input; // of the linear layer at hand
    struct linear_batch batch; // the same of many tokens
};

// At most MATH_ANGLE_MAX positions (math.h). isa: the one that `linear` was opened for. On failure *decoder is NULL
// and nothing is held.
int decoder_open(struct decoder **decoder, const struct model *model, const struct linear *linear, enum isa isa,
                 uint32_t capacity, struct error *error);
void decoder_close(struct decoder **decoder);

// Room for passes of `width` tokens; <= DECODER_WIDTH. On failure, ERROR_RUNTIME, the room is what it was.
int decoder_make_room(struct decoder *decoder, uint32_t width, struct error *error);

// The zero state.
void decoder_reset(struct decoder *decoder);

// The state after `position` tokens, to and from the layouts of harness/run/state.h.
void decoder_save(const struct decoder *decoder, struct state *state);
// ERROR_USAGE: more positions than capacity. ERROR_CONTRACT: not the tensors of this model. Then nothing has changed.
int decoder_load(struct decoder *decoder, const struct state *state, struct error *error);

// --- the parts of a pass; rows are [n, width] of the pass at hand

// A pass of 1 <= n <= width tokens from `position` on (position + n <= capacity): h = E[token], and the tables of RoPE.
void decoder_embed(struct decoder *decoder, const uint32_t *tokens, uint32_t n, uint32_t position);

// Hands the rows of one point to the sink, as they leave the engine. Which NaN a NaN is decides nothing later on.
void decoder_put(const struct decoder *decoder, const struct batch_sink *sink, uint32_t layer, enum tap_point point,
                 float *rows, uint32_t width);

// The x [n, width] of the linear layers that follow.
void decoder_input(struct decoder *decoder, const float *x, uint32_t width);
// y = W x + bias, for the x that was set last; bias may be NULL. y [n, rows]
void decoder_linear(struct decoder *decoder, const struct weight *w, const float *bias, float *y);

// The keys and values [n, Hkv dh] of the pass into the layer's cache.
void decoder_remember(const struct decoder *decoder, const struct decoder_layer *layer);
// q [n, Hq dh] over the cache -> attn [n, Hq dh]; each query sees the positions up to its own.
void decoder_attend(struct decoder *decoder, const struct decoder_layer *layer);

// m = down (silu(gate x) * up x) of the x [n, d] that was set last; m [n, d]. The rows of gate are at most the widest
// dense feed-forward's or expert's.
void decoder_swiglu(struct decoder *decoder, const struct weight *gate, const struct weight *up,
                    const struct weight *down, float *m);
// logits = head x of the x that was set last, without any NaN but the canonical one.
const float *decoder_head(struct decoder *decoder);

#endif
