// Experts' codes in the reference (WEIGHT_A4, K8, K4): the bits of the definition, one token at a time and in batches.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/linear.h"

enum { ROWS = 70, COLS = 96, TOKENS = 9 }; // three books, the last one begun

static uint32_t next(void)
{
    static uint64_t state = UINT64_C(0x9E3779B97F4A7C15);
    state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static float unit(void) // [-1, 1)
{
    return (float)(int32_t)next() * 0x1p-31f;
}

static struct weight make(enum weight_format format)
{
    static uint8_t codes[ROWS * COLS];
    static uint16_t scale[ROWS * COLS / 32], bias[ROWS * COLS / 32], lut[3 * 256];
    struct weight made = {.name = "w", .format = format, .rows = ROWS, .cols = COLS, .data = codes};
    for (size_t i = 0; i < sizeof codes; i++)
        codes[i] = (uint8_t)next();
    for (size_t i = 0; i < ROWS * COLS / 32; i++) {
        scale[i] = half_from_float(0.1f * unit());
        bias[i] = half_from_float(unit());
    }
    for (size_t i = 0; i < sizeof lut / sizeof *lut; i++)
        lut[i] = half_from_float(unit());
    if (format == WEIGHT_A4) {
        made.scale = scale;
        made.bias = bias;
        made.block = 32;
    } else {
        made.lut = lut;
    }
    return made;
}

Test(codes, a_batch_gives_the_bits_of_one_token_at_a_time)
{
    const enum weight_format formats[] = {WEIGHT_A4, WEIGHT_K8, WEIGHT_K4};
    static float x[TOKENS * COLS], bias[ROWS], expected[TOKENS * ROWS], y[TOKENS * ROWS];
    struct pool *pool;
    cr_assert_eq(pool_open(&pool, 2, NULL), 0);
    for (size_t i = 0; i < TOKENS * COLS; i++)
        x[i] = unit();
    for (size_t i = 0; i < ROWS; i++)
        bias[i] = unit();
    x[COLS + 5] = NAN;
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int f = 0; isa_available((enum isa)isa) && f < 3; f++) {
            const struct weight weight = make(formats[f]);
            struct linear linear;
            linear_open(&linear, (enum isa)isa, pool);
            struct linear_batch batch = {.packed = aligned_alloc(64, linear_batch_size(COLS, TOKENS) * sizeof *x)};
            linear_pack(&linear, &batch, x, COLS, TOKENS);
            linear_run_batch(&linear, &weight, bias, &batch, y);
            for (size_t t = 0; t < TOKENS; t++) {
                struct linear_input input = {.split = NULL};
                linear_input_set(&input, x + t * COLS, COLS);
                linear_run(&linear, &weight, bias, &input, expected + t * ROWS);
            }
            for (size_t i = 0; i < TOKENS * ROWS; i++)
                cr_assert(isnan(expected[i]) ? isnan(y[i]) : memcmp(&y[i], &expected[i], sizeof *y) == 0,
                          "%s, %s, token %zu, row %zu", weight_format_name(formats[f]), isa_name((enum isa)isa),
                          i / ROWS, i % ROWS);
            cr_assert(isnan(y[ROWS]) && !isnan(y[0]) && y[0] != y[2 * ROWS], "control: tokens differ");
            free(batch.packed);
        }
    pool_close(&pool);
}

// Rows are widened for F32's kernels, unless they are too long for that.
Test(codes, rows_of_every_length_have_the_bits_of_the_definition)
{
    enum { WIDEST = 8224, TALL = 33, FEW = 3 };
    const uint32_t widths[] = {32, 70, 96, 8192, WIDEST};
    const enum weight_format formats[] = {WEIGHT_A4, WEIGHT_K8, WEIGHT_K4};
    static uint8_t codes[TALL * WIDEST];
    static uint16_t scale[TALL * WIDEST / 32], bias[TALL * WIDEST / 32], lut[2 * 256];
    static float x[FEW * WIDEST];
    for (size_t i = 0; i < sizeof codes; i++)
        codes[i] = (uint8_t)next();
    for (size_t i = 0; i < sizeof scale / sizeof *scale; i++) {
        scale[i] = half_from_float(0.1f * unit());
        bias[i] = half_from_float(unit());
    }
    for (size_t i = 0; i < sizeof lut / sizeof *lut; i++)
        lut[i] = half_from_float(unit());
    for (size_t i = 0; i < FEW * WIDEST; i++)
        x[i] = unit();
    for (size_t c = 0; c < 15; c++) {
        const uint32_t cols = widths[c / 3];
        struct weight weight = {.name = "w", .format = formats[c % 3], .rows = TALL, .cols = cols, .data = codes,
                                .lut = c % 3 ? lut : NULL};
        if (c % 3 == 0 && cols % 32)
            continue; // blocks need whole ones
        if (c % 3 == 0) {
            weight.scale = scale;
            weight.bias = bias;
            weight.block = 32;
        }
        const struct linear_kernel *definition = linear_kernels;
        while (definition->format != weight.format)
            definition++;
        float expected[FEW * TALL], y[FEW * TALL], batched[FEW * TALL];
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            struct linear linear;
            if (!isa_available((enum isa)isa))
                continue;
            linear_open(&linear, (enum isa)isa, NULL);
            for (size_t t = 0; t < FEW; t++) {
                struct linear_input input = {.split = NULL};
                linear_input_set(&input, x + t * cols, cols);
                definition->rows(&weight, &input, 0, TALL, expected + t * TALL);
                linear_run(&linear, &weight, NULL, &input, y + t * TALL);
            }
            struct linear_batch batch = {.packed = aligned_alloc(64, linear_batch_size(cols, FEW) * sizeof *x)};
            linear_pack(&linear, &batch, x, cols, FEW);
            linear_run_batch(&linear, &weight, NULL, &batch, batched);
            free(batch.packed);
            cr_assert_arr_eq(y, expected, sizeof y, "%s, %u", weight_format_name(weight.format), cols);
            cr_assert_arr_eq(batched, expected, sizeof y, "%s, %u, batch", weight_format_name(weight.format), cols);
        }
    }
}
