// kernels_neon: what the two NEON files share: four floats at a time, the tree, and the linear kernel's two entries.
// aarch64 only. fcvtn and fcvtl round and widen as half.h does, NaN payloads aside.
#ifndef ASSAY_KERNELS_NEON_H
#define ASSAY_KERNELS_NEON_H

#include <arm_neon.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/kernels.h"

#define ALWAYS static inline __attribute__((always_inline)) // formats and rules become constants

// struct kernels' arrange and linear.
void kernels_neon_arrange(const float *x, uint32_t n, float *arranged);
void kernels_neon_linear(const struct weight *weight, const float *x, struct linear_rule rule, size_t first,
                         size_t end, float *y);

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

#endif
