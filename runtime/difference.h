// difference: how a stored matrix departs from the one that was expected, in words that lead to the cause: dead rows,
// a factor, a shift, a sign, another packing order.
#ifndef ASSAY_DIFFERENCE_H
#define ASSAY_DIFFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "harness/base/arena.h"

struct difference {
    const char *what, *column; // "scales", "codes", "values"; what a column is called: "block", "column"
    const char *line;          // what a row is called: "row" unless the caller sets another
    uint64_t n, wrong;         // elements seen, elements whose bits differ
    uint64_t not_finite, zero; // of the wrong ones as found
    uint32_t rows, first_row, last_row, first_column; // of the wrong ones
    float first_found, first_expected;
    float expected_low, expected_high; // magnitudes that were expected at the wrong ones
    double ratio_low, ratio_high;      // found / expected where that is not zero
    double largest;                    // |found - expected|; NaN stays
    double offset_low, offset_high;    // found - expected
    // Does every row with a wrong element, as a whole, equal the expected row ...
    bool from_left, from_right; // moved by one column, the border apart
    bool exchanged;             // with neighbouring pairs exchanged
    bool offset;                // with the same distance everywhere, up or down
};

void difference_start(struct difference *difference, const char *what, const char *column);
// Rows in ascending order; n >= 1. Compared by bits: -0 is not +0, one NaN equals another of the same bits.
void difference_row(struct difference *difference, uint32_t row, uint32_t n, const float *found,
                    const float *expected);
// "123 of 24,576 scales differ, rows 3973..4095: all zero where 0.0021..0.0094 is computed". In the arena; NULL
// without memory or when nothing is wrong.
char *difference_text(struct arena *arena, const struct difference *difference);

// "24,576" into `text`.
const char *count_text(uint64_t count, char text[32]);

#endif
