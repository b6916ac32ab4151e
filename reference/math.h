// math: the transcendental functions of the reference, so that no libm version can change a bit (arithmetic.md 2).
//
// Each is evaluated in double with the correctly rounded + - x / fma and sqrt, comparisons and integer moves of the
// bits, then rounded once to float; a composite (sigmoid, silu, softplus, 1/sqrt) is rounded once, at its end. NaN
// in, NaN out. A value goes to an integer only after a range check. Assumes the environment of
// harness/base/floating.h.
//
// math_wide_NAME is the double before that rounding. Figures of an exhaustive run over every float of the range
// (beyond it exp and sigmoid are 0, 1 or Inf, silu is x or -0, softplus x or 0; sin is odd and cos even), the truth
// from 80-bit arithmetic and, where that could not decide, MPFR: the largest relative error of the double, and how
// many results are not the float nearest to the true value.
//
//   | function | range          | floats        | error     | not nearest |
//   |----------|----------------|---------------|-----------|-------------|
//   | exp      | -104 ... 89    | 2,239,889,410 | 2^-52.53  | 0           |
//   | sigmoid  | -104 ... 89    | 2,239,889,410 | 2^-51.57  | 66          |
//   | silu     | -110 ... 89    | 2,240,675,842 | 2^-51.46  | 8,388,608   |
//   | softplus | -104 ... 20    | 2,221,932,544 | 2^-51.97  | 1           |
//   | sin      | 0 ... 2^18     | 1,216,348,161 | 2^-52.50  | 1           |
//   | cos      | 0 ... 2^18     | 1,216,348,161 | 2^-52.56  | 0           |
//
// All of silu's are subnormal: x / 2 is a tie there, which x^2 / 4 < 2^-250 breaks and no double can hold.
#ifndef ASSAY_REFERENCE_MATH_H
#define ASSAY_REFERENCE_MATH_H

enum {
    MATH_ANGLE_MAX = 1 << 18,    // sin and cos of a larger angle are NaN
    MATH_SOFTPLUS_THRESHOLD = 20 // softplus of a larger value is that value
};

// e^x. Overflow gives +Inf, underflow subnormals and +0.
double math_wide_exp(float x);
float math_exp(float x);

// 1 / (1 + e^-x)
double math_wide_sigmoid(float x);
float math_sigmoid(float x);

// x / (1 + e^-x), the formula: silu(-Inf) is NaN as it is in IEEE arithmetic.
double math_wide_silu(float x);
float math_silu(float x);

// log1p(e^x) up to the threshold 20, x itself beyond, as torch has it (architecture.md 1).
double math_wide_softplus(float x);
float math_softplus(float x);

// sin and cos of a float angle in radians; NaN beyond MATH_ANGLE_MAX.
double math_wide_sin(float x);
float math_sin(float x);
double math_wide_cos(float x);
float math_cos(float x);

// base^exponent for the rotary frequencies: base positive, finite and normal, |exponent| <= 8; NaN otherwise.
double math_wide_pow(double base, float exponent);
float math_pow(double base, float exponent);

// 1 / sqrt(x). +Inf for +-0, NaN for a negative x.
float math_reciprocal_sqrt(double x);

#endif
