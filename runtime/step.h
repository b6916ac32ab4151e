// step: what the int8 runtime's S=1 step of every family is made of: rows, linear layers, norms, heads' attention, the
// dense feed-forward, the caches. arithmetic.md 3 for every rounding.
//
// lfm2.c and qwen35.c are the steps themselves (architecture.md 2-5), experts.c the sparse feed-forward, step_state.c
// the caches. Activations are floats that hold half values (kernels.h). Memory is taken once, at open: caches for
// `capacity` positions and one set of rows; a step allocates nothing. Weights stay in the mapped files; only the
// vectors (norms, convolution taps, biases) are widened once, as h(w), A_log, dt_bias and expert_bias exactly. Where
// the plan has a state in f32, the h() whose result it stores is left out: K after RoPE, V after its projection, B*x.
#ifndef ASSAY_RUNTIME_STEP_H
#define ASSAY_RUNTIME_STEP_H

#include "harness/base/arena.h"
#include "harness/base/pool.h"
#include "harness/model/model.h"
#include "harness/run/profile.h"
#include "harness/run/state.h"
#include "harness/run/tap.h"
#include "runtime/fault.h"
#include "runtime/kernels.h"
#include "runtime/plan.h"

// What one layer holds beside its weights. NULL: a layer of another kind, or no bias.
struct step_layer {
    const float *mixer_norm, *ffn_norm;          // h(w) [d]
    // attention
    const float *q_norm, *k_norm;                // h(w) [dh]
    const float *q_bias, *k_bias, *v_bias;       // h(b), as the projections' rows
    const float *attn_out_bias;                  // h(b) [d]
    void *keys, *values;                         // [Hkv] times attention_view's; halves or floats as the plan says
    // short convolution, or the delta net's depthwise one
    const float *taps;                           // h(w) [K, channels], tap K-1 is the current token
    const float *in_bias, *conv_bias, *out_bias; // h(b) [3d], [d], [d]
    float *history;                              // [K-1, channels] columns of its input, oldest first
    // delta net
    const float *a_log, *dt_bias;                // w [Hv]
    const float *delta_norm;                     // h(w) [dv]
    void *delta;                                 // [Hv, dk, dv], halves or floats as the plan says
    // experts
    const float *expert_bias;                    // w [E]
};

struct step {
    const struct model *model;
    struct kernels kernels;
    struct plan plan;
    enum fault fault;
    struct pool *pool;
    const struct profile_hook *profile; // set by the engine; NULL: none
    uint32_t capacity;              // positions the caches have room for
    uint32_t rotary_width;          // R, but for one fault
    uint32_t loaded;                // position of the state that was loaded last; 0: none since the reset
    struct step_layer *layers;      // [L]
    const float *final_norm;        // h(w) [d]
    float *frequencies;             // [R/2]
    float *cos, *sin;               // [R/2] of the current position
    float *h, *u, *m;               // [d] residual stream, normed input, a block's result
    float *q, *k, *v, *o, *scratch; // [Hq dh], [Hkv dh], [Hkv dh], [Hq dh], [Hq, W, dh]
    float *gate, *up;               // [the widest of F, Fm, Fs]
    float *arranged;                // an input of a linear layer as the kernel wants it
    float *logits;                  // [V]
    float *bcx, *bx, *c;            // LFM2: [3d], [d], [d] short convolution
    // Qwen3.5
    float *query_gate, *attn_gate;  // [Hq, 2, dh] as q_proj gives it, [Hq dh] its gates
    float *column, *qkv;            // [C] newest column of the convolution, its activated result q | k | v
    float *z, *core;                // [Hv dv]
    float *a, *b, *beta, *g;        // [Hv]
    float *spare;                   // [Hv dk dv] where a fault needs it
    // experts, the shared one in the last slot
    float *router, *scores;         // [E] logits, scores
    uint32_t *chosen;               // [k]
    float *ids;                     // [k] chosen, as a tap has them
    float *weights, *outputs;       // [k + 1], [k + 1, d]
};

// All in the arena, which the caller closes, on failure too. The model and the pool are borrowed.
int step_open(struct arena *arena, const struct model *model, const struct plan *plan, enum fault fault,
                      enum isa isa, struct pool *pool, uint32_t capacity, struct step **run,
                      struct error *error);

// --- the parts of a step

// cos and sin of `position`, then h = E[token].
void step_embed(struct step *step, uint32_t position, uint32_t token);
// y [rows] = h(LIN(W, x) + bias), x [cols]; not rounded where `to` is F32; bias may be NULL.
void step_linear(struct step *step, const struct weight *weight, const float *bias, const float *x, enum precision to,
                 float *y);
// k, v into the slot of `position`, then q over the `position` + 1 positions -> o.
void step_attend(struct step *step, uint32_t layer, uint32_t position);
// m = down h(h(silu(gate x)) up x), x [d] -> m [d].
void step_swiglu(struct step *step, const struct weight *gate, const struct weight *up, const struct weight *down,
                 const float *x, float *m);
// logits of x [d], with the faults that concern logits alone.
const float *step_head(struct step *step, const float *x);

// --- the caches (step_state.c)

int step_state_open(struct step *run, struct arena *arena, struct error *error);

// The last K-1 columns: drops the oldest, appends `column` [channels].
void step_remember_column(struct step *run, uint32_t layer, const float *column);
// k, v [Hkv dh] into slot `slot`; exact, since they were rounded to the state's precision before.
void step_remember_position(struct step *run, uint32_t layer, uint32_t slot, const float *k,
                                    const float *v);
// What attention sees of key head `head` with `length` positions.
struct attention_view step_view(const struct step *run, uint32_t layer, uint32_t head,
                                        uint32_t length);

void step_reset(struct step *run);
// `state` was made by state_make for this model and position.
void step_save(const struct step *run, struct state *state);
// ERROR_CONTRACT: other tensors or shapes than this model's after state->position tokens; ERROR_USAGE: more positions
// than capacity; ERROR_RUNTIME: a finite value overflows half. On failure nothing has changed.
int step_load(struct step *run, const struct state *state, struct error *error);

#endif
