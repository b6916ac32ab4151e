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

static void convolve_scalar(const float *m, const float *w, uint32_t channels, uint32_t taps, float *state, float *c)
{
    delta_convolve_body(m, w, channels, taps, state, c);
}

static void step_scalar(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S, double *sums, float *out)
{
    delta_step_body(input, dk, dv, S, sums, out);
}

const struct delta_kernel delta_kernels[] = {
    {"scalar", ISA_SCALAR, convolve_scalar, step_scalar},
#if defined(__x86_64__)
    {"avx2", ISA_AVX2, delta_convolve_avx2, delta_step_avx2},
#endif
    {NULL, ISA_SCALAR, NULL, NULL},
};

const struct delta_kernel *delta_best(enum isa isa)
{
    const struct delta_kernel *best = delta_kernels;
    for (const struct delta_kernel *kernel = delta_kernels; kernel->name; kernel++)
        if (linear_isa_includes(isa, kernel->isa) && isa_available(kernel->isa))
            best = kernel;
    return best;
}
