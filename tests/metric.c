// Measurements of rows and tensors, each with a control and a case that must not slip through.
#include "harness/judge/metric.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { V = 64 };

static void ramp(float *row, float scale)
{
    for (int i = 0; i < V; i++)
        row[i] = scale * (float)((i * 37) % V) / V; // a permutation: every value once, maximum at one place
}

Test(metric, class_comes_before_distance)
{
    float row[V];
    ramp(row, 1.0f);
    cr_assert_eq(metric_row_class(row, V), ROW_FINITE);
    row[7] = NAN;
    row[9] = INFINITY;
    cr_assert_eq(metric_row_class(row, V), ROW_NAN);
    row[7] = 0.0f;
    cr_assert_eq(metric_row_class(row, V), ROW_INFINITE);
    memset(row, 0, sizeof row);
    row[3] = -0.0f;
    cr_assert_eq(metric_row_class(row, V), ROW_ZERO);
    for (int i = 0; i < V; i++)
        row[i] = 2.5f;
    cr_assert_eq(metric_row_class(row, V), ROW_CONSTANT);
}

Test(metric, argmax_takes_the_lowest_index)
{
    const float row[] = {1.0f, 3.0f, 3.0f, 2.0f};
    cr_assert_eq(metric_argmax(row, 4), 1);
}

Test(metric, equal_rows_have_no_distance)
{
    float r[V];
    struct metric_position m;
    ramp(r, 8.0f);
    metric_position(r, r, V, &m);
    cr_assert_eq(m.top1, m.pick);
    cr_assert_eq(m.gap, 0.0);
    cr_assert(fabs(m.kl) < 1e-14); // 64 terms of at most 1, each with a rounding of 2^-53
    cr_assert_eq(m.square_sum, 0.0);
    cr_assert_eq(m.noise, 0.0);
    cr_assert_eq(m.overlap, METRIC_OVERLAP);
}

Test(metric, a_common_shift_is_no_noise_and_no_divergence)
{
    float r[V], q[V];
    struct metric_position m;
    ramp(r, 8.0f);
    for (int i = 0; i < V; i++)
        q[i] = r[i] + 4.0f; // exact: steps of 1/8
    metric_position(r, q, V, &m);
    cr_assert(fabs(m.kl) < 1e-13);
    cr_assert_eq(m.noise, 0.0);
    cr_assert_eq(m.square_sum, 16.0 * V); // the plain RMS does see it
}

Test(metric, margins_in_all_three_definitions)
{
    // softmax over {ln 6, ln 3, ln 1}: 0.6, 0.3, 0.1
    const float r[] = {logf(6.0f), logf(3.0f), 0.0f}, q[] = {0.0f, 1.0f, 2.0f};
    struct metric_position m;
    metric_position(r, q, 3, &m);
    cr_assert_eq(m.top1, 0);
    cr_assert_eq(m.top2, 1);
    cr_assert_eq(m.pick, 2);
    // inputs are floats near 2: a relative 2^-24 each
    cr_assert_float_eq(m.margin, log(2.0), 3e-7);
    cr_assert_float_eq(m.probability_margin, 0.3, 3e-7);
    cr_assert_float_eq(m.gap, log(6.0), 3e-7);
}

Test(metric, divergence_has_the_stated_direction)
{
    const float r[] = {logf(9.0f), 0.0f}, q[] = {1.0f, 1.0f}; // P = 0.9, 0.1; Q = 0.5, 0.5
    struct metric_position m;
    const double expected = 0.9 * log(0.9 / 0.5) + 0.1 * log(0.1 / 0.5);
    const float flat[] = {1.0f, 1.0f + 1e-6f}; // not constant, so that it has a pick
    metric_position(r, flat, 2, &m);
    cr_assert_float_eq(m.kl, expected, 1e-5);
    metric_position(r, q, 2, &m);
    cr_assert_eq(m.candidate_class, ROW_CONSTANT);
    cr_assert_eq(m.pick, -1);
    cr_assert(isnan(m.kl));
}

Test(metric, a_nan_has_no_pick_and_no_finite_distance)
{
    float r[V], q[V];
    struct metric_position m;
    ramp(r, 8.0f);
    memcpy(q, r, sizeof q);
    q[5] = NAN;
    metric_position(r, q, V, &m);
    cr_assert_eq(m.candidate_class, ROW_NAN);
    cr_assert_eq(m.pick, -1);
    cr_assert(!(m.gap <= 1e30) && !(m.square_sum <= 1e30) && !(m.max_abs <= 1e30));
}

