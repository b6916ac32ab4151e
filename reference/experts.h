// experts: the sparse feed-forward of LFM2-MoE and Qwen3.5-MoE (architecture.md 3, 5).
#ifndef ASSAY_REFERENCE_EXPERTS_H
#define ASSAY_REFERENCE_EXPERTS_H

#include "reference/decoder.h"

// s->u [n, d] -> s->m [n, d] of layer i: the weighted sum of k experts' SwiGLU in slot order, and of the shared expert
// last (arithmetic.md 2). Tokens of a pass are grouped by expert; the bits are those of one token at a time. Taps:
// router, experts, weights.
void experts_forward(struct decoder *s, uint32_t i, const struct batch_sink *sink);

#endif
