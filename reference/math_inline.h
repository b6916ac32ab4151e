// math_inline: functions of e^x in double without a branch, so that the compiler makes vectors of a loop over them.
// math.c's are these, and so the bits are the same.
#ifndef ASSAY_REFERENCE_MATH_INLINE_H
#define ASSAY_REFERENCE_MATH_INLINE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "harness/base/floating.h"

// ln 2, which no double holds, is a sum of two, the first with so few bits that its products with the small integers
// below are exact (Cody and Waite).
static const double MATH_LN2_HIGH = 0x1.62e42fefa3800p-1; // 42 bits
static const double MATH_LN2_LOW = 0x1.ef35793c76730p-45;
static const double MATH_INVERSE_LN2 = 0x1.71547652b82fep+0;

// Adding it to |x| < 2^51 rounds x to an integer, which then stands in the low bits.
static const double MATH_TO_INTEGER = 0x1.8p52;

static inline uint64_t math_bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline double math_from_bits(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// e^x = 2^n e^r, |r| <= ln 2 / 2, e^r by its Taylor series to r^13 / 13! (the rest is below 2^-57). Outside [-708,
// 709] the result is no normal double, and 0 or Inf in float whatever a composite multiplies it with.
static inline double math_inline_exp(double x)
{
    const double shifted = x * MATH_INVERSE_LN2 + MATH_TO_INTEGER;
    const double n = shifted - MATH_TO_INTEGER;
    const double r = (x - n * MATH_LN2_HIGH) - n * MATH_LN2_LOW; // the first difference is exact
    double q = 1.0 / 6227020800.0;
    q = q * r + 1.0 / 479001600.0;
    q = q * r + 1.0 / 39916800.0;
    q = q * r + 1.0 / 3628800.0;
    q = q * r + 1.0 / 362880.0;
    q = q * r + 1.0 / 40320.0;
    q = q * r + 1.0 / 5040.0;
    q = q * r + 1.0 / 720.0;
    q = q * r + 1.0 / 120.0;
    q = q * r + 1.0 / 24.0;
    q = q * r + 1.0 / 6.0;
    q = q * r + 0.5;
    const double fraction = 1.0 + (r + r * r * q);
    const double scale = math_from_bits((math_bits_of(shifted) + 1023) << 52); // n mod 2^12 in the exponent field
    const double power = fraction * scale;
    return x > 709.0 ? INFINITY : x < -708.0 ? 0.0 : power; // NaN for a NaN
}

// 1 / (1 + e^-x)
static inline double math_inline_sigmoid(float x)
{
    return 1.0 / (1.0 + math_inline_exp(-(double)x));
}

// x / (1 + e^-x)
static inline double math_inline_silu(float x)
{
    return (double)x / (1.0 + math_inline_exp(-(double)x));
}

#endif
