// AVX2, FMA, F16C: 32 lanes are four registers of eight. Bits as linear.c.
#include <immintrin.h>

#include "reference/linear_kernels.h"

enum { REGISTERS = 4 };

// Elements k ... k+31 of a row, widened, in the order of the kernel's x.
typedef void (*widen_fn)(const struct weight *weight, size_t row, size_t k, __m256 w[REGISTERS]);

LINEAR_INLINE void widen_f32(const struct weight *weight, size_t row, size_t k, __m256 w[REGISTERS])
{
    const float *from = (const float *)weight->data + row * weight->cols + k;
    for (int i = 0; i < REGISTERS; i++)
        w[i] = _mm256_loadu_ps(from + 8 * i);
}

LINEAR_INLINE void widen_f16(const struct weight *weight, size_t row, size_t k, __m256 w[REGISTERS])
{
    const uint16_t *from = (const uint16_t *)weight->data + row * weight->cols + k;
    for (int i = 0; i < REGISTERS; i++)
        w[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(from + 8 * i)));
}

// Split order: a bf16 is the upper half of a float, so even elements move up and odd ones stand already in place.
LINEAR_INLINE void widen_bf16(const struct weight *weight, size_t row, size_t k, __m256 w[REGISTERS])
{
    const uint16_t *from = (const uint16_t *)weight->data + row * weight->cols + k;
    for (int i = 0; i < REGISTERS / 2; i++) {
        const __m256i pairs = _mm256_loadu_si256((const __m256i *)(const void *)(from + 16 * i));
        w[i] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        w[i + 2] = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)));
    }
}

LINEAR_INLINE __m256 scale_of(const struct weight *weight, size_t row, size_t k)
{
    return _mm256_set1_ps(_cvtsh_ss(weight->scale[row * (weight->cols / weight->block) + k / weight->block]));
}

LINEAR_INLINE void widen_q8(const struct weight *weight, size_t row, size_t k, __m256 w[REGISTERS])
{
    const int8_t *from = (const int8_t *)weight->data + row * weight->cols + k;
    const __m256 scale = scale_of(weight, row, k);
    for (int i = 0; i < REGISTERS; i++) {
        const __m128i codes = _mm_loadl_epi64((const __m128i *)(const void *)(from + 8 * i));
        w[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), scale); // exact
    }
}

// Split order: the low nibble of each byte is the even element.
LINEAR_INLINE void widen_q4(const struct weight *weight, size_t row, size_t k, __m256 w[REGISTERS])
{
    const uint8_t *from = (const uint8_t *)weight->data + row * ((weight->cols + (size_t)1) / 2) + k / 2;
    const __m256 scale = scale_of(weight, row, k);
    for (int i = 0; i < REGISTERS / 2; i++) {
        const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(from + 8 * i)));
        const __m256i even = _mm256_srai_epi32(_mm256_slli_epi32(bytes, 28), 28);
        const __m256i odd = _mm256_srai_epi32(_mm256_slli_epi32(bytes, 24), 28);
        w[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(even), scale);
        w[i + 2] = _mm256_mul_ps(_mm256_cvtepi32_ps(odd), scale);
    }
}

// (l, l+4), (l, l+2), (l, l+1): `low` holds lanes 0-3, `high` lanes 4-7.
LINEAR_INLINE float sum_of_eight(__m128 low, __m128 high)
{
    const __m128 four = _mm_add_ps(low, high);
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

LINEAR_INLINE float sum_natural(const __m256 acc[REGISTERS])
{
    const __m256 eight = _mm256_add_ps(_mm256_add_ps(acc[0], acc[2]), _mm256_add_ps(acc[1], acc[3]));
    return sum_of_eight(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

LINEAR_INLINE float sum_split(const __m256 acc[REGISTERS])
{
    const __m256 even = _mm256_add_ps(acc[0], acc[1]); // (l, l+16)
    const __m256 odd = _mm256_add_ps(acc[2], acc[3]);
    const __m128 even4 = _mm_add_ps(_mm256_castps256_ps128(even), _mm256_extractf128_ps(even, 1)); // (l, l+8)
    const __m128 odd4 = _mm_add_ps(_mm256_castps256_ps128(odd), _mm256_extractf128_ps(odd, 1));
    return sum_of_eight(_mm_unpacklo_ps(even4, odd4), _mm_unpackhi_ps(even4, odd4));
}

LINEAR_INLINE void accumulate(__m256 acc[REGISTERS], const __m256 w[REGISTERS], const float *x)
{
    for (int i = 0; i < REGISTERS; i++)
        acc[i] = _mm256_fmadd_ps(w[i], _mm256_loadu_ps(x + 8 * i), acc[i]);
}

LINEAR_INLINE void run(widen_fn widen, bool split, const struct weight *weight, const struct linear_input *input,
                       size_t first, size_t end, float *y)
{
    const size_t whole = weight->cols - weight->cols % LINEAR_LANES;
    const float *x = split ? input->split : input->x;
    for (size_t row = first; row < end; row++) {
        __m256 acc[REGISTERS], w[REGISTERS];
        for (int i = 0; i < REGISTERS; i++)
            acc[i] = _mm256_setzero_ps();
        for (size_t k = 0; k < whole; k += LINEAR_LANES) {
            widen(weight, row, k, w);
            accumulate(acc, w, x + k);
        }
        if (whole < weight->cols) {
            float tail[LINEAR_LANES];
            linear_tail(weight, row, split, tail);
            for (int i = 0; i < REGISTERS; i++)
                w[i] = _mm256_loadu_ps(tail + 8 * i);
            accumulate(acc, w, split ? x + whole : input->tail);
        }
        y[row] = split ? sum_split(acc) : sum_natural(acc);
    }
}

void linear_f32_avx2(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                     float *y)
{
    run(widen_f32, false, weight, input, first, end, y);
}

void linear_f16_avx2(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                     float *y)
{
    run(widen_f16, false, weight, input, first, end, y);
}

void linear_bf16_avx2(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                      float *y)
{
    run(widen_bf16, true, weight, input, first, end, y);
}

void linear_q8_avx2(const struct weight *weight, const struct linear_input *input, size_t first, size_t end, float *y)
{
    run(widen_q8, false, weight, input, first, end, y);
}

void linear_q4_avx2(const struct weight *weight, const struct linear_input *input, size_t first, size_t end, float *y)
{
    run(widen_q4, true, weight, input, first, end, y);
}
