// delta: the gated delta rule of one value head over a whole sequence, in the chunked form (architecture.md 4.4): a
// triangular system for each chunk instead of one update of the state for each token.
#ifndef ASSAY_DOUBLE_DELTA_H
#define ASSAY_DOUBLE_DELTA_H

#include <stddef.h>
#include <stdint.h>

enum { DOUBLE_DELTA_CHUNK = 64 };

struct double_delta {
    uint32_t n, dk, dv;     // tokens; widths
    const double *q, *k;    // row t at t * key_stride: normalised, q times dk^-1/2
    const double *v;        // row t at t * value_stride
    const double *g, *beta; // token t at t * gate_stride; g: log of the decay
    size_t key_stride, value_stride, gate_stride;
};

// Doubles of scratch that a run needs.
size_t double_delta_scratch(uint32_t dk, uint32_t dv);

// S [dk, dv]: the state before the first token, then after the last. out: row t at t * value_stride, no input's.
// A NaN of token t reaches no token before t.
void double_delta_run(const struct double_delta *input, double *S, double *scratch, double *out);

#endif
