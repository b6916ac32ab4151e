// AVX2, FMA, F16C: 32 lanes are four registers of eight. Bits as linear.c.
#include "reference/linear_vector.h"

enum { REGISTERS = LINEAR_LANES / WIDTH, ROWS = 3, AHEAD = 3072 }; // as many rows as the registers hold

LINEAR_INLINE void widen_f32(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    (void)scale;
    for (size_t i = 0; i < REGISTERS; i++)
        w[i] = _mm256_loadu_ps((const float *)(const void *)(row.data + 128 * block + 32 * i));
}

LINEAR_INLINE void widen_f16(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    (void)scale;
    for (size_t i = 0; i < REGISTERS; i++)
        w[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(row.data + 64 * block + 16 * i)));
}

// Split order: a bf16 is the upper half of a float, so even elements move up and odd ones stand already in place.
LINEAR_INLINE void widen_bf16(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    (void)scale;
    for (size_t i = 0; i < REGISTERS / 2; i++) {
        const __m256i pairs = _mm256_loadu_si256((const __m256i *)(const void *)(row.data + 64 * block + 32 * i));
        w[i] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        w[i + 2] = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)));
    }
}

LINEAR_INLINE void widen_q8(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    const __m256 factor = _mm256_set1_ps(_cvtsh_ss(row.scale[scale]));
    for (size_t i = 0; i < REGISTERS; i++) {
        const __m128i codes = _mm_loadl_epi64((const __m128i *)(const void *)(row.data + 32 * block + 8 * i));
        w[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), factor); // exact
    }
}

// Split order: the low nibble of each byte is the even element.
LINEAR_INLINE void widen_q4(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    const __m256 factor = _mm256_set1_ps(_cvtsh_ss(row.scale[scale]));
    for (size_t i = 0; i < REGISTERS / 2; i++) {
        const __m128i codes = _mm_loadl_epi64((const __m128i *)(const void *)(row.data + 16 * block + 8 * i));
        const __m256i bytes = _mm256_cvtepu8_epi32(codes);
        const __m256i even = _mm256_srai_epi32(_mm256_slli_epi32(bytes, 28), 28);
        const __m256i odd = _mm256_srai_epi32(_mm256_slli_epi32(bytes, 24), 28);
        w[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(even), factor);
        w[i + 2] = _mm256_mul_ps(_mm256_cvtepi32_ps(odd), factor);
    }
}

// (l, l+4), (l, l+2), (l, l+1): `low` holds lanes 0-3, `high` lanes 4-7.
LINEAR_INLINE float sum_of_eight(__m128 low, __m128 high)
{
    const __m128 four = _mm_add_ps(low, high);
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

LINEAR_INLINE float sum_natural(const vector acc[REGISTERS])
{
    const __m256 eight = _mm256_add_ps(_mm256_add_ps(acc[0], acc[2]), _mm256_add_ps(acc[1], acc[3]));
    return sum_of_eight(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

LINEAR_INLINE float sum_split(const vector acc[REGISTERS])
{
    const __m256 even = _mm256_add_ps(acc[0], acc[1]); // (l, l+16)
    const __m256 odd = _mm256_add_ps(acc[2], acc[3]);
    const __m128 even4 = _mm_add_ps(_mm256_castps256_ps128(even), _mm256_extractf128_ps(even, 1)); // (l, l+8)
    const __m128 odd4 = _mm_add_ps(_mm256_castps256_ps128(odd), _mm256_extractf128_ps(odd, 1));
    return sum_of_eight(_mm_unpacklo_ps(even4, odd4), _mm_unpackhi_ps(even4, odd4));
}

#include "reference/linear_rows.inc"

LINEAR_ROWS(linear_f32_avx2, widen_f32, 128, false)
LINEAR_ROWS(linear_f16_avx2, widen_f16, 64, false)
LINEAR_ROWS(linear_bf16_avx2, widen_bf16, 64, true)
LINEAR_ROWS(linear_q8_avx2, widen_q8, 32, false)
LINEAR_ROWS(linear_q4_avx2, widen_q4, 16, true)
