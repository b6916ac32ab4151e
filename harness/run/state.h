// state: what a model remembers between two steps, as one object that can be saved, loaded, stored and compared.
//
// Layouts of fixtures/oracles/README.md: k, v [Hkv, position, dh] (keys after norm and RoPE); conv [channels, K-1], the
// columns of the convolution's input, oldest first, zero where the sequence has not begun (LFM2: d channels, B*x;
// Qwen3.5: C channels q | k | v before convolution and silu); delta [Hv, dk, dv], what the delta net has learnt.
// Values are fp32; an engine with fp16 states widens on save (exact) and rounds to nearest-even on load.
#ifndef ASSAY_STATE_H
#define ASSAY_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/model/config.h"

enum state_kind { STATE_K, STATE_V, STATE_CONV, STATE_DELTA, STATE_KINDS };
const char *state_kind_name(enum state_kind kind); // "k", "v", "conv", "delta"

struct state_tensor {
    uint32_t layer;
    enum state_kind kind;
    uint32_t rank;
    uint64_t shape[3];
    uint64_t elements;
    float *data;
};

struct state {
    uint32_t position; // tokens consumed
    size_t n;
    struct state_tensor *tensors; // by layer; k before v, conv before delta
};

// A zeroed state of the right shapes after `position` tokens, in the arena.
int state_make(struct arena *arena, const struct config *config, uint32_t position, struct state *state,
               struct error *error);
// The part that does not grow with the positions: conv and delta alone.
int state_make_recurrent(struct arena *arena, const struct config *config, uint32_t position, struct state *state,
                         struct error *error);
// "state.2.k"
const char *state_name(uint32_t layer, enum state_kind kind, char text[48]);

#endif
