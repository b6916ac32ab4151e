// input: where a fuzz target puts its bytes, for readers that want a path. A file in memory, rewritten for every
// input; a scratch directory for readers that look at a name or at neighbours.
#ifndef ASSAY_FUZZ_INPUT_H
#define ASSAY_FUZZ_INPUT_H

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness/base/files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A path whose file now holds the input.
static inline const char *input_path(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("input", 0);
        assert(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    const int emptied = ftruncate(fd, 0);
    assert(!emptied);
    const ssize_t written = pwrite(fd, data, size, 0);
    assert(written == (ssize_t)size);
    return path;
}

static struct arena input_arena; // of the scratch directory's name, for the life of the process
static char *input_scratch;

static inline void input_remove(void)
{
    directory_remove(input_scratch);
    arena_close(&input_arena);
}

// The scratch directory, made on the first call and removed at exit.
static inline const char *input_directory(void)
{
    if (!input_scratch) {
        const int made = directory_scratch(&input_arena, &input_scratch, NULL);
        assert(!made);
        atexit(input_remove);
    }
    return input_scratch;
}

// A name in the scratch directory behind which input_path's file stands.
static inline void input_link(char path[256], const char *name)
{
    snprintf(path, 256, "%s/%s", input_directory(), name);
    const int linked = symlink(input_path((const uint8_t *)"", 0), path);
    assert(!linked);
}

#endif
