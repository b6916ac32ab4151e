// The linear kernels: every format, every length of tail, rows in the middle of a matrix. The reference reads any
// float; the runtime reads halves, in its own order, under each rule of the precision plan.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/half.h"
#include "tests/kernels/matrix.h"

// One row before and one after must stay untouched; a kernel may take four together and the rest one by one.
enum { ROWS = 8, FIRST = 1, END = 7 };

// --- the reference's

static void compare_reference(struct check *check, const struct candidate *candidate, const struct matrix *matrix,
                              const char *what)
{
    const uint32_t k = matrix->weight.cols;
    const size_t split = linear_split_size(k);
    struct linear_input input = {.split = check_fenced(FENCE_SPLIT, split * sizeof(float))};
    float expected[MATRIX_BEFORE + ROWS], *y = check_output();
    linear_input_set(&input, matrix->x, k);
    check_definition(matrix->weight.format)(&matrix->weight, &input, matrix->row, matrix->row + ROWS, expected);
    candidate->rows(&matrix->weight, &input, matrix->row + FIRST, matrix->row + END, y);
    check_compare(check, expected, y, matrix->row + FIRST, matrix->row + END, false, "K = %u, block %u, %s: row", k,
                  matrix->weight.block, what);
}

// The half, scale or entry of a codebook, of which the code of row 2 at `at` makes a weight; NULL: it is none.
static uint16_t *half_of_code(const struct matrix *matrix, uint32_t at)
{
    const struct weight *weight = &matrix->weight;
    const size_t row = matrix->row + 2;
    const uint8_t *codes = (const uint8_t *)matrix->data + row * weight_row_bytes(weight);
    if (matrix->scale)
        return matrix->scale + row * (weight->cols / weight->block) + at / weight->block;
    if (weight->format == WEIGHT_K8)
        return matrix->lut + row / WEIGHT_BOOK_ROWS * 256 + codes[at];
    if (weight->format == WEIGHT_K4)
        return matrix->lut + row / WEIGHT_BOOK_ROWS * 16 + (codes[at / 2] >> (at % 2 ? 4 : 0) & 15);
    return NULL;
}

// One special value at a time in every lane, at the lane's last element, which may lie in the tail: in x, and in the
// weight or what it is made of.
static void specials_in_every_lane(struct check *check, const struct candidate *candidate, struct matrix *matrix)
{
    static const float specials[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 0x1p-149f, 0x1.fffffep127f};
    const uint32_t k = matrix->weight.cols;
    for (uint32_t lane = 0; lane < LINEAR_LANES && lane < k; lane++)
        for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
            const uint32_t at = lane + (k - 1 - lane) / LINEAR_LANES * LINEAR_LANES;
            const float x = matrix->x[at];
            matrix->x[at] = specials[i];
            compare_reference(check, candidate, matrix, "a special x");
            matrix->x[at] = x;
            uint16_t *half = half_of_code(matrix, at);
            if (half) {
                const uint16_t kept = *half;
                *half = half_from_float(specials[i]);
                compare_reference(check, candidate, matrix, "a special scale or entry");
                *half = kept;
            } else {
                const float w = weight_at(&matrix->weight, 2, at);
                matrix_put(matrix, 2, at, specials[i], check);
                compare_reference(check, candidate, matrix, "a special weight");
                matrix_put(matrix, 2, at, w, check);
            }
        }
}

void check_reference_linear(struct check *check, const struct candidate *candidate)
{
    uint32_t k;
    for (size_t i = 0; (k = check_length(check, i, 130)); i++)
        for (uint32_t block = 0; matrix_next_block(candidate->format, k, &block);)
            for (enum regime regime = 0; regime < REGIMES; regime++) {
                const struct matrix_shape shape = {candidate->format, ROWS, k, block, 1, false};
                struct matrix matrix = matrix_make(check, &shape, regime);
                compare_reference(check, candidate, &matrix, check_regime_name(regime));
                const bool chosen = k == 1 || k == 31 || k == 33 || k == 64 || k == 191;
                if (chosen && regime == REGIME_ORDINARY)
                    specials_in_every_lane(check, candidate, &matrix);
            }
}

// --- the runtime's

static void run_runtime(const struct kernels *kernels, const struct matrix *matrix, struct linear_rule rule,
                        size_t first, size_t end, float *y)
{
    const uint32_t k = matrix->weight.cols;
    float *arranged = check_fenced(FENCE_ARRANGED, kernels_arranged(k) * sizeof *arranged);
    kernels->arrange(matrix->x, k, arranged);
    kernels->linear(&matrix->weight, arranged, rule, first, end, y);
}

void check_runtime_linear(struct check *check, const struct candidate *candidate)
{
    static const struct linear_rule rules[] = {{PRECISION_F32, PRECISION_F32},
                                               {PRECISION_F16, PRECISION_F32},
                                               {PRECISION_F32, PRECISION_F16},
                                               {PRECISION_F16, PRECISION_F16}};
    uint32_t k;
    for (size_t i = 0; (k = check_length(check, i, 264)); i++)
        for (uint32_t block = 0; matrix_next_block(candidate->format, k, &block);)
            for (enum regime regime = 0; regime < REGIMES; regime++) {
                const struct matrix_shape shape = {candidate->format, ROWS, k, block, 1, true};
                const struct matrix matrix = matrix_make(check, &shape, regime);
                for (size_t r = 0; r < (k % 5 ? 1 : sizeof rules / sizeof *rules); r++) {
                    float expected[MATRIX_BEFORE + ROWS], *y = check_output();
                    const size_t row = matrix.row;
                    run_runtime(check_definitions(), &matrix, rules[r], row, row + ROWS, expected);
                    run_runtime(candidate->kernels, &matrix, rules[r], row + FIRST, row + END, y);
                    check_compare(check, expected, y, row + FIRST, row + END, false,
                                  "K = %u, block %u, %s, sum %d, dequant %d: row", k, matrix.weight.block,
                                  check_regime_name(regime), (int)rules[r].sum, (int)rules[r].dequant);
                }
            }
}
