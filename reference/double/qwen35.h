// qwen35: the forward pass of Qwen3.5 and Qwen3.5-MoE in double, the text part (architecture.md 4.4, 5).
#ifndef ASSAY_DOUBLE_QWEN35_H
#define ASSAY_DOUBLE_QWEN35_H

#include "reference/double/oracle.h"

// tokens [T] -> logits [T, V]
void double_qwen35_forward(struct oracle *o, const uint32_t *tokens, double *logits);

#endif
