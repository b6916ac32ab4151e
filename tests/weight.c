// The exact values of quantized weights. The other formats: model.c.
#include <criterion/criterion.h>
#include <stdbool.h>
#include <string.h>

#include "harness/model/weight.h"

Test(weight, elements_of_codes_are_code_times_scale_exactly)
{
    // two rows of 64: blocks of 32 with scales 0.5, 2^-24 (the smallest half), -0.099976 (0xAE66) and 65504
    static const uint16_t scales[] = {0x3800, 0x0001, 0xAE66, 0x7BFF};
    int8_t q8[2 * 64];
    uint8_t q4[2 * 32];
    float row[64];
    for (int i = 0; i < 128; i++) {
        q8[i] = (int8_t)(2 * i - 128);
        if (i % 2 == 0)
            q4[i / 2] = (uint8_t)((i / 2 % 16) | (15 - i / 2 % 16) << 4); // low nibble first
    }
    const struct weight eight = {
        .name = "w", .format = WEIGHT_Q8, .rows = 2, .cols = 64, .data = q8, .scale = scales, .block = 32};
    const struct weight four = {
        .name = "w", .format = WEIGHT_Q4, .rows = 2, .cols = 64, .data = q4, .scale = scales, .block = 32};
    static const double exact[] = {0.5, 0x1p-24, -0x1.998p-4, 65504};
    for (uint32_t r = 0; r < 2; r++) {
        for (uint32_t c = 0; c < 64; c++) {
            const int i = (int)(r * 64 + c), low = i / 2 % 16, nibble = c % 2 ? 15 - low : low;
            const double scale = exact[i / 32];
            cr_assert_eq((double)weight_at(&eight, r, c), (2 * i - 128) * scale);
            cr_assert_eq((double)weight_at(&four, r, c), (nibble < 8 ? nibble : nibble - 16) * scale);
        }
    }
    weight_row(&four, 1, row);
    for (uint32_t c = 0; c < 64; c++)
        cr_assert_eq(row[c], weight_at(&four, 1, c));
    const struct weight odd = {
        .name = "w", .format = WEIGHT_Q4, .rows = 2, .cols = 3, .data = q4, .scale = scales, .block = 3};
    cr_assert_eq(weight_row_bytes(&odd), 2); // the second row begins at a whole byte
    cr_assert_eq(weight_at(&odd, 1, 0), 2 * 0x1p-24F);
}

// Parts are widened block by block; elements one by one are the definition, A4's with an fma.
Test(weight, a_part_of_a_row_has_the_bits_of_its_elements)
{
    enum { ROWS = 40, COLS = 64 };
    static const uint16_t halves[] = {0x3800, 0x0001, 0xAE66, 0x7BFF, 0x03FF, 0x7C00, 0x8000}; // subnormals, Inf, -0
    static uint8_t codes[ROWS * COLS];
    static uint16_t scale[ROWS * COLS / 32], bias[ROWS * COLS / 32], lut[2 * 256];
    for (size_t i = 0; i < sizeof codes; i++)
        codes[i] = (uint8_t)(i * 37 + i / 61);
    for (size_t i = 0; i < ROWS * COLS / 32; i++) {
        scale[i] = halves[i % 7];
        bias[i] = halves[i / 7 % 5];
    }
    for (size_t i = 0; i < sizeof lut / sizeof *lut; i++)
        lut[i] = (uint16_t)(i * 131);
    const enum weight_format formats[] = {WEIGHT_Q8, WEIGHT_Q4, WEIGHT_A4, WEIGHT_K8, WEIGHT_K4};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        const bool book = formats[f] == WEIGHT_K8 || formats[f] == WEIGHT_K4;
        const struct weight weight = {.name = "w", .format = formats[f], .rows = ROWS, .cols = COLS, .data = codes,
            .scale = book ? NULL : scale, .bias = formats[f] == WEIGHT_A4 ? bias : NULL, .lut = book ? lut : NULL,
            .block = book ? 0 : 32};
        for (uint32_t row = 0; row < ROWS; row++)
            for (uint32_t first = 0; first < COLS; first += 7) {
                float part[COLS + 1] = {[COLS] = 3};
                weight_part(&weight, row, first, COLS - first, part + first);
                for (uint32_t col = first; col < COLS; col++) {
                    const float element = weight_at(&weight, row, col);
                    cr_assert_eq(memcmp(&part[col], &element, sizeof element), 0, "%s, row %u, column %u: %a, %a",
                                 weight_format_name(formats[f]), row, col, (double)part[col], (double)element);
                }
                cr_assert_eq(part[COLS], 3);
            }
    }
}
