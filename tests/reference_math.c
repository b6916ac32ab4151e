// Transcendental functions against MPFR: the double before rounding within 2^-50 (arithmetic.md 2), the float nearest
// to the truth but for the few that math.h counts, special values, and functions that are not good enough, which must
// be told apart.
#include <criterion/criterion.h>
#include <math.h>
#include <mpfr.h>
#include <stdio.h>

#include "harness/base/half.h"
#include "reference/math.h"

enum { PRECISION = 200, STEP = 65063 }; // a prime step through the bit patterns: about 34,000 floats of each sign

typedef void (*truth_fn)(mpfr_t out, mpfr_t x);

static void truth_exp(mpfr_t out, mpfr_t x)
{
    mpfr_exp(out, x, MPFR_RNDN);
}

static void truth_sigmoid(mpfr_t out, mpfr_t x)
{
    mpfr_neg(out, x, MPFR_RNDN);
    mpfr_exp(out, out, MPFR_RNDN);
    mpfr_add_ui(out, out, 1, MPFR_RNDN);
    mpfr_ui_div(out, 1, out, MPFR_RNDN);
}

static void truth_silu(mpfr_t out, mpfr_t x)
{
    truth_sigmoid(out, x);
    mpfr_mul(out, out, x, MPFR_RNDN);
}

static void truth_softplus(mpfr_t out, mpfr_t x)
{
    mpfr_exp(out, x, MPFR_RNDN);
    mpfr_log1p(out, out, MPFR_RNDN);
}

static void truth_sin(mpfr_t out, mpfr_t x)
{
    mpfr_sin(out, x, MPFR_RNDN);
}

static void truth_cos(mpfr_t out, mpfr_t x)
{
    mpfr_cos(out, x, MPFR_RNDN);
}

struct function {
    const char *name;
    double (*wide)(float x);
    float (*rounded)(float x);
    truth_fn truth;
    float low, high; // beyond: 0, Inf, or an error, tested apart
};

static const struct function FUNCTIONS[] = {
    {"exp", math_wide_exp, math_exp, truth_exp, -104.0f, 89.0f},
    {"sigmoid", math_wide_sigmoid, math_sigmoid, truth_sigmoid, -104.0f, 89.0f},
    {"silu", math_wide_silu, math_silu, truth_silu, -110.0f, 0x1.fffffep127f},
    {"softplus", math_wide_softplus, math_softplus, truth_softplus, -104.0f, (float)MATH_SOFTPLUS_THRESHOLD},
    {"sin", math_wide_sin, math_sin, truth_sin, -(float)MATH_ANGLE_MAX, (float)MATH_ANGLE_MAX},
    {"cos", math_wide_cos, math_cos, truth_cos, -(float)MATH_ANGLE_MAX, (float)MATH_ANGLE_MAX},
};
enum { N_FUNCTIONS = sizeof FUNCTIONS / sizeof *FUNCTIONS };

struct accuracy {
    double error; // largest relative error before rounding; a NaN stays
    float at;
    unsigned compared, not_nearest; // of normal results
};

static void compare(const struct function *function, float x, struct accuracy *accuracy)
{
    mpfr_t in, truth, difference;
    mpfr_inits2(PRECISION, in, truth, difference, (mpfr_ptr)0);
    mpfr_set_flt(in, x, MPFR_RNDN);
    function->truth(truth, in);
    mpfr_set_d(difference, function->wide(x), MPFR_RNDN);
    mpfr_sub(difference, difference, truth, MPFR_RNDN);
    if (mpfr_cmpabs(truth, difference) > 0) // not 0 / 0
        mpfr_div(difference, difference, truth, MPFR_RNDN);
    const double error = fabs(mpfr_get_d(difference, MPFR_RNDN));
    if (!isnan(accuracy->error) && !(error <= accuracy->error)) {
        accuracy->error = error;
        accuracy->at = x;
    }
    const float nearest = mpfr_get_flt(truth, MPFR_RNDN);
    accuracy->compared++;
    // subnormal results of silu are exact halves of x, a tie that no double tells from the truth (math.h)
    accuracy->not_nearest +=
        fabsf(nearest) >= 0x1p-126f && float_to_bits(nearest) != float_to_bits(function->rounded(x)) ? 1 : 0;
    mpfr_clears(in, truth, difference, (mpfr_ptr)0);
}

