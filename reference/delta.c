#include "reference/delta.h"

#include "reference/delta_kernels.h"
#include "reference/linear_kernels.h"

void delta_gates(const float *a, const float *b, const float *a_log, const float *dt_bias, uint32_t n, float *g,
                 float *beta)
{
    for (uint32_t h = 0; h < n; h++) {
        g[h] = -(math_exp(a_log[h]) * math_softplus(a[h] + dt_bias[h]));
        beta[h] = math_sigmoid(b[h]);
    }
}

static void step_scalar(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S, double *sums, float *out)
{
    delta_step_body(input, dk, dv, S, sums, out);
}

const struct delta_kernel delta_kernels[] = {
    {"scalar", ISA_SCALAR, step_scalar},
#if defined(__x86_64__)
    {"avx2", ISA_AVX2, delta_step_avx2},
#endif
    {NULL, ISA_SCALAR, NULL},
};

delta_fn delta_best(enum isa isa)
{
    delta_fn best = step_scalar;
    for (const struct delta_kernel *kernel = delta_kernels; kernel->name; kernel++)
        if (linear_isa_includes(isa, kernel->isa) && isa_available(kernel->isa))
            best = kernel->step;
    return best;
}
