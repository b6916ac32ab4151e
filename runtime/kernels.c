// kernels: the definition. Slow on purpose where that reads better; its twins are checked against it bit for bit.
#include "runtime/kernels_scalar.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { CHAIN = 8 };

#define NO_SCORE (-1e30f) // below every score: |q . k| of halves is at most 2^32 dh

static void round_row(float *x, size_t n, enum precision to)
{
    for (size_t i = 0; i < n; i++)
        x[i] = to == PRECISION_F16 ? half_round(x[i]) : canonical(x[i]);
}

// --- sums

static void arrange(const float *x, uint32_t n, float *arranged)
{
    memcpy(arranged, x, n * sizeof *x);
}

// The weights of inputs k .. k + n - 1 of a row into w [n]; the result is the scale that they have in common.
static float weights(const struct weight *weight, enum precision dequant, size_t row, uint32_t k, uint32_t n,
                     float w[CHAIN])
{
    const size_t first = row * weight->cols + k;
    switch (weight->format) {
    case WEIGHT_F32:
        memcpy(w, (const float *)weight->data + first, n * sizeof *w);
        return 1;
    case WEIGHT_F16:
        for (uint32_t j = 0; j < n; j++)
            w[j] = half_to_float(((const uint16_t *)weight->data)[first + j]);
        return 1;
    case WEIGHT_BF16:
        for (uint32_t j = 0; j < n; j++)
            w[j] = bfloat_to_float(((const uint16_t *)weight->data)[first + j]);
        return 1;
    case WEIGHT_Q8:
        for (uint32_t j = 0; j < n; j++)
            w[j] = (float)((const int8_t *)weight->data)[first + j];
        break;
    case WEIGHT_Q4:
        for (uint32_t j = 0; j < n; j++) {
            const uint8_t byte = ((const uint8_t *)weight->data)[row * weight_row_bytes(weight) + (k + j) / 2];
            const int nibble = (k + j) % 2 ? byte >> 4 : byte & 15;
            w[j] = (float)(nibble < 8 ? nibble : nibble - 16);
        }
        break;
    case WEIGHT_A4:
    case WEIGHT_K8:
    case WEIGHT_K4:
        weight_part(weight, (uint32_t)row, k, n, w);
        for (uint32_t j = 0; j < n && dequant == PRECISION_F16; j++)
            w[j] = half_round(w[j]);
        return 1;
    case WEIGHT_NONE:
        assert(weight->format != WEIGHT_NONE); // a weight that is not there
    }
    const float scale = half_to_float(weight->scale[row * (weight->cols / weight->block) + k / weight->block]);
    if (dequant == PRECISION_F32)
        return scale;
    for (uint32_t j = 0; j < n; j++)
        w[j] = half_round(w[j] * scale);
    return 1;
}

static void linear(const struct weight *weight, const float *x, struct linear_rule rule, size_t first, size_t end,
                   float *y)
{
    for (size_t row = first; row < end; row++) {
        float acc[LANES] = {0};
        for (uint32_t k = 0; k < weight->cols; k += CHAIN) {
            const uint32_t n = weight->cols - k < CHAIN ? weight->cols - k : CHAIN;
            float w[CHAIN];
            const float scale = weights(weight, rule.dequant, row, k, n, w);
            float s = rounded(x[k] * w[0], rule.sum);
            for (uint32_t j = 1; j < n; j++)
                s = rounded(fmaf(x[k + j], w[j], s), rule.sum);
            float *lane = &acc[k / CHAIN % LANES];
            *lane = rounded(fmaf(scale, s, *lane), rule.sum);
        }
        y[row] = tree(acc, rule.sum);
    }
}

float kernels_scalar_inverse_rms(const float *x, uint32_t n, float eps)
{
    float squares[LANES] = {0};
    for (uint32_t k = 0; k < n; k++)
        squares[k % LANES] = fmaf(x[k], x[k], squares[k % LANES]);
    const float mean = tree(squares, PRECISION_F32) / (float)n;
    return 1.0f / sqrtf(mean + eps);
}

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    const float r = kernels_scalar_inverse_rms(x, n, eps);
    for (uint32_t k = 0; k < n; k++)
        y[k] = half_round(half_round(x[k] * r) * w[k]);
}

static void rms_norm_centred(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    const float r = kernels_scalar_inverse_rms(x, n, eps);
    for (uint32_t k = 0; k < n; k++)
        y[k] = half_round((x[k] * r) * (1.0f + w[k]));
}

// --- attention

static void rope(float *x, const float *cos, const float *sin, uint32_t dh, enum precision to)
{
    for (uint32_t j = 0; j < dh / 2; j++) {
        const float x1 = x[j], x2 = x[j + dh / 2];
        x[j] = canonical(rounded(fmaf(x1, cos[j], -(x2 * sin[j])), to));
        x[j + dh / 2] = canonical(rounded(fmaf(x2, cos[j], x1 * sin[j]), to));
    }
}

// Comparison instead of fmaxf: a NaN score is passed over here, and reaches the sums as a NaN p.
static float larger(float a, float b)
{
    return b > a ? b : a;
}

struct softmax {
    float m, l;
    float *acc; // [dh]
};

