// kernels_avx2_delta: the bits of kernels_delta.c with AVX2, FMA and F16C.
#include "runtime/kernels_avx2.h"

#include <string.h>

enum { REGISTERS = 4 }; // of columns that a pass holds

void kernels_avx2_silu(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 8) {
        const __m256 v = load(x + i, n - i);
        store(y + i, n - i, round8(_mm256_mul_ps(v, sigmoid8(v)), PRECISION_F16));
    }
}

void kernels_avx2_rms_norm_gated(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y)
{
    const __m256 r = inverse_rms(o, n, eps);
    for (uint32_t k = 0; k < n; k += 8) {
        const __m256 gate = load(z + k, n - k);
        const __m256 m = through_half(_mm256_mul_ps(load(o + k, n - k), r));
        const __m256 silu = _mm256_mul_ps(gate, sigmoid8(gate));
        store(y + k, n - k, round8(_mm256_mul_ps(_mm256_mul_ps(m, load(w + k, n - k)), silu), PRECISION_F16));
    }
}

void kernels_avx2_l2_norm(const float *x, uint32_t n, float scale, enum precision chain, float *y)
{
    __m256 squares[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (uint32_t k = 0; k < n; k += 8) { // +0 past the end changes no sum of squares
        const __m256 v = load(x + k, n - k);
        __m256 *lane = &squares[k / 8 % 4];
        *lane = chain == PRECISION_F16 ? through_half(_mm256_add_ps(*lane, through_half(_mm256_mul_ps(v, v))))
                                       : _mm256_fmadd_ps(v, v, *lane);
    }
    const float ss = tree(squares, chain);
    const float r = chain == PRECISION_F16 ? half_round(1.0f / sqrtf(half_round(ss + half_round(1e-6f))))
                                           : 1.0f / sqrtf(ss + 1e-6f);
    for (uint32_t k = 0; k < n; k += 8) {
        const __m256 unit = through_half(_mm256_mul_ps(load(x + k, n - k), _mm256_set1_ps(r)));
        store(y + k, n - k, canonical(_mm256_mul_ps(unit, _mm256_set1_ps(scale))));
    }
}

// --- the step

ALWAYS bool any_nan(__m256 v)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
}

ALWAYS __m256 load_columns(const struct delta_state *state, enum precision precision, size_t index, size_t n)
{
    if (n >= 8)
        return load_state(state->s, precision, index);
    if (precision == PRECISION_F32)
        return load((const float *)state->s + index, n);
    uint16_t part[8] = {0};
    memcpy(part, (const uint16_t *)state->s + index, n * sizeof *part);
    return widen(part);
}

ALWAYS void store_columns(const struct delta_state *state, enum precision precision, size_t index, size_t n, __m256 v)
{
    if (precision == PRECISION_F32) {
        store((float *)state->s + index, n, v);
        return;
    }
    const __m128i halves = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
    uint16_t part[8];
    uint16_t *to = (uint16_t *)state->s + index;
    _mm_storeu_si128((__m128i *)(n >= 8 ? to : part), halves);
    if (n < 8)
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
    const __m256 decay = _mm256_set1_ps(keep);
    __m256 mem[REGISTERS], d[REGISTERS], o[REGISTERS];
    for (int r = 0; r < registers; r++)
        mem[r] = o[r] = _mm256_setzero_ps();
    for (size_t i = 0; i < dk; i++)
        for (int r = 0; r < registers; r++) {
            const __m256 s = load_columns(state, precision, i * dv + j + 8 * (size_t)r, n);
            mem[r] = _mm256_fmadd_ps(_mm256_set1_ps(k[i]), _mm256_mul_ps(s, decay), mem[r]);
        }
    for (int r = 0; r < registers; r++)
        d[r] = _mm256_mul_ps(_mm256_sub_ps(load(v + j + 8 * (size_t)r, n), mem[r]), _mm256_set1_ps(beta));
    for (size_t i = 0; i < dk; i++)
        for (int r = 0; r < registers; r++) {
            const size_t index = i * dv + j + 8 * (size_t)r;
            const __m256 s = load_columns(state, precision, index, n);
            const __m256 updated = _mm256_fmadd_ps(_mm256_set1_ps(k[i]), d[r], _mm256_mul_ps(s, decay));
            o[r] = _mm256_fmadd_ps(_mm256_set1_ps(q[i]), updated, o[r]);
            store_columns(state, precision, index, n, updated);
        }
    for (int r = 0; r < registers; r++) {
        store(out + j + 8 * (size_t)r, n, round8(o[r], PRECISION_F16));
        if (any_nan(o[r])) // every NaN of S is in o
            canonical_columns(state, precision, j + 8 * (size_t)r, n);
    }
}

ALWAYS void steps(const struct delta_state *state, enum precision precision, const float *q, const float *k,
                  const float *v, float beta, float g, float *out)
{
    const size_t dv = state->value_width;
    const float keep = kernels_exp(g);
    size_t j = 0;
    for (; j + 8 * REGISTERS <= dv; j += 8 * REGISTERS)
        step(state, precision, REGISTERS, j, 8, q, k, v, beta, keep, out);
    for (; j < dv; j += 8)
        step(state, precision, 1, j, dv - j, q, k, v, beta, keep, out);
}

void kernels_avx2_delta_step(const struct delta_state *state, const float *q, const float *k, const float *v,
                             float beta, float g, float *out)
{
    if (state->precision == PRECISION_F16)
        steps(state, PRECISION_F16, q, k, v, beta, g, out);
    else
        steps(state, PRECISION_F32, q, k, v, beta, g, out);
}
