// engine: the portable int8 runtime as an engine, every rounding point of arithmetic.md 3.
#ifndef ASSAY_RUNTIME_ENGINE_H
#define ASSAY_RUNTIME_ENGINE_H

#include "harness/base/isa.h"
#include "harness/base/pool.h"
#include "harness/model/model.h"
#include "harness/run/engine.h"
#include "harness/run/profile.h"
#include "runtime/fault.h"
#include "runtime/plan.h"

struct runtime_options {
    struct pool *pool;       // NULL: one thread. Borrowed.
    enum isa isa;
    uint32_t capacity;       // positions
    const char *name;        // "int8", "fp16", "expected". Borrowed.
    const struct plan *plan; // copied
    enum fault fault;
    const struct profile_hook *profile; // NULL: none. Borrowed.
};

// `model` comes from a bundle (runtime/bundle.h) and is borrowed. ERROR_USAGE: a fault that could change nothing in
// this model (fault_applies) or under this plan. On failure *engine is NULL.
int runtime_open(struct engine **engine, const struct model *model, const struct runtime_options *options,
                 struct error *error);

#endif
