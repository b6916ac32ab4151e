// ops: one function for each operator of the reference, its formula and its order above it (arithmetic.md 2).
//
// Everything is fp32 and each operation is rounded; fma only where the formula says fma; "double" sums run in double
// with the index increasing and are rounded once. Vectors do not overlap unless it says so. Nothing here allocates,
// splits work over threads or looks at a config. Letters as in harness/model/config.h.
#ifndef ASSAY_REFERENCE_OPS_H
#define ASSAY_REFERENCE_OPS_H

#include <stdint.h>

#include "harness/model/model.h"
#include "reference/linear.h"

// h = E[token], widened exactly. h [d]
void ops_embed(const struct weight *embedding, uint32_t token, float *h);

// y[i] = w[i] (x[i] r), r = fl32(1 / sqrt(m + eps)) evaluated in double, m = fl32(sum x^2 / n), the sum in double.
// x, y, w [n]; y may be x. (architecture.md 1.1, RMS plain)
void ops_rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y);

// y[i] = (x[i] r) (1 + w[i]), r as above, each operation rounded. (architecture.md 1.1, RMS zero-centred)
void ops_rms_norm_centred(const float *x, const float *w, uint32_t n, float eps, float *y);

// y[i] = (w[i] (o[i] r)) fl32(silu(z[i])), r as above: norm, weight, gate. o, w, z, y [n]; y may be o or z.
// (architecture.md 1.1, RMS gated)
void ops_rms_norm_gated(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y);

// y[i] = (x[i] r) scale, r = fl32(1 / sqrt(m + 1e-6f)) evaluated in double, m = fl32(sum x^2), the sum in double.
// scale: dk^-1/2 for a query of the delta rule, 1 for a key. x, y [n]; y may be x. (architecture.md 1.1, L2 norm)
void ops_l2_norm(const float *x, uint32_t n, float scale, float *y);

// f[j] = fl32(1 / p), p = fl32(theta^e), e = fl32(2 j / width): transformers' own bits. f [width / 2]
void ops_rope_frequencies(double theta, uint32_t width, float *f);

// Angle = fl32(f[j] position); its cosine and sine rounded once. f, cosine, sine [n]. position < 2^18 (math.h).
void ops_rope_table(const float *f, uint32_t n, uint32_t position, float *cosine, float *sine);

// Rotates the pairs (x[i], x[i + n]) of one head in place: x[i] c - x[i+n] s and x[i+n] c + x[i] s, products and sums
// rounded. x [2 n]; cosine, sine [n]: a rotary width of 2 n, and what x has beyond it is not touched.
// (architecture.md 1.2)
void ops_rope(float *x, const float *cosine, const float *sine, uint32_t n);

// In place: e[t] = fl32(exp(s[t] - max s)), maximum exact; s[t] = e[t] / fl32(sum e), the sum in double.
// s [n], n >= 1. One NaN makes all of them NaN.
void ops_softmax(float *s, uint32_t n);

// One query head over the positions of its key head (architecture.md 1.3):
//   s[t] = (q . k[t]) scale              32 lanes, then one product
//   p = softmax(s)                       as above
//   out[c] = fl32(sum p[t] v[t][c])      in double, t increasing
// q, out [dh]; k, v [positions, dh]; s [positions] and sums [dh] are scratch. dot: any kernel for WEIGHT_F32.
// A NaN in q, k or v reaches out.
void ops_attention(linear_fn dot, const float *q, const float *k, const float *v, uint32_t positions, uint32_t dh,
                   float scale, float *s, double *sums, float *out);

// out[i] = a[i] b[i]. [n]; out may be a or b.
void ops_multiply(const float *a, const float *b, uint32_t n, float *out);

// One token of the depthwise causal convolution, and its state moved on by one column (architecture.md 2.5, 2.6):
//   columns of channel i: state[i][0 ... K-2], bx[i]
//   c[i] = fma chain over j = 0 ... K-1 of w[i][j] column[j], from +0, then + bias[i]
//   state[i] = columns 1 ... K-1
// bx, c [d]; w [d, K]; state [d, K-1], oldest first; bias [d] or NULL.
void ops_short_conv(const float *bx, const float *w, const float *bias, uint32_t d, uint32_t taps, float *state,
                    float *c);

// y[i] = x[i] fl32(sigmoid(gate[i])). [n]; y may be x or gate. (architecture.md 4.4, attention's output gate)
void ops_sigmoid_gate(const float *x, const float *gate, uint32_t n, float *y);

// h[i] = m[i] + h[i]. [n]
void ops_residual(const float *m, uint32_t n, float *h);

// sum[i] = fma(weight, y[i], sum[i]): experts in slot order from +0, a shared expert last, its weight
// fl32(sigmoid(gate)) (arithmetic.md 2). [n]
void ops_add_weighted(float weight, const float *y, uint32_t n, float *sum);

// Every NaN becomes 0x7FC00000: payloads differ between machines (arithmetic.md 1). x [n]
void ops_canonical(float *x, size_t n);

#endif
