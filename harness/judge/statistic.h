// statistic: the few functions of probability that verdicts use. arithmetic.md 5, anchors.md 6.1 and 6.6.
#ifndef ASSAY_STATISTIC_H
#define ASSAY_STATISTIC_H

#include <stddef.h>
#include <stdint.h>

double statistic_normal_tail(double z); // 1 - Phi(z)

// Regularized incomplete beta I_x(a, b), a, b > 0, 0 <= x <= 1.
double statistic_beta(double x, double a, double b);

// One-sided lower bound of a proportion at `confidence` from k successes of n (Clopper-Pearson): the p with
// P(X >= k | n, p) = 1 - confidence. k and n need not be integers (effective numbers). 0 when k = 0.
double statistic_lower_bound(double k, double n, double confidence);

// Design effect of clustered events: variance of the per-cluster counts over that of independent positions, at least 1;
// 2 when there are fewer than 5 events (too few to estimate). events[i] of sizes[i] positions in cluster i.
double statistic_design_effect(const uint32_t *events, const uint32_t *sizes, size_t n_clusters);

// Quantile (0..1) of n values by linear interpolation; sorts a copy into `scratch` [n]. NaN sorts last, so it is kept.
double statistic_quantile(const double *values, size_t n, double quantile, double *scratch);

#endif
