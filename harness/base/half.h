// half: the 16-bit floats, exactly. Integer operations only, so no compiler option or excess precision can change a
// bit.
//
// Widening is exact. Narrowing rounds to nearest, ties to even; 65,520 and above become infinity (arithmetic.md 1).
// Every NaN that is produced is the canonical one: fp32 0x7FC00000, fp16 0x7E00.
#ifndef ASSAY_HALF_H
#define ASSAY_HALF_H

#include <stdint.h>
#include <string.h>

#define HALF_NAN ((uint16_t)0x7E00)
#define FLOAT_NAN_BITS UINT32_C(0x7FC00000)

static inline float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t float_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float bfloat_to_float(uint16_t bfloat)
{
    return float_from_bits((uint32_t)bfloat << 16);
}

// fp32 -> bf16, nearest even.
static inline uint16_t bfloat_from_float(float value)
{
    const uint32_t bits = float_to_bits(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(FLOAT_NAN_BITS >> 16);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16); // a carry into the exponent is the right next number
}

// fp16 -> fp32, exact for every number, subnormals included.
static inline float half_to_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t exponent = (half >> 10) & 0x1F;
    uint32_t mantissa = half & 0x3FF;
    if (exponent == 0x1F)
        return float_from_bits(mantissa ? FLOAT_NAN_BITS : sign | 0x7F800000);
    if (exponent)
        return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    if (!mantissa)
        return float_from_bits(sign);
    uint32_t shift = 0; // a subnormal half is a normal float: move its leading one into place
    while (!(mantissa & 0x400)) {
        mantissa <<= 1;
        shift++;
    }
    return float_from_bits(sign | (113 - shift) << 23 | (mantissa & 0x3FF) << 13);
}

// fp32 -> fp16, nearest even.
static inline uint16_t half_from_float(float value)
{
    const uint32_t bits = float_to_bits(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return HALF_NAN;
    if (magnitude >= 0x477FF000) // 65,520 = halfway between the largest half and 2^16
        return (uint16_t)(sign | 0x7C00);
    if (magnitude < 0x33000001) // at most 2^-25: half of the smallest subnormal, a tie to even
        return sign;
    uint32_t rounded, rest, halfway;
    if (magnitude < 0x38800000) { // below 2^-14: the result is subnormal, in steps of 2^-24
        const uint32_t shift = 126 - (magnitude >> 23);
        const uint32_t mantissa = (magnitude & 0x7FFFFF) | 0x800000;
        rounded = mantissa >> shift;
        rest = mantissa & ((UINT32_C(1) << shift) - 1);
        halfway = UINT32_C(1) << (shift - 1);
    } else {
        rounded = (magnitude - 0x38000000) >> 13;
        rest = magnitude & 0x1FFF;
        halfway = 0x1000;
    }
    if (rest > halfway || (rest == halfway && (rounded & 1)))
        rounded++; // a carry into the exponent is the right next number
    return (uint16_t)(sign | rounded);
}

// h() of arithmetic.md 3: the float nearest to `value` that a half can hold.
static inline float half_round(float value)
{
    return half_to_float(half_from_float(value));
}

#endif
