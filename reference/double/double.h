// double: all families in double, the oracle's oracle. The same mathematics (architecture.md 2.5, 3, 4.4, 5) as the
// reference by other code in another order: the whole sequence at once, matrix products by BLIS, softmax over full
// rows, convolution over columns, the delta rule in its chunked form, experts in the order of their numbers. It
// measures the reference's own rounding error, the noise floor that margins are judged against.
//
// What stays float32 is the rotary frequency and the angle (their rounding is part of the model's definition); cos
// and sin of that angle are taken in double. Where config.h rounds a number of config.json to float, the number as it
// was stated is used.
//
// lfm2.h, qwen35.h are the forward passes, experts.h the sparse feed-forward, delta.h the delta rule, oracle.h what
// they share, matrix.h the products.
#ifndef ASSAY_DOUBLE_H
#define ASSAY_DOUBLE_H

#include <stdint.h>

#include "harness/base/error.h"
#include "harness/model/model.h"
#include "harness/run/state.h"
#include "harness/run/tap.h"

// Optional sinks; either may be NULL.
struct double_taps {
    void *context;
    // Intermediate rows, [T, width] at once. The experts' ids are numbers, too: those chosen by double scores, in
    // descending order of these, which at a near-tie need not be those of an fp32 engine.
    void (*put)(void *context, uint32_t layer, enum tap_point point, const double *rows, uint32_t n, uint32_t width);
    // What a layer remembers after the last token, in the layout of state.h: kinds conv and delta. (Keys and values
    // are the points k and v of all tokens.)
    void (*put_state)(void *context, uint32_t layer, enum state_kind kind, const double *values, uint64_t elements);
};

// logits [T, V] from the zero state; n >= 1; taps may be NULL. Memory: activations of T positions, the [T, T] scores
// of one head, and 256 widened rows of one weight matrix at a time. BLIS runs on one thread. A NaN in weights reaches
// exactly the rows that depend on it. ERROR_INPUT: a token outside the vocabulary; ERROR_RUNTIME: memory.
int double_run(const struct model *model, const uint32_t *tokens, uint32_t n, double *logits,
               const struct double_taps *taps, struct error *error);

#endif
