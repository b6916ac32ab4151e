// AVX-512 (F, BW, VL, DQ): tiles of 3 rows by 8 tokens, 6 by 4 or 6 by 2, 16 lanes at a time: 24 accumulators, or 12.
// Bits as linear_tile.c.
#include <string.h>

#include "reference/linear_vector.h"

enum { ACCUMULATORS = 24, TOKENS = 8, NEAR = 24 << 10 }; // of the 32 KiB of most

LINEAR_INLINE vector widen_f32(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return _mm512_loadu_ps(row.data + block * 128 + part * 64);
}

LINEAR_INLINE vector widen_f16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(row.data + block * 64 + part * 32)));
}

// A bf16 is the upper half of a float: one shuffle puts it there and zeros below.
LINEAR_INLINE vector widen_bf16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    const __m512i low = _mm512_set_epi32(0xF0000, 0xE0000, 0xD0000, 0xC0000, 0xB0000, 0xA0000, 0x90000, 0x80000,
                                         0x70000, 0x60000, 0x50000, 0x40000, 0x30000, 0x20000, 0x10000, 0);
    const __m512i from = part ? _mm512_or_si512(low, _mm512_set1_epi32(0x100000)) : low;
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xAAAAAAAA, from, _mm512_loadu_si512(row.data + block * 64)));
}

LINEAR_INLINE vector scaled(__m128i codes, const uint16_t *scale)
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), _mm512_set1_ps(_cvtsh_ss(*scale))); // exact
}

LINEAR_INLINE vector widen_q8(struct linear_row row, size_t block, size_t part, size_t scale)
{
    return scaled(_mm_loadu_si128((const __m128i *)(const void *)(row.data + block * 32 + part * 16)),
                  row.scale + scale);
}

// Low nibble first.
LINEAR_INLINE vector widen_q4(struct linear_row row, size_t block, size_t part, size_t scale)
{
    const __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(row.data + block * 16 + part * 8));
    const __m128i even = _mm_and_si128(bytes, _mm_set1_epi8(15)), eight = _mm_set1_epi8(8);
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    const __m128i codes = _mm_xor_si128(_mm_unpacklo_epi8(even, odd), eight);
    return scaled(_mm_sub_epi8(codes, eight), row.scale + scale); // sign of bit 3
}

#include "reference/linear_tile_kernels.inc"

void linear_multiply_avx512(const struct linear_piece *piece)
{
    multiply(piece);
}

// (l, l+16) of one, then (l, l+8) of two outputs: 8 lanes of each.
LINEAR_INLINE __m512 sum_of_two(const float *lanes, size_t step)
{
    const float *next = lanes + step;
    const __m512 a = _mm512_add_ps(_mm512_load_ps(lanes), _mm512_load_ps(lanes + WIDTH));
    const __m512 b = _mm512_add_ps(_mm512_load_ps(next), _mm512_load_ps(next + WIDTH));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}

void linear_sum_avx512(const float *lanes, size_t step, uint32_t n, float *y)
{
    const __m512i every_fourth = _mm512_set_epi32(12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0);
    for (uint32_t i = 0; i < n; i += 4, lanes += 4 * step) {
        const __m512 two = sum_of_two(lanes, step), other = sum_of_two(lanes + 2 * step, step);
        __m512 sum = _mm512_add_ps(_mm512_shuffle_f32x4(two, other, 0x88), _mm512_shuffle_f32x4(two, other, 0xDD));
        sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0x4E)); // (l, l+2)
        sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0xB1));
        const __m128 four = _mm512_castps512_ps128(_mm512_permutexvar_ps(every_fourth, sum));
        if (n - i >= 4) {
            _mm_storeu_ps(y + i, four);
        } else { // no masked store: gcc 12 makes it an extraction, whose masked lanes still fault
            float rest[4];
            _mm_storeu_ps(rest, four);
            memcpy(y + i, rest, (n - i) * sizeof *y);
        }
    }
}
