// kernels_neon: the bits of kernels.c with aarch64's NEON. The 32 lanes of a sum lie in the lanes of eight registers;
// nothing is reordered.
#include "runtime/kernels_neon.h"

#include <math.h>

#define NO_SCORE (-1e30f)

enum { REGISTERS = ATTENTION_BLOCK / 4 };

static void round_row(float *x, size_t n, enum precision to)
{
    for (size_t i = 0; i < n; i += 4)
        store(x + i, n - i, round4(load(x + i, n - i), to));
}

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    const float32x4_t r = inverse_rms(x, n, eps);
    for (uint32_t k = 0; k < n; k += 4) {
        const float32x4_t unit = through_half(vmulq_f32(load(x + k, n - k), r));
        store(y + k, n - k, round4(vmulq_f32(unit, load(w + k, n - k)), PRECISION_F16));
    }
}

static void rms_norm_centred(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    const float32x4_t r = inverse_rms(x, n, eps), one = vdupq_n_f32(1);
    for (uint32_t k = 0; k < n; k += 4) {
        const float32x4_t unit = vmulq_f32(load(x + k, n - k), r), factor = vaddq_f32(one, load(w + k, n - k));
        store(y + k, n - k, round4(vmulq_f32(unit, factor), PRECISION_F16));
    }
}

// --- attention

static void rope(float *x, const float *cos, const float *sin, uint32_t dh, enum precision to)
{
    const uint32_t half = dh / 2;
    for (uint32_t j = 0; j < half; j += 4) {
        const float32x4_t c = load(cos + j, half - j), s = load(sin + j, half - j);
        const float32x4_t x1 = load(x + j, half - j), x2 = load(x + half + j, half - j);
        const float32x4_t first = vfmaq_f32(vnegq_f32(vmulq_f32(x2, s)), x1, c);
        const float32x4_t second = vfmaq_f32(vmulq_f32(x1, s), x2, c);
        store(x + j, half - j, round4(first, to));
        store(x + half + j, half - j, round4(second, to));
    }
}

ALWAYS float state_at(const void *state, enum precision precision, size_t index)
{
    return precision == PRECISION_F16 ? half_to_float(((const uint16_t *)state)[index])
                                      : ((const float *)state)[index];
}

// Of two floats the larger; a NaN in `b` is passed over here, and reaches the sums as a NaN p.
ALWAYS float32x4_t larger(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(b, a), b, a);
}

ALWAYS float largest(float32x4_t v) // no NaN in v
{
    return vmaxvq_f32(v);
}

ALWAYS uint32x4_t first_lanes(uint32_t n) // all bits set in the first n of 4
{
    static const uint32_t number[4] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(number), vdupq_n_u32(n));
}

struct softmax {
    float m, l;
    float *acc; // [dh]
};

// acc[d] = acc[d] c, then fma(p[t], v[t][d], acc[d]), t increasing.
ALWAYS void accumulate(const struct attention_view *view, enum precision precision, const float *p, float c,
                       uint32_t first, uint32_t n, float *acc)
{
    const uint32_t dh = view->head_width;
    uint32_t d = 0;
    for (; d + 4 <= dh; d += 4) {
        float32x4_t sum = vmulq_f32(vld1q_f32(acc + d), vdupq_n_f32(c));
        for (uint32_t t = 0; t < n; t++)
            sum =
                vfmaq_f32(sum, vdupq_n_f32(p[t]), load_state(view->values, precision, (size_t)(first + t) * dh + d));
        vst1q_f32(acc + d, sum);
    }
    for (; d < dh; d++) {
        acc[d] = acc[d] * c;
        for (uint32_t t = 0; t < n; t++)
            acc[d] = fmaf(p[t], state_at(view->values, precision, (size_t)(first + t) * dh + d), acc[d]);
    }
}

ALWAYS void attend_block(const struct attention_view *view, enum precision precision, const float *q, uint32_t block,
                         struct softmax *group)
{
    const uint32_t dh = view->head_width, first = block * ATTENTION_BLOCK;
    const uint32_t n = view->length - first < ATTENTION_BLOCK ? view->length - first : ATTENTION_BLOCK;
    float32x4_t s[REGISTERS], e[REGISTERS], top4 = vdupq_n_f32(group->m);
    for (int i = 0; i < REGISTERS; i++)
        s[i] = vdupq_n_f32(0);
    for (uint32_t d = 0; d < dh; d++) {
        const size_t row = ((size_t)block * dh + d) * ATTENTION_BLOCK;
        for (size_t i = 0; i < REGISTERS; i++)
            s[i] = vfmaq_f32(s[i], vdupq_n_f32(q[d]), load_state(view->keys, precision, row + 4 * i));
    }
    for (uint32_t i = 0; i < REGISTERS; i++) { // positions past the length: whatever the cache holds is replaced
        const uint32x4_t there = first_lanes(n > 4 * i ? n - 4 * i : 0);
        s[i] = vbslq_f32(there, vmulq_f32(vdupq_n_f32(view->scale), s[i]), vdupq_n_f32(NO_SCORE));
        top4 = larger(top4, s[i]);
    }
    const float top = largest(top4);
    float p[ATTENTION_BLOCK];
    for (uint32_t i = 0; i < REGISTERS; i++) {
        const uint32x4_t there = first_lanes(n > 4 * i ? n - 4 * i : 0);
        e[i] = vbslq_f32(there, exp4(vsubq_f32(s[i], vdupq_n_f32(top))), vdupq_n_f32(0));
        vst1q_f32(p + 4 * i, e[i]);
    }
    const float c = vgetq_lane_f32(exp4(vdupq_n_f32(group->m - top)), 0);
    accumulate(view, precision, p, c, first, n, group->acc);
    group->l = fmaf(group->l, c, tree(e, PRECISION_F32));
    group->m = top;
}

