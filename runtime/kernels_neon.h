// kernels_neon: what the NEON files share: four floats at a time, the tree, exp, and the entries that do not lie in
// kernels_neon.c. aarch64 only. fcvtn and fcvtl round and widen as half.h does, NaN payloads aside.
#ifndef ASSAY_KERNELS_NEON_H
#define ASSAY_KERNELS_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/kernels.h"

#define ALWAYS static inline __attribute__((always_inline)) // formats and rules become constants

// struct kernels' arrange and linear.
void kernels_neon_arrange(const float *x, uint32_t n, float *arranged);
void kernels_neon_linear(const struct weight *weight, const float *x, struct linear_rule rule, size_t first,
                         size_t end, float *y);

// The same for one of the experts' formats; kernels_neon_linear calls it.
void kernels_neon_linear_expert(const struct weight *weight, struct linear_rule rule, const float *x, size_t first,
                                size_t end, float *y);

// struct kernels' entries of the delta net.
void kernels_neon_rms_norm_gated(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y);
void kernels_neon_silu(const float *x, size_t n, float *y);
void kernels_neon_l2_norm(const float *x, uint32_t n, float scale, enum precision chain, float *y);
void kernels_neon_delta_step(const struct delta_state *state, const float *q, const float *k, const float *v,
                             float beta, float g, float *out);

// --- four floats at a time

ALWAYS float32x4_t load(const float *x, size_t n) // at most 4; +0 past them
{
    if (n >= 4)
        return vld1q_f32(x);
    float part[4] = {0};
    memcpy(part, x, n * sizeof *x);
    return vld1q_f32(part);
}

ALWAYS void store(float *y, size_t n, float32x4_t v)
{
    if (n >= 4) {
        vst1q_f32(y, v);
        return;
    }
    float part[4];
    vst1q_f32(part, v);
    memcpy(y, part, n * sizeof *y);
}

ALWAYS float32x4_t canonical(float32x4_t v)
{
    return vbslq_f32(vceqq_f32(v, v), v, vreinterpretq_f32_u32(vdupq_n_u32(FLOAT_NAN_BITS)));
}

ALWAYS float32x4_t widen(uint16x4_t halves)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}

ALWAYS float32x4_t through_half(float32x4_t v) // h(), NaN payloads aside
{
    return vcvt_f32_f16(vcvt_f16_f32(v));
}

ALWAYS float32x4_t round4(float32x4_t v, enum precision to)
{
    return canonical(to == PRECISION_F16 ? through_half(v) : v);
}

ALWAYS float32x4_t load_state(const void *state, enum precision precision, size_t index)
{
    return precision == PRECISION_F16 ? widen(vld1_u16((const uint16_t *)state + index))
                                      : vld1q_f32((const float *)state + index);
}

// --- sums

ALWAYS float32x4_t sum_step(float32x4_t v, enum precision sum)
{
    return sum == PRECISION_F16 ? through_half(v) : v;
}

// Lanes 4 i .. 4 i + 3 in lane[i]: the tree 16, 8, 4, 2, 1.
ALWAYS float tree(const float32x4_t lane[8], enum precision sum)
{
    float32x4_t half[4];
    for (int i = 0; i < 4; i++)
        half[i] = sum_step(vaddq_f32(lane[i], lane[i + 4]), sum);
    const float32x4_t low = sum_step(vaddq_f32(half[0], half[2]), sum),
                      high = sum_step(vaddq_f32(half[1], half[3]), sum);
    const float32x4_t four = sum_step(vaddq_f32(low, high), sum);
    const float32x4_t two = sum_step(vaddq_f32(four, vextq_f32(four, four, 2)), sum);
    return vgetq_lane_f32(sum_step(vaddq_f32(two, vdupq_laneq_f32(two, 1)), sum), 0);
}

// 1 / sqrt(mean of squares + eps), four times.
ALWAYS float32x4_t inverse_rms(const float *x, uint32_t n, float eps)
{
    float32x4_t squares[8];
    for (int i = 0; i < 8; i++)
        squares[i] = vdupq_n_f32(0);
    for (uint32_t k = 0; k < n; k += 4) { // +0 past the end: fma(0, 0, a sum of squares) changes nothing
        const float32x4_t v = load(x + k, n - k);
        squares[k / 4 % 8] = vfmaq_f32(squares[k / 4 % 8], v, v);
    }
    const float mean = tree(squares, PRECISION_F32) / (float)n;
    return vdupq_n_f32(1.0f / sqrtf(mean + eps));
}

// --- exp

ALWAYS float32x4_t exp4(float32x4_t x)
{
    const float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(1.44269502f)));
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-0.693145752f));
    r = vfmaq_f32(r, n, vdupq_n_f32(-1.42860677e-6f));
    float32x4_t p = vdupq_n_f32(1.98412698e-4f);
    p = vfmaq_f32(vdupq_n_f32(1.38888889e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(8.33333333e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.16666667e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.66666667e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    const uint32x4_t power = vaddq_u32(vreinterpretq_u32_s32(vcvtq_s32_f32(n)), vdupq_n_u32(127)); // saturates
    float32x4_t e = vmulq_f32(p, vreinterpretq_f32_u32(vshlq_n_u32(power, 23))); // outside [-87, 88]: replaced below
    e = vbslq_f32(vcltq_f32(x, vdupq_n_f32(-87.0f)), vdupq_n_f32(0), e);
    e = vbslq_f32(vcgtq_f32(x, vdupq_n_f32(88.0f)), vdupq_n_f32(INFINITY), e);
    return vbslq_f32(vceqq_f32(x, x), e, x);
}

ALWAYS float32x4_t sigmoid4(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1);
    return vdivq_f32(one, vaddq_f32(one, exp4(vnegq_f32(x))));
}

#endif
