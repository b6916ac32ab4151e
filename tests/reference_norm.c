// Norms, gates and weighted sums of Qwen3.5 and the MoE models: formulas within their roundings, orders to the bit,
// NaN kept; and for each the nearest wrong formula, which must be told apart.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/math.h"
#include "reference/ops.h"

#define EXPECT_BITS(value, expected) cr_expect_eq(float_to_bits(value), float_to_bits(expected), #value)

enum { N = 191 };

static float wave(uint32_t i) // in (-1, 1), no two alike
{
    return math_sin(0.7f * (float)i + 0.3f);
}

struct row {
    float x[N], w[N], z[N], y[N];
};

static void row_fill(struct row *row)
{
    for (uint32_t i = 0; i < N; i++) {
        row->x[i] = 3 * wave(i);
        row->w[i] = 0.2f * wave(i + N);
        row->z[i] = 5 * wave(2 * i + 1);
    }
}

static double square_sum(const struct row *row)
{
    double sum = 0;
    for (uint32_t i = 0; i < N; i++)
        sum += (double)row->x[i] * row->x[i];
    return sum;
}

static bool is_near(float value, double expected, double roundings)
{
    return fabs(value - expected) <= roundings * 0x1p-24 * (1 + 1e-6) * fabs(expected);
}

// --- RMS norm, zero-centred

Test(reference_norm, centred_is_the_formula_within_its_roundings)
{
    struct row row;
    row_fill(&row);
    ops_rms_norm_centred(row.x, row.w, N, 0.01f, row.y); // an eps that shows
    const double r = 1 / sqrt(square_sum(&row) / N + 0.01f), outside = 1 / (sqrt(square_sum(&row) / N) + 0.01f);
    unsigned plain = 0, late_eps = 0;
    for (uint32_t i = 0; i < N; i++) {
        // the mean (halved by the root), r, x r, 1 + w, the product
        cr_expect(is_near(row.y[i], row.x[i] * r * (1 + (double)row.w[i]), 4.5), "%u", i);
        plain += is_near(row.y[i], row.w[i] * row.x[i] * r, 4.5);
        late_eps += is_near(row.y[i], row.x[i] * outside * (1 + (double)row.w[i]), 4.5);
    }
    cr_expect_eq(plain, 0, "control: the 1 dropped");
    cr_expect_eq(late_eps, 0, "control: eps outside the root");
}

Test(reference_norm, centred_rounds_x_r_and_one_plus_w_before_the_product)
{
    struct row row;
    row_fill(&row);
    ops_rms_norm_centred(row.x, row.w, N, 1e-6f, row.y);
    const float r = (float)(1 / sqrt((double)(float)(square_sum(&row) / N) + 1e-6f));
    unsigned other_order = 0, folded = 0;
    for (uint32_t i = 0; i < N; i++) {
        EXPECT_BITS(row.y[i], (row.x[i] * r) * (1 + row.w[i]));
        other_order += row.y[i] != row.x[i] * (r * (1 + row.w[i]));
        folded += row.y[i] != fmaf(row.x[i] * r, row.w[i], row.x[i] * r);
    }
    cr_expect(other_order > 20 && folded > 20, "controls: %u, %u", other_order, folded);
}

// --- RMS norm, gated

Test(reference_norm, gated_is_norm_then_weight_then_gate)
{
    struct row row;
    row_fill(&row);
    ops_rms_norm_gated(row.x, row.w, row.z, N, 1e-6f, row.y);
    const double r = 1 / sqrt(square_sum(&row) / N + 1e-6f);
    const float rounded = (float)(1 / sqrt((double)(float)(square_sum(&row) / N) + 1e-6f));
    unsigned no_gate = 0, centred = 0, sigmoids = 0, other_order = 0;
    for (uint32_t i = 0; i < N; i++) {
        const double sigmoid = 1 / (1 + exp(-(double)row.z[i])), norm = row.w[i] * (row.x[i] * r);
        const float silu = (float)(row.z[i] * sigmoid);
        // the mean (halved), r, x r, the weight, silu, the product
        cr_expect(is_near(row.y[i], norm * row.z[i] * sigmoid, 5.5), "%u", i);
        EXPECT_BITS(row.y[i], (row.w[i] * (row.x[i] * rounded)) * silu);
        no_gate += is_near(row.y[i], norm, 5.5);
        centred += is_near(row.y[i], norm / row.w[i] * (1 + row.w[i]) * row.z[i] * sigmoid, 5.5);
        sigmoids += is_near(row.y[i], norm * sigmoid, 5.5);
        other_order += row.y[i] != row.w[i] * ((row.x[i] * rounded) * silu);
    }
    cr_expect_eq(no_gate, 0, "control: z left out");
    cr_expect_eq(centred, 0, "control: 1 + w here too");
    cr_expect_eq(sigmoids, 0, "control: sigmoid for silu");
    cr_expect(other_order > 20, "control: the gate before the weight");
}

