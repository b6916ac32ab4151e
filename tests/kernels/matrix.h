// matrix: the random weights and inputs of the linear kernels' checks, each in memory of its own that ends at a
// fence.
#ifndef ASSAY_TESTS_KERNELS_MATRIX_H
#define ASSAY_TESTS_KERNELS_MATRIX_H

#include "tests/kernels/check.h"

enum { FENCE_DATA, FENCE_X, FENCE_SCALE, FENCE_BIAS, FENCE_SPLIT, FENCE_ARRANGED, FENCE_PACKED, FENCE_OUTPUT };
// Rows of a codebook format before the first that is looked at: the second book begins among those that are computed.
enum { MATRIX_BEFORE = WEIGHT_BOOK_ROWS - 2 };

struct matrix {
    struct weight weight;
    size_t row; // the first that is looked at
    void *data;
    uint16_t *scale, *bias, *lut;
    float *x; // [tokens, K]
};

struct matrix_shape {
    enum weight_format format;
    uint32_t rows, k, block, tokens;
    bool halves; // inputs are halves, and weights about halves
};

// Valid until the next one is made.
struct matrix matrix_make(struct check *check, const struct matrix_shape *shape, enum regime regime);
// Puts a weight, or in its place, as it may, any code.
void matrix_put(struct matrix *matrix, size_t row, uint32_t k, float value, struct check *check);
// The next block length after *block, first 0: blocks of 32 where they fit, and one scale a row; formats without
// scales have one round. False: there is none.
bool matrix_next_block(enum weight_format format, uint32_t k, uint32_t *block);

#endif
