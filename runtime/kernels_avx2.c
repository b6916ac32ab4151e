// kernels_avx2: the bits of kernels.c with AVX2, FMA and F16C. The 32 lanes of a sum lie in the lanes of four
// registers; nothing is reordered.
#include "runtime/kernels_avx2.h"

#include <math.h>
#include <string.h>

#define NO_SCORE (-1e30f)

static void round_row(float *x, size_t n, enum precision to)
{
    for (size_t i = 0; i < n; i += 8)
        store(x + i, n - i, round8(load(x + i, n - i), to));
}

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    const __m256 r = inverse_rms(x, n, eps);
    for (uint32_t k = 0; k < n; k += 8) {
        const __m256 unit = through_half(_mm256_mul_ps(load(x + k, n - k), r));
        store(y + k, n - k, round8(_mm256_mul_ps(unit, load(w + k, n - k)), PRECISION_F16));
    }
}

static void rms_norm_centred(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    const __m256 r = inverse_rms(x, n, eps), one = _mm256_set1_ps(1);
    for (uint32_t k = 0; k < n; k += 8) {
        const __m256 unit = _mm256_mul_ps(load(x + k, n - k), r), factor = _mm256_add_ps(one, load(w + k, n - k));
        store(y + k, n - k, round8(_mm256_mul_ps(unit, factor), PRECISION_F16));
    }
}

// --- attention

static void rope(float *x, const float *cos, const float *sin, uint32_t dh, enum precision to)
{
    const uint32_t half = dh / 2;
    for (uint32_t j = 0; j < half; j += 8) {
        const __m256 c = load(cos + j, half - j), s = load(sin + j, half - j);
        const __m256 x1 = load(x + j, half - j), x2 = load(x + half + j, half - j);
        const __m256 first = _mm256_fmsub_ps(x1, c, _mm256_mul_ps(x2, s)); // a fused a b - c is fma(a, b, -c)
        const __m256 second = _mm256_fmadd_ps(x2, c, _mm256_mul_ps(x1, s));
        store(x + j, half - j, round8(first, to));
        store(x + half + j, half - j, round8(second, to));
    }
}

ALWAYS float state_at(const void *state, enum precision precision, size_t index)
{
    return precision == PRECISION_F16 ? half_to_float(((const uint16_t *)state)[index])
                                      : ((const float *)state)[index];
}

struct softmax {
    float m, l;
    float *acc; // [dh]
};

