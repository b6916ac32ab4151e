// subject: what the command line named, opened and checked: the checkpoint and its model, and a bundle made from it.
#ifndef ASSAY_SUBJECT_H
#define ASSAY_SUBJECT_H

#include <stdbool.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/json.h"
#include "harness/cmd/options.h"
#include "harness/model/checkpoint.h"
#include "harness/model/model.h"
#include "harness/model/tokenizer.h"
#include "harness/run/trace.h"
#include "runtime/bundle.h"

struct subject {
    struct arena arena;
    struct checkpoint *checkpoint;
    struct checkpoint_hashes hashes;
    struct config config;
    struct model model;
    const char *head_note;        // NULL, or how an unusual head was bound
    struct tokenizer *tokenizer;  // NULL when the directory has none
    struct trace_contract contract; // model and hashes; the engine's fields are empty
};

// Opens MODEL. On failure nothing is held.
int subject_open(struct subject **subject, const char *model, struct error *error);
void subject_close(struct subject **subject);

// Whether a directory is a bundle (it has metadata.json and precision.json).
bool subject_is_bundle(const char *directory);

// The contract of a bundle's traces: its source's hashes, its own, and its name. Strings in `arena`.
int subject_bundle_contract(struct arena *arena, const struct bundle *bundle, struct trace_contract *contract,
                            struct error *error);

// A file that belongs to the program ("policies/release.json"): under $ASSAY_DATA, where it was installed, or in fixtures/ of
// the current directory, in this order. ERROR_INPUT names all three places.
int subject_data(struct arena *arena, const char *name, const char *option, const char **path, struct error *error);

// The standard suite of a family's tokenizer, found likewise: its texts are encoded by the model's own.
int subject_suite(struct arena *arena, const struct config *config, const char **path, struct error *error);

#endif
