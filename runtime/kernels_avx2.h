// kernels_avx2: what the two AVX2 files share: eight floats at a time, the tree, and the linear kernel's two entries.
// vcvtps2ph and vcvtph2ps round and widen as half.h does, whatever the flush-to-zero bits say.
#ifndef ASSAY_KERNELS_AVX2_H
#define ASSAY_KERNELS_AVX2_H

#include <immintrin.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/kernels.h"

#define ALWAYS static inline __attribute__((always_inline)) // formats and rules become constants

// struct kernels' arrange and linear.
void kernels_avx2_arrange(const float *x, uint32_t n, float *arranged);
void kernels_avx2_linear(const struct weight *weight, const float *x, struct linear_rule rule, size_t first,
                         size_t end, float *y);

// --- eight floats at a time

ALWAYS __m256i first_lanes(size_t n) // all bits set in the first n of 8
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 8 ? (int)n : 8), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

ALWAYS __m256 load(const float *x, size_t n) // at most 8; +0 past them
{
    return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, first_lanes(n));
}

ALWAYS void store(float *y, size_t n, __m256 v)
{
    if (n >= 8)
        _mm256_storeu_ps(y, v);
    else
        _mm256_maskstore_ps(y, first_lanes(n), v);
}

ALWAYS __m256 canonical(__m256 v)
{
    return _mm256_blendv_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32((int)FLOAT_NAN_BITS)),
                            _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
}

ALWAYS __m256 widen(const uint16_t *halves) // 8
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
}

ALWAYS __m256 through_half(__m256 v) // h(), NaN payloads aside
{
    return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

ALWAYS __m256 round8(__m256 v, enum precision to)
{
    return canonical(to == PRECISION_F16 ? through_half(v) : v);
}

// --- sums

ALWAYS __m256 sum_step(__m256 v, enum precision sum)
{
    return sum == PRECISION_F16 ? through_half(v) : v;
}

ALWAYS __m128 sum_step4(__m128 v, enum precision sum)
{
    return sum == PRECISION_F16 ? _mm_cvtph_ps(_mm_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)) : v;
}

// Lanes 8 i .. 8 i + 7 in lane[i]: the tree 16, 8, 4, 2, 1.
ALWAYS float tree(const __m256 lane[4], enum precision sum)
{
    const __m256 low = sum_step(_mm256_add_ps(lane[0], lane[2]), sum),
                 high = sum_step(_mm256_add_ps(lane[1], lane[3]), sum);
    const __m256 eight = sum_step(_mm256_add_ps(low, high), sum);
    const __m128 four = sum_step4(_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)), sum);
    const __m128 two = sum_step4(_mm_add_ps(four, _mm_movehl_ps(four, four)), sum);
    return _mm_cvtss_f32(sum_step4(_mm_add_ss(two, _mm_movehdup_ps(two)), sum));
}

#endif
