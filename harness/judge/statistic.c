#include "harness/judge/statistic.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/floating.h"

enum { FRACTION_STEPS = 500, BISECTION_STEPS = 200, FEW_EVENTS = 5 };

double statistic_normal_tail(double z)
{
    return 0.5 * erfc(z / sqrt(2.0));
}

// Continued fraction of I_x(a, b), DLMF 8.17.22, by Lentz's method; converges fast for x < (a + 1) / (a + b + 2).
static double beta_fraction(double x, double a, double b)
{
    const double tiny = 1e-300;
    double c = 1.0, d = 1.0 - (a + b) * x / (a + 1.0);
    d = 1.0 / (fabs(d) < tiny ? tiny : d);
    double fraction = d;
    for (int m = 1; m <= FRACTION_STEPS; m++) {
        const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        for (int half = 0; half < 2; half++) {
            const double term = half ? odd : even;
            d = 1.0 + term * d;
            d = 1.0 / (fabs(d) < tiny ? tiny : d);
            c = 1.0 + term / c;
            c = fabs(c) < tiny ? tiny : c;
            fraction *= c * d;
        }
        if (fabs(c * d - 1.0) < 1e-16)
            break;
    }
    return fraction;
}

double statistic_beta(double x, double a, double b)
{
    if (x <= 0.0)
        return 0.0;
    if (x >= 1.0)
        return 1.0;
    const double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1.0) / (a + b + 2.0))
        return front * beta_fraction(x, a, b) / a;
    return 1.0 - front * beta_fraction(1.0 - x, b, a) / b;
}

double statistic_lower_bound(double k, double n, double confidence)
{
    if (!(k > 0.0))
        return 0.0;
    double low = 0.0, high = 1.0; // P(X >= k | n, p) = I_p(k, n - k + 1) grows with p
    for (int i = 0; i < BISECTION_STEPS; i++) {
        const double p = 0.5 * (low + high);
        if (statistic_beta(p, k, n - k + 1.0) < 1.0 - confidence)
            low = p;
        else
            high = p;
    }
    return low;
}

double statistic_design_effect(const uint32_t *events, const uint32_t *sizes, size_t n_clusters)
{
    double total_events = 0.0, total = 0.0, spread = 0.0;
    size_t used = 0;
    for (size_t i = 0; i < n_clusters; i++) {
        total_events += events[i];
        total += sizes[i];
        used += sizes[i] > 0;
    }
    if (total_events < FEW_EVENTS || used < 2 || total_events >= total)
        return 2.0;
    const double p = total_events / total;
    for (size_t i = 0; i < n_clusters; i++) {
        const double deviation = events[i] - p * sizes[i];
        spread += deviation * deviation;
    }
    const double ratio = spread / (total * p * (1.0 - p)) * (double)used / (double)(used - 1);
    return ratio > 1.0 ? ratio : 1.0;
}

static int nan_last(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    if (isnan(x) || isnan(y))
        return (isnan(x) != 0) - (isnan(y) != 0);
    return (x > y) - (x < y);
}

double statistic_quantile(const double *values, size_t n, double quantile, double *scratch)
{
    if (n == 0)
        return (double)NAN;
    memcpy(scratch, values, n * sizeof *values);
    qsort(scratch, n, sizeof *scratch, nan_last);
    const double at = quantile * (double)(n - 1);
    const size_t below = (size_t)at;
    if (below + 1 >= n || at == (double)below) // no weight on a neighbour: 0 x NaN would be NaN
        return scratch[below];
    const double share = at - (double)below;
    return scratch[below] * (1.0 - share) + scratch[below + 1] * share;
}
