#include "reference/double/matrix.h"

#include <assert.h>
#include <blis.h>

struct matrix matrix_of(const double *data, uint32_t rows, uint32_t cols, size_t stride)
{
    return (struct matrix){(double *)data, rows, cols, stride, 1};
}

struct matrix matrix_transposed(struct matrix matrix)
{
    return (struct matrix){matrix.data, matrix.cols, matrix.rows, matrix.right, matrix.down};
}

void matrix_multiply(double alpha, struct matrix a, struct matrix b, double beta, struct matrix c)
{
    assert(a.cols == b.rows && c.rows == a.rows && c.cols == b.cols);
    rntm_t runtime = BLIS_RNTM_INITIALIZER;
    bli_rntm_set_num_threads(1, &runtime);
    bli_rntm_disable_l3_sup(&runtime); // its kernel for few rows is the slower one here
    if (c.rows == 1)
        bli_dgemv_ex(BLIS_TRANSPOSE, BLIS_NO_CONJUGATE, b.rows, b.cols, &alpha, b.data, (inc_t)b.down, (inc_t)b.right,
                     a.data, (inc_t)a.right, &beta, c.data, (inc_t)c.right, NULL, &runtime);
    else
        bli_dgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, c.rows, c.cols, a.cols, &alpha, a.data, (inc_t)a.down,
                     (inc_t)a.right, b.data, (inc_t)b.down, (inc_t)b.right, &beta, c.data, (inc_t)c.down,
                     (inc_t)c.right, NULL, &runtime);
}

const char *matrix_blis_name(void)
{
    return bli_arch_string(bli_arch_query_id());
}
