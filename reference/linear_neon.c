// NEON of aarch64: 32 lanes are eight registers of four. Bits as linear.c.
#include <arm_neon.h>

#include "reference/linear_kernels.h"

enum { REGISTERS = 8 };

// Elements k ... k+31 of a row, widened, in the order of the kernel's x.
typedef void (*widen_fn)(const struct weight *weight, size_t row, size_t k, float32x4_t w[REGISTERS]);

LINEAR_INLINE void widen_f32(const struct weight *weight, size_t row, size_t k, float32x4_t w[REGISTERS])
{
    const float *from = (const float *)weight->data + row * weight->cols + k;
    for (int i = 0; i < REGISTERS; i++)
        w[i] = vld1q_f32(from + 4 * i);
}

LINEAR_INLINE void widen_f16(const struct weight *weight, size_t row, size_t k, float32x4_t w[REGISTERS])
{
    const uint16_t *from = (const uint16_t *)weight->data + row * weight->cols + k;
    for (int i = 0; i < REGISTERS; i++)
        w[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * i)));
}

// Split order: a bf16 is the upper half of a float, so even elements move up and odd ones stand already in place.
LINEAR_INLINE void widen_bf16(const struct weight *weight, size_t row, size_t k, float32x4_t w[REGISTERS])
{
    const uint16_t *from = (const uint16_t *)weight->data + row * weight->cols + k;
    for (int i = 0; i < REGISTERS / 2; i++) {
        const uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(from + 8 * i));
        w[i] = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
        w[i + 4] = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xFFFF0000)));
    }
}

LINEAR_INLINE float32x4_t scale_of(const struct weight *weight, size_t row, size_t k)
{
    const uint16_t scale = weight->scale[row * (weight->cols / weight->block) + k / weight->block];
    return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(scale)));
}

LINEAR_INLINE void widen_q8(const struct weight *weight, size_t row, size_t k, float32x4_t w[REGISTERS])
{
    const int8_t *from = (const int8_t *)weight->data + row * weight->cols + k;
    const float32x4_t scale = scale_of(weight, row, k);
    for (int i = 0; i < REGISTERS / 2; i++) {
        const int16x8_t codes = vmovl_s8(vld1_s8(from + 8 * i));
        w[2 * i] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(codes))), scale); // exact
        w[2 * i + 1] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(codes))), scale);
    }
}

// Split order: the low nibble of each byte is the even element.
LINEAR_INLINE void widen_q4(const struct weight *weight, size_t row, size_t k, float32x4_t w[REGISTERS])
{
    const int8_t *from = (const int8_t *)weight->data + row * ((weight->cols + (size_t)1) / 2) + k / 2;
    const float32x4_t scale = scale_of(weight, row, k);
    for (int i = 0; i < REGISTERS / 4; i++) {
        const int8x8_t bytes = vld1_s8(from + 8 * i);
        const int16x8_t even = vmovl_s8(vshr_n_s8(vshl_n_s8(bytes, 4), 4)), odd = vmovl_s8(vshr_n_s8(bytes, 4));
        w[2 * i] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(even))), scale);
        w[2 * i + 1] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(even))), scale);
        w[2 * i + 4] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(odd))), scale);
        w[2 * i + 5] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(odd))), scale);
    }
}

// (l, l+4), (l, l+2), (l, l+1): `low` holds lanes 0-3, `high` lanes 4-7.
LINEAR_INLINE float sum_of_eight(float32x4_t low, float32x4_t high)
{
    const float32x4_t four = vaddq_f32(low, high);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

LINEAR_INLINE float sum_natural(const float32x4_t acc[REGISTERS])
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

LINEAR_INLINE float sum_split(const float32x4_t acc[REGISTERS])
{
    const float32x4_t even = sum_to_four(acc), odd = sum_to_four(acc + REGISTERS / 2);
    return sum_of_eight(vzip1q_f32(even, odd), vzip2q_f32(even, odd));
}

LINEAR_INLINE void accumulate(float32x4_t acc[REGISTERS], const float32x4_t w[REGISTERS], const float *x)
{
    for (int i = 0; i < REGISTERS; i++)
        acc[i] = vfmaq_f32(acc[i], w[i], vld1q_f32(x + 4 * i));
}

LINEAR_INLINE void run(widen_fn widen, bool split, const struct weight *weight, const struct linear_input *input,
                       size_t first, size_t end, float *y)
{
    const size_t whole = weight->cols - weight->cols % LINEAR_LANES;
    const float *x = split ? input->split : input->x;
    for (size_t row = first; row < end; row++) {
        float32x4_t acc[REGISTERS], w[REGISTERS];
        for (int i = 0; i < REGISTERS; i++)
            acc[i] = vdupq_n_f32(0);
        for (size_t k = 0; k < whole; k += LINEAR_LANES) {
            widen(weight, row, k, w);
            accumulate(acc, w, x + k);
        }
        if (whole < weight->cols) {
            float tail[LINEAR_LANES];
            linear_tail(weight, row, split, tail);
            for (int i = 0; i < REGISTERS; i++)
                w[i] = vld1q_f32(tail + 4 * i);
            accumulate(acc, w, split ? x + whole : input->tail);
        }
        y[row] = split ? sum_split(acc) : sum_natural(acc);
    }
}

void linear_f32_neon(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                     float *y)
{
    run(widen_f32, false, weight, input, first, end, y);
}

void linear_f16_neon(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                     float *y)
{
    run(widen_f16, false, weight, input, first, end, y);
}

void linear_bf16_neon(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                      float *y)
{
    run(widen_bf16, true, weight, input, first, end, y);
}

void linear_q8_neon(const struct weight *weight, const struct linear_input *input, size_t first, size_t end, float *y)
{
    run(widen_q8, false, weight, input, first, end, y);
}

void linear_q4_neon(const struct weight *weight, const struct linear_input *input, size_t first, size_t end, float *y)
{
    run(widen_q4, true, weight, input, first, end, y);
}
