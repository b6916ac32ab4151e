#include "runtime/angle.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>

#include "harness/base/floating.h"

static const double HALF_PI = 0x1.921fb54442d18p+0; // a multiple of 2^-52
static const double HALF_PI_REST = 0x1.1a62633145c07p-54;
static const double QUARTERS = 0x1.45f306dc9c883p-1; // 2 / pi

// 1 / 3!, 1 / 5!, ... and 1 / 2!, 1 / 4!, ..., signs alternating: the first term left out is below 2^-60 of the sum.
static const double SIN_TERMS[] = {-1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
                                   -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
static const double COS_TERMS[] = {-1.0 / 2,       1.0 / 24,        -1.0 / 720,         1.0 / 40320,
                                   -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000};

enum { TERMS = sizeof SIN_TERMS / sizeof *SIN_TERMS };

static double series(const double terms[TERMS], double z)
{
    double sum = terms[TERMS - 1];
    for (size_t i = TERMS - 1; i-- > 0;)
        sum = fma(sum, z, terms[i]);
    return sum;
}

// sin(angle + turns pi/2)
static double sin_turned(float angle, int turns)
{
    if (!(fabsf(angle) <= (float)ANGLE_MAX))
        return NAN;
    const double n = rint((double)angle * QUARTERS);
    // The first difference is exact: a multiple of 2^-52 below 1. The second loses less than 2^-53 of the result,
    // since no float but 0 lies nearer than 2^-30 to a multiple of pi/2 (math.h of the reference: up to 2^18).
    const double r = fma(-n, HALF_PI_REST, fma(-n, HALF_PI, (double)angle)), z = r * r;
    const unsigned quadrant = (unsigned)((int)n + turns) & 3;
    const double value = quadrant & 1 ? fma(series(COS_TERMS, z), z, 1.0) : fma(series(SIN_TERMS, z) * z, r, r);
    return quadrant & 2 ? -value : value;
}

double angle_sin(float angle)
{
    return sin_turned(angle, 0);
}

double angle_cos(float angle)
{
    return sin_turned(angle, 1);
}

double angle_power(double base, float exponent)
{
    assert(base > 0 && exponent >= 0 && exponent < 1);
    double power = 1, root = base;
    for (float rest = exponent; rest > 0;) { // doubling and subtracting 1 are exact
        root = sqrt(root);
        rest *= 2;
        if (rest >= 1) {
            power *= root;
            rest -= 1;
        }
    }
    return power;
}
