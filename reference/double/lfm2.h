// lfm2 in double: the oracle's oracle. The same mathematics (architecture.md 2.5) by other code in another order: the
// whole sequence at once, matrix products by BLIS (bli_dgemm / cblas_dgemm), softmax over full rows, convolution over
// columns. It measures the reference's own rounding error, the noise floor that margins are judged against.
//
// What stays float32 is the rotary frequency and the angle (their rounding is part of the model's definition); cos
// and sin of that angle are taken in double.
#ifndef ASSAY_DOUBLE_LFM2_H
#define ASSAY_DOUBLE_LFM2_H

#include <stdint.h>

#include "harness/base/error.h"
#include "harness/model/model.h"
#include "harness/run/tap.h"

// Optional sink of intermediate rows, [T, width] at once.
struct double_taps {
    void *context;
    void (*put)(void *context, uint32_t layer, enum tap_point point, const double *rows, uint32_t n, uint32_t width);
};

// logits [T, V] from the zero state; n >= 1. Memory: activations of T positions, the [T, T] scores of one head, and
// 256 widened rows of one weight matrix at a time. BLIS runs on one thread. A NaN in weights reaches exactly the rows
// that depend on it. ERROR_INPUT: a token outside the vocabulary; ERROR_RUNTIME: memory.
int double_lfm2_run(const struct model *model, const uint32_t *tokens, uint32_t n, double *logits,
                    const struct double_taps *taps, struct error *error);

// Name of the BLIS configuration in use, for the report header ("zen3").
const char *double_blis_name(void);

#endif
