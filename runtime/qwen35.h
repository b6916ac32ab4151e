// qwen35: one S=1 step of Qwen3.5 and Qwen3.5-MoE as the int8 runtime computes it: architecture.md 4.4 and 5 for the
// order, arithmetic.md 3 for every rounding.
#ifndef ASSAY_RUNTIME_QWEN35_H
#define ASSAY_RUNTIME_QWEN35_H

#include "runtime/step.h"

// As runtime_lfm2_step.
const float *runtime_qwen35_step(struct step *step, uint32_t position, uint32_t token, const struct tap_sink *taps);

#endif
