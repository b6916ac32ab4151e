// lfm2: the forward pass of LFM2, LFM2.5 and LFM2-MoE (architecture.md 2.5, 2.6, 3).
#ifndef ASSAY_REFERENCE_LFM2_H
#define ASSAY_REFERENCE_LFM2_H

#include "reference/decoder.h"

// 1 <= n <= width tokens from `position` on (that many came before; position + n <= capacity) -> the logits [n, V]
// of the next ones, valid until the next call. Every token < V. Rows go to sink->taps only, one sink->tap_row before
// each unless it is NULL. Logits and tapped rows hold no NaN but 0x7FC00000.
const float *lfm2_forward(struct decoder *decoder, const uint32_t *tokens, uint32_t n, uint32_t position,
                          const struct batch_sink *sink);

#endif
