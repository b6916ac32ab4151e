// tap: the named intermediate values of a forward pass. Points and layouts: fixtures/oracles/README.md.
//
// An engine hands each row to a sink as it computes it and must give the same bits with and without one (tested).
#ifndef ASSAY_TAP_H
#define ASSAY_TAP_H

#include <stdint.h>

#include "harness/model/config.h"

enum tap_level { TAPS_NONE, TAPS_LAYERS, TAPS_ALL };

enum tap_point { // in the order of computation inside a layer
    TAP_EMBED, TAP_IN, TAP_NORM,
    TAP_Q, TAP_K, TAP_V, TAP_ATTN, // attention, level all
    TAP_BX, TAP_CONV,              // short convolution, level all
    TAP_MIXER, TAP_RESID, TAP_FFN_NORM, TAP_FFN, TAP_OUT, TAP_FINAL_NORM,
    TAP_POINTS
};

struct tap_sink {
    enum tap_level level;
    void *context;
    // row: `width` values of the current token; layer is 0 for embed and final_norm.
    void (*put)(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width);
};

// Width of a row, or 0 when layer `layer` has no such point at `level`. embed and final_norm belong to layer 0.
uint32_t tap_width(const struct config *config, enum tap_level level, uint32_t layer, enum tap_point point);
const char *tap_point_name(enum tap_point point); // "ffn_norm"
// "tap.embed", "tap.3.mixer".
const char *tap_name(uint32_t layer, enum tap_point point, char text[48]);

// What an engine calls: nothing happens for a NULL sink or a point above its level.
static inline void tap(const struct tap_sink *sink, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    if (!sink || sink->level == TAPS_NONE)
        return;
    const int is_detail = point >= TAP_Q && point <= TAP_CONV;
    if (sink->level == TAPS_ALL || !is_detail)
        sink->put(sink->context, layer, point, row, width);
}

#endif
