// kernels_delta: the definition of the delta net's operators.
#include "runtime/kernels_scalar.h"

#include <math.h>

void kernels_scalar_silu(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = half_round(x[i] * kernels_sigmoid(x[i]));
}

void kernels_scalar_rms_norm_gated(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y)
{
    const float r = kernels_scalar_inverse_rms(o, n, eps);
    for (uint32_t k = 0; k < n; k++) {
        const float m = half_round(o[k] * r);
        y[k] = half_round((m * w[k]) * (z[k] * kernels_sigmoid(z[k])));
    }
}

void kernels_scalar_l2_norm(const float *x, uint32_t n, float scale, enum precision chain, float *y)
{
    float squares[LANES] = {0};
    for (uint32_t k = 0; k < n; k++) {
        float *lane = &squares[k % LANES];
        *lane = chain == PRECISION_F16 ? half_round(*lane + half_round(x[k] * x[k])) : fmaf(x[k], x[k], *lane);
    }
    const float ss = tree(squares, chain);
    const float r = rounded(1.0f / sqrtf(rounded(ss + rounded(1e-6f, chain), chain)), chain);
    for (uint32_t k = 0; k < n; k++)
        y[k] = canonical(half_round(x[k] * r) * scale);
}

// --- gates

float kernels_softplus(float x)
{
    static const float terms[] = {0x1.4917cep-6f, -0x1.d6b08cp-5f, 0x1.b4ae08p-4f, -0x1.3a435ep-3f,
                                  0x1.934b54p-3f, -0x1.ff23e6p-3f, 0x1.554ddp-2f,  -0x1.ffffd2p-2f};
    if (x != x)
        return canonical(x);
    if (x > 20.0f)
        return x;
    const float e = kernels_exp(x > 0 ? -x : x);
    float q = -0x1.af49cep-9f;
    for (size_t i = 0; i < sizeof terms / sizeof *terms; i++)
        q = fmaf(q, e, terms[i]);
    const float log1p_e = fmaf(e * e, q, e);
    return x > 0 ? x + log1p_e : log1p_e;
}

void kernels_delta_gates(const float *a, const float *b, const float *a_log, const float *dt_bias, uint32_t n,
                         float *beta, float *g)
{
    for (uint32_t i = 0; i < n; i++) {
        beta[i] = kernels_sigmoid(b[i]);
        g[i] = canonical(-(kernels_exp(a_log[i]) * kernels_softplus(a[i] + dt_bias[i])));
    }
}

// --- the step

static void put_state(const struct delta_state *state, size_t index, float value)
{
    if (state->precision == PRECISION_F16)
        ((uint16_t *)state->s)[index] = half_from_float(value);
    else
        ((float *)state->s)[index] = canonical(value);
}

void kernels_scalar_delta_step(const struct delta_state *state, const float *q, const float *k, const float *v,
                               float beta, float g, float *out)
{
    const size_t dk = state->key_width, dv = state->value_width;
    const float keep = kernels_exp(g);
    for (size_t j = 0; j < dv; j++) {
        float mem = 0, o = 0;
        for (size_t i = 0; i < dk; i++)
            mem = fmaf(k[i], state_at(state->s, state->precision, i * dv + j) * keep, mem);
        const float d = (v[j] - mem) * beta;
        for (size_t i = 0; i < dk; i++) {
            const float decayed = state_at(state->s, state->precision, i * dv + j) * keep;
            const float updated = fmaf(k[i], d, decayed);
            o = fmaf(q[i], updated, o);
            put_state(state, i * dv + j, updated);
        }
        out[j] = half_round(o);
    }
}
