// matrix: products in double, by BLIS on one thread.
#ifndef ASSAY_DOUBLE_MATRIX_H
#define ASSAY_DOUBLE_MATRIX_H

#include <stddef.h>
#include <stdint.h>

// Element [i][j] at data[i * down + j * right]: a whole matrix, a part of one, or a transposed one. Only what is
// written to must be writable.
struct matrix {
    double *data;
    uint32_t rows, cols;
    size_t down, right;
};

// Rows of `cols` elements, `stride` apart.
struct matrix matrix_of(const double *data, uint32_t rows, uint32_t cols, size_t stride);
struct matrix matrix_transposed(struct matrix matrix);

// c = alpha a b + beta c; c is neither a nor b. With beta 0 what c held is not read. Row i of c depends on row i of a
// alone, column j on column j of b: a NaN elsewhere does not reach it.
void matrix_multiply(double alpha, struct matrix a, struct matrix b, double beta, struct matrix c);

// Name of the BLIS configuration in use, for the report header ("zen3").
const char *matrix_blis_name(void);

#endif
