// kernels: the operators of the int8 runtime. This header states the formula, every rounding and the order of every
// sum; kernels.c, kernels_delta.c and kernels_router.c are the definition (portable, fmaf), kernels_avx2*.c,
// kernels_avx512.c and kernels_neon*.c give its bits faster. Source: arithmetic.md 3.
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
//   sigmoid  1 / (1 + exp(-x)); silu(x) = x sigmoid(x); each operation rounded
//   softplus NaN: NaN; x > 20: x. e = exp(-|x|); q by Horner with fma in e: -0x1.af49cep-9, 0x1.4917cep-6,
//            -0x1.d6b08cp-5, 0x1.b4ae08p-4, -0x1.3a435ep-3, 0x1.934b54p-3, -0x1.ff23e6p-3, 0x1.554ddp-2,
//            -0x1.ffffd2p-2; l = fma(e e, q, e); x <= 0: l, otherwise x + l. 0 below -87, never subnormal. At most
//            1.8615 ulp (measured on every float of [-87, 20]; the worst is 0x1.d4526p-6).
//   SUM32    lane l of 32 takes the elements k with k mod 32 = l, k increasing, from +0; then the tree (l, l+16),
//            (l, l+8), (l, l+4), (l, l+2), (l, l+1).
//   LIN      lane l of 32 takes the inputs 256 b + 8 l .. 256 b + 8 l + 7 of every block b: s = x_0 w_0, then
//            s = fma(x_j, w_j, s); acc = fma(scale, s, acc), b increasing, from +0; then the same tree. Inputs past
//            the row's end are skipped: a chain may be shorter than 8, a lane may have none. w is the code and scale
//            its fp16 scale, or w is the weight, widened exactly, and scale is 1 (the last fma is then s + acc).
#ifndef ASSAY_RUNTIME_KERNELS_H
#define ASSAY_RUNTIME_KERNELS_H

#include <stdbool.h>
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

// One value head's state of the delta rule.
struct delta_state {
    void *s;                  // [dk, dv], halves or floats
    enum precision precision; // of s
    uint32_t key_width;       // dk
    uint32_t value_width;     // dv
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

    // The same sum and r; y = h((x r)(1 + w)), (x r) and 1 + w rounded to fp32.
    void (*rms_norm_centred)(const float *x, const float *w, uint32_t n, float eps, float *y);

    // The same sum and r, of o; m = h(o r); y = h((m w) silu(z)). o, w, z, y [n]; y may be o or z.
    void (*rms_norm_gated)(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y);

    // In place on x [dh] (a partial rotation: dh is the rotary width R, the rest is left alone), for j < dh / 2
    // with x1 = x[j], x2 = x[j + dh / 2]:
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

    // y = h(o h(sigmoid(gate))). [n]; y may be o or gate.
    void (*attention_gate)(const float *o, const float *gate, size_t n, float *y);

    // c[i] = h(chain of fma(taps[j][i], column_j[i], .) over j from +0, then + bias[i]). history [K-1, d]: the
    // columns before the newest [d], oldest first; taps [K, d]; bias [d] or NULL.
    void (*short_conv)(const float *history, const float *newest, const float *taps, const float *bias, uint32_t d,
                       uint32_t n_taps, float *c);

    // y = h(silu(x)), which follows short_conv in the delta net. [n]; y may be x.
    void (*silu)(const float *x, size_t n, float *y);

    // y = h(h(silu(gate)) up). [n]; y may be gate or up.
    void (*swiglu)(const float *gate, const float *up, size_t n, float *y);

    // y = h(a b), or the fp32 product for F32. [n]; y may be a or b.
    void (*product)(const float *a, const float *b, size_t n, enum precision to, float *y);

    // y = h(a + b). [n]; y may be a or b.
    void (*add)(const float *a, const float *b, size_t n, float *y);

    // The delta rule's q and k: y = h(x r) scale, the product in fp32. scale is 1 / sqrt(dk) for q and 1 for k. [n];
    // y may be x.
    // chain F32: ss = SUM32 of x x by fma; r = 1 / sqrt(ss + 1e-6), each operation rounded.
    // chain F16: as one shipped runtime computes it (zoo.md 3.4). Every step of SUM32 is rounded to half: p = h(x x),
    // acc = h(acc + p), each sum of the tree; then r = h(1 / sqrt(h(ss + h(1e-6)))), root and quotient in fp32.
    // A sum of 65,520 or more is Inf, and every number of the row 0.
    void (*l2_norm)(const float *x, uint32_t n, float scale, enum precision chain, float *y);

    // One step of the gated delta rule (architecture.md 4.4), i increasing in every chain, from +0:
    //   D_ij = S_ij e^g; mem_j = chain of fma(k_i, D_ij, .); d_j = (v_j - mem_j) beta; S_ij = fma(k_i, d_j, D_ij);
    //   out_j = h(chain of fma(q_i, S_ij, .)), on S before it is rounded to the state's precision.
    // Where e^g makes fp32 subnormals, flushing them may change the sign of a zero of out or of S, and nothing else.
    // q, k [dk] as l2_norm leaves them, without Inf; v, out [dv].
    void (*delta_step)(const struct delta_state *state, const float *q, const float *k, const float *v, float beta,
                       float g, float *out);

    // y = h(chain of fma(weights[s], outputs[s], .) over the slots s from +0). outputs [slots, d]; y [d]. A shared
    // expert is the last slot, its weight kernels_sigmoid of its gate.
    void (*expert_sum)(const float *outputs, const float *weights, uint32_t slots, uint32_t d, float *y);
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

// --- one code for every instruction set

// As stated above.
float kernels_exp(float x);
float kernels_sigmoid(float x);
float kernels_softplus(float x);

// For each of the n value heads beta = sigmoid(b), g = -(exp(a_log) softplus(a + dt_bias)); fp32, every operation
// rounded. All [n].
void kernels_delta_gates(const float *a, const float *b, const float *a_log, const float *dt_bias, uint32_t n,
                         float *beta, float *g);

enum router_score { ROUTER_SIGMOID, ROUTER_SOFTMAX };

struct router {
    uint32_t experts; // E
    uint32_t slots;   // k, 1 <= k <= E
    enum router_score score;
    bool normalised;  // the weights of a token are divided by their sum
    float epsilon;    // added to that sum: 1e-6 for LFM2, 0 for Qwen
    float scaling;    // routed_scaling_factor, 1 for Qwen
};

// The experts of one token in descending order of their selection, and their weights; fp32, every operation rounded.
//   scores: sigmoid(logit); or e = exp(logit - max), e / (sum of e from +0, index increasing)
//   selection: score + bias, or the score where bias is NULL; equal ones: the lowest index first
//   weights: the score; / (sum of the slots' scores from +0, slots in order, + epsilon) if normalised; x scaling
// A NaN selects before any number, the lowest index first, and the weight of a slot that it selected is NaN: neither
// a NaN logit nor a NaN bias is lost. logits, scores [E]; bias [E] or NULL; ids, weights [k].
void kernels_route(const struct router *router, const float *logits, const float *bias, float *scores, uint32_t *ids,
                   float *weights);
// The second part of it: selection and weights, from given scores.
void kernels_select(const struct router *router, const float *scores, const float *bias, uint32_t *ids, float *weights);

#endif
