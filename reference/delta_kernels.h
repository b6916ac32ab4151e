// delta_kernels: the one body of delta.h's kernels, compiled once for each instruction set. It is plain C: the inner
// loops run over j, so the compiler makes vectors of them and no sum changes its order. Four rows at a time, so that
// a sum is loaded and stored once for four of its terms. Included by delta*.c only.
#ifndef ASSAY_REFERENCE_DELTA_KERNELS_H
#define ASSAY_REFERENCE_DELTA_KERNELS_H

#include <math.h>
#include <stddef.h>

#include "harness/base/floating.h"
#include "reference/delta.h"
#include "reference/math.h"
#include "reference/math_inline.h"

// Reading memory takes as long as a whole step, so the next state comes in while this one is computed.
static inline void delta_fetch(const float *next, size_t first, size_t n)
{
#if defined(__GNUC__)
    enum { FLOATS_PER_LINE = 16 };
    for (size_t at = 0; next && at < n; at += FLOATS_PER_LINE)
        __builtin_prefetch(next + first + at, 1, 2);
#else
    (void)next, (void)first, (void)n;
#endif
}

// S = S decay; sums[j] = sum over i of k[i] S[i][j]. Products of two floats are exact in double.
static inline void delta_forget(const float *restrict k, float decay, uint32_t dk, uint32_t dv, float *restrict S,
                                double *restrict sums)
{
    uint32_t i = 0;
    for (uint32_t j = 0; j < dv; j++)
        sums[j] = 0.0;
    for (; i + 4 <= dk; i += 4) {
        float *s0 = S + (size_t)i * dv, *s1 = s0 + dv, *s2 = s1 + dv, *s3 = s2 + dv;
        const double k0 = k[i], k1 = k[i + 1], k2 = k[i + 2], k3 = k[i + 3];
        for (uint32_t j = 0; j < dv; j++) {
            const float d0 = s0[j] * decay, d1 = s1[j] * decay, d2 = s2[j] * decay, d3 = s3[j] * decay;
            sums[j] = sums[j] + k0 * d0 + k1 * d1 + k2 * d2 + k3 * d3;
            s0[j] = d0;
            s1[j] = d1;
            s2[j] = d2;
            s3[j] = d3;
        }
    }
    for (; i < dk; i++)
        for (uint32_t j = 0; j < dv; j++) {
            float *s = S + (size_t)i * dv + j;
            *s *= decay;
            sums[j] += (double)k[i] * *s;
        }
}

// S[i][j] = fma(k[i], d[j], S[i][j]); sums[j] = sum over i of q[i] S[i][j].
static inline void delta_write(const struct delta_input *input, const float *restrict d, uint32_t dk, uint32_t dv,
                               float *restrict S, double *restrict sums)
{
    const float *restrict q = input->q, *restrict k = input->k;
    uint32_t i = 0;
    for (uint32_t j = 0; j < dv; j++)
        sums[j] = 0.0;
    for (; i + 4 <= dk; i += 4) {
        float *s0 = S + (size_t)i * dv, *s1 = s0 + dv, *s2 = s1 + dv, *s3 = s2 + dv;
        const float k0 = k[i], k1 = k[i + 1], k2 = k[i + 2], k3 = k[i + 3];
        const double q0 = q[i], q1 = q[i + 1], q2 = q[i + 2], q3 = q[i + 3];
        delta_fetch(input->next, (size_t)i * dv, (size_t)4 * dv);
        for (uint32_t j = 0; j < dv; j++) {
            const float w0 = fmaf(k0, d[j], s0[j]), w1 = fmaf(k1, d[j], s1[j]);
            const float w2 = fmaf(k2, d[j], s2[j]), w3 = fmaf(k3, d[j], s3[j]);
            sums[j] = sums[j] + q0 * w0 + q1 * w1 + q2 * w2 + q3 * w3;
            s0[j] = w0;
            s1[j] = w1;
            s2[j] = w2;
            s3[j] = w3;
        }
    }
    for (; i < dk; i++)
        for (uint32_t j = 0; j < dv; j++) {
            float *s = S + (size_t)i * dv + j;
            *s = fmaf(k[i], d[j], *s);
            sums[j] += (double)q[i] * *s;
        }
}

// The chains of `channels` channels; the state moves on. `taps` is a constant where it matters.
static inline void delta_chains(const float *restrict m, const float *restrict w, uint32_t channels, uint32_t taps,
                                float *restrict state, float *restrict c)
{
    const uint32_t kept = taps - 1;
    for (uint32_t i = 0; i < channels; i++, w += taps, state += kept) {
        float sum = 0.0f;
        for (uint32_t j = 0; j < kept; j++)
            sum = fmaf(w[j], state[j], sum);
        c[i] = fmaf(w[kept], m[i], sum);
        for (uint32_t j = 0; j + 1 < kept; j++)
            state[j] = state[j + 1];
        if (kept)
            state[kept - 1] = m[i];
    }
}

static inline void delta_convolve_body(const float *m, const float *w, uint32_t channels, uint32_t taps, float *state,
                                       float *c)
{
    if (taps == 4)
        delta_chains(m, w, channels, 4, state, c);
    else
        delta_chains(m, w, channels, taps, state, c);
    for (uint32_t i = 0; i < channels; i++)
        c[i] = (float)math_inline_silu(c[i]);
}

static inline void delta_step_body(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S, double *sums,
                                   float *out)
{
    delta_forget(input->k, math_exp(input->g), dk, dv, S, sums);
    for (uint32_t j = 0; j < dv; j++)
        out[j] = input->beta * (input->v[j] - (float)sums[j]); // d, until the write has used it
    delta_write(input, out, dk, dv, S, sums);
    for (uint32_t j = 0; j < dv; j++)
        out[j] = (float)sums[j];
}

#if defined(__x86_64__)
void delta_convolve_avx2(const float *m, const float *w, uint32_t channels, uint32_t taps, float *state, float *c);
void delta_step_avx2(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S, double *sums, float *out);
#endif

#endif