ALWAYS void attend(const struct attention_view *view, enum precision precision, const float *q, float *scratch,
                   float *out)
{
    const uint32_t dh = view->head_width, blocks = (view->length + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
    struct softmax groups[ATTENTION_SIMDGROUPS];
    float m[ATTENTION_SIMDGROUPS], weight[ATTENTION_SIMDGROUPS], sum = 0;
    memset(scratch, 0, (size_t)ATTENTION_SIMDGROUPS * dh * sizeof *scratch);
    for (uint32_t w = 0; w < ATTENTION_SIMDGROUPS; w++) {
        groups[w] = (struct softmax){.m = NO_SCORE, .l = 0, .acc = scratch + (size_t)w * dh};
        for (uint32_t block = w; block < blocks; block += ATTENTION_SIMDGROUPS)
            attend_block(view, precision, q, block, &groups[w]);
        m[w] = groups[w].m;
    }
    const float32x4_t low = vld1q_f32(m), high = vld1q_f32(m + 4); // W = 8 of them
    const float32x4_t top = vdupq_n_f32(largest(larger(low, high)));
    vst1q_f32(weight, exp4(vsubq_f32(low, top)));
    vst1q_f32(weight + 4, exp4(vsubq_f32(high, top)));
    for (uint32_t w = 0; w < ATTENTION_SIMDGROUPS; w++)
        sum = fmaf(groups[w].l, weight[w], sum);
    for (uint32_t d = 0; d < dh; d += 4) {
        float32x4_t o = vdupq_n_f32(0);
        for (uint32_t w = 0; w < ATTENTION_SIMDGROUPS; w++)
            o = vfmaq_f32(o, load(groups[w].acc + d, dh - d), vdupq_n_f32(weight[w]));
        store(out + d, dh - d, round4(vdivq_f32(o, vdupq_n_f32(sum)), PRECISION_F16));
    }
}

static void attention(const struct attention_view *view, const float *q, float *scratch, float *out)
{
    if (view->state == PRECISION_F16)
        attend(view, PRECISION_F16, q, scratch, out);
    else
        attend(view, PRECISION_F32, q, scratch, out);
}

// --- element by element

static void short_conv(const float *history, const float *newest, const float *taps, const float *bias, uint32_t d,
                       uint32_t n_taps, float *c)
{
    for (uint32_t i = 0; i < d; i += 4) {
        float32x4_t sum = vdupq_n_f32(0);
        for (uint32_t j = 0; j < n_taps; j++) {
            const float *column = j + 1 < n_taps ? history + (size_t)j * d : newest;
            sum = vfmaq_f32(sum, load(taps + (size_t)j * d + i, d - i), load(column + i, d - i));
        }
        if (bias)
            sum = vaddq_f32(sum, load(bias + i, d - i));
        store(c + i, d - i, round4(sum, PRECISION_F16));
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 4) {
        const float32x4_t g = load(gate + i, n - i);
        const float32x4_t silu = through_half(vmulq_f32(g, sigmoid4(g)));
        store(y + i, n - i, round4(vmulq_f32(silu, load(up + i, n - i)), PRECISION_F16));
    }
}

static void attention_gate(const float *o, const float *gate, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 4) {
        const float32x4_t share = through_half(sigmoid4(load(gate + i, n - i)));
        store(y + i, n - i, round4(vmulq_f32(load(o + i, n - i), share), PRECISION_F16));
    }
}

static void product(const float *a, const float *b, size_t n, enum precision to, float *y)
{
    for (size_t i = 0; i < n; i += 4)
        store(y + i, n - i, round4(vmulq_f32(load(a + i, n - i), load(b + i, n - i)), to));
}

static void add(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 4)
        store(y + i, n - i, round4(vaddq_f32(load(a + i, n - i), load(b + i, n - i)), PRECISION_F16));
}

static void expert_sum(const float *outputs, const float *weights, uint32_t slots, uint32_t d, float *y)
{
    for (uint32_t i = 0; i < d; i += 4) {
        float32x4_t acc = vdupq_n_f32(0);
        for (uint32_t slot = 0; slot < slots; slot++)
            acc = vfmaq_f32(acc, vdupq_n_f32(weights[slot]), load(outputs + (size_t)slot * d + i, d - i));
        store(y + i, d - i, round4(acc, PRECISION_F16));
    }
}

void kernels_init_neon(struct kernels *kernels)
{
    *kernels = (struct kernels){
        .round = round_row,
        .arrange = kernels_neon_arrange,
        .linear = kernels_neon_linear,
        .rms_norm = rms_norm,
        .rms_norm_centred = rms_norm_centred,
        .rms_norm_gated = kernels_neon_rms_norm_gated,
        .rope = rope,
        .attention = attention,
        .attention_gate = attention_gate,
        .short_conv = short_conv,
        .silu = kernels_neon_silu,
        .swiglu = swiglu,
        .product = product,
        .add = add,
        .l2_norm = kernels_neon_l2_norm,
        .delta_step = kernels_neon_delta_step,
        .expert_sum = expert_sum,
    };
}
