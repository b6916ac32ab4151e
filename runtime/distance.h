// distance: may these codes and scales stand for those weights? The rule for bundles made elsewhere (arithmetic.md
// 4), whose rounding need not be ours to the last bit.
#ifndef ASSAY_DISTANCE_H
#define ASSAY_DISTANCE_H

#include <stdint.h>

#include "harness/model/model.h"
#include "runtime/quant.h"

struct distance {
    uint64_t far;         // elements beyond their limit
    uint32_t row, column; // of the first one: as stored, in the checkpoint, its step (codebooks: its limit)
    double stored, exact, step;
    uint64_t wrong_scales; // scales, biases or codebooks that are not the scheme's
    uint32_t scale_row, scale_block;
    double scale, scale_computed; // of the first one; of a codebook the RMS error of its rows
};

void distance_start(struct distance *distance);

// Row `row` of `found`: codes [cols], w [cols] of the checkpoint, `computed` the scales [rows, cols / block] of the
// scheme. An element: |w - w'| <= half a step, or beyond the end of the codes and clamped to it. A scale: within 2^-9
// of the computed one, unless its block is zero. Without it a step so coarse that everything lies within half of it,
// or so fine that everything is clamped, would pass.
//
// SEARCH, AFFINE: another order of the sum may prefer another of the clips, so a scale lies within 2^-9 of the search's
// range, [0.7, 1] x absmax / 127 or [0.5, 1] x (high - low) / 15, and a bias where that scale puts it. Elements have
// what the rounding of scale and bias moves in addition, for codes are made against the unrounded ones.
void distance_row(struct distance *distance, enum quant_format format, uint32_t row, const struct weight *found,
                  const uint16_t *computed, const int16_t *codes, const float *w);

// Codebook formats, for the 32 rows of a codebook: w, expected [32, cols], expected being the scheme's w'. An element is
// as near as the nearest entry, up to the rounding of both. A codebook: the squared error of its rows is at most 4 times
// the scheme's. Without it an empty codebook would pass.
void distance_book(struct distance *distance, uint32_t first_row, const struct weight *found, const float *expected,
                   const float *w);

#endif
