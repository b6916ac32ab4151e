// config_fields: what the families' config.json have in common; for config.c, config_lfm2.c and config_qwen35.c.
#ifndef ASSAY_CONFIG_FIELDS_H
#define ASSAY_CONFIG_FIELDS_H

#include "harness/model/config.h"

// Limits that keep every product of two sizes far inside 64 bits and every matrix dimension inside 32. The largest
// released model has d = 5120, F = 17408, V = 248,320, L = 64.
enum {
    CONFIG_WIDTH_MAX = 1 << 24, // any width; positions too: beyond it float32 no longer counts them one by one
    CONFIG_LAYERS_MAX = 1024,
    CONFIG_TAPS_MAX = 16,
    CONFIG_EXPERTS_MAX = 4096,
};

// A field that may be absent, with transformers' default.
int config_u32_or(struct json root, const char *key, uint32_t low, uint32_t high, uint32_t absent, uint32_t *out,
                  struct error *error);
int config_bool_or(struct json root, const char *key, bool absent, bool *out, struct error *error);
// A number in [0, FLT_MAX]: what enters float arithmetic.
int config_amount_or(struct json root, const char *key, double absent, double *out, struct error *error);

struct config_size {
    const char *key;
    uint32_t high, absent;
    uint32_t *out;
};
// Each from 1 to `high`.
int config_sizes(struct json root, const struct config_size *sizes, size_t n, struct error *error);

// Hkv, Hq and dh belong together; dh was read before.
int config_check_heads(struct json root, const struct config *config, struct error *error);

// layer_types: [L] of "full_attention" and `other`, which means `mixer`. config->mixers is there.
int config_layer_types(struct json list, const char *other, enum mixer mixer, struct config *config,
                       struct error *error);
int config_make_mixers(struct arena *arena, struct json root, struct config *config, struct error *error);

// rope_theta, and partial_rotary_factor (`partial` is its default; 1: the family knows no such key) into rotary_width. rope_scaling (the whole dict)
// over rope_parameters; a key missing inside comes from the top level, then from the default.
int config_rope(struct json root, double theta, double partial, struct config *config, struct error *error);

// Stop tokens and BOS. The defaults stand for absent keys; null means none.
int config_tokens(struct json root, int64_t bos, int64_t eos, struct config *config, struct error *error);

int config_lfm2(struct arena *arena, struct json root, struct config *config, struct error *error);
int config_qwen35(struct arena *arena, struct json root, struct config *config, struct error *error);

#endif
