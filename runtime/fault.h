// fault: named changes to the runtime's step, wrong on purpose: the negative controls of the gate. A trace or report
// of an engine with a fault carries it in the engine's name ("int8+fault:rope_theta"), so it can never pass for a
// healthy run.
#ifndef ASSAY_FAULT_H
#define ASSAY_FAULT_H

#include <stdbool.h>

#include "harness/base/error.h"
#include "harness/model/config.h"

enum fault {
    FAULT_NONE,
    FAULT_CONV_STATE_LOST,        // a convolution's state is never written
    FAULT_CONV_STATE_RAW,         // LFM2's stores x instead of B*x
    FAULT_ROPE_THETA,             // theta 10,000 whatever config.json says
    FAULT_ROPE_OFF_BY_ONE,        // position + 1, consistently
    FAULT_NORM_AFTER_ROPE,        // q and k are normed after the rotation
    FAULT_KV_SLOT,                // keys and values are written one slot too early (the first stays)
    FAULT_GATE_UP_SWAPPED,        // silu(up) * gate
    FAULT_ROPE_FREQUENCY_F16,     // inverse frequencies rounded to half
    FAULT_LOGIT_NAN,              // one logit of every row is NaN
    FAULT_LOGITS_ZERO,            // every logit is 0
    FAULT_STATE_ZERO,             // what save() gives is all zero
    FAULT_STATE_NOT_RESET,        // reset() keeps the states of convolutions and delta nets: the second run differs
    FAULT_RESTORE_LOSES_CONV,     // load() ignores the convolutions' states
    FAULT_POSITION_RESTARTED,     // after load() RoPE counts from 0 again; the caches go on
    // Qwen3.5
    FAULT_CONV_STATE_ACTIVATED,   // the convolution's state holds its output, after silu
    FAULT_NORM_WITHOUT_ONE,       // the norm before the feed-forward multiplies by w, not 1 + w
    FAULT_QUERY_GATE_SWAPPED,     // the halves of a head's rows in q_proj are exchanged
    FAULT_ROTARY_ALL,             // all dh dimensions are turned, with frequencies over dh
    FAULT_L2_NORM_MISSING,        // the delta net's q and k are not normed; q keeps its factor
    FAULT_BETA_WITHOUT_SIGMOID,   // beta = b
    FAULT_DECAY_WITHOUT_EXP,      // D = S g
    FAULT_Z_GATE_MISSING,         // the gated norm leaves silu(z) out
    FAULT_DELTA_STATE_LOST,       // the delta net's state is read and never written
    FAULT_DELTA_STATE_TRANSPOSED, // it is written as [dv, dk] and read as [dk, dv], whether dk = dv or not
    FAULT_DELTA_STATE_F16,        // it is rounded to half where the plan says f32
    FAULT_RESTORE_LOSES_DELTA,    // load() ignores it
    // experts
    FAULT_EXPERT_BIAS_WEIGHS,     // the bias is added to the weights too, not to the selection alone
    FAULT_ROUTER_SCORE,           // softmax for sigmoid in LFM2, sigmoid for softmax in Qwen3.5
    FAULT_ROUTER_SCORES_F16,      // its scores are rounded to half before they select and weigh
    FAULT_ROUTER_NOT_NORMALISED,  // the weights are not divided by their sum
    FAULT_EXPERT_DOWN,            // the down projection of the next expert
    FAULT_EXPERT_ROW_SHARED,      // the down projections of all slots are given the first slot's row
    FAULT_SHARED_GATE_MISSING,    // the shared expert has weight 1
    FAULT_COUNT
};

#define FAULT_THETA 10000.0 // of FAULT_ROPE_THETA: Qwen3.5's when config.json names none

const char *fault_name(enum fault fault);        // "rope_theta"
const char *fault_description(enum fault fault);
int fault_parse(const char *name, enum fault *fault, struct error *error);
// Has a model with this config what the fault changes? rotary_all needs R < dh, rope_theta another theta than 10,000.
bool fault_applies(enum fault fault, const struct config *config);

#endif
