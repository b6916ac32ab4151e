#include "runtime/distance.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "harness/base/half.h"

void distance_start(struct distance *distance)
{
    *distance = (struct distance){0};
}

static void see_far(struct distance *distance, uint32_t row, uint32_t column, double stored, double exact, double step)
{
    if (distance->far++)
        return;
    distance->row = row;
    distance->column = column;
    distance->stored = stored;
    distance->exact = exact;
    distance->step = step;
}

static void see_wrong_scale(struct distance *distance, uint32_t row, uint32_t block, double scale, double computed)
{
    if (distance->wrong_scales++)
        return;
    distance->scale_row = row;
    distance->scale_block = block;
    distance->scale = scale;
    distance->scale_computed = computed;
}

// --- scales and biases

struct block {
    enum quant_format format;
    uint32_t n;
    const float *w; // [n]
    double step, bias;
    double low, high, absmax; // of w
};

// A library that multiplies by 1 / scale rounds three times where we divide once, so next to a tie the code may be
// the other neighbour: 128 steps x 3 x 2^-24 of slack. A half is off by 2^-11 of itself or, subnormal, 2^-25.
static double allowance(const struct block *block)
{
    const double slack = (0.5 + 128 * 3 * 0x1p-24) * block->step, rounding = 0x1p-11 * block->step + 0x1p-25;
    if (block->format == QUANT_INT8_SEARCH)
        return slack + 127 * rounding;
    if (block->format == QUANT_INT4_AFFINE)
        return slack + 15 * rounding + 0x1p-11 * fabs(block->bias) + 0x1p-25;
    return slack;
}

static bool is_near(const struct block *block, double w, int code)
{
    int low, high;
    quant_range(block->format, &low, &high);
    if (code < low || code > high)
        return false;
    const double value = block->bias + code * block->step;
    return fabs(w - value) <= allowance(block) || (code == high && w > value) || (code == low && w < value);
}

// Both were rounded to half, from maxima that may have been halves themselves: 2^-11 each, or half a subnormal
// quantum.
static bool is_between(double found, double low, double high)
{
    return found >= low - 0x1p-9 * low - 0x1p-24 && found <= high + 0x1p-9 * high + 0x1p-24;
}

static bool is_scale(const struct block *block, double computed)
{
    const double full = block->format == QUANT_INT8_SEARCH ? block->absmax / 127 : (block->high - block->low) / 15;
    if (block->format == QUANT_INT8_SEARCH)
        return is_between(block->step, 0.7 * full, full);
    if (block->format != QUANT_INT4_AFFINE)
        return (block->low == 0 && block->high == 0) || is_between(block->step, computed, computed);
    const double centre = (block->low + block->high) / 2, rounding = 0x1p-10 * block->step + 0x1p-24;
    return is_between(block->step, 0.5 * full, full) &&
           fabs(block->bias - (centre - 7.5 * block->step)) <=
               7.5 * rounding + 0x1p-10 * fabs(block->bias) + 0x1p-20 * fabs(centre) + 0x1p-24;
}

static void see_values(struct block *block)
{
    block->low = block->high = (double)block->w[0];
    for (uint32_t k = 1; k < block->n; k++) {
        block->low = fmin(block->low, (double)block->w[k]);
        block->high = fmax(block->high, (double)block->w[k]);
    }
    block->absmax = fmax(fabs(block->low), fabs(block->high));
}

void distance_row(struct distance *distance, enum quant_format format, uint32_t row, const struct weight *found,
                  const uint16_t *computed, const int16_t *codes, const float *w)
{
    const uint32_t n = found->cols / found->block;
    for (uint32_t b = 0; b < n; b++) {
        const uint64_t at = (uint64_t)row * n + b;
        const uint32_t first = b * found->block;
        struct block block = {.format = format, .n = found->block, .w = w + first};
        block.step = (double)half_to_float(found->scale[at]);
        block.bias = found->bias ? (double)half_to_float(found->bias[at]) : 0;
        see_values(&block);
        for (uint32_t k = first; k < first + found->block; k++)
            if (!is_near(&block, (double)w[k], codes[k]))
                see_far(distance, row, k, block.bias + codes[k] * block.step, (double)w[k], block.step);
        const double expected = (double)half_to_float(computed[at]);
        if (!is_scale(&block, expected))
            see_wrong_scale(distance, row, b, block.step, expected);
    }
}

// --- codebooks

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

// The nearest of the ascending entries; NaN when one of them is.
static double nearest(const double *entries, uint32_t n, double w)
{
    uint32_t above = 0;
    for (uint32_t step = n / 2; step; step /= 2) // n is a power of two
        above += entries[above + step - 1] < w ? step : 0;
    const double upper = entries[above], lower = above ? entries[above - 1] : upper;
    return w - lower < upper - w ? lower : upper;
}

void distance_book(struct distance *distance, uint32_t first_row, const struct weight *found, const float *expected,
                   const float *w)
{
    const struct weight part = weight_rows(found, first_row, WEIGHT_BOOK_ROWS);
    const uint32_t n = found->format == WEIGHT_K8 ? 256 : 16, cols = found->cols;
    double entries[256], error = 0, computed = 0;
    bool finite = true;
    for (uint32_t j = 0; j < n; j++) {
        entries[j] = (double)half_to_float(part.lut[j]);
        finite = finite && isfinite(entries[j]);
    }
    if (finite)
        qsort(entries, n, sizeof *entries, compare_doubles);
    for (uint32_t i = 0; i < WEIGHT_BOOK_ROWS; i++)
        for (uint32_t k = 0; k < cols; k++) {
            const double exact = (double)w[i * cols + k], stored = (double)weight_at(&part, i, k);
            const double best = finite ? nearest(entries, n, exact) : (double)NAN;
            const double limit = fabs(exact - best) + 0x1p-11 * (fabs(stored) + fabs(best)) + 0x1p-24;
            if (!(fabs(exact - stored) <= limit))
                see_far(distance, first_row + i, k, stored, exact, limit);
            const double own = exact - (double)expected[i * cols + k];
            error += (exact - stored) * (exact - stored);
            computed += own * own;
        }
    const double count = (double)WEIGHT_BOOK_ROWS * cols;
    if (!(error <= 4 * computed + count * 0x1p-48))
        see_wrong_scale(distance, first_row, 0, sqrt(error / count), sqrt(computed / count));
}
