// linear_vector: a register of floats of the instruction set that a file is compiled for, and what the linear kernels
// do with it. Only in files that are compiled for one of them.
//   vector, WIDTH              WIDTH lanes in a register
//   zero, load, store          +0; at any address
//   multiply_add(a, b, c)      fma(a, b, c) in each lane
#ifndef ASSAY_REFERENCE_LINEAR_VECTOR_H
#define ASSAY_REFERENCE_LINEAR_VECTOR_H

#include "reference/linear_kernels.h"

#if defined(__AVX512F__)
#include <immintrin.h>

enum { WIDTH = 16 };
typedef __m512 vector;

LINEAR_INLINE vector zero(void)
{
    return _mm512_setzero_ps();
}

LINEAR_INLINE vector load(const float *from)
{
    return _mm512_loadu_ps(from);
}

LINEAR_INLINE void store(float *to, vector v)
{
    _mm512_storeu_ps(to, v);
}

LINEAR_INLINE vector multiply_add(vector a, vector b, vector c)
{
    return _mm512_fmadd_ps(a, b, c);
}

#elif defined(__AVX2__)
#include <immintrin.h>

enum { WIDTH = 8 };
typedef __m256 vector;

LINEAR_INLINE vector zero(void)
{
    return _mm256_setzero_ps();
}

LINEAR_INLINE vector load(const float *from)
{
    return _mm256_loadu_ps(from);
}

LINEAR_INLINE void store(float *to, vector v)
{
    _mm256_storeu_ps(to, v);
}

LINEAR_INLINE vector multiply_add(vector a, vector b, vector c)
{
    return _mm256_fmadd_ps(a, b, c);
}

#elif defined(__aarch64__)
#include <arm_neon.h>

enum { WIDTH = 4 };
typedef float32x4_t vector;

LINEAR_INLINE vector zero(void)
{
    return vdupq_n_f32(0);
}

LINEAR_INLINE vector load(const float *from)
{
    return vld1q_f32(from);
}

LINEAR_INLINE void store(float *to, vector v)
{
    vst1q_f32(to, v);
}

LINEAR_INLINE vector multiply_add(vector a, vector b, vector c)
{
    return vfmaq_f32(c, a, b);
}
#endif

#endif
