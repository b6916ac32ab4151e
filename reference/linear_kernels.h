// linear_kernels: the fast twins of linear.c's definition, and the little they share. Included by linear*.c only.
#ifndef ASSAY_REFERENCE_LINEAR_KERNELS_H
#define ASSAY_REFERENCE_LINEAR_KERNELS_H

#include <stdbool.h>

#include "reference/linear.h"

// The kernels of a file are one loop around five ways to widen; without this the compiler keeps one copy of the loop
// and calls the widening through a pointer. Speed only.
#if defined(__GNUC__)
#define LINEAR_INLINE static inline __attribute__((always_inline))
#else
#define LINEAR_INLINE static inline
#endif

// Where lane `lane` stands in a block of struct linear_input's split order.
static inline size_t linear_split_lane(size_t lane)
{
    return lane / 2 + lane % 2 * (LINEAR_LANES / 2);
}

// The last cols mod 32 elements of a row, widened, then -0: with x = +0 there, fma(-0, +0, acc) leaves every acc as
// it is, -0, Inf and NaN included. Natural or split order.
void linear_tail(const struct weight *weight, size_t row, bool split, float tail[LINEAR_LANES]);

#define LINEAR_KERNEL(name)                                                                                          \
    void name(const struct weight *weight, const struct linear_input *input, size_t first, size_t end, float *y)
#if defined(__x86_64__)
LINEAR_KERNEL(linear_f32_avx2);
LINEAR_KERNEL(linear_f16_avx2);
LINEAR_KERNEL(linear_bf16_avx2);
LINEAR_KERNEL(linear_q8_avx2);
LINEAR_KERNEL(linear_q4_avx2);
LINEAR_KERNEL(linear_f32_avx512);
LINEAR_KERNEL(linear_f16_avx512);
LINEAR_KERNEL(linear_bf16_avx512);
LINEAR_KERNEL(linear_q8_avx512);
LINEAR_KERNEL(linear_q4_avx512);
#elif defined(__aarch64__)
LINEAR_KERNEL(linear_f32_neon);
LINEAR_KERNEL(linear_f16_neon);
LINEAR_KERNEL(linear_bf16_neon);
LINEAR_KERNEL(linear_q8_neon);
LINEAR_KERNEL(linear_q4_neon);
#endif
#undef LINEAR_KERNEL

#endif
