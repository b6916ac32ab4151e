// kernels_avx2: the bits of kernels.c with AVX2, FMA and F16C.
#include "runtime/kernels_avx2.h"

#include "runtime/kernels_vector_operators.inc"

void kernels_init_avx2(struct kernels *kernels)
{
    *kernels = operators;
    kernels->arrange = kernels_avx2_arrange;
    kernels->linear = kernels_avx2_linear;
}
