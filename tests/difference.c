#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "runtime/difference.h"

static struct arena arena;

static void close_arena(void)
{
    arena_close(&arena);
}

TestSuite(difference, .fini = close_arena);

static const char *text_of(uint32_t rows, uint32_t n, const float *found, const float *expected)
{
    struct difference difference;
    difference_start(&difference, "values", "column");
    for (uint32_t r = 0; r < rows; r++)
        difference_row(&difference, r, n, found + r * n, expected + r * n);
    return difference_text(&arena, &difference);
}

static void says(const char *text, const char *expected)
{
    cr_assert_not_null(text);
    cr_assert_not_null(strstr(text, expected), "'%s' does not say '%s'", text, expected);
}

Test(difference, equal_bits_say_nothing_and_the_sign_of_zero_is_a_bit)
{
    const float zero[2] = {0.0f, 1.0f}, negative[2] = {-0.0f, 1.0f};
    cr_assert_null(text_of(1, 2, zero, zero));
    cr_assert_not_null(text_of(1, 2, negative, zero));
}

Test(difference, each_pattern_has_its_words)
{
    const float expected[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const struct {
        float found[8];
        const char *words;
    } cases[] = {
        {{1, 2, 3, 4, 80, 96, 112, 128}, "4 of 8 values differ, row 1: 16 x what is computed"},
        {{-1, -2, -3, -4, -5, -6, -7, -8}, "rows 0..1: of the opposite sign"},
        {{0, 0, 0, 0, 5, 6, 7, 8}, "row 0: all zero where 1..4 is computed"},
        {{1, 2, 3, 4, NAN, 6, 7, 8}, "1 is NaN or infinite"},
        {{1, 2, 3, 4, 5, INFINITY, NAN, 8}, "2 are NaN or infinite"},
        {{1, 1, 2, 3, 5, 5, 6, 7}, "left neighbour's"},
        {{2, 3, 4, 4, 6, 7, 8, 8}, "right neighbour's"},
        {{2, 1, 4, 3, 6, 5, 8, 7}, "neighbours exchanged"},
        {{-127, -126, -125, -124, 5, 6, 7, 8}, "128 off"},
        {{1, 2, 3, 4, 5, 6, 7, 9}, "the first, row 1 column 3, is 9 where 8 is computed; the largest distance is 1"},
        {{1, 2, 3, 4.5f, 5, 6, 70, 8},
         "the first, row 0 column 3, is 4.5 where 4 is computed; the largest distance is 63"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        says(text_of(2, 4, cases[i].found, expected), cases[i].words);
}

Test(difference, rows_apart_are_counted_and_not_called_a_range)
{
    float expected[10] = {0}, found[10] = {0};
    found[2] = 1;
    found[9] = 2;
    says(text_of(10, 1, found, expected), "in 2 rows from 2 to 9");
}

Test(difference, counts_are_grouped_by_three_digits)
{
    char text[32];
    cr_assert_str_eq(count_text(0, text), "0");
    cr_assert_str_eq(count_text(999, text), "999");
    cr_assert_str_eq(count_text(1000, text), "1,000");
    cr_assert_str_eq(count_text(UINT64_MAX, text), "18,446,744,073,709,551,615");
}