// --- L2 norm

Test(reference_norm, l2_adds_eps_to_the_sum_inside_the_root_and_scales_last)
{
    static const float sizes[] = {1, 1e-3f, 1e-5f}; // sums of squares far above 1e-6, near it and below
    for (int i = 0; i < 3; i++) {
        struct row row;
        row_fill(&row);
        for (uint32_t j = 0; j < N; j++)
            row.x[j] *= sizes[i];
        const double square = square_sum(&row), r = 1 / sqrt(square + 1e-6f);
        const float rounded = (float)(1 / sqrt((double)(float)square + 1e-6f)), scale = 0x1.6a09e6p-4f;
        ops_l2_norm(row.x, N, scale, row.y);
        unsigned mean = 0, floor = 0, other_order = 0;
        for (uint32_t j = 0; j < N; j++) {
            cr_expect(is_near(row.y[j], row.x[j] * r * scale, 3.5), "the sum (halved), r, x r, the scale");
            EXPECT_BITS(row.y[j], (row.x[j] * rounded) * scale);
            mean += is_near(row.y[j], row.x[j] / sqrt(square / N + 1e-6f) * scale, 3.5);
            floor += is_near(row.y[j], row.x[j] / fmax(sqrt(square), 1e-6) * scale, 3.5);
            other_order += row.y[j] != row.x[j] * (rounded * scale);
        }
        cr_expect_eq(mean, 0, "control: mean for sum");
        cr_expect(i == 0 || floor == 0, "control: max(length, eps)");
        cr_expect(other_order > 20, "control: the scale in the factor");
        ops_l2_norm(row.x, N, 1, row.y);
        EXPECT_BITS(row.y[7], row.x[7] * rounded); // a key
    }
}

Test(reference_norm, zeros_stay_zero_and_one_nan_fills_the_row)
{
    float x[3] = {0, -0.0f, 0}, w[3] = {0.5f, 1, 2}, z[3] = {1, 2, 3}, y[3];
    ops_l2_norm(x, 3, 1, y);
    EXPECT_BITS(y[0], 0.0f);
    EXPECT_BITS(y[1], -0.0f);
    ops_rms_norm_centred(x, w, 3, 1e-6f, x); // in place
    EXPECT_BITS(x[1], -0.0f);
    x[2] = NAN;
    for (int which = 0; which < 3; which++) {
        if (which == 0)
            ops_l2_norm(x, 3, 1, y);
        else if (which == 1)
            ops_rms_norm_centred(x, w, 3, 1e-6f, y);
        else
            ops_rms_norm_gated(x, w, z, 3, 1e-6f, y);
        cr_expect(isnan(y[0]) && isnan(y[1]) && isnan(y[2]), "%d", which);
    }
    x[2] = 1;
    z[1] = NAN;
    ops_rms_norm_gated(x, w, z, 3, 1e-6f, z); // in place of the gate
    cr_expect(!isnan(z[0]) && isnan(z[1]) && !isnan(z[2]));
}

// --- rotary embedding of the first dimensions

