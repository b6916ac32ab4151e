#include "reference/swiglu.h"

#include <stddef.h>

#include "reference/linear_kernels.h"
#include "reference/swiglu_kernels.h"

static void scalar(float *gate, const float *up, uint32_t n)
{
    swiglu_body(gate, up, n);
}

const struct swiglu_kernel swiglu_kernels[] = {
    {"scalar", ISA_SCALAR, scalar},
#if defined(__x86_64__)
    {"avx2", ISA_AVX2, swiglu_avx2},
    {"avx512", ISA_AVX512, swiglu_avx512},
#endif
    {NULL, ISA_SCALAR, NULL},
};

swiglu_fn swiglu_best(enum isa isa)
{
    const struct swiglu_kernel *best = swiglu_kernels;
    for (const struct swiglu_kernel *kernel = swiglu_kernels; kernel->name; kernel++)
        if (linear_isa_includes(isa, kernel->isa) && isa_available(kernel->isa))
            best = kernel;
    return best->run;
}
