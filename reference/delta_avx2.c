// With AVX2 and FMA; wider vectors gain nothing here.
#include "reference/delta_kernels.h"

void delta_convolve_avx2(const float *m, const float *w, uint32_t channels, uint32_t taps, float *state, float *c)
{
    delta_convolve_body(m, w, channels, taps, state, c);
}

void delta_step_avx2(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S, double *sums, float *out)
{
    delta_step_body(input, dk, dv, S, sums, out);
}