static struct accuracy sweep(const struct function *function)
{
    struct accuracy accuracy = {0};
    for (int sign = 0; sign < 2; sign++) {
        const uint32_t end = float_to_bits(fabsf(sign ? function->low : function->high));
        for (uint32_t bits = 1; bits <= end && bits > 0; bits += STEP)
            compare(function, float_from_bits(bits | (uint32_t)sign << 31), &accuracy);
        compare(function, float_from_bits(end | (uint32_t)sign << 31), &accuracy);
    }
    return accuracy;
}

Test(reference_math, every_function_is_within_2_to_the_minus_50_before_its_one_rounding)
{
    for (size_t i = 0; i < N_FUNCTIONS; i++) {
        const struct accuracy accuracy = sweep(&FUNCTIONS[i]);
        fprintf(stderr, "# %-8s %u floats, relative error 2^%.2f at %a, not nearest %u\n", FUNCTIONS[i].name,
                accuracy.compared, log2(accuracy.error), (double)accuracy.at, accuracy.not_nearest);
        cr_expect(accuracy.error <= 0x1p-50, "%s", FUNCTIONS[i].name);
        // at most 66 of 2.2e9 (math.h): in so small a sample one would already be a surprise
        cr_expect(accuracy.not_nearest <= 1, "%s: %u results are not the nearest float", FUNCTIONS[i].name,
                  accuracy.not_nearest);
    }
}

Test(reference_math, dense_neighbourhoods_of_the_hard_places_are_as_good)
{
    // Multiples of pi/2 (the argument's reduction cancels), powers of two near overflow, underflow and the ends of a
    // table
    static const float centres[] = {
        0x1.921fb6p+0f, 0x1.921fb6p+1f, 0x1.2d97c8p+2f, 0x1.6ccbe4p+17f, 0x1.f9cbe2p+7f, 11.0f, 33.0f,
        355.0f,         104348.0f,      208341.0f,      1e-3f,           0.5f,           1.0f,  87.0f};
    for (size_t i = 0; i < N_FUNCTIONS; i++) {
        struct accuracy accuracy = {0};
        for (size_t c = 0; c < sizeof centres / sizeof *centres; c++)
            for (uint32_t j = 0; j < 200; j++) {
                const float x = float_from_bits(float_to_bits(centres[c]) - 100 + j);
                if (x <= FUNCTIONS[i].high)
                    compare(&FUNCTIONS[i], x, &accuracy);
            }
        cr_expect(accuracy.error <= 0x1p-50, "%s: 2^%.2f at %a", FUNCTIONS[i].name, log2(accuracy.error),
                  (double)accuracy.at);
        cr_expect(accuracy.compared > 1000 && accuracy.not_nearest == 0, "%s", FUNCTIONS[i].name);
    }
}

// --- not good enough: the same comparison must say so

static double exp_in_float(float x)
{
    return (double)expf(x);
}

// The series of e^r up to r^8 / 8!, which is a relative 2^-37 at r = ln 2 / 2.
static double exp_short_series(float x)
{
    const double n = nearbyint(x / 0.69314718055994531), r = x - n * 0.69314718055994531;
    double sum = 1, term = 1;
    for (int i = 1; i <= 8; i++)
        sum += term *= r / i;
    return ldexp(sum, (int)n);
}

