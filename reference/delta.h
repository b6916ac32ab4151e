// delta: what the gated delta net of Qwen3.5 has of its own: convolution, gates, and the delta rule, one token at a
// time, the rule one value head at a time (architecture.md 4.4).
//
// What decides the bits: fp32 throughout, each operation rounded, fma where it says fma; the sums over dk run in
// double with i increasing and are rounded once, so that they may be vectors over j (arithmetic.md 2). The kernel
// named "scalar" is the definition; every other one gives its bits (NaN payloads excepted). Nothing here allocates.
#ifndef ASSAY_REFERENCE_DELTA_H
#define ASSAY_REFERENCE_DELTA_H

#include <stdint.h>

#include "harness/base/isa.h"

// What writing and forgetting weigh, for n value heads; a, b, a_log, dt_bias, g, beta [n]:
//   beta = fl32(sigmoid(b))
//   g = -(fl32(exp(a_log)) fl32(softplus(a + dt_bias))), sum and product rounded: the log of the decay, at most 0
void delta_gates(const float *a, const float *b, const float *a_log, const float *dt_bias, uint32_t n, float *g,
                 float *beta);

// The depthwise causal convolution and its activation, the state moved on by one column:
//   columns of channel i: state[i][0 ... K-2], m[i]
//   c[i] = fl32(silu(fma chain over j = 0 ... K-1 of w[i][j] column[j], from +0))
//   state[i] = columns 1 ... K-1, before the activation
// m, c [channels]; w [channels, K]; state [channels, K-1], oldest first.
typedef void (*delta_convolve_fn)(const float *m, const float *w, uint32_t channels, uint32_t taps, float *state,
                                  float *c);

struct delta_input {
    const float *q, *k; // [dk], L2-normalized, q times dk^-1/2: ops_l2_norm
    const float *v;     // [dv]
    float g, beta;
    const float *next; // the state [dk, dv] that is wanted after this one, fetched meanwhile: speed only. NULL: none
};

//   S[i][j] = S[i][j] fl32(e^g)
//   d[j] = beta (v[j] - fl32(sum over i of k[i] S[i][j]))       reads the decayed state
//   S[i][j] = fma(k[i], d[j], S[i][j])
//   out[j] = fl32(sum over i of q[i] S[i][j])                   reads the updated state
// (transformers rounds the product k d and its sum with S apart: within the same noise.)
// S [dk, dv]; out [dv] is no input's; sums [dv] is scratch. A NaN in q, k, v, g, beta or S reaches out.
typedef void (*delta_step_fn)(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S, double *sums,
                              float *out);

struct delta_kernel {
    const char *name; // "scalar", "avx2"
    enum isa isa;
    delta_convolve_fn convolve;
    delta_step_fn step;
};
// Every one in this build, the scalar one first, faster ones later; ends with name NULL.
extern const struct delta_kernel delta_kernels[];
// The last one that `isa` includes and this processor has.
const struct delta_kernel *delta_best(enum isa isa);

#endif
