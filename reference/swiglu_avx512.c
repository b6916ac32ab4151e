#include "reference/swiglu_kernels.h"

void swiglu_avx512(float *gate, const float *up, uint32_t n)
{
    swiglu_body(gate, up, n);
}
