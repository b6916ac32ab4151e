// config: config.json of the LFM2 family, every spelling of every release, into one plain struct.
//
// Sources: architecture.md 2.1-2.3 and 15 (read in transformers 5.23.0, models/lfm2/configuration_lfm2.py). A field
// that is neither present nor defaulted by that code is an error, never a guess. What is legal there and cannot be
// computed here is refused by name: another rope_type, an odd head width, heads that do not divide (d by Hq without
// head_dim, Hq by Hkv), sliding attention. Keys that the model ignores are ignored, whatever they hold.
//
// Limits: d, F, Hq dh and positions at most 2^24, L at most 1024, K at most 16, V below 2^31, at most 8 stop tokens.
//
// Dimensions, the same letters everywhere in this project:
//   T  tokens of a run, or positions so far        V  vocabulary
//   d  hidden size                                 L  layers
//   Hq, Hkv  query heads, key and value heads      dh head width
//   F  feed-forward width                          K  taps of the short convolution
#ifndef ASSAY_CONFIG_H
#define ASSAY_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/json.h"

enum mixer { MIXER_CONV, MIXER_ATTENTION };

struct config {
    char model_type[32];          // "lfm2"
    uint32_t vocabulary;          // V
    uint32_t hidden;              // d
    uint32_t layers;              // L
    uint32_t query_heads;         // Hq, a multiple of key_heads
    uint32_t key_heads;           // Hkv
    uint32_t head_width;          // dh, even
    uint32_t feed_forward;        // F, effective (after block_auto_adjust_ff_dim)
    uint32_t conv_taps;           // K
    bool conv_bias;               // in_proj, conv and out_proj of the short convolution
    bool tied;                    // the head is the embedding (the checkpoint's tensors have the last word: model.h)
    float norm_eps;               // rounded to float as transformers adds it
    double rope_theta;
    uint32_t max_positions;
    enum mixer *mixers;           // [L]
    uint32_t n_eos;
    uint32_t eos[8];              // stop tokens; 0 of them is allowed
    int64_t bos;                  // -1: none
};

// From the parsed document. mixers lives in `arena`.
int config_read(struct arena *arena, struct json root, struct config *config, struct error *error);
// From DIR/config.json.
int config_open(struct arena *arena, const char *path, struct config *config, struct error *error);

#endif
