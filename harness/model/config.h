// config: config.json of LFM2, LFM2-MoE, Qwen3.5 and Qwen3.5-MoE, every spelling of every release, into one plain
// struct.
//
// Sources: architecture.md 2.1-2.3, 3, 4.1, 5 and 15 (read in transformers 5.23.0, models/{lfm2,lfm2_moe,qwen3_5,
// qwen3_5_moe}/configuration_*.py). A field that is neither present nor defaulted by that code is an error, never a
// guess. What is legal there and cannot be computed here is refused by name: another rope_type, an odd rotary width,
// heads that do not divide (d by Hq without head_dim, Hq by Hkv, Hv by Hk), sliding attention, another activation
// than silu. Keys that the model ignores are ignored, whatever they hold.
//
// Qwen3.5 is released as a model of images and text: its text settings then stand in `text_config`. The vision part
// and the multi-token prediction head are left out, here and in model.h.
//
// Limits: any width and positions at most 2^24, L at most 1024, K at most 16, E at most 4096, V below 2^31, at most 8
// stop tokens.
//
// Dimensions, the same letters everywhere in this project:
//   T  tokens of a run, or positions so far        V  vocabulary
//   d  hidden size                                 L  layers
//   Hq, Hkv  query heads, key and value heads      dh head width
//   R  rotary width: the first R of dh are turned  F  feed-forward width
//   K  taps of the short or depthwise convolution
//   Hk, Hv, dk, dv  key heads and value heads of the delta net and their widths; C = 2 Hk dk + Hv dv its channels
//   E, k  experts, experts of a token              Fm, Fs width of an expert, of the shared expert
#ifndef ASSAY_CONFIG_H
#define ASSAY_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/json.h"

enum family { FAMILY_LFM2, FAMILY_LFM2_MOE, FAMILY_QWEN35, FAMILY_QWEN35_MOE };
const char *family_name(enum family family); // "lfm2", "lfm2_moe", "qwen3_5", "qwen3_5_moe"
// The family's name of a model_type ("qwen3_5_text": "qwen3_5"); of an unknown one the text itself.
const char *family_of_type(const char *model_type);

enum mixer { MIXER_CONV, MIXER_ATTENTION, MIXER_DELTA };

struct config {
    char model_type[32];          // as the file has it: "lfm2", "qwen3_5_text"
    enum family family;
    bool nested;                  // text_config: tensors under "model.language_model."
    uint32_t vocabulary;          // V
    uint32_t hidden;              // d
    uint32_t layers;              // L
    enum mixer *mixers;           // [L]
    float norm_eps;               // rounded to float as transformers adds it
    bool tied;                    // the head is the embedding (the checkpoint's tensors have the last word: model.h)
    // attention
    uint32_t query_heads;         // Hq, a multiple of key_heads
    uint32_t key_heads;           // Hkv
    uint32_t head_width;          // dh
    uint32_t rotary_width;        // R, even, at most dh; LFM2: dh
    double rope_theta;
    bool attention_bias;          // Qwen3.5: q, k, v and out projection
    uint32_t max_positions;
    // convolution
    uint32_t conv_taps;           // K
    bool conv_bias;               // LFM2: in_proj, conv and out_proj of the short convolution
    // gated delta net; 0 in LFM2
    uint32_t delta_key_heads;     // Hk
    uint32_t delta_value_heads;   // Hv, a multiple of Hk
    uint32_t delta_key_width;     // dk
    uint32_t delta_value_width;   // dv
    // feed-forward
    uint32_t feed_forward;        // F, effective (after block_auto_adjust_ff_dim); 0 when no layer is dense
    uint32_t dense_layers;        // how many come before those with experts; L without experts, 0 in Qwen3.5-MoE
    // experts, in the other layers; 0 without
    uint32_t experts;             // E
    uint32_t experts_per_token;   // k, at most E
    uint32_t expert_width;        // Fm
    uint32_t shared_width;        // Fs; 0: no shared expert
    bool expert_bias;             // added to the scores for the selection only
    bool expert_normalise;        // weights divided by their sum
    float expert_scale;           // routed_scaling_factor, rounded to float
    // tokens
    uint32_t n_eos;
    uint32_t eos[8];              // stop tokens; 0 of them is allowed
    int64_t bos;                  // -1: none
};

// From the parsed document. mixers lives in `arena`.
int config_read(struct arena *arena, struct json root, struct config *config, struct error *error);
// From DIR/config.json.
int config_open(struct arena *arena, const char *path, struct config *config, struct error *error);

static inline bool config_is_lfm2(const struct config *config)
{
    return config->family == FAMILY_LFM2 || config->family == FAMILY_LFM2_MOE;
}

static inline bool config_is_sparse(const struct config *config, uint32_t layer)
{
    return config->experts && layer >= config->dense_layers;
}

// C = 2 Hk dk + Hv dv, in the order q | k | v.
static inline uint32_t config_delta_channels(const struct config *config)
{
    return 2 * config->delta_key_heads * config->delta_key_width +
           config->delta_value_heads * config->delta_value_width;
}

// Channels of a layer's convolution; 0 for attention.
static inline uint32_t config_conv_channels(const struct config *config, uint32_t layer)
{
    const enum mixer mixer = config->mixers[layer];
    return mixer == MIXER_CONV ? config->hidden : mixer == MIXER_DELTA ? config_delta_channels(config) : 0;
}

#endif
