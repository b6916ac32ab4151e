// checkpoint: are these the bytes we think? A directory with config.json, one model.safetensors or shards with an
// index, and perhaps tokenizer.json. Nothing here interprets a tensor.
#ifndef ASSAY_CHECKPOINT_H
#define ASSAY_CHECKPOINT_H

#include <stddef.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/hash.h"
#include "harness/model/safetensors.h"

// Named tensors from any number of files, sorted by name: what model.h binds weights from.
struct tensor_table {
    size_t n;
    const struct tensor *const *tensors;
};
size_t tensor_table_index(const struct tensor_table *table, const char *name); // n when absent
const struct tensor *tensor_table_find(const struct tensor_table *table, const char *name); // NULL when absent

struct checkpoint {
    struct arena arena;
    char *path;                 // of the directory
    char *name;                 // its last component
    struct tensor_table table;
    struct safetensors **files; // [n_files], ascending file name
    size_t n_files;
    char *config_path;
    char *tokenizer_path;       // NULL when there is no tokenizer.json
};

// Refused, each with its own sentence: not a directory, no config.json, neither model.safetensors nor an index, a
// shard that the index names and is missing or whose name is no plain file name, a tensor in another shard than the
// index says, in two shards, in none, or unnamed by it. Where both are there, model.safetensors is read and the index
// is not, as in transformers. A bundle directory is refused with the hint that it is one. On failure *checkpoint is
// NULL.
int checkpoint_open(struct checkpoint **checkpoint, const char *directory, struct error *error);
void checkpoint_close(struct checkpoint **checkpoint);

// The contract's hashes (oracles/README: weights = the safetensors files concatenated in ascending file name).
// Computed on the first call, then cached (hash.h). tokenizer is "" when there is none.
struct checkpoint_hashes {
    char weights[HASH_HEX], config[HASH_HEX], tokenizer[HASH_HEX];
};
int checkpoint_hash(const struct checkpoint *checkpoint, struct checkpoint_hashes *hashes, struct error *error);

#endif
