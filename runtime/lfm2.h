// lfm2: one S=1 step of LFM2, LFM2.5 and LFM2-MoE as the int8 runtime computes it: architecture.md 2.5 and 3 for the
// order, arithmetic.md 3 for every rounding.
#ifndef ASSAY_RUNTIME_LFM2_H
#define ASSAY_RUNTIME_LFM2_H

#include "runtime/step.h"

// One token at `position` (< capacity; the caches hold the positions before it). Logits [V], valid until the next
// step.
const float *runtime_lfm2_step(struct step *step, uint32_t position, uint32_t token, const struct tap_sink *taps);

#endif
