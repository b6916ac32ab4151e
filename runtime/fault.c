#include "runtime/fault.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *description;
} faults[FAULT_COUNT] = {
    [FAULT_NONE] = {"none", "no fault"},
    [FAULT_CONV_STATE_LOST] = {"conv_state_lost", "the short convolution's state is never written"},
    [FAULT_CONV_STATE_RAW] = {"conv_state_raw", "the short convolution's state holds x instead of B*x"},
    [FAULT_ROPE_THETA] = {"rope_theta", "RoPE theta is 10,000 whatever config.json says"},
    [FAULT_ROPE_OFF_BY_ONE] = {"rope_off_by_one", "RoPE takes position + 1, for queries and keys alike"},
    [FAULT_NORM_AFTER_ROPE] = {"norm_after_rope", "q and k are normed after the rotation"},
    [FAULT_KV_SLOT] = {"kv_slot", "keys and values are written one slot too early (the first stays)"},
    [FAULT_GATE_UP_SWAPPED] = {"gate_up_swapped", "the feed-forward computes silu(up) * gate"},
    [FAULT_ROPE_FREQUENCY_F16] = {"rope_frequency_f16", "RoPE's inverse frequencies are rounded to half"},
    [FAULT_LOGIT_NAN] = {"logit_nan", "one logit of every row is NaN"},
    [FAULT_LOGITS_ZERO] = {"logits_zero", "every logit is 0"},
    [FAULT_STATE_ZERO] = {"state_zero", "the saved state is all zero"},
    [FAULT_STATE_NOT_RESET] = {"state_not_reset", "a reset keeps the short convolution's state"},
    [FAULT_RESTORE_LOSES_CONV] = {"restore_loses_conv", "loading a state ignores the short convolution's part"},
    // experts
    [FAULT_EXPERT_BIAS_WEIGHS] = {"expert_bias_weighs", "the expert bias is added to the weights, too"},
    [FAULT_ROUTER_SCORE] = {"router_score", "the router takes softmax where it is sigmoid, and the other way round"},
    [FAULT_ROUTER_NOT_NORMALISED] = {"router_not_normalised", "the experts' weights are not divided by their sum"},
    [FAULT_EXPERT_DOWN] = {"expert_down", "each expert's down projection is that of the next expert"},
    [FAULT_EXPERT_ROW_SHARED] = {"expert_row_shared", "the down projections of all slots are given the first slot's row"},
    [FAULT_SHARED_GATE_MISSING] = {"shared_gate_missing", "the shared expert is added with weight 1"},
};

const char *fault_name(enum fault fault)
{
    return faults[fault].name;
}

const char *fault_description(enum fault fault)
{
    return faults[fault].description;
}

int fault_parse(const char *name, enum fault *fault, struct error *error)
{
    char names[960] = "";
    size_t used = 0;
    for (int i = 0; i < FAULT_COUNT; i++) {
        if (!strcmp(name, faults[i].name)) {
            *fault = (enum fault)i;
            return 0;
        }
        assert(used < sizeof names);
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", faults[i].name);
    }
    return error_set(error, ERROR_USAGE, "fault \"%s\" does not exist; expected one of: %s", name, names);
}