// One double for pi/2 where three parts are needed.
static double sin_one_part_reduction(float x)
{
    const double n = nearbyint(x / 1.57079632679489662), r = x - n * 1.57079632679489662;
    const int quadrant = (int)n & 3;
    const double value = quadrant & 1 ? cos(r) : sin(r);
    return quadrant & 2 ? -value : value;
}

static double softplus_without_log1p(float x)
{
    return log(1 + exp((double)x));
}

static float exp_rounded_from_wrong_double(float x)
{
    return (float)exp_short_series(x);
}

Test(reference_math, poorer_functions_are_told_apart)
{
    const struct function wrong[] = {
        {"exp in float", exp_in_float, math_exp, truth_exp, -80.0f, 80.0f},
        {"short series", exp_short_series, exp_rounded_from_wrong_double, truth_exp, -80.0f, 80.0f},
        {"pi/2 in one part", sin_one_part_reduction, math_sin, truth_sin, -(float)MATH_ANGLE_MAX,
         (float)MATH_ANGLE_MAX},
        {"log for log1p", softplus_without_log1p, math_softplus, truth_softplus, -80.0f, 20.0f},
        {"cos for sin", math_wide_cos, math_cos, truth_sin, -1.0f, 1.0f},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const struct accuracy accuracy = sweep(&wrong[i]);
        cr_expect(!(accuracy.error <= 0x1p-50), "%s: 2^%.2f", wrong[i].name, log2(accuracy.error));
    }
}

// --- pow, for the rotary frequencies

Test(reference_math, pow_is_the_nearest_float_for_every_rotary_exponent)
{
    static const double thetas[] = {1e4, 3e4, 5e5, 1e6, 5e6, 1e7, 1.5, 1e9};
    double worst = 0;
    unsigned compared = 0;
    mpfr_t base, exponent, truth, difference;
    mpfr_inits2(PRECISION, base, exponent, truth, difference, (mpfr_ptr)0);
    for (size_t i = 0; i < sizeof thetas / sizeof *thetas; i++)
        for (unsigned width = 2; width <= 256; width += 6)
            for (unsigned j = 0; j < width / 2; j++) {
                const float e = (float)(2 * j) / (float)width;
                mpfr_set_d(base, thetas[i], MPFR_RNDN);
                mpfr_set_flt(exponent, e, MPFR_RNDN);
                mpfr_pow(truth, base, exponent, MPFR_RNDN);
                mpfr_set_d(difference, math_wide_pow(thetas[i], e), MPFR_RNDN);
                mpfr_sub(difference, difference, truth, MPFR_RNDN);
                mpfr_div(difference, difference, truth, MPFR_RNDN);
                worst = fmax(worst, fabs(mpfr_get_d(difference, MPFR_RNDN)));
                cr_assert_eq(float_to_bits(math_pow(thetas[i], e)), float_to_bits(mpfr_get_flt(truth, MPFR_RNDN)),
                             "%g^%a", thetas[i], (double)e);
                compared++;
            }
    mpfr_clears(base, exponent, truth, difference, (mpfr_ptr)0);
    fprintf(stderr, "# pow: %u powers, relative error 2^%.2f\n", compared, log2(worst));
    cr_expect(worst > 0 && worst <= 0x1p-50);
}

// --- the edges

#define EXPECT_BITS(value, expected) cr_expect_eq(float_to_bits(value), float_to_bits(expected), #value)

