// experts: the sparse feed-forward in double (architecture.md 3, 5), token by token routed, expert by expert
// computed.
#ifndef ASSAY_DOUBLE_EXPERTS_H
#define ASSAY_DOUBLE_EXPERTS_H

#include "reference/double/oracle.h"

// u -> m of a sparse layer: routed experts in the order of their numbers, a shared one last. Scores, selection and
// weights are double: equal scores go to the lower number. A NaN among a token's scores makes all its weights NaN.
void double_experts_forward(struct oracle *o, uint32_t layer);

#endif
