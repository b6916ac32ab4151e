// exhaustion: the stages whose allocations are refused, and where they write.
#ifndef ASSAY_TESTS_EXHAUSTION_H
#define ASSAY_TESTS_EXHAUSTION_H

#include "harness/base/files.h"

// Runs to its end or fails; holds nothing afterwards. Whatever it writes goes below `folder`.
struct stage {
    const char *name;
    int (*run)(struct error *error);
};
extern const struct stage stages[]; // ends with {0}

extern const char *folder;

// What the stages start from, made without failures, with files in `directory`. Close it after a failure, too.
int stages_open(const char *directory, struct error *error);
void stages_close(void);

// DIRECTORY/NAME, valid for the next three calls: no arena, which a stage would grow.
const char *in(const char *directory, const char *name);

#endif
