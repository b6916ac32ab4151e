// profile: where the time of a step goes, and which bytes it reads, by operator.
//
// Engines are not changed for it: the tap points that they have anyway are the borders between operators, and a hook
// around every linear layer says which one it was. Without a sink and a hook there is nothing to pay; with them a
// step takes some 10 microseconds more, and its bits are the same (tap.h).
#ifndef ASSAY_PROFILE_H
#define ASSAY_PROFILE_H

#include <stddef.h>
#include <stdint.h>

#include "harness/model/model.h"
#include "harness/run/tap.h"

// What an engine calls around a linear layer, on the caller's thread. weight NULL: no layer, but the packing of a
// batch's inputs for those that follow.
struct profile_hook {
    void *context;
    void (*begin)(void *context);
    void (*end)(void *context, const struct weight *weight);
};

static inline void profile_begin(const struct profile_hook *hook)
{
    if (hook)
        hook->begin(hook->context);
}

static inline void profile_end(const struct profile_hook *hook, const struct weight *weight)
{
    if (hook)
        hook->end(hook->context, weight);
}

struct profile_row {
    char name[32]; // "norm", "attention"; of a linear layer its name without layer and ".weight": "feed_forward.w1"
    uint64_t calls;
    uint64_t bytes; // read: weights, the embedding's row, keys and values, the delta net's state; activations stay in
                    // the caches
    double seconds;
};

enum { PROFILE_ROWS = 48 };

struct profile {
    const struct model *model; // borrowed
    size_t state_bytes;        // of one value of the keys and values and of the delta net's state
    struct tap_sink sink;      // to be given to the engine's step
    struct profile_hook hook;  // to be given to the engine when it is opened
    struct profile_row rows[PROFILE_ROWS];
    size_t n;
    uint32_t position;
    double mark, began; // when the last operator ended; when the linear layer at hand began
    double inside;      // seconds of linear layers since mark
};

// `profile` must stay where it is while an engine has its hook.
void profile_open(struct profile *profile, const struct model *model, size_t state_bytes);

// Around one step of an engine at `position`, whose step is given &profile->sink.
void profile_start(struct profile *profile, uint32_t position);
void profile_stop(struct profile *profile);

// The row of that name; NULL when there is none.
const struct profile_row *profile_find(const struct profile *profile, const char *name);

#endif
