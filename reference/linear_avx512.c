// AVX-512 (F, BW, VL, DQ): 32 lanes are two registers of sixteen. Bits as linear.c.
#include "reference/linear_vector.h"

enum { REGISTERS = LINEAR_LANES / WIDTH, ROWS = 8, AHEAD = 2048 };

LINEAR_INLINE void widen_f32(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    (void)scale;
    w[0] = _mm512_loadu_ps(row.data + 128 * block);
    w[1] = _mm512_loadu_ps(row.data + 128 * block + 64);
}

LINEAR_INLINE void widen_f16(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    (void)scale;
    w[0] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(row.data + 64 * block)));
    w[1] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(row.data + 64 * block + 32)));
}

// Split order: a bf16 is the upper half of a float, so even elements move up and odd ones stand already in place.
LINEAR_INLINE void widen_bf16(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    (void)scale;
    const __m512i pairs = _mm512_loadu_si512(row.data + 64 * block);
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    w[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)));
}

LINEAR_INLINE void widen_q8(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    const __m512 factor = _mm512_set1_ps(_cvtsh_ss(row.scale[scale]));
    for (size_t i = 0; i < REGISTERS; i++) {
        const __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)(row.data + 32 * block + 16 * i));
        w[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), factor); // exact
    }
}

// Split order: the low nibble of each byte is the even element.
LINEAR_INLINE void widen_q4(struct linear_row row, size_t block, size_t scale, vector w[REGISTERS])
{
    const __m512 factor = _mm512_set1_ps(_cvtsh_ss(row.scale[scale]));
    const __m512i bytes =
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(row.data + 16 * block)));
    const __m512i even = _mm512_srai_epi32(_mm512_slli_epi32(bytes, 28), 28);
    const __m512i odd = _mm512_srai_epi32(_mm512_slli_epi32(bytes, 24), 28);
    w[0] = _mm512_mul_ps(_mm512_cvtepi32_ps(even), factor);
    w[1] = _mm512_mul_ps(_mm512_cvtepi32_ps(odd), factor);
}

// (l, l+4), (l, l+2), (l, l+1): `low` holds lanes 0-3, `high` lanes 4-7.
LINEAR_INLINE float sum_of_eight(__m128 low, __m128 high)
{
    const __m128 four = _mm_add_ps(low, high);
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

LINEAR_INLINE __m256 sum_of_halves(__m512 sixteen)
{
    return _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps(sixteen, 1));
}

LINEAR_INLINE float sum_natural(const vector acc[REGISTERS])
{
    const __m256 eight = sum_of_halves(_mm512_add_ps(acc[0], acc[1])); // (l, l+16), (l, l+8)
    return sum_of_eight(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

LINEAR_INLINE float sum_split(const vector acc[REGISTERS])
{
    const __m256 even = sum_of_halves(acc[0]); // (l, l+16)
    const __m256 odd = sum_of_halves(acc[1]);
    const __m128 even4 = _mm_add_ps(_mm256_castps256_ps128(even), _mm256_extractf128_ps(even, 1)); // (l, l+8)
    const __m128 odd4 = _mm_add_ps(_mm256_castps256_ps128(odd), _mm256_extractf128_ps(odd, 1));
    return sum_of_eight(_mm_unpacklo_ps(even4, odd4), _mm_unpackhi_ps(even4, odd4));
}

#include "reference/linear_rows.inc"

LINEAR_ROWS(linear_f32_avx512, widen_f32, 128, false)
LINEAR_ROWS(linear_f16_avx512, widen_f16, 64, false)
LINEAR_ROWS(linear_bf16_avx512, widen_bf16, 64, true)
LINEAR_ROWS(linear_q8_avx512, widen_q8, 32, false)
LINEAR_ROWS(linear_q4_avx512, widen_q4, 16, true)
