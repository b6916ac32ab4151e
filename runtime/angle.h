// angle: what the rotary table is made of, from + - x fma and sqrt alone, so that no libm version can change a bit.
//
// The runtime's own code: the reference has another (reduction, series and power differ), and the tests hold the two
// against each other. Evaluated in double; the caller rounds once to float, then h() as the plan says.
#ifndef ASSAY_RUNTIME_ANGLE_H
#define ASSAY_RUNTIME_ANGLE_H

enum { ANGLE_MAX = 1 << 24 }; // the most positions a model may have (harness/model/config.h)

// Relative error at most 2^-51 (found: 2^-52.0 against the reference on a sample of the floats up to 2^18).
// NaN for an angle beyond ANGLE_MAX.
double angle_sin(float angle);
double angle_cos(float angle);

// base^exponent, base positive and finite, 0 <= exponent < 1: the product of the roots base^(1/2), base^(1/4), ...
// that the exponent's bits name. At most 24 of its roots are wanted and each has an error below 2^-52: relative error
// at most 24 (2^-52 + 2^-53), which is 2^-46.8 (found: 2^-49.4).
double angle_power(double base, float exponent);

#endif