Test(reference_norm, partial_rope_pairs_within_the_rotary_width_and_leaves_the_rest)
{
    enum { DH = 16, R = 6 };
    float x[DH], before[DH], f[R / 2], cosine[R / 2], sine[R / 2];
    for (uint32_t i = 0; i < DH; i++)
        before[i] = x[i] = wave(i);
    ops_rope_frequencies(1e7, R, f); // exponents over R, not over dh
    EXPECT_BITS(f[1], 1.0f / (float)pow(1e7, (double)(2.0f / 6.0f)));
    ops_rope_table(f, R / 2, 5, cosine, sine);
    ops_rope(x, cosine, sine, R / 2);
    for (uint32_t i = 0; i < R / 2; i++) {
        const float a = before[i], b = before[i + R / 2];
        EXPECT_BITS(x[i], a * cosine[i] - b * sine[i]);
        EXPECT_BITS(x[i + R / 2], b * cosine[i] + a * sine[i]);
        cr_expect_neq(x[i], a * cosine[i] - before[i + DH / 2] * sine[i], "control: pairs half a head apart");
    }
    cr_expect(!memcmp(x + R, before + R, (DH - R) * sizeof *x));
}

// --- gates

Test(reference_norm, gates_round_their_function_then_the_product)
{
    struct row row;
    row_fill(&row);
    ops_sigmoid_gate(row.x, row.z, N, row.y);
    unsigned swapped = 0, silus = 0;
    for (uint32_t i = 0; i < N; i++) {
        EXPECT_BITS(row.y[i], row.x[i] * (float)(1 / (1 + exp(-(double)row.z[i]))));
        swapped += is_near(row.y[i], row.z[i] / (1 + exp(-(double)row.x[i])), 100);
        silus += is_near(row.y[i], (double)row.x[i] * row.z[i] / (1 + exp(-(double)row.z[i])), 100);
    }
    cr_expect_eq(swapped, 0, "control: values and gate swapped");
    cr_expect_eq(silus, 0, "control: silu for sigmoid");
}

// --- experts

Test(reference_norm, weighted_sums_are_one_fma_chain_in_slot_order)
{
    struct row a, b;
    row_fill(&a);
    row_fill(&b);
    float sum[N + 1] = {0};
    sum[N] = 77;
    ops_add_weighted(0.3f, a.x, N, sum);
    ops_add_weighted(0.7f, a.w, N, sum);
    ops_add_weighted(-1.1f, a.z, N, sum);
    unsigned plain = 0, other_order = 0;
    for (uint32_t i = 0; i < N; i++) {
        EXPECT_BITS(sum[i], fmaf(-1.1f, a.z[i], fmaf(0.7f, a.w[i], fmaf(0.3f, a.x[i], 0.0f))));
        plain += sum[i] != (0.3f * a.x[i] + 0.7f * a.w[i]) + -1.1f * a.z[i];
        other_order += sum[i] != fmaf(0.3f, a.x[i], fmaf(0.7f, a.w[i], fmaf(-1.1f, a.z[i], 0.0f)));
    }
    EXPECT_BITS(sum[N], 77.0f);
    cr_expect(plain > 20 && other_order > 20, "controls: %u, %u", plain, other_order);
    ops_add_weighted(NAN, a.x, N, sum);
    cr_expect(isnan(sum[0]) && isnan(sum[N - 1]));
}

Test(reference_norm, a_minus_zero_from_plus_zero_is_plus_zero)
{
    const float y[1] = {-0.0f};
    float sum[1] = {0.0f};
    ops_add_weighted(1, y, 1, sum);
    EXPECT_BITS(sum[0], 0.0f);
}

// --- softmax

Test(reference_norm, softmax_is_the_formula_and_one_nan_fills_the_row)
{
    float s[N];
    double total = 0;
    for (uint32_t i = 0; i < N; i++)
        total += exp(9 * (double)wave(i));
    for (uint32_t i = 0; i < N; i++)
        s[i] = 9 * wave(i);
    ops_softmax(s, N);
    double sum = 0;
    for (uint32_t i = 0; i < N; i++) {
        // s up to 9 and s - max up to 18, rounded; exp; the means of these three in the sum; the sum; the quotient
        cr_expect(is_near(s[i], exp(9 * (double)wave(i)) / total, 2 * (9 + 18 + 1) + 2), "%u", i);
        sum += s[i];
    }
    cr_expect_float_eq(sum, 1, 1e-6);
    for (uint32_t at = 0; at < 4; at++) {
        float few[4] = {1, 2, 3, 4};
        few[at] = NAN;
        ops_softmax(few, 4);
        for (int i = 0; i < 4; i++)
            cr_expect(isnan(few[i]));
    }
    float one[1] = {-1e30f};
    ops_softmax(one, 1);
    EXPECT_BITS(one[0], 1.0f);
}
