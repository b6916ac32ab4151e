// qwen35: the forward pass of Qwen3.5 and Qwen3.5-MoE, the text part (architecture.md 4.4, 5).
#ifndef ASSAY_REFERENCE_QWEN35_H
#define ASSAY_REFERENCE_QWEN35_H

#include "reference/decoder.h"

// As lfm2_forward.
const float *qwen35_forward(struct decoder *decoder, const uint32_t *tokens, uint32_t n, uint32_t position,
                            const struct batch_sink *sink);

#endif
