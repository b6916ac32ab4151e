// The probabilities behind verdicts, against published figures and against exact sums.
#include "harness/judge/statistic.h"

#include <criterion/criterion.h>
#include <math.h>

static double choose_tail(int k, int n, double p) // P(X >= k) by direct summation
{
    double sum = 0.0;
    for (int i = k; i <= n; i++)
        sum += exp(lgamma(n + 1.0) - lgamma(i + 1.0) - lgamma(n - i + 1.0) + i * log(p) + (n - i) * log1p(-p));
    return sum;
}

Test(statistic, normal_tail_matches_tables)
{
    // Abramowitz and Stegun, table 26.1
    cr_assert_float_eq(statistic_normal_tail(0.0), 0.5, 1e-15);
    cr_assert_float_eq(statistic_normal_tail(1.0), 0.15865525393145705, 1e-15);
    cr_assert_float_eq(statistic_normal_tail(3.0), 0.0013498980316300946, 1e-17);
    cr_assert_float_eq(statistic_normal_tail(-1.0), 1.0 - 0.15865525393145705, 1e-15);
}

Test(statistic, beta_is_the_binomial_tail)
{
    // front factor and fraction each err by some ulp of lgamma's argument (n <= 300): 1e-12 leaves a factor 10
    const double ps[] = {0.01, 0.3, 0.5, 0.9, 0.999};
    for (int n = 1; n <= 300; n += 37)
        for (int k = 1; k <= n; k += 1 + n / 7)
            for (size_t i = 0; i < sizeof ps / sizeof *ps; i++)
                cr_assert_float_eq(statistic_beta(ps[i], k, n - k + 1.0), choose_tail(k, n, ps[i]), 1e-12,
                                   "k %d n %d p %g", k, n, ps[i]);
}

Test(statistic, lower_bounds_match_published_figures)
{
    static const struct { double k, n, bound, digits; } rows[] = {
        {20, 20, 0.861, 5e-4}, {19, 20, 0.784, 5e-4}, {100, 100, 0.970, 5e-4}, {253, 256, 0.970, 5e-4},
        {990, 1000, 0.983, 5e-4}, {4055, 4096, 0.987, 5e-4}, {4096, 4096, 0.9993, 5e-5}, {16, 16, 0.829, 5e-4},
        {192, 192, 0.9845, 5e-5}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cr_assert_float_eq(statistic_lower_bound(rows[i].k, rows[i].n, 0.95), rows[i].bound, rows[i].digits, "%g of %g",
                           rows[i].k, rows[i].n);
    cr_assert_eq(statistic_lower_bound(0, 20, 0.95), 0.0);
    cr_assert_float_eq(statistic_lower_bound(50, 50, 0.95), pow(0.05, 1.0 / 50), 1e-12); // zero failures: alpha^(1/n)
}

Test(statistic, fewer_effective_positions_give_a_lower_bound)
{
    const double whole = statistic_lower_bound(192, 192, 0.95), halved = statistic_lower_bound(96, 96, 0.95);
    cr_assert(halved < whole);
}

Test(statistic, design_effect_sees_clusters)
{
    const uint32_t sizes[] = {50, 50, 50, 50}, even[] = {3, 2, 3, 2}, clustered[] = {10, 0, 0, 0}, few[] = {2, 0, 1, 0};
    cr_assert_eq(statistic_design_effect(even, sizes, 4), 1.0);
    // p = 0.05; squares 7.5^2 + 3 x 2.5^2 = 75 over 200 p (1 - p) = 9.5, times 4 / 3 clusters
    cr_assert_float_eq(statistic_design_effect(clustered, sizes, 4), 75 / 9.5 * 4 / 3, 1e-12);
    cr_assert_eq(statistic_design_effect(few, sizes, 4), 2.0);
}

Test(statistic, quantile_interpolates_and_keeps_nan)
{
    double scratch[5];
    const double values[] = {5, 1, 3, 2, 4}, bad[] = {5, 1, NAN, 2, 4};
    cr_assert_eq(statistic_quantile(values, 5, 0.5, scratch), 3.0);
    cr_assert_float_eq(statistic_quantile(values, 5, 0.99, scratch), 4.96, 1e-12);
    cr_assert(isnan(statistic_quantile(bad, 5, 0.99, scratch)));
    cr_assert(isnan(statistic_quantile(bad, 0, 0.5, scratch)));
}
