// half: against an independent conversion through doubles, for all halves and for every float where a rounding is
// decided.
#include "harness/base/half.h"

#include <criterion/criterion.h>
#include <math.h>

// The value of a half by its definition; NaN and infinity excluded.
static double value_of(uint16_t half)
{
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const double magnitude = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

// Nearest half by search over all magnitudes in double (every float and every half is exact there): slow and obvious.
static uint16_t nearest(float value)
{
    if (isnan(value))
        return HALF_NAN;
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const double magnitude = fabs((double)value);
    uint16_t low = 0, high = 0x7C00; // values of finite halves increase with their bits; 0x7C00 stands for 2^16
    while (high - low > 1) {
        const uint16_t middle = (uint16_t)((low + high) / 2);
        if (value_of(middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    const double below = value_of(low), above = high == 0x7C00 ? 65536.0 : value_of(high);
    if (magnitude >= above)
        return sign | 0x7C00;
    const double down = magnitude - below, up = above - magnitude; // exact: at most 24 + 11 bits apart
    return sign | (down < up ? low : down > up ? high : (low & 1) ? high : low);
}

static void check(uint32_t bits)
{
    const float value = float_from_bits(bits);
    const uint16_t expected = nearest(value), found = half_from_float(value);
    cr_assert_eq(found, expected, "%a: found %04x, expected %04x", (double)value, found, expected);
}

Test(half, widening_is_exact_for_all_65536)
{
    for (uint32_t half = 0; half < 65536; half++) {
        const float wide = half_to_float((uint16_t)half);
        if ((half & 0x7C00) == 0x7C00) {
            const uint32_t infinite = (half & 0x8000 ? 0xFF800000u : 0x7F800000u);
            cr_assert_eq(float_to_bits(wide), half & 0x3FF ? FLOAT_NAN_BITS : infinite);
            continue;
        }
        cr_assert_eq((double)wide, value_of((uint16_t)half));
        cr_assert_eq(signbit(wide) != 0, half >> 15);
    }
}

Test(half, narrowing_brings_every_half_back)
{
    for (uint32_t half = 0; half < 65536; half++) {
        const bool nan = (half & 0x7C00) == 0x7C00 && half & 0x3FF;
        cr_assert_eq(half_from_float(half_to_float((uint16_t)half)), nan ? HALF_NAN : half);
    }
}

Test(half, ties_and_their_neighbours_round_to_nearest_even)
{
    for (uint32_t half = 0; half < 0x7C00; half++) {
        const double above = half + 1 == 0x7C00 ? 65536.0 : value_of((uint16_t)(half + 1));
        const uint32_t tie = float_to_bits((float)((value_of((uint16_t)half) + above) / 2)); // 12 bits: exact
        for (uint32_t sign = 0; sign < 2; sign++)
            for (int step = -2; step <= 2; step++)
                check((tie + (uint32_t)step) | sign << 31);
        check(float_to_bits((float)value_of((uint16_t)half)) + 1);
    }
}

Test(half, bits_across_the_whole_range_round_to_nearest_even)
{
    for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += 9973) // a prime: all exponents, all low bits
        check((uint32_t)bits);
    for (uint32_t exponent = 0; exponent < 256; exponent++)
        for (uint32_t low = 0; low < 16; low++) {
            check(exponent << 23 | low);
            check(exponent << 23 | (0x7FFFFF - low));
        }
}

Test(half, the_edges_are_where_the_specification_has_them)
{
    cr_assert_eq(half_from_float(65504.0f), 0x7BFF);
    cr_assert_eq(half_from_float(65519.996f), 0x7BFF);
    cr_assert_eq(half_from_float(65520.0f), 0x7C00);
    cr_assert_eq(half_from_float(-INFINITY), 0xFC00);
    cr_assert_eq(half_from_float(0x1p-25f), 0); // a tie to even
    cr_assert_eq(half_from_float(0x1.000002p-25f), 1);
    cr_assert_eq(half_from_float(-0.0f), 0x8000);
    cr_assert_eq(half_from_float(float_from_bits(0xFF812345)), HALF_NAN);
    cr_assert_eq(float_to_bits(half_round(1.0f + 0x1p-11f)), float_to_bits(1.0f));
}

#if defined(__FLT16_MANT_DIG__)
// The compiler's own conversion: what F16C and the processor do.
Test(half, the_compilers_half_agrees)
{
    for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += 9973) {
        const float value = float_from_bits((uint32_t)bits);
        if (isnan(value))
            continue;
        __extension__ typedef _Float16 half_type;
        const half_type narrow = (half_type)value;
        uint16_t expected;
        memcpy(&expected, &narrow, sizeof expected);
        cr_assert_eq(half_from_float(value), expected, "%a", (double)value);
        cr_assert_eq((double)half_to_float(expected), (double)(float)narrow);
    }
}
#endif
