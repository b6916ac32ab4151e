#include "runtime/distance.h"

#include <math.h>
#include <stdbool.h>

#include "harness/base/half.h"

void distance_start(struct distance *distance)
{
    *distance = (struct distance){0};
}

// A library that multiplies by 1 / scale rounds three times where we divide once, so next to a tie the code may be
// the other neighbour: 128 steps x 3 x 2^-24 of slack.
static bool is_near(double w, int code, double step, int low, int high)
{
    const double slack = 128 * 3 * 0x1p-24;
    if (code < low || code > high)
        return false;
    if (fabs(w - code * step) <= (0.5 + slack) * step)
        return true;
    return (code == high && w > high * step) || (code == low && w < low * step);
}

// Both were rounded to half, from maxima that may have been halves themselves: 2^-11 each, or half a subnormal
// quantum.
static bool is_scale(double found, double computed)
{
    return fabs(found - computed) <= 0x1p-9 * computed + 0x1p-24;
}

void distance_row(struct distance *distance, enum quant_format format, uint32_t row, const struct weight *found,
                  const uint16_t *computed, const int8_t *codes, const float *w)
{
    int low, high;
    quant_range(format, &low, &high);
    const uint32_t n = found->cols / found->block;
    for (uint32_t b = 0; b < n; b++) {
        const double step = (double)half_to_float(found->scale[(uint64_t)row * n + b]);
        const double expected = (double)half_to_float(computed[(uint64_t)row * n + b]);
        bool is_zero = true;
        for (uint32_t k = b * found->block; k < (b + 1) * found->block; k++) {
            is_zero = is_zero && w[k] == 0.0f;
            if (is_near((double)w[k], codes[k], step, low, high) || distance->far++)
                continue;
            distance->row = row;
            distance->column = k;
            distance->stored = codes[k] * step;
            distance->exact = (double)w[k];
            distance->step = step;
        }
        if (is_zero || is_scale(step, expected) || distance->wrong_scales++)
            continue;
        distance->scale_row = row;
        distance->scale_block = b;
        distance->scale = step;
        distance->scale_computed = expected;
    }
}