Test(reference_math, special_values)
{
    float (*const functions[])(float) = {math_exp, math_sigmoid, math_silu, math_softplus, math_sin, math_cos};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        cr_expect(isnan(functions[i](NAN)) && isnan(functions[i](-NAN)));
    EXPECT_BITS(math_exp(0.0f), 1.0f);
    EXPECT_BITS(math_exp(-0.0f), 1.0f);
    EXPECT_BITS(math_exp(INFINITY), INFINITY);
    EXPECT_BITS(math_exp(-INFINITY), 0.0f);
    EXPECT_BITS(math_exp(0x1.62e42ep+6f), 0x1.ffff08p+127f); // the largest finite result, and the next float
    EXPECT_BITS(math_exp(0x1.62e430p+6f), INFINITY);
    EXPECT_BITS(math_exp(-0x1.9fe368p+6f), 0x1p-149f); // the smallest result, and the next float
    EXPECT_BITS(math_exp(-0x1.9fe36ap+6f), 0.0f);
    EXPECT_BITS(math_exp(-0x1.fffffep+127f), 0.0f);
    EXPECT_BITS(math_sigmoid(0.0f), 0.5f);
    EXPECT_BITS(math_sigmoid(INFINITY), 1.0f);
    EXPECT_BITS(math_sigmoid(-INFINITY), 0.0f);
    EXPECT_BITS(math_sigmoid(-0x1.fffffep+127f), 0.0f);
    EXPECT_BITS(math_silu(0.0f), 0.0f);
    EXPECT_BITS(math_silu(-0.0f), -0.0f);
    EXPECT_BITS(math_silu(INFINITY), INFINITY);
    EXPECT_BITS(math_silu(0x1.fffffep+127f), 0x1.fffffep+127f);
    EXPECT_BITS(math_silu(-0x1.fffffep+127f), -0.0f);
    cr_expect(isnan(math_silu(-INFINITY)));
    EXPECT_BITS(math_softplus(0.0f), 0.693147181f);
    EXPECT_BITS(math_softplus(20.0f), 20.0f);
    EXPECT_BITS(math_softplus(nextafterf(20.0f, 21.0f)), nextafterf(20.0f, 21.0f));
    EXPECT_BITS(math_softplus(0x1.fffffep+127f), 0x1.fffffep+127f);
    EXPECT_BITS(math_softplus(INFINITY), INFINITY);
    EXPECT_BITS(math_softplus(-INFINITY), 0.0f);
    EXPECT_BITS(math_softplus(-0x1.9fe368p+6f), 0x1p-149f); // as exp there
    EXPECT_BITS(math_softplus(-0x1.fffffep+127f), 0.0f);
    EXPECT_BITS(math_sin(0.0f), 0.0f);
    EXPECT_BITS(math_sin(-0.0f), -0.0f);
    EXPECT_BITS(math_sin(-0x1p-149f), -0x1p-149f);
    EXPECT_BITS(math_cos(0.0f), 1.0f);
    EXPECT_BITS(math_reciprocal_sqrt(4.0), 0.5f);
    EXPECT_BITS(math_reciprocal_sqrt(0.0), INFINITY);
    EXPECT_BITS(math_reciprocal_sqrt(3.0), 0x1.279a74p-1f);
    cr_expect(isnan(math_reciprocal_sqrt(-1.0)));
    EXPECT_BITS(math_pow(1e6, 0.0f), 1.0f);
    EXPECT_BITS(math_pow(1e6, 0.5f), 1000.0f);
    EXPECT_BITS(math_pow(1e7, 1.0f), 1e7f);
}

Test(reference_math, beyond_the_range_is_nan_never_a_wrong_number)
{
    const float limit = (float)MATH_ANGLE_MAX, beyond = nextafterf(limit, INFINITY);
    cr_expect(!isnan(math_sin(limit)) && !isnan(math_cos(-limit)));
    cr_expect(isnan(math_sin(beyond)) && isnan(math_cos(-beyond)) && isnan(math_sin(INFINITY)));
    cr_expect(isnan(math_cos(-INFINITY)) && isnan(math_cos(1e30f)));
    cr_expect(isnan(math_pow(0.0, 0.5f)) && isnan(math_pow(-1e6, 0.5f)) && isnan(math_pow(INFINITY, 0.5f)));
    cr_expect(isnan(math_pow(NAN, 0.5f)) && isnan(math_pow(1e6, NAN)) && isnan(math_pow(1e6, 9.0f)));
}
