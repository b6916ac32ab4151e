// kernels: the operators of the int8 runtime. This header states the formula, every rounding and the order of every
// sum; kernels.c is the definition (portable, fmaf), kernels_avx2.c, kernels_avx512.c and kernels_neon.c give its bits
// faster. Source: arithmetic.md 3.
//
// h(v) is the half nearest to v, ties to even. A vector between operators is an array of floats that hold half
// values: widening is exact, so only the places marked h() round to half. Everything else is fp32, one rounding an
// operation, fma only where written. Every NaN that leaves an operator is the canonical one. Nothing allocates; an
// output may not overlap an input unless said.
//
//   exp(x)   NaN: NaN; x < -87: 0; x > 88: Inf. n = rint(x * 1.44269502); r = fma(n, -0.693145752, x),
//            r = fma(n, -1.42860677e-6, r); Horner by fma: 1.98412698e-4, 1.38888889e-3, 8.33333333e-3,
//            4.16666667e-2, 1.66666667e-1, 0.5, 1, 1; times 2^n, exact. Never subnormal. At most 0.9387 ulp (measured
//            on every float of [-87, 88]; the worst is 0x1.ab05d2p+4).
//   SUM32    lane l of 32 takes the elements k with k mod 32 = l, k increasing, from +0; then the tree (l, l+16),
//            (l, l+8), (l, l+4), (l, l+2), (l, l+1).
//   LIN      lane l of 32 takes the inputs 256 b + 8 l .. 256 b + 8 l + 7 of every block b: s = x_0 w_0, then
//            s = fma(x_j, w_j, s); acc = fma(scale, s, acc), b increasing, from +0; then the same tree. Inputs past
//            the row's end are skipped: a chain may be shorter than 8, a lane may have none. w is the code and scale
//            its fp16 scale, or w is the weight, widened exactly, and scale is 1 (the last fma is then s + acc).
#ifndef ASSAY_RUNTIME_KERNELS_H
#define ASSAY_RUNTIME_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "harness/base/isa.h"
#include "harness/model/model.h"
#include "runtime/plan.h"

// The two rows of the precision plan that change LIN.
struct linear_rule {
    enum precision sum;     // F16: each product, fma and addition of LIN, the tree's too, is rounded to half
    enum precision dequant; // F16: w = h(code x scale) and scale = 1
};

enum {
    ATTENTION_BLOCK = 32,      // positions of a block, one a lane
    ATTENTION_SIMDGROUPS = 8,  // W: simdgroup w takes the blocks w, w + W, ...
};

// One query head's view of its key head's cache, whose values are halves or floats.
struct attention_view {
    const void *keys;       // [blocks, dh, 32]: 32 positions side by side, as the lanes of a simdgroup read them
    const void *values;     // [positions, dh]
    enum precision state;   // of both
    uint32_t head_width;    // dh
    uint32_t length;        // positions to attend to, >= 1
    float scale;            // dh^-1/2
};

struct kernels {
    // x[i] = h(x[i]) for F16; for F32 only NaNs change.
    void (*round)(float *x, size_t n, enum precision to);

    // x [n] in the order in which `linear` of the same table wants its input: kernels_arranged(n) floats.
    void (*arrange)(const float *x, uint32_t n, float *arranged);

    // y[r] = LIN(row r of w [rows, cols], x [cols]) for first <= r < end; neither rounded to half nor made canonical.
    // Any format but WEIGHT_NONE; the block of a quantized one is 32 or cols.
    void (*linear)(const struct weight *w, const float *arranged, struct linear_rule rule, size_t first, size_t end,
                   float *y);

    // ss = SUM32 of x x by fma; r = 1 / sqrt(ss / n + eps), each operation rounded; y = h(h(x r) w).
    // x, w, y [n]; y may be x.
    void (*rms_norm)(const float *x, const float *w, uint32_t n, float eps, float *y);

    // In place on x [dh], for j < dh / 2 with x1 = x[j], x2 = x[j + dh / 2]:
    // h(fma(x1, cos[j], -(x2 sin[j]))), h(fma(x2, cos[j], x1 sin[j])); no h() for F32.
    void (*rope)(float *x, const float *cos, const float *sin, uint32_t dh, enum precision to);

    // Softmax online. Simdgroup w starts with m = -1e30, l = 0, acc = 0. For each of its blocks:
    //   s[t] = scale (q . k[t]), an fma chain over d from +0, then one product
    //   m' = max(m, max s), c = exp(m - m'), p[t] = exp(s[t] - m'), 0 where there is no position
    //   l = fma(l, c, tree of the 32 p)
    //   acc[d] = acc[d] c, then fma(p[t], v[t][d], acc[d]) with t increasing
    // At the end M = max m, L = sum of l e^(m - M), o[d] = sum of acc[d] e^(m - M), by fma, w increasing, from +0;
    // out = h(o / L). q, out [dh]; scratch [W, dh]. A NaN in q, k or v reaches the output.
    void (*attention)(const struct attention_view *view, const float *q, float *scratch, float *out);

    // c[i] = h(chain of fma(taps[j][i], column_j[i], .) over j from +0, then + bias[i]). history [K-1, d]: the
    // columns before the newest [d], oldest first; taps [K, d]; bias [d] or NULL.
    void (*short_conv)(const float *history, const float *newest, const float *taps, const float *bias, uint32_t d,
                       uint32_t n_taps, float *c);

    // y = h(h(silu(gate)) up), silu(x) = x (1 / (1 + exp(-x))), each operation rounded. [n]; y may be gate or up.
    void (*swiglu)(const float *gate, const float *up, size_t n, float *y);

    // y = h(a b), or the fp32 product for F32. [n]; y may be a or b.
    void (*product)(const float *a, const float *b, size_t n, enum precision to, float *y);

    // y = h(a + b). [n]; y may be a or b.
    void (*add)(const float *a, const float *b, size_t n, float *y);
};

// The definition in every place, overwritten by what `isa` has a faster twin of.
void kernels_init(struct kernels *kernels, enum isa isa);

// Overwrite the table: AVX2 (with FMA and F16C) and NEON all of it, AVX-512 (F, BW, VL, DQ) the linear kernel. The
// processor must have them.
void kernels_init_avx2(struct kernels *kernels);
void kernels_init_avx512(struct kernels *kernels);
void kernels_init_neon(struct kernels *kernels);

// Floats of an arranged input of n: n rounded up to whole groups of 128, the widest twin's.
static inline size_t kernels_arranged(size_t n)
{
    return (n + 127) / 128 * 128;
}

// exp as stated above.
float kernels_exp(float x);

#endif
