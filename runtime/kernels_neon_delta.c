// kernels_neon_delta: the bits of kernels_delta.c with aarch64's NEON.
#include "runtime/kernels_neon.h"

#include <string.h>

enum { REGISTERS = 4 }; // of columns that a pass holds

void kernels_neon_silu(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 4) {
        const float32x4_t v = load(x + i, n - i);
        store(y + i, n - i, round4(vmulq_f32(v, sigmoid4(v)), PRECISION_F16));
    }
}

void kernels_neon_rms_norm_gated(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y)
{
    const float32x4_t r = inverse_rms(o, n, eps);
    for (uint32_t k = 0; k < n; k += 4) {
        const float32x4_t gate = load(z + k, n - k);
        const float32x4_t m = through_half(vmulq_f32(load(o + k, n - k), r));
        const float32x4_t silu = vmulq_f32(gate, sigmoid4(gate));
        store(y + k, n - k, round4(vmulq_f32(vmulq_f32(m, load(w + k, n - k)), silu), PRECISION_F16));
    }
}

void kernels_neon_l2_norm(const float *x, uint32_t n, float scale, enum precision chain, float *y)
{
    float32x4_t squares[8];
    for (int i = 0; i < 8; i++)
        squares[i] = vdupq_n_f32(0);
    for (uint32_t k = 0; k < n; k += 4) { // +0 past the end changes no sum of squares
        const float32x4_t v = load(x + k, n - k);
        float32x4_t *lane = &squares[k / 4 % 8];
        *lane = chain == PRECISION_F16 ? through_half(vaddq_f32(*lane, through_half(vmulq_f32(v, v))))
                                       : vfmaq_f32(*lane, v, v);
    }
    const float ss = tree(squares, chain);
    const float r = chain == PRECISION_F16 ? half_round(1.0f / sqrtf(half_round(ss + half_round(1e-6f))))
                                           : 1.0f / sqrtf(ss + 1e-6f);
    for (uint32_t k = 0; k < n; k += 4) {
        const float32x4_t unit = through_half(vmulq_f32(load(x + k, n - k), vdupq_n_f32(r)));
        store(y + k, n - k, canonical(vmulq_f32(unit, vdupq_n_f32(scale))));
    }
}

// --- the step

ALWAYS bool any_nan(float32x4_t v)
{
    return vminvq_u32(vceqq_f32(v, v)) == 0;
}

ALWAYS float32x4_t load_columns(const struct delta_state *state, enum precision precision, size_t index, size_t n)
{
    if (n >= 4)
        return load_state(state->s, precision, index);
    if (precision == PRECISION_F32)
        return load((const float *)state->s + index, n);
    uint16_t part[4] = {0};
    memcpy(part, (const uint16_t *)state->s + index, n * sizeof *part);
    return widen(vld1_u16(part));
}

ALWAYS void store_columns(const struct delta_state *state, enum precision precision, size_t index, size_t n,
                          float32x4_t v)
{
    if (precision == PRECISION_F32) {
        store((float *)state->s + index, n, v);
        return;
    }
    const uint16x4_t halves = vreinterpret_u16_f16(vcvt_f16_f32(v));
    uint16_t part[4];
    uint16_t *to = (uint16_t *)state->s + index;
    vst1_u16(n >= 4 ? to : part, halves);
    if (n < 4)
        memcpy(to, part, n * sizeof *part);
}

// The canonical NaN for every NaN of the columns j .. j + n - 1.
ALWAYS void canonical_columns(const struct delta_state *state, enum precision precision, size_t j, size_t n)
{
    for (size_t i = 0; i < state->key_width; i++) {
        const size_t index = i * state->value_width + j;
        store_columns(state, precision, index, n, canonical(load_columns(state, precision, index, n)));
    }
}

// The columns j .. of `registers` registers, n of them in each: both passes over their part of the state.
ALWAYS void step(const struct delta_state *state, enum precision precision, int registers, size_t j, size_t n,
                 const float *q, const float *k, const float *v, float beta, float keep, float *out)
{
    const size_t dk = state->key_width, dv = state->value_width;
    const float32x4_t decay = vdupq_n_f32(keep);
    float32x4_t mem[REGISTERS], d[REGISTERS], o[REGISTERS];
    for (int r = 0; r < registers; r++)
        mem[r] = o[r] = vdupq_n_f32(0);
    for (size_t i = 0; i < dk; i++)
        for (int r = 0; r < registers; r++) {
            const float32x4_t s = load_columns(state, precision, i * dv + j + 4 * (size_t)r, n);
            mem[r] = vfmaq_f32(mem[r], vdupq_n_f32(k[i]), vmulq_f32(s, decay));
        }
    for (int r = 0; r < registers; r++)
        d[r] = vmulq_f32(vsubq_f32(load(v + j + 4 * (size_t)r, n), mem[r]), vdupq_n_f32(beta));
    for (size_t i = 0; i < dk; i++)
        for (int r = 0; r < registers; r++) {
            const size_t index = i * dv + j + 4 * (size_t)r;
            const float32x4_t s = load_columns(state, precision, index, n);
            const float32x4_t updated = vfmaq_f32(vmulq_f32(s, decay), vdupq_n_f32(k[i]), d[r]);
            o[r] = vfmaq_f32(o[r], vdupq_n_f32(q[i]), updated);
            store_columns(state, precision, index, n, updated);
        }
    for (int r = 0; r < registers; r++) {
        store(out + j + 4 * (size_t)r, n, round4(o[r], PRECISION_F16));
        if (any_nan(o[r])) // every NaN of S is in o
            canonical_columns(state, precision, j + 4 * (size_t)r, n);
    }
}

ALWAYS void steps(const struct delta_state *state, enum precision precision, const float *q, const float *k,
                  const float *v, float beta, float g, float *out)
{
    const size_t dv = state->value_width;
    const float keep = kernels_exp(g);
    size_t j = 0;
    for (; j + 4 * REGISTERS <= dv; j += 4 * REGISTERS)
        step(state, precision, REGISTERS, j, 4, q, k, v, beta, keep, out);
    for (; j < dv; j += 4)
        step(state, precision, 1, j, dv - j, q, k, v, beta, keep, out);
}

void kernels_neon_delta_step(const struct delta_state *state, const float *q, const float *k, const float *v,
                             float beta, float g, float *out)
{
    if (state->precision == PRECISION_F16)
        steps(state, PRECISION_F16, q, k, v, beta, g, out);
    else
        steps(state, PRECISION_F32, q, k, v, beta, g, out);
}
