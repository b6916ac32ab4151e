#include "harness/run/tap.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const char *const point_names[TAP_POINTS] = {
    [TAP_EMBED] = "embed",   [TAP_IN] = "in",           [TAP_NORM] = "norm",       [TAP_Q] = "q",
    [TAP_K] = "k",           [TAP_V] = "v",             [TAP_BETA] = "beta",       [TAP_G] = "g",
    [TAP_CORE] = "core",     [TAP_ATTN] = "attn",       [TAP_BX] = "bx",           [TAP_CONV] = "conv",
    [TAP_MIXER] = "mixer",   [TAP_RESID] = "resid",     [TAP_FFN_NORM] = "ffn_norm", [TAP_ROUTER] = "router",
    [TAP_EXPERTS] = "experts", [TAP_WEIGHTS] = "weights", [TAP_FFN] = "ffn",       [TAP_OUT] = "out",
    [TAP_FINAL_NORM] = "final_norm",
};

static const char *const level_names[TAP_LEVELS] = {
    [TAPS_NONE] = "none", [TAPS_ROUTER] = "router", [TAPS_LAYERS] = "layers", [TAPS_ALL] = "all"};

const char *tap_level_name(enum tap_level level)
{
    assert(level < TAP_LEVELS);
    return level_names[level];
}

bool tap_level_parse(const char *name, enum tap_level *level)
{
    for (*level = TAPS_NONE; *level < TAP_LEVELS; (*level)++)
        if (!strcmp(name, level_names[*level]))
            return true;
    return false;
}

static uint32_t attention_width(const struct config *config, enum tap_point point)
{
    switch (point) {
    case TAP_Q:
    case TAP_ATTN:
        return config->query_heads * config->head_width;
    case TAP_K:
    case TAP_V:
        return config->key_heads * config->head_width;
    default:
        return 0;
    }
}

static uint32_t delta_width(const struct config *config, enum tap_point point)
{
    switch (point) {
    case TAP_Q:
    case TAP_K:
        return config->delta_key_heads * config->delta_key_width;
    case TAP_V:
    case TAP_CORE:
        return config->delta_value_heads * config->delta_value_width;
    case TAP_BETA:
    case TAP_G:
        return config->delta_value_heads;
    default:
        return 0;
    }
}

static uint32_t mixer_width(const struct config *config, uint32_t layer, enum tap_point point)
{
    switch (config->mixers[layer]) {
    case MIXER_ATTENTION:
        return attention_width(config, point);
    case MIXER_DELTA:
        return delta_width(config, point);
    case MIXER_CONV:
        break;
    }
    return point == TAP_BX || point == TAP_CONV ? config->hidden : 0;
}

uint32_t tap_width(const struct config *config, enum tap_level level, uint32_t layer, enum tap_point point)
{
    assert(layer < config->layers);
    if (!tap_serves(level, point))
        return 0;
    if (point == TAP_EMBED || point == TAP_FINAL_NORM)
        return layer == 0 ? config->hidden : 0;
    if (point == TAP_ROUTER)
        return config_is_sparse(config, layer) ? config->experts : 0;
    if (point == TAP_EXPERTS || point == TAP_WEIGHTS)
        return config_is_sparse(config, layer) ? config->experts_per_token : 0;
    return tap_is_detail(point) ? mixer_width(config, layer, point) : config->hidden;
}

const char *tap_point_name(enum tap_point point)
{
    assert(point < TAP_POINTS);
    return point_names[point];
}

const char *tap_name(uint32_t layer, enum tap_point point, char text[48])
{
    if (point == TAP_EMBED || point == TAP_FINAL_NORM)
        snprintf(text, 48, "tap.%s", tap_point_name(point));
    else
        snprintf(text, 48, "tap.%u.%s", layer, tap_point_name(point));
    return text;
}
