// The tiles of many tokens: each against the scalar kernel of one token, bit for bit, for every format, panels and
// tails of inputs, whole and broken groups of tokens, a block of rows and a rest.
#include <stdio.h>

#include "harness/base/half.h"
#include "tests/kernels/matrix.h"

// One row before and one after must stay untouched.
enum { FIRST = 1, END = FIRST + LINEAR_BLOCK_ROWS + 2, ROWS = END + 1 };

static const uint32_t LENGTHS[] = {1, 31, 32, 33, 191, 192, 1000, 1024, 1056, 2079};
static const uint32_t WIDTHS[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 33, 64, 65, 257};
// A tile that has no kernel of one token beside it, the definition's or a wrong one, has FEW_WIDTHS: it is slow.
enum {
    N_LENGTHS = sizeof LENGTHS / sizeof *LENGTHS,
    N_WIDTHS = sizeof WIDTHS / sizeof *WIDTHS,
    FEW_WIDTHS = 10,
    FEW_TOKENS = 16
};

// y [tokens, ROWS], a token at a time: the first FEW_TOKENS by the definition, the others by the instruction set's
// own kernel, which check_reference_linear holds against it.
static void expect(const struct matrix *matrix, linear_fn rows, uint32_t tokens, float *y)
{
    const uint32_t k = matrix->weight.cols;
    for (size_t t = 0; t < tokens; t++) {
        struct linear_input input = {.split = check_fenced(FENCE_SPLIT, linear_split_size(k) * sizeof(float))};
        linear_input_set(&input, matrix->x + t * k, k);
        (t < FEW_TOKENS ? check_definition(matrix->weight.format) : rows)(&matrix->weight, &input, 0, ROWS,
                                                                          y + t * ROWS);
    }
}

static void compare(struct check *check, const struct linear_tile *tile, const struct matrix *matrix, uint32_t tokens,
                    enum regime regime, const float *expected)
{
    const uint32_t k = matrix->weight.cols;
    const size_t floats = linear_batch_size(k, tokens), outputs = (size_t)tokens * ROWS;
    const float poison = float_from_bits(0x4B1D4B1D);
    struct linear_batch batch = {.packed = check_fenced(FENCE_PACKED, floats * sizeof(float))};
    float *y = check_fenced(FENCE_OUTPUT, outputs * sizeof *y);
    char where[96];
    snprintf(where, sizeof where, "K = %u, block %u, %s, %u tokens: output", k, matrix->weight.block,
             check_regime_name(regime), tokens);
    for (size_t i = 0; i < floats; i++)
        batch.packed[i] = float_from_bits(FLOAT_NAN_BITS); // what is not packed must not be read
    for (size_t i = 0; i < outputs; i++)
        y[i] = poison;
    linear_batch_pack(&batch, tile, 0, linear_batch_set(&batch, matrix->x, k, tokens));
    linear_tile_rows(tile, &matrix->weight, &batch, FIRST, END, y);
    for (size_t i = 0; i < outputs; i++) {
        const bool inside = i % ROWS >= FIRST && i % ROWS < END;
        check_value(check, inside ? expected[i] : poison, y[i], !inside, where, (ptrdiff_t)i);
        check->compared += inside;
    }
}

void check_reference_tile(struct check *check, const struct candidate *candidate)
{
    static float expected[257 * ROWS];
    const size_t n_widths = candidate->rows ? N_WIDTHS : FEW_WIDTHS;
    const uint32_t most = WIDTHS[n_widths - 1];
    for (size_t i = 0; i < N_LENGTHS; i++)
        for (uint32_t block = 0; matrix_next_block(candidate->format, LENGTHS[i], &block);) {
            // each regime once, and the ordinary one always
            const enum regime regimes[] = {REGIME_ORDINARY, (enum regime)(1 + i % (REGIMES - 1))};
            for (size_t j = 0; j < 2; j++) {
                const struct matrix_shape shape = {candidate->format, ROWS, LENGTHS[i], block, most, false};
                const struct matrix matrix = matrix_make(check, &shape, regimes[j]);
                expect(&matrix, candidate->rows, most, expected);
                for (size_t w = 0; w < n_widths && !check_settled(check); w++)
                    compare(check, candidate->tile, &matrix, WIDTHS[w], regimes[j], expected);
            }
        }
}
