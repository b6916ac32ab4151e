// slow_arithmetic: fp32 arithmetic in plain double, every rounding to float (fl) or half (hf) written out. Written
// from arithmetic.md 3, not from runtime/; it uses nothing of it but the plan's precisions.
#ifndef ASSAY_TESTS_SLOW_ARITHMETIC_H
#define ASSAY_TESTS_SLOW_ARITHMETIC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "runtime/plan.h"

// --- roundings

// One rounding to float. A double sum, product, quotient or root of floats rounds to the right float (53 >= 2 x 24 +
// 2 bits).
static inline double fl(double v)
{
    return (double)(float)v;
}

// The nearest half, ties to even: a multiple of 2^(e - 10) inside the binade e, of 2^-24 below 2^-14.
static inline double hf(double v)
{
    if (v == 0 || isnan(v) || isinf(v))
        return v;
    const int e = ilogb(v);
    const double unit = ldexp(1, (e < -14 ? -14 : e) - 10);
    const double rounded = rint(v / unit) * unit;
    return fabs(rounded) >= 65520 ? copysign(INFINITY, v) : rounded;
}

static inline double to(double v, enum precision precision)
{
    return precision == PRECISION_F16 ? hf(v) : v;
}

// fma in float: the product is exact in double; the sum's error e is exact too (TwoSum). An inexact sum is made odd
// in its last bit, so that the second rounding cannot meet a false tie.
static inline double fma_fl(double a, double b, double c)
{
    const double p = a * b, s = p + c;
    if (isnan(s) || isinf(s))
        return fl(s);
    const double z = s - p, e = (p - (s - z)) + (c - z);
    uint64_t bits;
    memcpy(&bits, &s, sizeof bits);
    double odd = s;
    if (e != 0 && !(bits & 1))
        odd = nextafter(s, e > 0 ? INFINITY : -INFINITY);
    return fl(odd);
}

static inline double tree32(double lane[32], enum precision precision)
{
    for (int half = 16; half; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] = to(fl(lane[l] + lane[l + half]), precision);
    return lane[0];
}

static inline double exp_fl(double x)
{
    const double ladder[] = {
        1.98412698e-4f, 1.38888889e-3f, 8.33333333e-3f, 4.16666667e-2f, 1.66666667e-1f, 0.5, 1, 1};
    if (isnan(x) || x < -87)
        return isnan(x) ? x : 0;
    if (x > 88)
        return INFINITY;
    const double n = rint(fl(x * (double)1.44269502f));
    const double r = fma_fl(n, (double)-1.42860677e-6f, fma_fl(n, (double)-0.693145752f, x));
    double p = ladder[0];
    for (int i = 1; i < 8; i++)
        p = fma_fl(p, r, ladder[i]);
    return ldexp(p, (int)n);
}

static inline double sigmoid_fl(double x)
{
    return fl(1 / fl(1 + exp_fl(-x)));
}

#endif
