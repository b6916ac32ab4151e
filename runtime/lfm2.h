// lfm2: one S=1 step of LFM2 as the int8 runtime computes it: architecture.md 2.5 for the order, arithmetic.md 3 for
// every rounding.
//
// Activations are floats that hold half values (kernels.h). Memory is taken once, at open: caches for `capacity`
// positions and one set of rows; a step allocates nothing. Weights stay in the mapped files; only the vectors (norms,
// convolution taps, biases) are widened once, as h(w). Where the plan has a state in f32, the h() whose result it
// stores is left out: K after RoPE, V after its projection, B*x.
#ifndef ASSAY_RUNTIME_LFM2_H
#define ASSAY_RUNTIME_LFM2_H

#include "harness/base/arena.h"
#include "harness/base/pool.h"
#include "harness/model/model.h"
#include "harness/run/profile.h"
#include "harness/run/state.h"
#include "harness/run/tap.h"
#include "runtime/fault.h"
#include "runtime/kernels.h"
#include "runtime/plan.h"

// What one layer holds beside its weights.
struct runtime_layer {
    const float *mixer_norm, *ffn_norm;       // h(w) [d]
    const float *taps;                           // h(w) [K, d], tap K-1 is the current token
    const float *in_bias, *conv_bias, *out_bias; // h(b) [3d], [d], [d], or NULL
    const float *q_norm, *k_norm;                // h(w) [dh]
    float *history;                              // [K-1, d] columns B*x, oldest first
    void *keys, *values;                         // [Hkv] times attention_view's; halves or floats as the plan says
};

struct runtime_lfm2 {
    const struct model *model;
    struct kernels kernels;
    struct plan plan;
    enum fault fault;
    struct pool *pool;
    const struct profile_hook *profile; // set by the engine; NULL: none
    uint32_t capacity;              // positions the caches have room for
    struct runtime_layer *layers;   // [L]
    const float *final_norm;        // h(w) [d]
    float *frequencies;             // [dh/2]
    float *cos, *sin;               // [dh/2] of the current position
    float *h, *u, *m;               // [d] residual stream, normed input, a block's result
    float *bcx, *bx, *c;            // [3d], [d], [d] short convolution
    float *q, *k, *v, *o, *scratch; // [Hq dh], [Hkv dh], [Hkv dh], [Hq dh], [Hq, W, dh]
    float *gate, *up;               // [F]
    float *arranged;                // an input of a linear layer as the kernel wants it
    float *logits;                  // [V]
};

// All in the arena, which the caller closes, on failure too. The model and the pool are borrowed.
int runtime_lfm2_open(struct arena *arena, const struct model *model, const struct plan *plan, enum fault fault,
                      enum isa isa, struct pool *pool, uint32_t capacity, struct runtime_lfm2 **run,
                      struct error *error);

// One token at `position` (< capacity; the caches hold the positions before it). Logits [V], valid until the next
// step.
const float *runtime_lfm2_step(struct runtime_lfm2 *run, uint32_t position, uint32_t token,
                               const struct tap_sink *taps);

// --- the caches (lfm2_state.c)

int runtime_lfm2_state_open(struct runtime_lfm2 *run, struct arena *arena, struct error *error);

// The last K-1 columns: drops the oldest, appends `column` [d].
void runtime_lfm2_remember_column(struct runtime_lfm2 *run, uint32_t layer, const float *column);
// k, v [Hkv dh] into slot `slot`; exact, since they were rounded to the state's precision before.
void runtime_lfm2_remember_position(struct runtime_lfm2 *run, uint32_t layer, uint32_t slot, const float *k,
                                    const float *v);
// What attention sees of key head `head` with `length` positions.
struct attention_view runtime_lfm2_view(const struct runtime_lfm2 *run, uint32_t layer, uint32_t head,
                                        uint32_t length);

void runtime_lfm2_reset(struct runtime_lfm2 *run);
// `state` was made by state_make for this model and position.
void runtime_lfm2_save(const struct runtime_lfm2 *run, struct state *state);
// ERROR_CONTRACT: other tensors or shapes than this model's after state->position tokens; ERROR_USAGE: more positions
// than capacity; ERROR_RUNTIME: a finite value overflows half. On failure nothing has changed.
int runtime_lfm2_load(struct runtime_lfm2 *run, const struct state *state, struct error *error);

#endif
