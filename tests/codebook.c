#include "runtime/codebook.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "harness/base/half.h"
#include "tests/slow_experts.h"

static struct codebook fitted(const float *values, uint32_t n, uint32_t entries)
{
    struct codebook book;
    uint32_t *room = malloc(2 * (size_t)n * sizeof *room);
    codebook_fit(&book, entries, values, n, room);
    free(room);
    return book;
}

static void equals_slow_one(const float *values, uint32_t n, uint32_t entries)
{
    uint16_t slow[256];
    uint8_t *codes = malloc(n);
    const struct codebook book = fitted(values, n, entries);
    slow_book(values, n, entries, slow, codes, BOOK_BY_THE_PAGE);
    cr_assert_arr_eq(book.halves, slow, entries * sizeof *slow);
    for (uint32_t i = 0; i < n; i++)
        cr_assert_eq(codebook_index(&book, values[i]), codes[i], "value %u, %a", i, (double)values[i]);
    free(codes);
}

Test(codebook, fits_what_a_slow_one_fits_on_values_of_every_kind)
{
    enum { N = 700 };
    static float values[N];
    for (int kind = 0; kind < 5; kind++) {
        uint32_t state = 12345;
        for (int i = 0; i < N; i++) {
            state = state * 1664525u + 1013904223u;
            const float spread = (float)(int32_t)state * 0x1p-31f;
            // even; of many sizes; a few values only; one far away; both zeros and subnormals
            values[i] = kind == 0   ? spread
                        : kind == 1 ? spread * ldexpf(1, -(i % 20))
                        : kind == 2 ? (float)(state >> 30)
                        : kind == 3 ? (i == 333 ? 1000.0f : spread)
                                    : (i % 3 == 0   ? 0.0f
                                       : i % 3 == 1 ? -0.0f
                                                    : spread * 0x1p-130f);
        }
        equals_slow_one(values, N, 16);
        equals_slow_one(values, N, 256);
    }
}

Test(codebook, as_many_values_as_entries_are_kept_as_halves)
{
    float values[16];
    for (int i = 0; i < 16; i++)
        values[i] = (float)(i * i) * (i % 2 ? 0.25f : -0.25f);
    const struct codebook book = fitted(values, 16, 16);
    for (int i = 0; i < 16; i++)
        cr_assert_eq(book.entries[codebook_index(&book, values[i])], values[i]);
}

Test(codebook, a_value_between_two_entries_takes_the_lower_one)
{
    const float values[4] = {0.0f, 0.0f, 2.0f, 2.0f};
    const struct codebook book = fitted(values, 4, 2);
    cr_assert_eq(book.entries[0], 0.0f);
    cr_assert_eq(book.entries[1], 2.0f);
    cr_assert_eq(codebook_index(&book, 1.0f), 0);
    cr_assert_eq(codebook_index(&book, nextafterf(1.0f, 2.0f)), 1);
    cr_assert_eq(codebook_index(&book, -9.0f), 0);
    cr_assert_eq(codebook_index(&book, 9.0f), 1);
}

Test(codebook, one_value_alone_fills_every_entry_and_takes_the_first)
{
    const float values[3] = {0.5f, 0.5f, 0.5f};
    const struct codebook book = fitted(values, 3, 256);
    for (int j = 0; j < 256; j++)
        cr_assert_eq(book.entries[j], 0.5f);
    cr_assert_eq(codebook_index(&book, 0.5f), 0);
}

Test(codebook, the_order_of_the_values_does_not_matter)
{
    float values[999], reversed[999];
    for (int i = 0; i < 999; i++)
        reversed[998 - i] = values[i] = sinf((float)i) * 0.1f;
    const struct codebook book = fitted(values, 999, 256), other = fitted(reversed, 999, 256);
    cr_assert_arr_eq(book.halves, other.halves, sizeof book.halves);
}

// Each wrong one differs in what it stores, so the comparison above would see it.
Test(codebook, a_round_less_or_another_start_is_another_book)
{
    enum { N = 6144 }; // 32 rows of 192: fewer settle in nine rounds
    static float values[N];
    static uint8_t codes[N];
    uint32_t state = 3;
    for (int i = 0; i < 12 * N; i++) { // about normal: the sum of twelve even ones
        state = state * 1664525u + 1013904223u;
        values[i / 12] += (float)(int32_t)state * 0x1p-31f;
    }
    static const enum book_variant wrong[] = {BOOK_ROUND_LESS, BOOK_EVEN_START};
    const struct codebook book = fitted(values, N, 256);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint16_t slow[256];
        slow_book(values, N, 256, slow, codes, wrong[i]);
        cr_assert_neq(memcmp(book.halves, slow, sizeof slow), 0, "variant %d", (int)wrong[i]);
    }
}
