// tap: the named intermediate values of a forward pass. Points and layouts: fixtures/oracles/README.md.
//
// An engine hands each row to a sink as it computes it and must give the same bits with and without one (tested).
#ifndef ASSAY_TAP_H
#define ASSAY_TAP_H

#include <stdbool.h>
#include <stdint.h>

#include "harness/model/config.h"

// router: the three points of layers with experts alone, which is what a gate of such a model records of every position.
enum tap_level { TAPS_NONE, TAPS_ROUTER, TAPS_LAYERS, TAPS_ALL, TAP_LEVELS };
const char *tap_level_name(enum tap_level level);                // "none", "router", "layers", "all"
bool tap_level_parse(const char *name, enum tap_level *level); // false: no level of that name

enum tap_point { // in the order of computation inside a layer
    TAP_EMBED, TAP_IN, TAP_NORM,
    TAP_Q, TAP_K, TAP_V,             // attention and delta net, level all
    TAP_BETA, TAP_G, TAP_CORE,       // delta net, level all
    TAP_ATTN,                        // attention, level all
    TAP_BX, TAP_CONV,                // short convolution, level all
    TAP_MIXER, TAP_RESID, TAP_FFN_NORM,
    TAP_ROUTER, TAP_EXPERTS, TAP_WEIGHTS, // layers with experts, levels router and all; the ids of the experts as floats
    TAP_FFN, TAP_OUT, TAP_FINAL_NORM,
    TAP_POINTS
};

static inline int tap_is_router(enum tap_point point)
{
    return point >= TAP_ROUTER && point <= TAP_WEIGHTS;
}

// Points that level layers leaves out.
static inline int tap_is_detail(enum tap_point point)
{
    return (point >= TAP_Q && point <= TAP_CONV) || tap_is_router(point);
}

static inline int tap_serves(enum tap_level level, enum tap_point point)
{
    return level == TAPS_ALL || (level == TAPS_LAYERS && !tap_is_detail(point)) ||
           (level == TAPS_ROUTER && tap_is_router(point));
}

struct tap_sink {
    enum tap_level level;
    void *context;
    // row: `width` values of the current token; layer is 0 for embed and final_norm.
    void (*put)(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width);
};

// Is the row stored as integers? (the ids of the experts, exact as floats)
static inline int tap_is_integer(enum tap_point point)
{
    return point == TAP_EXPERTS;
}

// Width of a row, or 0 when layer `layer` has no such point at `level`. embed and final_norm belong to layer 0.
uint32_t tap_width(const struct config *config, enum tap_level level, uint32_t layer, enum tap_point point);
const char *tap_point_name(enum tap_point point); // "ffn_norm"
// "tap.embed", "tap.3.mixer".
const char *tap_name(uint32_t layer, enum tap_point point, char text[48]);

// What an engine calls: nothing happens for a NULL sink or a point above its level.
static inline void tap(const struct tap_sink *sink, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    if (sink && tap_serves(sink->level, point))
        sink->put(sink->context, layer, point, row, width);
}

#endif
