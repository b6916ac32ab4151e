// fault_delta: the delta rule's step under a fault (fault.h).
#ifndef ASSAY_FAULT_DELTA_H
#define ASSAY_FAULT_DELTA_H

#include "runtime/fault.h"
#include "runtime/kernels.h"

// As kernels->delta_step; for a fault that does not concern the state, the same. spare [dk dv].
void fault_delta_step(const struct kernels *kernels, enum fault fault, const struct delta_state *state,
                      const float *q, const float *k, const float *v, float beta, float g, float *spare, float *out);

#endif
