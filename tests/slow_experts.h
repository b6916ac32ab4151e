// slow_experts: the expert formats of arithmetic.md 4 and zoo.md 2.6 a second time, by the definition: operations of
// floats in double and rounded (53 >= 2 x 24 + 2 bits, so the same bits), nearest entries by going through all.
// Variants are wrong on purpose.
#ifndef ASSAY_TESTS_SLOW_EXPERTS_H
#define ASSAY_TESTS_SLOW_EXPERTS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/half.h"

enum search_variant {
    SEARCH_BY_THE_PAGE,
    SEARCH_NO_CLIPS,      // the whole range only
    SEARCH_ONLY_CLIPS,    // all but the whole range
    SEARCH_TIES_LAST,     // of equal errors the last
    SEARCH_ROUNDED_SCALE, // codes against the rounded scale
    SEARCH_VARIANTS
};

static inline double slow_round(double x)
{
    return (double)(float)x;
}

static inline double slow_code(double w, double bias, double scale, int low, int high)
{
    const double code = nearbyint(slow_round(slow_round(w - bias) / scale));
    return code < low ? low : code > high ? high : code;
}

// A block of 32: sym8 (bias NULL) or aff4.
static inline void slow_block(const float *w, int *codes, uint16_t *scale, uint16_t *bias,
                              enum search_variant variant)
{
    static const double seven[] = {1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7}, six[] = {1, 0.9, 0.8, 0.7, 0.6, 0.5};
    const int top = bias ? 15 : 127, bottom = bias ? 0 : -127;
    const double *clips = bias ? six : seven;
    const int n_clips = variant == SEARCH_NO_CLIPS ? 1 : bias ? 6 : 7, first = variant == SEARCH_ONLY_CLIPS;
    double low = (double)w[0], high = low, least = INFINITY;
    for (int k = 1; k < 32; k++) {
        low = (double)w[k] < low ? (double)w[k] : low;
        high = (double)w[k] > high ? (double)w[k] : high;
    }
    const double reach = fabs(low) > fabs(high) ? fabs(low) : fabs(high);
    const double middle = slow_round(slow_round(low + high) / 2), half = slow_round(slow_round(high - low) / 2);
    double best_scale = 0, best_bias = 0;
    for (int c = first; c < n_clips; c++) {
        const double clipped = slow_round((bias ? half : reach) * slow_round(clips[c]));
        double s = slow_round(bias ? 2 * clipped / 15 : clipped / 127);
        const double b = bias ? slow_round(middle - clipped) : 0;
        float sum = 0;
        s = s < slow_round(1e-8) ? slow_round(1e-8) : s;
        for (int i = 0; i < 32; i++) {
            const double value = (double)w[i];
            const double code = slow_code(value, b, s, bottom, top);
            const double decoded = bias ? (double)fmaf((float)s, (float)code, (float)b) : slow_round(code * s);
            const double distance = slow_round(value - decoded);
            sum = (float)((double)sum + slow_round(distance * distance));
        }
        if (c > first && !((double)sum < least || (variant == SEARCH_TIES_LAST && (double)sum <= least)))
            continue;
        least = (double)sum;
        best_scale = s;
        best_bias = b;
    }
    *scale = half_from_float((float)best_scale);
    if (bias)
        *bias = half_from_float((float)best_bias);
    if (variant == SEARCH_ROUNDED_SCALE)
        best_scale = (double)half_to_float(*scale);
    for (int k = 0; k < 32; k++)
        codes[k] = (int)slow_code((double)w[k], best_bias, best_scale, bottom, top);
}

enum book_variant { BOOK_BY_THE_PAGE, BOOK_ROUND_LESS, BOOK_EVEN_START };

static inline int slow_order(const void *a, const void *b)
{
    const float left = *(const float *)a, right = *(const float *)b;
    if (left < right || left > right)
        return left < right ? -1 : 1;
    return (signbit(left) ? 0 : 1) - (signbit(right) ? 0 : 1);
}

static inline uint32_t slow_index(const double *entries, uint32_t n, double value)
{
    uint32_t below = 0;
    for (uint32_t j = 0; j + 1 < n; j++)
        below += (entries[j] + entries[j + 1]) / 2 < value;
    return below;
}

static inline void slow_book(const float *values, uint32_t n, uint32_t n_entries, uint16_t *halves, uint8_t *codes,
                             enum book_variant variant)
{
    float *sorted = malloc(n * sizeof *sorted);
    double entries[256];
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, slow_order);
    for (uint32_t j = 0; j < n_entries; j++)
        entries[j] = variant == BOOK_EVEN_START
                         ? (double)sorted[0] + j * ((double)sorted[n - 1] - (double)sorted[0]) / (n_entries - 1)
                         : (double)sorted[(uint64_t)j * (n - 1) / (n_entries - 1)];
    for (int round = 0; round < (variant == BOOK_ROUND_LESS ? 9 : 10); round++) {
        double sums[256] = {0};
        uint32_t counts[256] = {0};
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t j = slow_index(entries, n_entries, (double)sorted[i]);
            sums[j] += (double)sorted[i];
            counts[j]++;
        }
        for (uint32_t j = 0; j < n_entries; j++)
            entries[j] = counts[j] ? sums[j] / counts[j] : entries[j];
    }
    for (uint32_t j = 0; j < n_entries; j++) {
        halves[j] = half_from_float((float)entries[j]);
        entries[j] = (double)half_to_float(halves[j]);
    }
    for (uint32_t i = 0; i < n; i++)
        codes[i] = (uint8_t)slow_index(entries, n_entries, (double)values[i]);
    free(sorted);
}

#endif
