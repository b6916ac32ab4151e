// lfm2: the forward pass of LFM2 and LFM2.5 dense in fp32 (architecture.md 2.5, 2.6), and what it remembers. One
// token at a time or many: the same bits.
//
// lfm2.c is the forward pass, lfm2_memory.c everything around it. Weights stay in the mapped files; only vectors
// (norms, biases, the convolution's taps) are widened once. Memory is taken at open, for passes of one token, and by
// lfm2_make_room for wider ones; a pass allocates nothing.
// Letters as in harness/model/config.h. The caller has entered the environment of harness/base/floating.h.
#ifndef ASSAY_REFERENCE_LFM2_H
#define ASSAY_REFERENCE_LFM2_H

#include "harness/base/arena.h"
#include "harness/model/model.h"
#include "harness/run/engine.h"
#include "harness/run/state.h"
#include "reference/linear.h"

enum { LFM2_WIDTH = 64 }; // tokens of a pass at most

// What one layer remembers, and its vectors in fp32. NULL: a layer of the other kind, or no bias.
struct lfm2_memory {
    const float *operator_norm, *ffn_norm;     // [d]
    const float *conv, *conv_bias;             // [d, K], [d]
    const float *in_proj_bias, *conv_out_bias; // [3 d], [d]
    const float *q_norm, *k_norm;              // [dh]
    float *columns;                            // [d, K-1] of B*x, oldest first
    float *keys, *values;                      // [Hkv, capacity, dh], keys after norm and RoPE
};

struct lfm2 {
    struct arena arena;
    const struct model *model; // borrowed
    struct linear linear;
    uint32_t capacity;          // positions
    uint32_t width;             // tokens of a pass for which there is room, W
    float scale;                // fl32(dh^-1/2)
    struct lfm2_memory *layers; // [L]
    const float *final_norm;    // [d]
    const float *frequencies;   // [dh/2]
    // of the pass at hand
    struct arena activations;
    uint32_t n, position;      // tokens, positions before them
    float *cosine, *sine;      // [W, dh/2]
    float *h, *u, *m;          // [W, d]: residual stream, its norm, what a mixer or feed-forward adds
    float *bcx;                // [W, 3 d]: B | C | x
    float *bx, *c;             // [W, d]: B*x, its convolution
    float *q, *attn;           // [W, Hq dh]
    float *k, *v;              // [W, Hkv dh]
    float *scores;             // [Hq, capacity]
    double *sums;              // [Hq, dh]
    float *gate, *up;          // [W, F]
    float *logits;             // [W, V]
    struct linear_input input; // of the linear layer at hand
    struct linear_batch batch; // the same of many tokens
};

// At most MATH_ANGLE_MAX positions (math.h). On failure *lfm2 is NULL and nothing is held.
int lfm2_open(struct lfm2 **lfm2, const struct model *model, const struct linear *linear, uint32_t capacity,
              struct error *error);
void lfm2_close(struct lfm2 **lfm2);

// The zero state.
void lfm2_reset(struct lfm2 *lfm2);

// Room for passes of `width` tokens; <= LFM2_WIDTH. On failure, ERROR_RUNTIME, the room is what it was.
int lfm2_make_room(struct lfm2 *lfm2, uint32_t width, struct error *error);

// 1 <= n <= width tokens from `position` on (that many came before; position + n <= capacity) -> the logits [n, V]
// of the next ones, valid until the next call. Every token < V. Rows go to sink->taps only, one sink->tap_row before
// each unless it is NULL. Logits and tapped rows hold no NaN but 0x7FC00000.
const float *lfm2_forward(struct lfm2 *lfm2, const uint32_t *tokens, uint32_t n, uint32_t position,
                          const struct batch_sink *sink);

// The state after `position` tokens, to and from the layouts of harness/run/state.h.
void lfm2_save(const struct lfm2 *lfm2, struct state *state);
// ERROR_USAGE: more positions than capacity. ERROR_CONTRACT: not the tensors of this model. Then nothing has changed.
int lfm2_load(struct lfm2 *lfm2, const struct state *state, struct error *error);

#endif