Test(metric, noise_estimates_a_known_spread)
{
    // differences of +-s alternating over all ids: MAD s, so sqrt 2 x 1.4826 s
    float r[V], q[V];
    struct metric_position m;
    ramp(r, 8.0f);
    for (int i = 0; i < V; i++)
        q[i] = r[i] + ((i & 1) ? 0.25f : -0.25f);
    metric_position(r, q, V, &m);
    cr_assert_float_eq(m.noise, sqrt(2.0) * 1.4826 * 0.25, 1e-12);
}

Test(metric, tensor_error_is_relative_and_names_the_worst)
{
    const float r[] = {3.0f, 4.0f, 0.0f}, q[] = {3.0f, 4.0f, 0.5f}, zero[] = {0.0f, 0.0f, 0.0f};
    struct metric_tensor m;
    metric_tensor(r, q, 3, &m);
    cr_assert_float_eq(m.error, 0.1, 1e-15);
    cr_assert_eq(m.worst, 2);
    metric_tensor(r, zero, 3, &m);
    cr_assert_eq(m.candidate_class, ROW_ZERO);
    cr_assert_eq(m.error, 1.0);
    metric_tensor(zero, q, 3, &m);
    cr_assert(isinf(m.error));
    metric_tensor(zero, zero, 3, &m);
    cr_assert_eq(m.error, 0.0);
}

Test(metric, a_tensor_of_halves_is_told_from_one_of_floats)
{
    const float r[] = {1.0f, 2.0f, 0.0f}, halves[] = {0x1.004p0f, -0x1p-24f, -0.0f}, float_last[] = {1.0f, 2.0f, 0x1.002p0f};
    const float beyond[] = {1.0f, 65536.0f, 0.0f}, nan[] = {1.0f, NAN, 0.0f};
    struct metric_tensor m;
    metric_tensor(r, halves, 3, &m);
    cr_assert(m.halves); // down to the smallest subnormal
    metric_tensor(halves, float_last, 3, &m);
    cr_assert_not(m.halves); // it is the candidate's values that count, and one suffices
    metric_tensor(r, beyond, 3, &m);
    cr_assert_not(m.halves); // a half would be infinite
    metric_tensor(r, nan, 3, &m);
    cr_assert_not(m.halves);
}

Test(metric, a_nan_in_a_tensor_stays)
{
    const float r[] = {1.0f, 2.0f}, q[] = {NAN, 2.0f};
    struct metric_tensor m;
    metric_tensor(r, q, 2, &m);
    cr_assert(isnan(m.error) && isnan(m.max_abs));
    cr_assert_eq(m.candidate_class, ROW_NAN);
}

Test(metric, coverage_sees_a_dead_range_of_ids)
{
    float r[V], q[V];
    struct metric_coverage coverage = {0};
    for (int row = 0; row < 8; row++) {
        for (int i = 0; i < V; i++) {
            r[i] = (float)((i * 29 + row * 17) % 23);
            q[i] = i < 62 ? 1.01f * r[i] : 0.0f; // the last 1/32 is dead
        }
        metric_coverage_add(&coverage, r, q, V);
    }
    uint32_t first, end;
    for (uint32_t bin = 0; bin + 1 < METRIC_BINS; bin++)
        cr_assert_float_eq(metric_coverage_slope(&coverage, bin), 1.01, 1e-6);
    cr_assert_eq(metric_coverage_slope(&coverage, METRIC_BINS - 1), 0.0);
    metric_coverage_bin(V, METRIC_BINS - 1, &first, &end);
    cr_assert(first == 62 && end == 64);
}

Test(metric, a_prepared_reference_gives_the_same_bits)
{
    float r[V], q[V];
    double probabilities[V];
    struct metric_reference reference;
    struct metric_position prepared, direct;
    ramp(r, 8.0f);
    for (int i = 0; i < V; i++)
        q[i] = r[(i * 7) % V] * 1.01f;
    metric_position(r, q, V, &direct);
    metric_reference(r, V, probabilities, &reference);
    metric_against(&reference, q, &prepared);
    cr_assert_eq(prepared.kl, direct.kl); // to the bit, for any number of candidates
    cr_assert_eq(prepared.noise, direct.noise);
    cr_assert_eq(prepared.square_sum, direct.square_sum);
    cr_assert_eq(prepared.probability_margin, direct.probability_margin);
    cr_assert_eq(reference.margin, direct.margin);
    cr_assert(direct.kl > 0.0);
    r[3] = NAN;
    metric_reference(r, V, probabilities, &reference);
    metric_against(&reference, q, &prepared);
    cr_assert(reference.class == ROW_NAN && isnan(reference.margin) && prepared.top1 == -1 && isnan(prepared.kl));
}
