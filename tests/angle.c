// The runtime's rotary table against the reference's functions, which MPFR has judged: two codes, one result.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "harness/base/half.h"
#include "reference/math.h"
#include "runtime/angle.h"

static float frequency(double theta, uint32_t j, uint32_t dh, bool reference)
{
    const float exponent = (float)(2 * j) / (float)dh;
    return 1.0f / (reference ? math_pow(theta, exponent) : (float)angle_power(theta, exponent));
}

// Every head width and theta that the family and its neighbours use. 2^-46.8 of error moves one float in 2^22.
Test(angle, frequencies_are_the_references)
{
    static const double thetas[] = {10000.0, 500000.0, 1000000.0, 1e7, 3.0, 12345.678};
    unsigned compared = 0;
    for (size_t t = 0; t < sizeof thetas / sizeof *thetas; t++)
        for (uint32_t dh = 2; dh <= 256; dh += 2)
            for (uint32_t j = 0; j < dh / 2; j++, compared++)
                cr_assert_eq(float_to_bits(frequency(thetas[t], j, dh, false)),
                             float_to_bits(frequency(thetas[t], j, dh, true)), "theta %g, dh %u, j %u", thetas[t], dh,
                             j);
    cr_assert_eq(compared, 6 * 8256);
}

// lfm2-mini's heads are 32 wide, the released models' 64.
Test(angle, table_of_4096_positions_is_the_references_after_rounding_to_half)
{
    for (uint32_t dh = 32; dh <= 64; dh *= 2)
        for (uint32_t j = 0; j < dh / 2; j++)
            for (uint32_t position = 0; position < 4096; position++) {
                const float angle = frequency(1000000.0, j, dh, false) * (float)position;
                cr_assert_eq(half_from_float((float)angle_cos(angle)), half_from_float(math_cos(angle)), "cos %a",
                             (double)angle);
                cr_assert_eq(half_from_float((float)angle_sin(angle)), half_from_float(math_sin(angle)), "sin %a",
                             (double)angle);
            }
}

static void worsen(double *worst, double found, double truth)
{
    const double off = truth == 0 ? fabs(found) : fabs((found - truth) / truth);
    if (!(off <= *worst))
        *worst = off;
}

// One float in 499 of [2^-30, 2^18], both signs, and those nearest to multiples of pi/2. The truth is itself within
// 2^-52.5 (math.h).
Test(angle, sin_and_cos_are_within_their_stated_error)
{
    double worst = 0;
    for (uint32_t bits = 0x30800000; bits <= 0x48800000; bits += 499) {
        const float x = float_from_bits(bits | (bits & 1) << 31);
        worsen(&worst, angle_sin(x), math_wide_sin(x));
        worsen(&worst, angle_cos(x), math_wide_cos(x));
    }
    for (int n = 1; n < 166000; n++) {
        const float x = (float)(n * 1.5707963267948966);
        worsen(&worst, angle_sin(x), math_wide_sin(x));
        worsen(&worst, angle_cos(x), math_wide_cos(x));
    }
    fprintf(stderr, "# angle: at most 2^%.2f\n", log2(worst));
    cr_expect(worst <= 0x1p-51 && worst > 0, "2^%g", log2(worst));
}

Test(angle, power_is_within_its_stated_error)
{
    double worst = 0;
    for (uint32_t bits = 0x33000000; bits < 0x3F800000; bits += 4999) // exponents of [2^-25, 1)
        worsen(&worst, angle_power(1000000.0, float_from_bits(bits)),
               math_wide_pow(1000000.0, float_from_bits(bits)));
    fprintf(stderr, "# power: at most 2^%.2f\n", log2(worst));
    cr_expect(worst <= 24 * 0x1.8p-52 && worst > 0, "2^%g", log2(worst));
}

Test(angle, has_the_stated_ends)
{
    cr_expect_eq(angle_power(1000000.0, 0), 1);
    cr_expect_eq(angle_power(1000000.0, 0.5f), 1000);
    cr_expect_eq(angle_sin(0), 0);
    cr_expect_eq(angle_cos(0), 1);
    cr_expect(isfinite(angle_sin((float)ANGLE_MAX)));
    cr_expect(isnan(angle_sin(2 * (float)ANGLE_MAX)) && isnan(angle_cos(NAN)) && isnan(angle_sin(-INFINITY)));
}
