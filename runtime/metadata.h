// metadata: metadata.json of a bundle (zoo.md 4.1): which model, made how. Read strictly where assay wrote it, with
// tolerance for unknown keys where another tool did.
#ifndef ASSAY_METADATA_H
#define ASSAY_METADATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/files.h"
#include "harness/base/hash.h"
#include "harness/base/json.h"
#include "runtime/plan.h"
#include "runtime/quant.h"

#define METADATA_VERSION "0.2"

struct metadata {
    const char *name;       // "lfm2_mini_decode_int8hu_block32_sym"
    const char *tokenizer;  // language.tokenizer: a name for people
    const char *model;      // source.model, "" when another tool does not say
    const char *model_type; // source.model_definition, likewise
    uint32_t vocabulary, max_context;
    const struct scheme *scheme; // compression.scheme
    const char *scheme_name;     // as it is spelt there: the scheme's name or alias
    size_t n_keep;
    const char *const *keep;               // compression.keep, each checked by quant_keep_check
    bool declared[PLAN_ROWS];              // compression.plan names the row,
    enum precision declared_as[PLAN_ROWS]; // with this precision
    bool own;                              // has the key "assay"
    char weights_sha256[HASH_HEX];         // 64 lower-case digits; tokenizer_sha256 is "" when there is no tokenizer
    char config_sha256[HASH_HEX];
    char tokenizer_sha256[HASH_HEX];
};

// Text lives in `arena`. Refused, each with its key: a missing or wrong metadata_version or kind, no name, an
// incomplete language{}, hashes that are none, a compression that declares no scheme (null) or an unknown one, a name
// that ends in another scheme than the declared one (ERROR_CONTRACT), keep patterns and plan rows that do not exist.
int metadata_read(struct arena *arena, struct json root, struct metadata *metadata, struct error *error);
// The same object as JSON. Equal metadata gives equal bytes: no date.
int metadata_write(struct output *output, struct arena *arena, const struct metadata *metadata, struct error *error);

// "lfm2_5_1_2b_instruct_decode_int8lin" (zoo.md 4.2) for a model directory and a scheme, in the arena.
char *metadata_name(struct arena *arena, const char *model, const struct scheme *scheme);

#endif
