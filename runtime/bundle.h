// bundle: a directory with a quantized model, laid out like Core AI's LanguageBundle (design.md 4, zoo.md 4.1).
//
//   metadata.json        metadata_version "0.2", kind "llm", name, language{}, source{}, compression{scheme, keep[],
//                        plan{}}, assay{}
//   tokenizer/           tokenizer.json, tokenizer_config.json and chat_template.jinja, when the checkpoint has them
//   config.json          byte copy of the checkpoint's
//   generation_config.json  likewise, when it has one: its stop tokens join those of config.json (stops.h)
//   precision.json       the precision plan
//   weights.safetensors  tensors at multiples of 256 bytes: NAME; or NAME.q8 or NAME.q4 with NAME.scale, with
//                        NAME.scale and NAME.bias, or with NAME.lut
#ifndef ASSAY_BUNDLE_H
#define ASSAY_BUNDLE_H

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/hash.h"
#include "harness/model/checkpoint.h"
#include "harness/model/model.h"
#include "runtime/plan.h"
#include "runtime/quant.h"

enum { BUNDLE_JSON_MAX = 1 << 20 }; // bytes of metadata.json, precision.json, config.json

struct bundle {
    struct arena arena;
    char *path;
    const char *name;            // of the metadata
    const struct scheme *scheme; // declared,
    const char *scheme_name;     // under this name (metadata.h)
    size_t n_keep;
    const char *const *keep;  // declared --keep patterns, in order
    struct plan plan;         // precision.json
    bool declared[PLAN_ROWS]; // rows whose departure from the default the metadata declares
    bool own;                 // made by assay: the audit demands equality
    struct config config;
    struct safetensors *weights;
    struct tensor_table table;
    struct model model;            // bound, quantized formats allowed
    char weights_sha256[HASH_HEX]; // of the source checkpoint, as the metadata says
    char config_sha256[HASH_HEX];  // likewise; equal to the file's
    char tokenizer_sha256[HASH_HEX];
    char *tokenizer_path; // NULL when there is none
};

// Refused: not a bundle, another metadata_version or kind, unknown scheme, config.json whose hash is not the
// metadata's, a scheme that the family does not have, a tensor whose stored form is not what the scheme's name says
// for it (format, block), stop tokens that are none, precision.json missing or unreadable, a declared plan row that
// the family does not have.
int bundle_open(struct bundle **bundle, const char *directory, struct error *error);
void bundle_close(struct bundle **bundle);

// SHA-256 of config.json, metadata.json, precision.json, weights.safetensors concatenated (cached, hash.h).
int bundle_hash(const struct bundle *bundle, char hex[HASH_HEX], struct error *error);

// Is this bundle made from that checkpoint? ERROR_CONTRACT names what differs: weights, config or tokenizer hash,
// with both.
int bundle_matches(const struct bundle *bundle, const struct checkpoint_hashes *hashes, struct error *error);

#endif
