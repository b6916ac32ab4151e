// kernels_neon: what the NEON files share: what kernels_vector.inc is made of, and the entries that do not lie in
// kernels_neon.c. aarch64 only. fcvtn and fcvtl round and widen as half.h does, NaN payloads aside.
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

// The same for one of the experts' formats; kernels_neon_linear calls it.
void kernels_neon_linear_expert(const struct weight *weight, struct linear_rule rule, const float *x, size_t first,
                                size_t end, float *y);

// --- four floats at a time

typedef float32x4_t vector;
typedef uint32x4_t mask; // all bits of a lane, or none
enum { WIDTH = 4, REGISTERS = 32 / WIDTH };

ALWAYS vector zero(void)
{
    return vdupq_n_f32(0);
}

ALWAYS vector splat(float x)
{
    return vdupq_n_f32(x);
}

ALWAYS mask first_lanes(size_t n)
{
    static const uint32_t number[WIDTH] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(number), vdupq_n_u32(n < WIDTH ? (uint32_t)n : WIDTH));
}

ALWAYS vector load(const float *x, size_t n)
{
    if (n >= WIDTH)
        return vld1q_f32(x);
    float part[WIDTH] = {0};
    memcpy(part, x, n * sizeof *x);
    return vld1q_f32(part);
}

ALWAYS void store(float *y, size_t n, vector v)
{
    if (n >= WIDTH) {
        vst1q_f32(y, v);
        return;
    }
    float part[WIDTH];
    vst1q_f32(part, v);
    memcpy(y, part, n * sizeof *y);
}

ALWAYS vector widen(uint16x4_t halves)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}

ALWAYS vector load_halves(const uint16_t *halves)
{
    return widen(vld1_u16(halves));
}

ALWAYS void store_halves(uint16_t *halves, vector v)
{
    vst1_u16(halves, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}

ALWAYS vector through_half(vector v)
{
    return vcvt_f32_f16(vcvt_f16_f32(v));
}

ALWAYS vector add(vector a, vector b)
{
    return vaddq_f32(a, b);
}

ALWAYS vector subtract(vector a, vector b)
{
    return vsubq_f32(a, b);
}

ALWAYS vector multiply(vector a, vector b)
{
    return vmulq_f32(a, b);
}

ALWAYS vector divide(vector a, vector b)
{
    return vdivq_f32(a, b);
}

ALWAYS vector multiply_add(vector a, vector b, vector c)
{
    return vfmaq_f32(c, a, b);
}

ALWAYS vector negate(vector v)
{
    return vnegq_f32(v);
}

ALWAYS mask less(vector a, vector b)
{
    return vcltq_f32(a, b);
}

ALWAYS mask is_number(vector v)
{
    return vceqq_f32(v, v);
}

ALWAYS bool any_nan(vector v)
{
    return vminvq_u32(vceqq_f32(v, v)) == 0;
}

ALWAYS vector choose(mask where, vector v, vector otherwise)
{
    return vbslq_f32(where, v, otherwise);
}

ALWAYS vector larger(vector a, vector b)
{
    return vbslq_f32(vcgtq_f32(b, a), b, a);
}

ALWAYS float largest(vector v)
{
    return vmaxvq_f32(v);
}

ALWAYS vector nearest(vector v)
{
    return vrndnq_f32(v);
}

ALWAYS vector power_of_two(vector n)
{
    const uint32x4_t exponent = vaddq_u32(vreinterpretq_u32_s32(vcvtq_s32_f32(n)), vdupq_n_u32(127)); // saturates
    return vreinterpretq_f32_u32(vshlq_n_u32(exponent, 23));
}

ALWAYS vector upper_lanes(vector v, int n)
{
    return n == 2 ? vextq_f32(v, v, 2) : vdupq_laneq_f32(v, 1);
}

ALWAYS float first_lane(vector v)
{
    return vgetq_lane_f32(v, 0);
}

#include "runtime/kernels_vector.inc"

#endif
