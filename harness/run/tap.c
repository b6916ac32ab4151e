#include "harness/run/tap.h"

#include <assert.h>
#include <stdio.h>

static const char *const point_names[TAP_POINTS] = {
    [TAP_EMBED] = "embed", [TAP_IN] = "in",       [TAP_NORM] = "norm",
    [TAP_Q] = "q",         [TAP_K] = "k",         [TAP_V] = "v",
    [TAP_ATTN] = "attn",   [TAP_BX] = "bx",       [TAP_CONV] = "conv",
    [TAP_MIXER] = "mixer", [TAP_RESID] = "resid", [TAP_FFN_NORM] = "ffn_norm",
    [TAP_FFN] = "ffn",     [TAP_OUT] = "out",     [TAP_FINAL_NORM] = "final_norm",
};

uint32_t tap_width(const struct config *config, enum tap_level level, uint32_t layer, enum tap_point point)
{
    assert(layer < config->layers);
    const bool is_attention = config->mixers[layer] == MIXER_ATTENTION;
    if (level == TAPS_NONE)
        return 0;
    switch (point) {
    case TAP_EMBED:
    case TAP_FINAL_NORM:
        return layer == 0 ? config->hidden : 0;
    case TAP_Q:
    case TAP_ATTN:
        return level == TAPS_ALL && is_attention ? config->query_heads * config->head_width : 0;
    case TAP_K:
    case TAP_V:
        return level == TAPS_ALL && is_attention ? config->key_heads * config->head_width : 0;
    case TAP_BX:
    case TAP_CONV:
        return level == TAPS_ALL && !is_attention ? config->hidden : 0;
    default:
        return config->hidden;
    }
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
