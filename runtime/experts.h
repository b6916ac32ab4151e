// experts: the sparse feed-forward of a step (architecture.md 3, 5; arithmetic.md 3, rows router and sum of experts).
#ifndef ASSAY_RUNTIME_EXPERTS_H
#define ASSAY_RUNTIME_EXPERTS_H

#include "runtime/step.h"

// u [d] -> m [d] of layer i: router, the k experts' SwiGLU, Qwen3.5's shared expert, their sum. Taps: router, experts,
// weights.
void runtime_experts(struct step *step, uint32_t i, const float *u, float *m, const struct tap_sink *taps);

#endif
