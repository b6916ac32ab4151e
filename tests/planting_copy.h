// planting_copy: the copy of a bundle that a fault changes before it is written.
#ifndef ASSAY_TESTS_PLANTING_COPY_H
#define ASSAY_TESTS_PLANTING_COPY_H

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "runtime/bundle.h"

struct copy {
    struct arena arena;
    const struct bundle *bundle;
    unsigned char *weights;  // bytes of weights.safetensors
    uint64_t size;           // of them, to be written
    char *config, *metadata; // texts
    struct plan plan;
    const struct weight *router; // to be stored as codes; NULL: as it is
};

// On failure the caller closes the arena, too. `bundle` stays open until the copy is written.
int copy_read(struct copy *copy, const struct bundle *bundle, struct error *error);
int copy_write(struct copy *copy, const char *directory, struct error *error);
// The copy's bytes of what `data` points at in the bundle's mapping.
void *copy_bytes(const struct copy *copy, const void *data);

#endif
