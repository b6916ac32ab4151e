// AVX2, FMA, F16C: tiles of 3 rows by 4 tokens or 6 by 2, 8 lanes at a time: 12 accumulators. Bits as linear_tile.c.
#include <string.h>

#include "reference/linear_vector.h"

enum { ACCUMULATORS = 12, TOKENS = 4, NEAR = 24 << 10 }; // of the 32 KiB of most

LINEAR_INLINE vector widen_f32(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return _mm256_loadu_ps((const float *)(const void *)(row.data + block * 128 + part * 32));
}

LINEAR_INLINE vector widen_f16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(row.data + block * 64 + part * 16)));
}

// A bf16 is the upper half of a float. Without a constant: every register has its use.
LINEAR_INLINE vector widen_bf16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    const __m128i eight = _mm_loadu_si128((const __m128i *)(const void *)(row.data + block * 64 + part * 16));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
}

LINEAR_INLINE vector scaled(__m128i codes, const uint16_t *scale)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), _mm256_set1_ps(_cvtsh_ss(*scale))); // exact
}

LINEAR_INLINE vector widen_q8(struct linear_row row, size_t block, size_t part, size_t scale)
{
    return scaled(_mm_loadl_epi64((const __m128i *)(const void *)(row.data + block * 32 + part * 8)),
                  row.scale + scale);
}

// Low nibble first.
LINEAR_INLINE vector widen_q4(struct linear_row row, size_t block, size_t part, size_t scale)
{
    int word;
    memcpy(&word, row.data + block * 16 + part * 4, sizeof word);
    const __m128i bytes = _mm_cvtsi32_si128(word), eight = _mm_set1_epi8(8);
    const __m128i even = _mm_and_si128(bytes, _mm_set1_epi8(15));
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    const __m128i codes = _mm_xor_si128(_mm_unpacklo_epi8(even, odd), eight);
    return scaled(_mm_sub_epi8(codes, eight), row.scale + scale); // sign of bit 3
}

#include "reference/linear_tile_kernels.inc"

void linear_multiply_avx2(const struct linear_piece *piece)
{
    multiply(piece);
}

void linear_sum_avx2(const float *lanes, size_t step, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++, lanes += step) {
        const __m256 first = _mm256_add_ps(_mm256_load_ps(lanes), _mm256_load_ps(lanes + 2 * WIDTH)); // (l, l+16)
        const __m256 second = _mm256_add_ps(_mm256_load_ps(lanes + WIDTH), _mm256_load_ps(lanes + 3 * WIDTH));
        const __m256 eight = _mm256_add_ps(first, second); // (l, l+8)
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        y[i] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
}
