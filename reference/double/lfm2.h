// lfm2: the forward pass of LFM2, LFM2.5 and LFM2-MoE in double (architecture.md 2.5, 3).
#ifndef ASSAY_DOUBLE_LFM2_H
#define ASSAY_DOUBLE_LFM2_H

#include "reference/double/oracle.h"

// tokens [T] -> logits [T, V]
void double_lfm2_forward(struct oracle *o, const uint32_t *tokens, double *logits);

#endif
