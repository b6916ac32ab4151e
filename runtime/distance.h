// distance: may these codes and scales stand for those weights? The rule for bundles made elsewhere (arithmetic.md
// 4), whose rounding need not be ours to the last bit.
#ifndef ASSAY_DISTANCE_H
#define ASSAY_DISTANCE_H

#include <stdint.h>

#include "harness/model/model.h"
#include "runtime/quant.h"

struct distance {
    uint64_t far;         // elements beyond their limit
    uint32_t row, column; // of the first one: as stored, in the checkpoint, its step
    double stored, exact, step;
    uint64_t wrong_scales; // scales that are not the scheme's
    uint32_t scale_row, scale_block;
    double scale, scale_computed; // of the first one
};

void distance_start(struct distance *distance);
// Row `row` of `found`: codes [cols], w [cols] of the checkpoint, `computed` the scales [rows, cols / block] of the
// scheme. An element: |w - code x scale| <= half a step, or beyond the end of the codes and clamped to it. A scale:
// within 2^-9 of the computed one, unless its block is zero. Without it a step so coarse that everything lies within
// half of it, or so fine that everything is clamped, would pass.
void distance_row(struct distance *distance, enum quant_format format, uint32_t row, const struct weight *found,
                  const uint16_t *computed, const int8_t *codes, const float *w);

#endif
