#include "runtime/fault.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum need { // bits: what a model must have
    NEEDS_NOTHING = 0,
    NEEDS_ATTENTION = 1,
    NEEDS_SHORT_CONV = 2,
    NEEDS_DELTA = 4,
    NEEDS_COLUMNS = 8,     // a convolution of either kind that remembers: two taps or more
    NEEDS_RECURRENCE = 16, // remembered columns or a delta state
    NEEDS_CENTRED = 32,    // Qwen3.5's norms and output gates
    NEEDS_PARTIAL = 64,    // dimensions that RoPE leaves alone
    NEEDS_THETA = 128,     // a theta that is not the fault's
    NEEDS_EXPERTS = 256,   // a layer with two or more
    NEEDS_SLOTS = 512,     // two or more experts of a token
    NEEDS_EXPERT_BIAS = 1024,
    NEEDS_NORMALISED = 2048, // weights divided by their sum
    NEEDS_SHARED = 4096,     // a shared expert
    NEEDS_SCORE = 8192,      // a rule for scores that the weights or the selection depend on
};

static const struct {
    const char *name, *description;
    unsigned needs;
} faults[FAULT_COUNT] = {
    [FAULT_NONE] = {"none", "no fault", NEEDS_NOTHING},
    [FAULT_CONV_STATE_LOST] = {"conv_state_lost", "a convolution's state is never written", NEEDS_COLUMNS},
    [FAULT_CONV_STATE_RAW] = {"conv_state_raw",
        "the short convolution's state holds x instead of B*x", NEEDS_SHORT_CONV | NEEDS_COLUMNS},
    [FAULT_ROPE_THETA] = {"rope_theta",
        "RoPE theta is 10,000 whatever config.json says", NEEDS_ATTENTION | NEEDS_THETA},
    [FAULT_ROPE_OFF_BY_ONE] = {"rope_off_by_one",
        "RoPE takes position + 1, for queries and keys alike", NEEDS_ATTENTION},
    [FAULT_NORM_AFTER_ROPE] = {"norm_after_rope", "q and k are normed after the rotation", NEEDS_ATTENTION},
    [FAULT_KV_SLOT] = {"kv_slot",
        "keys and values are written one slot too early (the first stays)", NEEDS_ATTENTION},
    [FAULT_GATE_UP_SWAPPED] = {"gate_up_swapped", "the feed-forward computes silu(up) * gate", NEEDS_NOTHING},
    [FAULT_ROPE_FREQUENCY_F16] = {"rope_frequency_f16",
        "RoPE's inverse frequencies are rounded to half", NEEDS_ATTENTION},
    [FAULT_LOGIT_NAN] = {"logit_nan", "one logit of every row is NaN", NEEDS_NOTHING},
    [FAULT_LOGITS_ZERO] = {"logits_zero", "every logit is 0", NEEDS_NOTHING},
    [FAULT_STATE_ZERO] = {"state_zero", "the saved state is all zero", NEEDS_NOTHING},
    [FAULT_STATE_NOT_RESET] = {"state_not_reset",
        "a reset keeps the states of convolutions and delta nets", NEEDS_RECURRENCE},
    [FAULT_RESTORE_LOSES_CONV] = {"restore_loses_conv",
        "loading a state ignores the convolutions' part", NEEDS_COLUMNS},
    [FAULT_POSITION_RESTARTED] = {"position_restarted",
        "RoPE counts from 0 again after a state is loaded", NEEDS_ATTENTION},
    [FAULT_CONV_STATE_ACTIVATED] = {"conv_state_activated",
        "the delta net's convolution remembers its output, after silu", NEEDS_DELTA | NEEDS_COLUMNS},
    [FAULT_NORM_WITHOUT_ONE] = {"norm_without_one",
        "the norm before the feed-forward multiplies by w instead of 1 + w", NEEDS_CENTRED},
    [FAULT_QUERY_GATE_SWAPPED] = {"query_gate_swapped",
        "query and gate of each head of q_proj are exchanged", NEEDS_ATTENTION | NEEDS_CENTRED},
    [FAULT_ROTARY_ALL] = {"rotary_all", "RoPE turns every dimension of a head", NEEDS_ATTENTION | NEEDS_PARTIAL},
    [FAULT_L2_NORM_MISSING] = {"l2_norm_missing", "the delta net's q and k are not normed", NEEDS_DELTA},
    [FAULT_BETA_WITHOUT_SIGMOID] = {"beta_without_sigmoid", "beta is b instead of sigmoid(b)", NEEDS_DELTA},
    [FAULT_DECAY_WITHOUT_EXP] = {"decay_without_exp",
        "the delta net's state decays by g instead of exp(g)", NEEDS_DELTA},
    [FAULT_Z_GATE_MISSING] = {"z_gate_missing", "the delta net's output norm leaves silu(z) out", NEEDS_DELTA},
    [FAULT_DELTA_STATE_LOST] = {"delta_state_lost", "the delta net's state is never written", NEEDS_DELTA},
    [FAULT_DELTA_STATE_TRANSPOSED] = {"delta_state_transposed",
        "the delta net's state is written transposed and read as it should be", NEEDS_DELTA},
    [FAULT_DELTA_STATE_F16] = {"delta_state_f16",
        "the delta net's state is rounded to half where the plan says f32", NEEDS_DELTA},
    [FAULT_RESTORE_LOSES_DELTA] = {"restore_loses_delta",
        "loading a state ignores the delta net's part", NEEDS_DELTA},
    // experts
    [FAULT_EXPERT_BIAS_WEIGHS] = {"expert_bias_weighs",
        "the expert bias is added to the weights, too", NEEDS_EXPERT_BIAS},
    [FAULT_ROUTER_SCORE] = {"router_score",
        "the router takes softmax where it is sigmoid, and the other way round", NEEDS_EXPERTS | NEEDS_SCORE},
    [FAULT_ROUTER_SCORES_F16] = {"router_scores_f16",
        "the router's scores are rounded to half before they select and weigh", NEEDS_EXPERTS | NEEDS_SCORE},
    [FAULT_ROUTER_NOT_NORMALISED] = {"router_not_normalised",
        "the experts' weights are not divided by their sum", NEEDS_NORMALISED},
    [FAULT_EXPERT_DOWN] = {"expert_down", "each expert's down projection is that of the next expert", NEEDS_EXPERTS},
    [FAULT_EXPERT_ROW_SHARED] = {"expert_row_shared",
        "the down projections of all slots are given the first slot's row", NEEDS_SLOTS},
    [FAULT_SHARED_GATE_MISSING] = {"shared_gate_missing", "the shared expert is added with weight 1", NEEDS_SHARED},
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
    char names[1024] = "";
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

static bool has_mixer(const struct config *config, enum mixer mixer)
{
    for (uint32_t i = 0; i < config->layers; i++)
        if (config->mixers[i] == mixer)
            return true;
    return false;
}

bool fault_applies(enum fault fault, const struct config *config)
{
    const bool conv = has_mixer(config, MIXER_CONV), delta = has_mixer(config, MIXER_DELTA);
    const bool columns = (conv || delta) && config->conv_taps > 1;
    const bool sparse = config_is_sparse(config, config->layers - 1);
    // One weight over itself is 1, and both scores rank alike; LFM2 adds 1e-6 to the sum and a bias to the ranks.
    const bool scored = config->experts_per_token > 1 || !config->expert_normalise || config_is_lfm2(config);
    const struct {
        unsigned need;
        bool met;
    } found[] = {
        {NEEDS_ATTENTION, has_mixer(config, MIXER_ATTENTION)},
        {NEEDS_SHORT_CONV, conv},
        {NEEDS_DELTA, delta},
        {NEEDS_COLUMNS, columns},
        {NEEDS_RECURRENCE, columns || delta},
        {NEEDS_CENTRED, !config_is_lfm2(config)},
        {NEEDS_PARTIAL, config->rotary_width < config->head_width},
        {NEEDS_THETA, config->rope_theta != FAULT_THETA},
        {NEEDS_EXPERTS, sparse && config->experts > 1},
        {NEEDS_SLOTS, sparse && config->experts_per_token > 1},
        {NEEDS_EXPERT_BIAS, sparse && config->expert_bias},
        {NEEDS_NORMALISED, sparse && config->expert_normalise},
        {NEEDS_SHARED, sparse && config->shared_width},
        {NEEDS_SCORE, sparse && scored},
    };
    unsigned met = 0;
    for (size_t i = 0; i < sizeof found / sizeof *found; i++)
        met |= found[i].met ? found[i].need : 0;
    return (faults[fault].needs & ~met) == 0;
}
