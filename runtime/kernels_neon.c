// kernels_neon: the bits of kernels.c with aarch64's NEON.
#include "runtime/kernels_neon.h"

#include "runtime/kernels_vector_operators.inc"

void kernels_init_neon(struct kernels *kernels)
{
    *kernels = operators;
    kernels->arrange = kernels_neon_arrange;
    kernels->linear = kernels_neon_linear;
}
