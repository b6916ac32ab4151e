// kernels_scalar: what the files of the definition share: the roundings, the tree, and the entries that do not lie in
// kernels.c.
#ifndef ASSAY_KERNELS_SCALAR_H
#define ASSAY_KERNELS_SCALAR_H

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/kernels.h"

enum { LANES = 32 };

static inline float canonical(float v)
{
    return v == v ? v : float_from_bits(FLOAT_NAN_BITS);
}

static inline float rounded(float v, enum precision to)
{
    return to == PRECISION_F16 ? half_round(v) : v;
}

static inline float tree(float lane[LANES], enum precision sum)
{
    for (int step = LANES / 2; step; step /= 2)
        for (int l = 0; l < step; l++)
            lane[l] = rounded(lane[l] + lane[l + step], sum);
    return lane[0];
}

static inline float state_at(const void *state, enum precision precision, size_t index)
{
    return precision == PRECISION_F16 ? half_to_float(((const uint16_t *)state)[index])
                                      : ((const float *)state)[index];
}

// 1 / sqrt(mean of squares + eps), as rms_norm states it.
float kernels_scalar_inverse_rms(const float *x, uint32_t n, float eps);

// struct kernels' entries.
void kernels_scalar_rms_norm_gated(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y);
void kernels_scalar_silu(const float *x, size_t n, float *y);
void kernels_scalar_l2_norm(const float *x, uint32_t n, float scale, enum precision chain, float *y);
void kernels_scalar_delta_step(const struct delta_state *state, const float *q, const float *k, const float *v,
                               float beta, float g, float *out);
void kernels_scalar_expert_sum(const float *outputs, const float *weights, uint32_t slots, uint32_t d, float *y);

#endif
