// Operators of the reference: formulas against longhand ones, stated orders and roundings to the bit, NaN kept.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/math.h"
#include "reference/ops.h"
#include "reference/swiglu.h"

static float wave(uint32_t i) // in (-1, 1), no two alike
{
    return math_sin(0.7f * (float)i + 0.3f);
}

#define EXPECT_BITS(value, expected) cr_expect_eq(float_to_bits(value), float_to_bits(expected), #value)

// --- norm

Test(reference_ops, rms_norm_is_the_formula_within_its_roundings)
{
    enum { N = 191 };
    float x[N], w[N], y[N];
    for (uint32_t i = 0; i < N; i++) {
        x[i] = 3 * wave(i);
        w[i] = 1 + wave(i + N);
    }
    ops_rms_norm(x, w, N, 1e-5f, y);
    double sum = 0;
    for (uint32_t i = 0; i < N; i++)
        sum += (double)x[i] * x[i];
    const double r = 1 / sqrt(sum / N + 1e-5f);
    // roundings of half an ulp: the mean (halved by the root), r, x r, w (x r)
    for (uint32_t i = 0; i < N; i++)
        cr_expect(fabs(y[i] - w[i] * x[i] * r) <= 3.5 * 0x1p-24 * (1 + 1e-6) * fabs(w[i] * x[i] * r), "%u", i);
}

Test(reference_ops, rms_norm_sums_in_double_rounds_the_mean_once_and_multiplies_x_first)
{
    enum { N = 4 };
    // 2^24 + 1 + 1 + 1 is lost in a float sum; the mean 2^22 + 3/4 is a float + 1/4: rounded to 2^22 + 1 (ulp 1/2 at
    // 2^22)
    const float x[N] = {4096, 1, 1, 1}, w[N] = {1.1f, 1.3f, 1.7f, 1.9f};
    float y[N];
    ops_rms_norm(x, w, N, 0.0f, y);
    const float mean = 0x1p22f + 1.0f; // 2^22 + 0.75 is a tie between + 0.5 and + 1: even
    const float r = (float)(1 / sqrt((double)mean));
    for (int i = 0; i < N; i++)
        EXPECT_BITS(y[i], w[i] * (x[i] * r));
    const float float_sum = (float)(1 / sqrt(0x1p22)); // negative control: what a float sum would give
    cr_expect_neq(float_to_bits(w[0] * (x[0] * float_sum)), float_to_bits(y[0]));
}

Test(reference_ops, rms_norm_of_zeros_is_zero_and_of_a_nan_all_nan)
{
    float x[3] = {0, -0.0f, 0}, w[3] = {1, 1, 1};
    ops_rms_norm(x, w, 3, 1e-5f, x); // in place
    EXPECT_BITS(x[0], 0.0f);
    EXPECT_BITS(x[1], -0.0f);
    x[2] = NAN;
    ops_rms_norm(x, w, 3, 1e-5f, x);
    cr_expect(isnan(x[0]) && isnan(x[1]) && isnan(x[2]));
}

// --- RoPE

Test(reference_ops, rope_frequencies_take_every_step_in_float)
{
    float f[32];
    unsigned other = 0;
    ops_rope_frequencies(1e6, 64, f);
    EXPECT_BITS(f[0], 1.0f);
    EXPECT_BITS(f[16], 0.001f); // e = 1/2, p = 1000
    for (int j = 0; j < 32; j++) {
        cr_expect(fabs(f[j] - pow(1e6, -2.0 * j / 64)) <= 0x1p-23 * f[j], "%d", j);
        other += f[j] != (float)pow(1e6, -2.0 * j / 64); // negative control: rounded only at the end
    }
    cr_expect(other > 4, "rounding p and 1 / p apart changes a quarter of the frequencies or more, here %u of 32",
              other);
}

Test(reference_ops, rope_angles_are_products_rounded_to_float)
{
    const float f[2] = {1.0f, 0.64938164f};
    float cosine[2], sine[2];
    ops_rope_table(f, 2, 100003, cosine, sine);
    EXPECT_BITS(cosine[0], (float)cos(100003.0));
    EXPECT_BITS(sine[1], (float)sin((double)(f[1] * 100003.0f)));
    cr_expect_neq(sine[1], (float)sin((double)f[1] * 100003.0), "control: an angle in double is another angle");
    ops_rope_table(f, 2, 0, cosine, sine);
    EXPECT_BITS(cosine[1], 1.0f);
    EXPECT_BITS(sine[1], 0.0f);
}