ALWAYS float largest(__m256 v)
{
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// acc[d] = acc[d] c, then fma(p[t], v[t][d], acc[d]), t increasing.
ALWAYS void accumulate(const struct attention_view *view, enum precision precision, const float *p, float c,
                       uint32_t first, uint32_t n, float *acc)
{
    const uint32_t dh = view->head_width;
    uint32_t d = 0;
    for (; d + 8 <= dh; d += 8) {
        __m256 sum = _mm256_mul_ps(_mm256_loadu_ps(acc + d), _mm256_set1_ps(c));
        for (uint32_t t = 0; t < n; t++)
            sum = _mm256_fmadd_ps(_mm256_set1_ps(p[t]),
                                  load_state(view->values, precision, (size_t)(first + t) * dh + d), sum);
        _mm256_storeu_ps(acc + d, sum);
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
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()}, e[4];
    for (uint32_t d = 0; d < dh; d++) {
        const size_t row = ((size_t)block * dh + d) * ATTENTION_BLOCK;
        for (int i = 0; i < 4; i++)
            s[i] =
                _mm256_fmadd_ps(_mm256_set1_ps(q[d]), load_state(view->keys, precision, row + 8 * (size_t)i), s[i]);
    }
    __m256 top8 = _mm256_set1_ps(group->m);
    for (uint32_t i = 0; i < 4; i++) { // positions past the length: whatever the cache holds there is replaced
        const __m256i there = first_lanes(n > 8 * i ? n - 8 * i : 0);
        s[i] = _mm256_blendv_ps(_mm256_set1_ps(NO_SCORE), _mm256_mul_ps(_mm256_set1_ps(view->scale), s[i]),
                                _mm256_castsi256_ps(there));
        top8 = _mm256_max_ps(s[i], top8); // a NaN score is passed over here, and reaches the sums as a NaN p
    }
    const float top = largest(top8);
    float p[ATTENTION_BLOCK];
    for (uint32_t i = 0; i < 4; i++) {
        e[i] = exp8(_mm256_sub_ps(s[i], _mm256_set1_ps(top)));
        e[i] = _mm256_and_ps(e[i], _mm256_castsi256_ps(first_lanes(n > 8 * i ? n - 8 * i : 0)));
        _mm256_storeu_ps(p + 8 * i, e[i]);
    }
    const float c = _mm256_cvtss_f32(exp8(_mm256_set1_ps(group->m - top)));
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
    const __m256 maxima = _mm256_loadu_ps(m); // W = 8 of them
    _mm256_storeu_ps(weight, exp8(_mm256_sub_ps(maxima, _mm256_set1_ps(largest(maxima)))));
    for (uint32_t w = 0; w < ATTENTION_SIMDGROUPS; w++)
        sum = fmaf(groups[w].l, weight[w], sum);
    for (uint32_t d = 0; d < dh; d += 8) {
        __m256 o = _mm256_setzero_ps();
        for (uint32_t w = 0; w < ATTENTION_SIMDGROUPS; w++)
            o = _mm256_fmadd_ps(load(groups[w].acc + d, dh - d), _mm256_set1_ps(weight[w]), o);
        store(out + d, dh - d, round8(_mm256_div_ps(o, _mm256_set1_ps(sum)), PRECISION_F16));
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
    for (uint32_t i = 0; i < d; i += 8) {
        __m256 sum = _mm256_setzero_ps();
        for (uint32_t j = 0; j < n_taps; j++) {
            const float *column = j + 1 < n_taps ? history + (size_t)j * d : newest;
            sum = _mm256_fmadd_ps(load(taps + (size_t)j * d + i, d - i), load(column + i, d - i), sum);
        }
        if (bias)
            sum = _mm256_add_ps(sum, load(bias + i, d - i));
        store(c + i, d - i, round8(sum, PRECISION_F16));
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 8) {
        const __m256 g = load(gate + i, n - i);
        const __m256 silu = through_half(_mm256_mul_ps(g, sigmoid8(g)));
        store(y + i, n - i, round8(_mm256_mul_ps(silu, load(up + i, n - i)), PRECISION_F16));
    }
}

static void attention_gate(const float *o, const float *gate, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 8) {
        const __m256 share = through_half(sigmoid8(load(gate + i, n - i)));
        store(y + i, n - i, round8(_mm256_mul_ps(load(o + i, n - i), share), PRECISION_F16));
    }
}

static void product(const float *a, const float *b, size_t n, enum precision to, float *y)
{
    for (size_t i = 0; i < n; i += 8)
        store(y + i, n - i, round8(_mm256_mul_ps(load(a + i, n - i), load(b + i, n - i)), to));
}

static void add(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 8)
        store(y + i, n - i, round8(_mm256_add_ps(load(a + i, n - i), load(b + i, n - i)), PRECISION_F16));
}

static void expert_sum(const float *outputs, const float *weights, uint32_t slots, uint32_t d, float *y)
{
    for (uint32_t i = 0; i < d; i += 8) {
        __m256 acc = _mm256_setzero_ps();
        for (uint32_t slot = 0; slot < slots; slot++)
            acc = _mm256_fmadd_ps(_mm256_set1_ps(weights[slot]), load(outputs + (size_t)slot * d + i, d - i), acc);
        store(y + i, d - i, round8(acc, PRECISION_F16));
    }
}

void kernels_init_avx2(struct kernels *kernels)
{
    *kernels = (struct kernels){
        .round = round_row,
        .arrange = kernels_avx2_arrange,
        .linear = kernels_avx2_linear,
        .rms_norm = rms_norm,
        .rms_norm_centred = rms_norm_centred,
        .rms_norm_gated = kernels_avx2_rms_norm_gated,
        .rope = rope,
        .attention = attention,
        .attention_gate = attention_gate,
        .short_conv = short_conv,
        .silu = kernels_avx2_silu,
        .swiglu = swiglu,
        .product = product,
        .add = add,
        .l2_norm = kernels_avx2_l2_norm,
        .delta_step = kernels_avx2_delta_step,
        .expert_sum = expert_sum,
    };
}
