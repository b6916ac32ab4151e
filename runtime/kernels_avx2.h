// kernels_avx2: what the AVX2 files share: what kernels_vector.inc is made of, and the entries that do not lie in
// kernels_avx2.c. vcvtps2ph and vcvtph2ps round and widen as half.h does, whatever the flush-to-zero bits say.
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

// --- eight floats at a time

typedef __m256 vector, mask; // a mask has all bits of a lane, or none
enum { WIDTH = 8, REGISTERS = 32 / WIDTH };

ALWAYS vector zero(void)
{
    return _mm256_setzero_ps();
}

ALWAYS vector splat(float x)
{
    return _mm256_set1_ps(x);
}

ALWAYS mask first_lanes(size_t n)
{
    const __m256i count = _mm256_set1_epi32(n < WIDTH ? (int)n : WIDTH);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}

ALWAYS vector load(const float *x, size_t n)
{
    return n >= WIDTH ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, _mm256_castps_si256(first_lanes(n)));
}

ALWAYS void store(float *y, size_t n, vector v)
{
    if (n >= WIDTH)
        _mm256_storeu_ps(y, v);
    else
        _mm256_maskstore_ps(y, _mm256_castps_si256(first_lanes(n)), v);
}

ALWAYS vector load_halves(const uint16_t *halves)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
}

ALWAYS void store_halves(uint16_t *halves, vector v)
{
    _mm_storeu_si128((__m128i *)halves, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

ALWAYS vector through_half(vector v)
{
    return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

ALWAYS vector add(vector a, vector b)
{
    return _mm256_add_ps(a, b);
}

ALWAYS vector subtract(vector a, vector b)
{
    return _mm256_sub_ps(a, b);
}

ALWAYS vector multiply(vector a, vector b)
{
    return _mm256_mul_ps(a, b);
}

ALWAYS vector divide(vector a, vector b)
{
    return _mm256_div_ps(a, b);
}

ALWAYS vector multiply_add(vector a, vector b, vector c)
{
    return _mm256_fmadd_ps(a, b, c);
}

ALWAYS vector negate(vector v)
{
    return -v; // which the compiler fuses into a multiply_add, as it does not an xor
}

ALWAYS mask less(vector a, vector b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}

ALWAYS mask is_number(vector v)
{
    return _mm256_cmp_ps(v, v, _CMP_ORD_Q);
}

ALWAYS bool any_nan(vector v)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
}

ALWAYS vector choose(mask where, vector v, vector otherwise)
{
    return _mm256_blendv_ps(otherwise, v, where);
}

ALWAYS vector larger(vector a, vector b)
{
    return _mm256_max_ps(b, a); // the second one if either is a NaN
}

ALWAYS float largest(vector v)
{
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

ALWAYS vector nearest(vector v)
{
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

ALWAYS vector power_of_two(vector n)
{
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

ALWAYS vector upper_lanes(vector v, int n)
{
    if (n == 4)
        return _mm256_castps128_ps256(_mm256_extractf128_ps(v, 1));
    return n == 2 ? _mm256_permute_ps(v, 0xEE) : _mm256_movehdup_ps(v);
}

ALWAYS float first_lane(vector v)
{
    return _mm256_cvtss_f32(v);
}

#include "runtime/kernels_vector.inc"

#endif
