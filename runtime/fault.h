// fault: named changes to the runtime's step, wrong on purpose: the negative controls of the gate. A trace or report
// of an engine with a fault carries it in the engine's name ("int8+fault:rope_theta"), so it can never pass for a
// healthy run.
#ifndef ASSAY_FAULT_H
#define ASSAY_FAULT_H

#include "harness/base/error.h"

enum fault {
    FAULT_NONE,
    FAULT_CONV_STATE_LOST,     // the short convolution's state is never written
    FAULT_CONV_STATE_RAW,      // it stores x instead of B*x
    FAULT_ROPE_THETA,          // theta 10,000 whatever config.json says
    FAULT_ROPE_OFF_BY_ONE,     // position + 1, consistently
    FAULT_NORM_AFTER_ROPE,     // q and k are normed after the rotation
    FAULT_KV_SLOT,             // keys and values are written one slot too early (the first stays)
    FAULT_GATE_UP_SWAPPED,     // silu(up) * gate
    FAULT_ROPE_FREQUENCY_F16,  // inverse frequencies rounded to half
    FAULT_LOGIT_NAN,           // one logit of every row is NaN
    FAULT_LOGITS_ZERO,         // every logit is 0
    FAULT_STATE_ZERO,          // what save() gives is all zero
    FAULT_STATE_NOT_RESET,     // reset() keeps the convolution's state: the second run differs
    FAULT_RESTORE_LOSES_CONV,  // load() ignores the convolution's state
    // experts
    FAULT_EXPERT_BIAS_WEIGHS,  // the bias is added to the weights too, not to the selection alone
    FAULT_ROUTER_SCORE,        // softmax for sigmoid in LFM2, sigmoid for softmax in Qwen3.5
    FAULT_ROUTER_NOT_NORMALISED, // the weights are not divided by their sum
    FAULT_EXPERT_DOWN,         // the down projection of the next expert
    FAULT_EXPERT_ROW_SHARED,   // the down projections of all slots are given the first slot's row
    FAULT_SHARED_GATE_MISSING, // the shared expert has weight 1
    FAULT_COUNT
};
const char *fault_name(enum fault fault);        // "rope_theta"
const char *fault_description(enum fault fault);
int fault_parse(const char *name, enum fault *fault, struct error *error);

#endif
