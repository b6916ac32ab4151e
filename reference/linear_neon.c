// NEON of aarch64: 32 lanes are eight registers of four. Bits as linear.c.
#include "reference/linear_vector.h"

enum { REGISTERS = LINEAR_LANES / WIDTH, ROWS = 1, AHEAD = 2048 }; // rows at a time: not measured here

LINEAR_INLINE void widen_f32(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    const float *from = (const float *)(const void *)(row.data + 128 * block);
    (void)scale;
    for (int i = 0; i < REGISTERS; i++)
        w[i] = vld1q_f32(from + 4 * i);
}

LINEAR_INLINE void widen_f16(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    const uint16_t *from = (const uint16_t *)(const void *)(row.data + 64 * block);
    (void)scale;
    for (int i = 0; i < REGISTERS; i++)
        w[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * i)));
}

// Split order: a bf16 is the upper half of a float, so even elements move up and odd ones stand already in place.
LINEAR_INLINE void widen_bf16(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    const uint16_t *from = (const uint16_t *)(const void *)(row.data + 64 * block);
    (void)scale;
    for (int i = 0; i < REGISTERS / 2; i++) {
        const uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(from + 8 * i));
        w[i] = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
        w[i + 4] = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xFFFF0000)));
    }
}

LINEAR_INLINE vector factor_of(struct linear_row row, size_t scale)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(row.scale[scale])));
}

LINEAR_INLINE void widen_q8(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    const int8_t *from = (const int8_t *)row.data + 32 * block;
    const vector factor = factor_of(row, scale);
    for (int i = 0; i < REGISTERS / 2; i++) {
        const int16x8_t codes = vmovl_s8(vld1_s8(from + 8 * i));
        w[2 * i] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(codes))), factor); // exact
        w[2 * i + 1] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(codes))), factor);
    }
}

// Split order: the low nibble of each byte is the even element.
LINEAR_INLINE void widen_q4(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    const int8_t *from = (const int8_t *)row.data + 16 * block;
    const vector factor = factor_of(row, scale);
    for (int i = 0; i < REGISTERS / 4; i++) {
        const int8x8_t bytes = vld1_s8(from + 8 * i);
        const int16x8_t even = vmovl_s8(vshr_n_s8(vshl_n_s8(bytes, 4), 4)), odd = vmovl_s8(vshr_n_s8(bytes, 4));
        w[2 * i] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(even))), factor);
        w[2 * i + 1] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(even))), factor);
        w[2 * i + 4] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(odd))), factor);
        w[2 * i + 5] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(odd))), factor);
    }
}

// (l, l+4), (l, l+2), (l, l+1): `low` holds lanes 0-3, `high` lanes 4-7.
LINEAR_INLINE float sum_of_eight(float32x4_t low, float32x4_t high)
{
    const float32x4_t four = vaddq_f32(low, high);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

LINEAR_INLINE float sum_natural(const vector acc[REGISTERS])
{
    float32x4_t sixteen[4]; // (l, l+16)
    for (int i = 0; i < 4; i++)
        sixteen[i] = vaddq_f32(acc[i], acc[i + 4]);
    return sum_of_eight(vaddq_f32(sixteen[0], sixteen[2]), vaddq_f32(sixteen[1], sixteen[3])); // (l, l+8)
}

// Each half of the registers holds 16 lanes, even ones or odd ones.
LINEAR_INLINE float32x4_t sum_to_four(const float32x4_t half[REGISTERS / 2])
{
    return vaddq_f32(vaddq_f32(half[0], half[2]), vaddq_f32(half[1], half[3])); // (l, l+16), (l, l+8)
}

LINEAR_INLINE float sum_split(const vector acc[REGISTERS])
{
    const float32x4_t even = sum_to_four(acc), odd = sum_to_four(acc + REGISTERS / 2);
    return sum_of_eight(vzip1q_f32(even, odd), vzip2q_f32(even, odd));
}

#include "reference/linear_rows.inc"

LINEAR_ROWS(linear_f32_neon, widen_f32, 128, false)
LINEAR_ROWS(linear_f16_neon, widen_f16, 64, false)
LINEAR_ROWS(linear_bf16_neon, widen_bf16, 64, true)
LINEAR_ROWS(linear_q8_neon, widen_q8, 32, false)
LINEAR_ROWS(linear_q4_neon, widen_q4, 16, true)