Test(reference_ops, rope_rotates_the_two_halves)
{
    const float cosine[2] = {0.6f, 0.28f}, sine[2] = {0.8f, 0.96f};
    float x[4] = {1.1f, 2.3f, 3.7f, 4.9f};
    const float before[4] = {1.1f, 2.3f, 3.7f, 4.9f};
    ops_rope(x, cosine, sine, 2);
    EXPECT_BITS(x[0], 1.1f * 0.6f - 3.7f * 0.8f); // each product rounded, no fma
    EXPECT_BITS(x[1], 2.3f * 0.28f - 4.9f * 0.96f);
    EXPECT_BITS(x[2], 3.7f * 0.6f + 1.1f * 0.8f);
    EXPECT_BITS(x[3], 4.9f * 0.28f + 2.3f * 0.96f);
    for (int i = 0; i < 2; i++) // a rotation keeps the length of each pair
        cr_expect_float_eq(hypotf(x[i], x[i + 2]), hypotf(before[i], before[i + 2]), 1e-5f);
}

// --- attention

enum { DH = 40, T_MAX = 70 };

static linear_fn dot(void)
{
    struct linear linear;
    linear_open(&linear, ISA_SCALAR, NULL);
    return linear.rows[WEIGHT_F32];
}

struct cache {
    float q[DH], k[T_MAX * DH], v[T_MAX * DH], out[DH];
};

static void cache_fill(struct cache *cache)
{
    for (uint32_t i = 0; i < DH; i++)
        cache->q[i] = 2 * wave(i);
    for (uint32_t i = 0; i < T_MAX * DH; i++) {
        cache->k[i] = wave(i + 1000);
        cache->v[i] = wave(3 * i + 7);
    }
}

static void attend(struct cache *cache, uint32_t positions)
{
    float s[T_MAX];
    double sums[DH];
    ops_attention(dot(), cache->q, cache->k, cache->v, positions, DH, 0.158113883f, s, sums, cache->out);
}

Test(reference_ops, attention_is_the_softmax_average_of_values)
{
    struct cache cache;
    cache_fill(&cache);
    for (uint32_t positions = 1; positions <= T_MAX; positions += 23) {
        attend(&cache, positions);
        double s[T_MAX], max = -INFINITY, total = 0;
        for (uint32_t t = 0; t < positions; t++) {
            double sum = 0;
            for (uint32_t c = 0; c < DH; c++)
                sum += (double)cache.q[c] * cache.k[t * DH + c];
            s[t] = sum * 0.158113883f;
            max = fmax(max, s[t]);
        }
        for (uint32_t t = 0; t < positions; t++)
            total += exp(s[t] - max);
        for (uint32_t c = 0; c < DH; c++) {
            double expected = 0;
            for (uint32_t t = 0; t < positions; t++)
                expected += exp(s[t] - max) / total * cache.v[t * DH + c];
            // |v| <= 1, so the error is at most that of p in the sum of |p|: twice the score's absolute error (|s| <=
            // 13: gamma_7 of sum |q k| and two roundings of s, below 60 u) and three roundings of p
            cr_expect(fabs(cache.out[c] - expected) <= 130 * 0x1p-24, "%u positions, %u: %g", positions, c,
                      cache.out[c] - expected);
        }
    }
}

Test(reference_ops, attention_to_one_position_is_its_value_and_to_equal_ones_their_mean)
{
    struct cache cache;
    cache_fill(&cache);
    attend(&cache, 1);
    cr_expect(!memcmp(cache.out, cache.v, sizeof cache.out));
    memset(cache.k, 0, sizeof cache.k);
    for (uint32_t c = 0; c < DH; c++)
        for (uint32_t t = 0; t < 4; t++)
            cache.v[t * DH + c] = (float)(t * t);
    attend(&cache, 4);
    for (uint32_t c = 0; c < DH; c++)
        EXPECT_BITS(cache.out[c], 3.5f); // (0 + 1 + 4 + 9) / 4
}

Test(reference_ops, large_scores_do_not_overflow)
{
    struct cache cache;
    cache_fill(&cache);
    for (uint32_t i = 0; i < DH; i++)
        cache.q[i] *= 1e6f;
    attend(&cache, T_MAX);
    for (uint32_t c = 0; c < DH; c++)
        cr_expect(fabsf(cache.out[c]) <= 1.0f);
}

