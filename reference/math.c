#include "reference/math.h"

#include <math.h>

#include "reference/math_inline.h"

// In three parts, as ln 2 is in two (math_inline.h).
static const double HALF_PI_HIGH = 0x1.921fb54400000p+0;    // 33 bits
static const double HALF_PI_MIDDLE = 0x1.0b4611a600000p-34; // 33 bits
static const double HALF_PI_LOW = 0x1.3198a2e037073p-69;
static const double INVERSE_HALF_PI = 0x1.45f306dc9c883p-1;
static const double SQRT_2 = 0x1.6a09e667f3bcdp+0;

double math_wide_exp(float x)
{
    return math_inline_exp(x);
}

float math_exp(float x)
{
    return (float)math_inline_exp(x);
}

double math_wide_sigmoid(float x)
{
    return math_inline_sigmoid(x);
}

float math_sigmoid(float x)
{
    return (float)math_wide_sigmoid(x);
}

double math_wide_silu(float x)
{
    return math_inline_silu(x);
}

float math_silu(float x)
{
    return (float)math_wide_silu(x);
}

// x = quadrant pi/2 + r + rest with |r| <= pi/4 and r + rest accurate to 2^-100: floats come as near to a multiple of
// pi/2 as 2^-30, so three parts of pi/2 are needed and two of the remainder.
struct reduced {
    double r, rest;
    unsigned quadrant;
};

static struct reduced reduce(double x)
{
    const double shifted = x * INVERSE_HALF_PI + MATH_TO_INTEGER;
    const double n = shifted - MATH_TO_INTEGER; // |n| < 2^18
    const double first = x - n * HALF_PI_HIGH;  // both exact
    const double second = n * HALF_PI_MIDDLE;   // exact
    const double r = first - second;
    const double back = r - first; // the error of that difference, exactly (Knuth's two-sum)
    const double error = (first - (r - back)) - (second + back);
    return (struct reduced){r, error - n * HALF_PI_LOW, (unsigned)(math_bits_of(shifted) & 3)};
}

// sin(r + rest) by Taylor to r^17 / 17! (the rest is below 2^-62).
static double sin_reduced(double r, double rest)
{
    const double z = r * r;
    double q = 1.0 / 355687428096000.0;
    q = q * z - 1.0 / 1307674368000.0;
    q = q * z + 1.0 / 6227020800.0;
    q = q * z - 1.0 / 39916800.0;
    q = q * z + 1.0 / 362880.0;
    q = q * z - 1.0 / 5040.0;
    q = q * z + 1.0 / 120.0;
    q = q * z - 1.0 / 6.0;
    return r + (r * z * q + rest * (1.0 - 0.5 * z));
}

// cos(r + rest) by Taylor to r^18 / 18! (the rest is below 2^-67).
static double cos_reduced(double r, double rest)
{
    const double z = r * r;
    double q = -1.0 / 6402373705728000.0;
    q = q * z + 1.0 / 20922789888000.0;
    q = q * z - 1.0 / 87178291200.0;
    q = q * z + 1.0 / 479001600.0;
    q = q * z - 1.0 / 3628800.0;
    q = q * z + 1.0 / 40320.0;
    q = q * z - 1.0 / 720.0;
    q = q * z + 1.0 / 24.0;
    const double half = 0.5 * z;
    const double near = 1.0 - half;
    return near + (((1.0 - near) - half) + (z * z * q - r * rest));
}

double math_wide_sin(float x)
{
    if (!(fabsf(x) <= (float)MATH_ANGLE_MAX))
        return NAN;
    if (x == 0.0f)
        return x; // keeps the sign of zero
    const struct reduced a = reduce(x);
    const double value = a.quadrant & 1 ? cos_reduced(a.r, a.rest) : sin_reduced(a.r, a.rest);
    return a.quadrant & 2 ? -value : value;
}

float math_sin(float x)
{
    return (float)math_wide_sin(x);
}

double math_wide_cos(float x)
{
    if (!(fabsf(x) <= (float)MATH_ANGLE_MAX))
        return NAN;
    const struct reduced a = reduce(x);
    const double value = a.quadrant & 1 ? sin_reduced(a.r, a.rest) : cos_reduced(a.r, a.rest);
    return (a.quadrant + 1) & 2 ? -value : value;
}

float math_cos(float x)
{
    return (float)math_wide_cos(x);
}

// ln(base) as high + low, relative error below 2^-57: base = 2^k m with m in (sqrt(1/2), sqrt(2)], ln m = 2
// artanh(s), s = (m - 1) / (m + 1) in two parts, the series in s^2 to s^25 / 25.
static void log_in_two_parts(double base, double *high, double *low)
{
    const uint64_t bits = math_bits_of(base);
    double k = (double)(int)(bits >> 52) - 1023.0;
    double m = math_from_bits((bits & UINT64_C(0xFFFFFFFFFFFFF)) | UINT64_C(1023) << 52);
    if (m > SQRT_2) {
        m *= 0.5;
        k += 1.0;
    }
    const double numerator = m - 1.0; // exact
    const double denominator = m + 1.0;
    const double denominator_rest = m - (denominator - 1.0);
    const double s = numerator / denominator;
    const double s_rest = (fma(-s, denominator, numerator) - s * denominator_rest) / denominator;
    const double z = s * s;
    double q = 1.0 / 25.0;
    for (int i = 23; i >= 3; i -= 2)
        q = q * z + 1.0 / i;
    const double whole = k * MATH_LN2_HIGH; // exact
    const double twice = 2.0 * s;
    const double sum = whole + twice;
    const double back = sum - whole;
    const double error = (whole - (sum - back)) + (twice - back);
    const double rest = error + (k * MATH_LN2_LOW + 2.0 * (s_rest + s * z * q));
    *high = sum + rest;
    *low = rest - (*high - sum);
}

// ln(1 + e), e >= 0: the sum in two parts, u + rest exactly, and ln(u + rest) = ln u + rest / u up to
// (rest / u)^2 / 2, which is below 2^-53 of the result.
static double log1p_double(double e)
{
    const double u = 1.0 + e;
    const double rest = e > 1.0 ? 1.0 - (u - e) : e - (u - 1.0);
    double high, low;
    log_in_two_parts(u, &high, &low);
    return high + (low + rest / u);
}

double math_wide_softplus(float x)
{
    if (!(x <= (float)MATH_SOFTPLUS_THRESHOLD)) // a NaN too
        return x;
    return log1p_double(math_inline_exp(x));
}

float math_softplus(float x)
{
    return (float)math_wide_softplus(x);
}

double math_wide_pow(double base, float exponent)
{
    if (!(base >= 0x1p-1022 && base < INFINITY && fabsf(exponent) <= 8.0f))
        return NAN;
    double high, low;
    log_in_two_parts(base, &high, &low);
    const double product = exponent * high;
    const double rest = fma(exponent, high, -product) + exponent * low;
    const double power = math_inline_exp(product);
    return power < INFINITY ? power + power * rest : power;
}

float math_pow(double base, float exponent)
{
    return (float)math_wide_pow(base, exponent);
}

float math_reciprocal_sqrt(double x)
{
    return (float)(1.0 / sqrt(x));
}
