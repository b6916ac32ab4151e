#include "runtime/difference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/half.h"

static bool same(float a, float b)
{
    return float_to_bits(a) == float_to_bits(b);
}

void difference_start(struct difference *difference, const char *what, const char *column)
{
    *difference = (struct difference){
        .what = what,
        .column = column,
        .line = "row",
        .expected_low = INFINITY,
        .ratio_low = INFINITY,
        .ratio_high = -INFINITY,
        .offset_low = INFINITY,
        .offset_high = -INFINITY,
        .from_left = true,
        .from_right = true,
        .exchanged = true,
        .offset = true,
    };
}

static void see_element(struct difference *difference, uint32_t row, uint32_t column, float found, float expected)
{
    if (!difference->wrong++) {
        difference->first_row = row;
        difference->first_column = column;
        difference->first_found = found;
        difference->first_expected = expected;
    }
    const double offset = (double)found - (double)expected, distance = fabs(offset);
    difference->offset_low = fmin(difference->offset_low, offset);
    difference->offset_high = fmax(difference->offset_high, offset);
    if (distance > difference->largest || isnan(distance)) // a NaN stays
        difference->largest = distance;
    difference->not_finite += isfinite(found) ? 0 : 1;
    difference->zero += found == 0.0f;
    difference->expected_low = fminf(difference->expected_low, fabsf(expected));
    difference->expected_high = fmaxf(difference->expected_high, fabsf(expected));
    if (expected != 0.0f) {
        difference->ratio_low = fmin(difference->ratio_low, (double)found / (double)expected);
        difference->ratio_high = fmax(difference->ratio_high, (double)found / (double)expected);
    }
}

void difference_row(struct difference *difference, uint32_t row, uint32_t n, const float *found,
                    const float *expected)
{
    const uint64_t before = difference->wrong;
    difference->n += n;
    for (uint32_t k = 0; k < n; k++)
        if (!same(found[k], expected[k]))
            see_element(difference, row, k, found[k], expected[k]);
    if (difference->wrong == before)
        return;
    difference->rows++;
    difference->last_row = row;
    for (uint32_t k = 0; k < n; k++) {
        difference->from_left = difference->from_left && n > 1 && (k == 0 || same(found[k], expected[k - 1]));
        difference->from_right = difference->from_right && n > 1 && (k + 1 == n || same(found[k], expected[k + 1]));
        const uint32_t other = k ^ 1;
        difference->exchanged = difference->exchanged && n > 1 && (other >= n || same(found[k], expected[other]));
        difference->offset = difference->offset && (double)fabsf(found[k] - expected[k]) == difference->largest;
    }
}

const char *count_text(uint64_t count, char text[32])
{
    char digits[24];
    const int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count);
    char *out = text;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            *out++ = ',';
        *out++ = digits[i];
    }
    *out = '\0';
    return text;
}

static const char *rows_text(const struct difference *difference, char text[96])
{
    char count[32];
    if (difference->rows == 1)
        snprintf(text, 96, "%s %u", difference->line, difference->first_row);
    else if (difference->rows == difference->last_row - difference->first_row + 1)
        snprintf(text, 96, "%ss %u..%u", difference->line, difference->first_row, difference->last_row);
    else
        snprintf(text, 96, "in %s %ss from %u to %u", count_text(difference->rows, count), difference->line,
                 difference->first_row, difference->last_row);
    return text;
}

// One factor for all: each side was rounded to half, a relative 2^-11, so two ratios may differ by 2^-9 of
// themselves.
static bool one_factor(const struct difference *difference)
{
    const double spread = difference->ratio_high - difference->ratio_low;
    return !difference->zero && spread <= 0x1p-9 * fabs(difference->ratio_low);
}

// A norm of 1 + w stored as one of w, or the other way round: both sides were rounded to half, so up to twice 2^-9 off
// for norms below 4.
static bool one_apart(const struct difference *difference, double one)
{
    return difference->wrong > 1 && difference->offset_low >= one - 0x1p-8 && difference->offset_high <= one + 0x1p-8;
}

static const char *pattern_text(const struct difference *difference, char text[256])
{
    char count[32];
    const size_t size = 256;
    if (difference->not_finite)
        snprintf(text, size, "%s %s NaN or infinite", count_text(difference->not_finite, count),
                 difference->not_finite == 1 ? "is" : "are");
    else if (difference->zero == difference->wrong)
        snprintf(text, size, "all zero where %.3g..%.3g is computed", (double)difference->expected_low,
                 (double)difference->expected_high);
    else if (one_factor(difference) && fabs(difference->ratio_low + 1.0) < 0x1p-9)
        snprintf(text, size, "of the opposite sign");
    else if (one_factor(difference) && difference->wrong > 1)
        snprintf(text, size, "%.4g x what is computed", difference->ratio_low);
    else if (difference->offset && (difference->largest == 128 || difference->largest == 8))
        snprintf(text, size, "%g off, as signed codes read as unsigned", difference->largest);
    else if (difference->exchanged)
        snprintf(text, size, "neighbours exchanged, as with the other packing order");
    else if (difference->from_left)
        snprintf(text, size, "each is its left neighbour's, shifted by one");
    else if (difference->from_right)
        snprintf(text, size, "each is its right neighbour's, shifted by one");
    else if (one_apart(difference, 1) || one_apart(difference, -1))
        snprintf(text, size, "1 %s than what is computed, as with the + 1 of a norm",
                 difference->offset_low > 0 ? "more" : "less");
    else
        snprintf(text, size, "the first, %s %u %s %u, is %.6g where %.6g is computed; the largest distance is %.3g",
                 difference->line, difference->first_row, difference->column, difference->first_column, (double)difference->first_found,
                 (double)difference->first_expected, difference->largest);
    return text;
}

char *difference_text(struct arena *arena, const struct difference *difference)
{
    char wrong[32], n[32], rows[96], pattern[256];
    if (!difference->wrong)
        return NULL;
    return arena_print(arena, "%s of %s %s differ, %s: %s", count_text(difference->wrong, wrong),
                       count_text(difference->n, n), difference->what, rows_text(difference, rows),
                       pattern_text(difference, pattern));
}