static void attend_block(const struct attention_view *view, const float *q, uint32_t block, struct softmax *group)
{
    const uint32_t dh = view->head_width, first = block * ATTENTION_BLOCK;
    const uint32_t n = view->length - first < ATTENTION_BLOCK ? view->length - first : ATTENTION_BLOCK;
    float s[ATTENTION_BLOCK], p[ATTENTION_BLOCK] = {0}, top = group->m;
    for (uint32_t t = 0; t < n; t++) {
        float dot = 0;
        for (uint32_t d = 0; d < dh; d++)
            dot = fmaf(q[d], state_at(view->keys, view->state, ((size_t)block * dh + d) * ATTENTION_BLOCK + t), dot);
        s[t] = view->scale * dot;
        top = larger(top, s[t]);
    }
    const float c = kernels_exp(group->m - top);
    for (uint32_t t = 0; t < n; t++)
        p[t] = kernels_exp(s[t] - top);
    for (uint32_t d = 0; d < dh; d++) {
        float acc = group->acc[d] * c;
        for (uint32_t t = 0; t < n; t++)
            acc = fmaf(p[t], state_at(view->values, view->state, (size_t)(first + t) * dh + d), acc);
        group->acc[d] = acc;
    }
    group->l = fmaf(group->l, c, tree(p, PRECISION_F32));
    group->m = top;
}

static void attention(const struct attention_view *view, const float *q, float *scratch, float *out)
{
    const uint32_t dh = view->head_width;
    const uint32_t blocks = (view->length + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
    struct softmax groups[ATTENTION_SIMDGROUPS];
    float top = NO_SCORE;
    memset(scratch, 0, (size_t)ATTENTION_SIMDGROUPS * dh * sizeof *scratch);
    for (uint32_t w = 0; w < ATTENTION_SIMDGROUPS; w++) {
        groups[w] = (struct softmax){.m = NO_SCORE, .l = 0, .acc = scratch + (size_t)w * dh};
        for (uint32_t block = w; block < blocks; block += ATTENTION_SIMDGROUPS)
            attend_block(view, q, block, &groups[w]);
        top = larger(top, groups[w].m);
    }
    float sum = 0, weight[ATTENTION_SIMDGROUPS];
    for (uint32_t w = 0; w < ATTENTION_SIMDGROUPS; w++) {
        weight[w] = kernels_exp(groups[w].m - top);
        sum = fmaf(groups[w].l, weight[w], sum);
    }
    for (uint32_t d = 0; d < dh; d++) {
        float o = 0;
        for (uint32_t w = 0; w < ATTENTION_SIMDGROUPS; w++)
            o = fmaf(groups[w].acc[d], weight[w], o);
        out[d] = half_round(o / sum);
    }
}

// --- element by element

float kernels_exp(float x)
{
    static const float terms[] = {1.38888889e-3f, 8.33333333e-3f, 4.16666667e-2f, 1.66666667e-1f, 0.5f, 1.0f, 1.0f};
    if (x != x)
        return canonical(x);
    if (x < -87.0f)
        return 0;
    if (x > 88.0f)
        return INFINITY;
    const float n = rintf(x * 1.44269502f);
    float r = fmaf(n, -0.693145752f, x); // ln 2 in two parts; the first product is exact
    r = fmaf(n, -1.42860677e-6f, r);
    float p = 1.98412698e-4f;
    for (size_t i = 0; i < sizeof terms / sizeof *terms; i++)
        p = fmaf(p, r, terms[i]);
    return p * float_from_bits((uint32_t)((int32_t)n + 127) << 23);
}

float kernels_sigmoid(float x)
{
    return canonical(1.0f / (1.0f + kernels_exp(-x)));
}

static void attention_gate(const float *o, const float *gate, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = half_round(o[i] * half_round(kernels_sigmoid(gate[i])));
}

static void short_conv(const float *history, const float *newest, const float *taps, const float *bias, uint32_t d,
                       uint32_t n_taps, float *c)
{
    for (uint32_t i = 0; i < d; i++) {
        float sum = 0;
        for (uint32_t j = 0; j < n_taps; j++) {
            const float column = j + 1 < n_taps ? history[(size_t)j * d + i] : newest[i];
            sum = fmaf(taps[(size_t)j * d + i], column, sum);
        }
        c[i] = half_round(bias ? sum + bias[i] : sum);
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = half_round(half_round(gate[i] * kernels_sigmoid(gate[i])) * up[i]);
}

static void product(const float *a, const float *b, size_t n, enum precision to, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = canonical(rounded(a[i] * b[i], to));
}

static void add(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = half_round(a[i] + b[i]);
}

void kernels_init(struct kernels *kernels, enum isa isa)
{
    *kernels = (struct kernels){
        .round = round_row,
        .arrange = arrange,
        .linear = linear,
        .rms_norm = rms_norm,
        .rms_norm_centred = rms_norm_centred,
        .rms_norm_gated = kernels_scalar_rms_norm_gated,
        .rope = rope,
        .attention = attention,
        .attention_gate = attention_gate,
        .short_conv = short_conv,
        .silu = kernels_scalar_silu,
        .swiglu = swiglu,
        .product = product,
        .add = add,
        .l2_norm = kernels_scalar_l2_norm,
        .delta_step = kernels_scalar_delta_step,
        .expert_sum = kernels_scalar_expert_sum,
    };
#if defined(__x86_64__)
    if (isa == ISA_AVX2 || isa == ISA_AVX512)
        kernels_init_avx2(kernels);
    if (isa == ISA_AVX512)
        kernels_init_avx512(kernels);
#elif defined(__aarch64__)
    if (isa == ISA_NEON)
        kernels_init_neon(kernels);
#else
    (void)isa;
#endif
}
