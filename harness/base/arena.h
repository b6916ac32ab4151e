// arena: memory that lives and dies together. One arena per model, per run, per case; none is used inside a step.
#ifndef ASSAY_ARENA_H
#define ASSAY_ARENA_H

#include <stddef.h>

#include "harness/base/error.h"

struct arena_block;

// {0} is an empty arena, ready for use.
struct arena {
    struct arena_block *newest;
    size_t bytes; // handed out so far
};

// `count` x `size` zeroed bytes, aligned to 64, valid until arena_close. NULL when the product overflows or memory is
// exhausted. Never returns NULL for a request of zero bytes.
void *arena_alloc(struct arena *arena, size_t count, size_t size);

// A printed copy of the text; NULL when memory is exhausted.
char *arena_print(struct arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);

// Frees everything; the arena is empty and usable again. Safe on {0} and twice.
void arena_close(struct arena *arena);

#endif
