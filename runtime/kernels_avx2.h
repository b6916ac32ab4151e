// kernels_avx2: what the AVX2 files share: eight floats at a time, the tree, exp, and the entries that do not lie in
// kernels_avx2.c. vcvtps2ph and vcvtph2ps round and widen as half.h does, whatever the flush-to-zero bits say.
#ifndef ASSAY_KERNELS_AVX2_H
#define ASSAY_KERNELS_AVX2_H

#include <immintrin.h>
#include <math.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/kernels.h"

#define ALWAYS static inline __attribute__((always_inline)) // formats and rules become constants

// struct kernels' arrange and linear.
void kernels_avx2_arrange(const float *x, uint32_t n, float *arranged);
void kernels_avx2_linear(const struct weight *weight, const float *x, struct linear_rule rule, size_t first,
                         size_t end, float *y);

// The same for one of the experts' formats; kernels_avx2_linear calls them.
void kernels_avx2_linear_a4(const struct weight *weight, struct linear_rule rule, const float *x, size_t first,
                            size_t end, float *y);
void kernels_avx2_linear_k8(const struct weight *weight, struct linear_rule rule, const float *x, size_t first,
                            size_t end, float *y);
void kernels_avx2_linear_k4(const struct weight *weight, struct linear_rule rule, const float *x, size_t first,
                            size_t end, float *y);

// The same for them all, on inputs as kernels_avx512.c arranges them.
void kernels_avx512_linear_expert(const struct weight *weight, const float *x, struct linear_rule rule, size_t first,
                                  size_t end, float *y);

// struct kernels' entries of the delta net.
void kernels_avx2_rms_norm_gated(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y);
void kernels_avx2_silu(const float *x, size_t n, float *y);
void kernels_avx2_l2_norm(const float *x, uint32_t n, float scale, enum precision chain, float *y);
void kernels_avx2_delta_step(const struct delta_state *state, const float *q, const float *k, const float *v,
                             float beta, float g, float *out);

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

ALWAYS __m256 load_state(const void *state, enum precision precision, size_t index)
{
    return precision == PRECISION_F16 ? widen((const uint16_t *)state + index)
                                      : _mm256_loadu_ps((const float *)state + index);
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

// 1 / sqrt(mean of squares + eps), eight times.
ALWAYS __m256 inverse_rms(const float *x, uint32_t n, float eps)
{
    __m256 squares[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (uint32_t k = 0; k < n; k += 8) { // +0 past the end: fma(0, 0, a sum of squares) changes nothing
        const __m256 v = load(x + k, n - k);
        squares[k / 8 % 4] = _mm256_fmadd_ps(v, v, squares[k / 8 % 4]);
    }
    const float mean = tree(squares, PRECISION_F32) / (float)n;
    return _mm256_set1_ps(1.0f / sqrtf(mean + eps));
}

// --- exp

ALWAYS __m256 exp8(__m256 x)
{
    const __m256 n =
        _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269502f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693145752f), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-1.42860677e-6f), r);
    __m256 p = _mm256_set1_ps(1.98412698e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.38888889e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.33333333e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.16666667e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.66666667e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    __m256 e = _mm256_mul_ps(p, _mm256_castsi256_ps(power)); // of no use outside [-87, 88]: replaced below
    e = _mm256_blendv_ps(e, _mm256_setzero_ps(), _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ));
    e = _mm256_blendv_ps(e, _mm256_set1_ps(INFINITY), _mm256_cmp_ps(x, _mm256_set1_ps(88.0f), _CMP_GT_OQ));
    return _mm256_blendv_ps(e, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

ALWAYS __m256 sigmoid8(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1), minus = _mm256_set1_ps(-0.0f);
    return _mm256_div_ps(one, _mm256_add_ps(one, exp8(_mm256_xor_ps(x, minus))));
}

#endif
