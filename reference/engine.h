// engine: the fp32 reference as an engine. Its bits are a specification (design.md 3, arithmetic.md 1-2): equal for
// every instruction set, number of threads, with taps and without.
#ifndef ASSAY_REFERENCE_ENGINE_H
#define ASSAY_REFERENCE_ENGINE_H

#include "harness/base/isa.h"
#include "harness/base/pool.h"
#include "harness/model/model.h"
#include "harness/run/engine.h"
#include "harness/run/profile.h"

struct reference_options {
    struct pool *pool;    // NULL: one thread. Borrowed.
    enum isa isa;
    uint32_t capacity;    // positions
    const char *name;     // "reference", or "dequant" over a bundle's weights. Borrowed.
    const struct profile_hook *profile; // NULL: none. Borrowed.
};

// `model` is borrowed and may hold any weight format. On failure *engine is NULL.
int reference_open(struct engine **engine, const struct model *model, const struct reference_options *options,
                   struct error *error);

#endif
