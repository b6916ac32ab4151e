// oracle: what the forward passes in double share: linear layers over widened weights, norms, rotation, attention,
// causal convolution, SwiGLU, each over the whole sequence at once. Internal to this folder. Letters as in
// harness/model/config.h; rows are [T, width].
#ifndef ASSAY_DOUBLE_ORACLE_H
#define ASSAY_DOUBLE_ORACLE_H

#include <stdint.h>

#include "reference/double/double.h"

enum { ORACLE_TILE_ROWS = 256, ORACLE_WIDE = 6 };

struct oracle {
    const struct model *model;
    const struct double_taps *taps;
    uint32_t n; // T
    double eps; // of the norms
    double expert_scale;
    float *row;                // [widest weight row] as stored
    double *tile;              // [ORACLE_TILE_ROWS, widest weight row] of a weight matrix, widened
    double *h, *u;             // [T, d] residual stream; normed
    double *m;                 // [T, d] result of a mixer or feed-forward
    double *wide[ORACLE_WIDE]; // [T, widest projection] each; the first two are oracle_swiglu's
    double *scores;            // [T, T] of one head
    double *cosine, *sine;     // [T, R / 2]
    double *columns;           // [widest convolution, K-1]
    // delta net
    double *g, *beta; // [T, Hv]
    double *delta;    // [Hv, dk, dv]
    double *chunk;    // of double_delta_run
    // experts
    double *router;            // [T, E] logits
    double *selection;         // [E] scores of one token
    double *experts, *weights; // [T, k]
};

// Hands values to the sinks, if there are any.
void oracle_put(const struct oracle *o, uint32_t layer, enum tap_point point, const double *rows, uint32_t width);
void oracle_put_state(const struct oracle *o, uint32_t layer, enum state_kind kind, const double *values,
                      uint64_t elements);

// h = E[token].
void oracle_embed(struct oracle *o, const uint32_t *tokens);
// The points `added` = m and `sum` = h + m, which becomes h.
void oracle_residual(struct oracle *o, uint32_t layer, enum tap_point added, enum tap_point sum);

// out [rows, weight->rows] = x [rows, weight->cols] weight^T + bias; bias may be NULL or none. out is not x.
void oracle_linear(struct oracle *o, const double *x, uint32_t rows, const struct weight *weight,
                   const struct weight *bias, double *out);

// y = x / sqrt(mean x^2 + eps) w, and with 1 + w in the place of w, row by row (architecture.md 1.1). Rows of heads
// are rows too. y may be x.
void oracle_norm(struct oracle *o, const double *x, uint64_t rows, uint32_t width, const struct weight *weight,
                 double *y);
void oracle_norm_centred(struct oracle *o, const double *x, uint64_t rows, uint32_t width,
                         const struct weight *weight, double *y);

// cosine and sine of all positions; frequency and angle are rounded to float step by step (arithmetic.md 2).
void oracle_rotary_table(struct oracle *o);
// The first R of each head's dh, in halves against each other: (a, b) -> (a cos - b sin, b cos + a sin)
// (architecture.md 1.2). x [T, heads dh]
void oracle_rotate(const struct oracle *o, double *x, uint32_t heads);

// q [T, Hq dh] over k, v [T, Hkv dh], causal -> out [T, Hq dh] (architecture.md 1.3).
void oracle_attention(struct oracle *o, const double *q, const double *k, const double *v, double *out);

// out[t][c] = bias[c] + sum over j of w[c][j] x[t-(K-1)+j][c], zero before the start; x, out [T, channels]. Hands the
// last K-1 columns of x to the sink of states.
void oracle_convolve(struct oracle *o, uint32_t layer, const double *x, const struct weight *taps,
                     const struct weight *bias, double *out);

// out [rows, d] = down (silu(gate x) * up x), x [rows, d]; x and out are not wide[0] or wide[1].
void oracle_swiglu(struct oracle *o, const double *x, uint32_t rows, const struct expert *weights, double *out);

// row [n] becomes e^(row - max) / their sum. One NaN makes all of them NaN.
void oracle_softmax(double *row, uint32_t n);
double oracle_sigmoid(double x);
double oracle_silu(double x);

#endif