Test(reference_ops, a_nan_in_q_k_or_v_reaches_the_output_whatever_its_position)
{
    for (uint32_t at = 0; at < 5; at++) {
        struct cache cache;
        cache_fill(&cache);
        cache.q[at] = NAN;
        attend(&cache, 5);
        cr_expect(isnan(cache.out[0]) && isnan(cache.out[DH - 1]));
        cache_fill(&cache);
        cache.k[at * DH + 3] = NAN;
        attend(&cache, 5);
        cr_expect(isnan(cache.out[0]) && isnan(cache.out[DH - 1]));
        cache_fill(&cache);
        cache.v[at * DH + 3] = NAN;
        attend(&cache, 5);
        cr_expect(isnan(cache.out[3]) && !isnan(cache.out[4]));
        cache_fill(&cache);
        cache.k[at * DH] = INFINITY; // exp(Inf - Inf)
        attend(&cache, 5);
        cr_expect(isnan(cache.out[0]));
    }
}

// --- short convolution

Test(reference_ops, short_convolution_step_by_step_is_the_whole_convolution)
{
    enum { D = 5, N = 11 };
    for (uint32_t taps = 1; taps <= 4; taps++)
        for (int biased = 0; biased < 2; biased++) {
            float bx[N][D], w[D * 4], bias[D], state[D * 3 + 1] = {0}, c[D];
            for (uint32_t i = 0; i < D * taps; i++)
                w[i] = wave(i + 50);
            for (uint32_t i = 0; i < D; i++)
                bias[i] = wave(i + 90);
            state[D * (taps - 1)] = 77; // guard
            for (uint32_t t = 0; t < N; t++) {
                for (uint32_t i = 0; i < D; i++)
                    bx[t][i] = wave(t * D + i);
                ops_short_conv(bx[t], w, biased ? bias : NULL, D, taps, state, c);
                for (uint32_t i = 0; i < D; i++) {
                    float expected = 0;
                    for (uint32_t j = 0; j < taps; j++) { // b of a position before the first is 0
                        const int from = (int)t - (int)(taps - 1) + (int)j;
                        expected = fmaf(w[i * taps + j], from >= 0 ? bx[from][i] : 0, expected);
                    }
                    EXPECT_BITS(c[i], biased ? expected + bias[i] : expected);
                    for (uint32_t j = 0; j + 1 < taps; j++) {
                        const int from = (int)t - (int)(taps - 2) + (int)j;
                        EXPECT_BITS(state[i * (taps - 1) + j], from >= 0 ? bx[from][i] : 0);
                    }
                }
                cr_expect_eq(state[D * (taps - 1)], 77);
            }
        }
}

// --- the rest

Test(reference_ops, swiglu_residual_and_product_round_each_operation)
{
    const float gate[3] = {1.5f, -2.25f, 0.0f}, up[3] = {0.1f, 0.7f, INFINITY};
    float y[3], h[3] = {0.3f, 1e10f, -1.0f};
    memcpy(y, gate, sizeof y);
    swiglu_best(ISA_SCALAR)(y, up, 3);
    EXPECT_BITS(y[0], (float)(1.5 / (1 + exp(-1.5))) * 0.1f);
    EXPECT_BITS(y[1], (float)(-2.25 / (1 + exp(2.25))) * 0.7f);
    cr_expect(isnan(y[2]), "0 x Inf");
    ops_residual(gate, 3, h);
    EXPECT_BITS(h[0], 0.3f + 1.5f);
    EXPECT_BITS(h[1], 1e10f);
    ops_multiply(gate, h, 2, h); // in place
    EXPECT_BITS(h[0], 1.5f * (0.3f + 1.5f));
}

Test(reference_ops, embedding_rows_widen_exactly)
{
    const uint16_t table[4] = {0x3F80, 0xC000, 0x3F81, 0x0001}; // bf16 1, -2; 1 + 2^-7, 2^-133
    const struct weight embedding = {.format = WEIGHT_BF16, .rows = 2, .cols = 2, .data = table};
    float h[2];
    ops_embed(&embedding, 1, h);
    EXPECT_BITS(h[0], 1.0f + 0x1p-7f);
    EXPECT_BITS(h[1], 0x1p-133f);
}

Test(reference_ops, every_nan_becomes_the_canonical_one_and_nothing_else_changes)
{
    float x[6] = {1.0f, -0.0f, INFINITY, 0x1p-149f, 0, 0};
    x[4] = float_from_bits(0xFFC12345);
    x[5] = float_from_bits(0x7F800001);
    ops_canonical(x, 6);
    const uint32_t expected[6] = {0x3F800000, 0x80000000, 0x7F800000, 1, 0x7FC00000, 0x7FC00000};
    for (int i = 0; i < 6; i++)
        cr_expect_eq(float_to_bits(x[i]), expected[i]);
}
