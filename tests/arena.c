// arena: zeroed, aligned, disjoint memory; overflow is refused.
#include "harness/base/arena.h"

#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

Test(arena, memory_is_zeroed_aligned_and_disjoint)
{
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4000, 65536, 1 << 20, 7, 100000, 3};
    enum { N = sizeof sizes / sizeof *sizes };
    struct arena arena = {0};
    unsigned char *memory[3 * N];
    for (size_t i = 0; i < 3 * N; i++) {
        const size_t size = sizes[i % N];
        memory[i] = arena_alloc(&arena, size, 1);
        cr_assert_not_null(memory[i]);
        cr_assert_eq((uintptr_t)memory[i] % 64, 0);
        for (size_t k = 0; k < size; k++)
            cr_assert_eq(memory[i][k], 0, "byte %zu of request %zu", k, i);
        memset(memory[i], (int)i + 1, size); // a later request that overlaps would not be zero, or would change this
    }
    for (size_t i = 0; i < 3 * N; i++)
        for (size_t k = 0; k < sizes[i % N]; k++)
            cr_assert_eq(memory[i][k], i + 1);
    cr_assert_geq(arena.bytes, 3 * ((1 << 20) + 65536));
    arena_close(&arena);
    arena_close(&arena);
    cr_assert_eq(arena.bytes, 0);
    cr_assert_not_null(arena_alloc(&arena, 8, 8)); // usable again
    arena_close(&arena);
}

Test(arena, a_product_that_overflows_is_refused)
{
    struct arena arena = {0};
    cr_assert_null(arena_alloc(&arena, SIZE_MAX, 2));
    cr_assert_null(arena_alloc(&arena, SIZE_MAX / 8 + 1, 8));
    cr_assert_null(arena_alloc(&arena, SIZE_MAX, 1)); // fits, but not with its header
    cr_assert_not_null(arena_alloc(&arena, SIZE_MAX, 0));
    cr_assert_not_null(arena_alloc(&arena, 0, SIZE_MAX));
    arena_close(&arena);
}

Test(arena, printed_texts_are_copies_of_any_length)
{
    struct arena arena = {0};
    char word[] = "abc";
    const char *printed = arena_print(&arena, "%s-%d", word, 7);
    word[0] = 'x';
    cr_assert_str_eq(printed, "abc-7");
    const char *wide = arena_print(&arena, "%*d", 200000, 5);
    cr_assert_eq(strlen(wide), 200000);
    cr_assert_str_eq(printed, "abc-7");
    arena_close(&arena);
}
