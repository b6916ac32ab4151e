#include "harness/base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_ALIGNMENT = 64, ARENA_BLOCK_BYTES = 1 << 16 };

struct arena_block {
    struct arena_block *older;
    size_t used; // from the start of the block, header included
    size_t size;
};

static size_t round_up(size_t bytes)
{
    return (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
}

void *arena_alloc(struct arena *arena, size_t count, size_t size)
{
    if (size && count > (SIZE_MAX - 4 * ARENA_ALIGNMENT) / size)
        return NULL;
    const size_t asked = count * size;
    const size_t bytes = round_up(asked ? asked : 1);
    const size_t header = round_up(sizeof(struct arena_block));
    struct arena_block *block = arena->newest;
    if (!block || block->size - block->used < bytes) {
        const size_t total = header + bytes > ARENA_BLOCK_BYTES ? header + bytes : ARENA_BLOCK_BYTES;
        // aligned_alloc does not zero; large blocks are zeroed once here and never reused before arena_close
        block = aligned_alloc(ARENA_ALIGNMENT, total);
        if (!block)
            return NULL;
        memset(block, 0, total);
        block->older = arena->newest;
        block->used = header;
        block->size = total;
        arena->newest = block;
    }
    void *memory = (unsigned char *)block + block->used;
    block->used += bytes;
    arena->bytes += bytes;
    return memory;
}

char *arena_print(struct arena *arena, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    const int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : arena_alloc(arena, (size_t)length + 1, 1);
    if (text)
        vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

void arena_close(struct arena *arena)
{
    while (arena->newest) {
        struct arena_block *block = arena->newest;
        arena->newest = block->older;
        free(block);
    }
    arena->bytes = 0;
}
