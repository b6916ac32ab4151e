// swiglu_kernels: the one body of swiglu.h's kernels. Included by swiglu*.c only.
#ifndef ASSAY_REFERENCE_SWIGLU_KERNELS_H
#define ASSAY_REFERENCE_SWIGLU_KERNELS_H

#include "reference/math_inline.h"
#include "reference/swiglu.h"

static inline void swiglu_body(float *restrict gate, const float *restrict up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = (float)math_inline_silu(gate[i]) * up[i];
}

#if defined(__x86_64__)
void swiglu_avx2(float *gate, const float *up, uint32_t n);
void swiglu_avx512(float *gate, const float *up, uint32_t n);
#endif

#endif
