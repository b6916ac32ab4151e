// NEON of aarch64: tiles of 3 rows by 8 tokens, 6 by 4 or 6 by 2, 4 lanes at a time: 24 accumulators, or 12.
// Bits as linear_tile.c.
#include <string.h>

#include "reference/linear_vector.h"

enum { ACCUMULATORS = 24, TOKENS = 8, NEAR = 48 << 10 }; // of the 64 KiB of Neoverse, 128 of Apple's cores

LINEAR_INLINE vector widen_f32(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return vld1q_f32((const float *)(const void *)(row.data + block * 128 + part * 16));
}

LINEAR_INLINE vector widen_f16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return vcvt_f32_f16(
        vreinterpret_f16_u16(vld1_u16((const uint16_t *)(const void *)(row.data + block * 64 + part * 8))));
}

// A bf16 is the upper half of a float.
LINEAR_INLINE vector widen_bf16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return vreinterpretq_f32_u32(
        vshll_n_u16(vld1_u16((const uint16_t *)(const void *)(row.data + block * 64 + part * 8)), 16));
}

// The first four of eight codes.
LINEAR_INLINE vector scaled(int8x8_t codes, const uint16_t *scale)
{
    const float32x4_t factor = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(*scale)));
    return vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(codes)))), factor); // exact
}

LINEAR_INLINE vector widen_q8(struct linear_row row, size_t block, size_t part, size_t scale)
{
    uint32_t word;
    memcpy(&word, row.data + block * 32 + part * 4, sizeof word);
    return scaled(vreinterpret_s8_u32(vdup_n_u32(word)), row.scale + scale);
}

// Low nibble first.
LINEAR_INLINE vector widen_q4(struct linear_row row, size_t block, size_t part, size_t scale)
{
    uint16_t pair;
    memcpy(&pair, row.data + block * 16 + part * 2, sizeof pair);
    const int8x8_t bytes = vreinterpret_s8_u16(vdup_n_u16(pair));
    return scaled(vzip1_s8(vshr_n_s8(vshl_n_s8(bytes, 4), 4), vshr_n_s8(bytes, 4)), row.scale + scale);
}

#include "reference/linear_tile_kernels.inc"

void linear_multiply_neon(const struct linear_piece *piece)
{
    multiply(piece);
}

void linear_sum_neon(const float *lanes, size_t step, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++, lanes += step) {
        float32x4_t acc[PARTS];
        for (size_t part = 0; part < PARTS; part++)
            acc[part] = load(lanes + part * WIDTH);
        for (size_t half = PARTS / 2; half >= 1; half /= 2) // (l, l+16), (l, l+8), (l, l+4)
            for (size_t part = 0; part < half; part++)
                acc[part] = vaddq_f32(acc[part], acc[part + half]);
        const float32x2_t two = vadd_f32(vget_low_f32(acc[0]), vget_high_f32(acc[0]));
        y[i] = vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }
}
