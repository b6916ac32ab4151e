#include "harness/model/layout.h"

#include <string.h>

uint64_t size_value(const struct config *config, enum size size)
{
    const uint64_t dh = config->head_width, dv = config->delta_value_width;
    switch (size) {
    case SIZE_V:
        return config->vocabulary;
    case SIZE_D:
        return config->hidden;
    case SIZE_3D:
        return 3 * (uint64_t)config->hidden;
    case SIZE_F:
        return config->feed_forward;
    case SIZE_K:
        return config->conv_taps;
    case SIZE_DH:
        return dh;
    case SIZE_QUERY:
        return config->query_heads * dh;
    case SIZE_QUERY_GATE:
        return 2 * config->query_heads * dh;
    case SIZE_KEY:
        return config->key_heads * dh;
    case SIZE_CHANNELS:
        return config_delta_channels(config);
    case SIZE_VALUE_HEADS:
        return config->delta_value_heads;
    case SIZE_VALUE:
        return config->delta_value_heads * dv;
    case SIZE_DV:
        return dv;
    case SIZE_E:
        return config->experts;
    case SIZE_FM:
        return config->expert_width;
    case SIZE_2FM:
        return 2 * (uint64_t)config->expert_width;
    case SIZE_FS:
        return config->shared_width;
    case SIZE_ONE:
    case SIZE_END:
        break;
    }
    return 1;
}

const char *size_name(enum size size)
{
    static const char *const names[] = {"",   "1",      "V", "d",  "3d",    "F",  "K", "dh", "Hq dh", "2 Hq dh",
                                        "Hkv dh", "C", "Hv", "Hv dv", "dv", "E", "Fm", "2 Fm", "Fs"};
    return names[size];
}

#define FIELD(name) offsetof(struct layer, name)
#define EXPERT(name) offsetof(struct expert, name)

static const struct slot lfm2_slots[] = {
    {"operator_norm.weight", FIELD(mixer_norm), OWNER_ANY, CODING_NONE, {SIZE_D}},
    {"conv.in_proj.weight", FIELD(in_proj), OWNER_CONV, CODING_BLOCKS, {SIZE_3D, SIZE_D}},
    {"conv.in_proj.bias", FIELD(in_proj_bias), OWNER_CONV_BIAS, CODING_NONE, {SIZE_3D}},
    {"conv.conv.weight", FIELD(conv), OWNER_CONV, CODING_NONE, {SIZE_D, SIZE_ONE, SIZE_K}},
    {"conv.conv.bias", FIELD(conv_bias), OWNER_CONV_BIAS, CODING_NONE, {SIZE_D}},
    {"conv.out_proj.weight", FIELD(conv_out), OWNER_CONV, CODING_BLOCKS, {SIZE_D, SIZE_D}},
    {"conv.out_proj.bias", FIELD(conv_out_bias), OWNER_CONV_BIAS, CODING_NONE, {SIZE_D}},
    {"self_attn.q_proj.weight", FIELD(q_proj), OWNER_ATTENTION, CODING_BLOCKS, {SIZE_QUERY, SIZE_D}},
    {"self_attn.k_proj.weight", FIELD(k_proj), OWNER_ATTENTION, CODING_BLOCKS, {SIZE_KEY, SIZE_D}},
    {"self_attn.v_proj.weight", FIELD(v_proj), OWNER_ATTENTION, CODING_BLOCKS, {SIZE_KEY, SIZE_D}},
    {"self_attn.out_proj.weight", FIELD(attn_out), OWNER_ATTENTION, CODING_BLOCKS, {SIZE_D, SIZE_QUERY}},
    {"self_attn.q_layernorm.weight", FIELD(q_norm), OWNER_ATTENTION, CODING_NONE, {SIZE_DH}},
    {"self_attn.k_layernorm.weight", FIELD(k_norm), OWNER_ATTENTION, CODING_NONE, {SIZE_DH}},
    {"ffn_norm.weight", FIELD(ffn_norm), OWNER_ANY, CODING_NONE, {SIZE_D}},
    {"feed_forward.w1.weight", FIELD(w1), OWNER_DENSE, CODING_BLOCKS, {SIZE_F, SIZE_D}},
    {"feed_forward.w3.weight", FIELD(w3), OWNER_DENSE, CODING_BLOCKS, {SIZE_F, SIZE_D}},
    {"feed_forward.w2.weight", FIELD(w2), OWNER_DENSE, CODING_BLOCKS, {SIZE_D, SIZE_F}},
    {"feed_forward.gate.weight", FIELD(router), OWNER_SPARSE, CODING_NONE, {SIZE_E, SIZE_D}},
    {"feed_forward.expert_bias", FIELD(expert_bias), OWNER_EXPERT_BIAS, CODING_NONE, {SIZE_E}},
};

static const struct slot lfm2_experts[] = {
    {"feed_forward.experts.%u.w1.weight", EXPERT(gate), OWNER_SPARSE, CODING_EXPERT, {SIZE_FM, SIZE_D}},
    {"feed_forward.experts.%u.w3.weight", EXPERT(up), OWNER_SPARSE, CODING_EXPERT, {SIZE_FM, SIZE_D}},
    {"feed_forward.experts.%u.w2.weight", EXPERT(down), OWNER_SPARSE, CODING_EXPERT, {SIZE_D, SIZE_FM}},
};

static const struct slot qwen35_slots[] = {
    {"input_layernorm.weight", FIELD(mixer_norm), OWNER_ANY, CODING_NONE, {SIZE_D}},
    {"linear_attn.in_proj_qkv.weight", FIELD(qkv_proj), OWNER_DELTA, CODING_BLOCKS, {SIZE_CHANNELS, SIZE_D}},
    {"linear_attn.in_proj_z.weight", FIELD(z_proj), OWNER_DELTA, CODING_BLOCKS, {SIZE_VALUE, SIZE_D}},
    {"linear_attn.in_proj_b.weight", FIELD(b_proj), OWNER_DELTA, CODING_BLOCKS, {SIZE_VALUE_HEADS, SIZE_D}},
    {"linear_attn.in_proj_a.weight", FIELD(a_proj), OWNER_DELTA, CODING_BLOCKS, {SIZE_VALUE_HEADS, SIZE_D}},
    {"linear_attn.conv1d.weight", FIELD(delta_conv), OWNER_DELTA, CODING_NONE, {SIZE_CHANNELS, SIZE_ONE, SIZE_K}},
    {"linear_attn.A_log", FIELD(a_log), OWNER_DELTA, CODING_NONE, {SIZE_VALUE_HEADS}},
    {"linear_attn.dt_bias", FIELD(dt_bias), OWNER_DELTA, CODING_NONE, {SIZE_VALUE_HEADS}},
    {"linear_attn.norm.weight", FIELD(delta_norm), OWNER_DELTA, CODING_NONE, {SIZE_DV}},
    {"linear_attn.out_proj.weight", FIELD(delta_out), OWNER_DELTA, CODING_BLOCKS, {SIZE_D, SIZE_VALUE}},
    {"self_attn.q_proj.weight", FIELD(q_proj), OWNER_ATTENTION, CODING_BLOCKS, {SIZE_QUERY_GATE, SIZE_D}},
    {"self_attn.q_proj.bias", FIELD(q_bias), OWNER_ATTENTION_BIAS, CODING_NONE, {SIZE_QUERY_GATE}},
    {"self_attn.k_proj.weight", FIELD(k_proj), OWNER_ATTENTION, CODING_BLOCKS, {SIZE_KEY, SIZE_D}},
    {"self_attn.k_proj.bias", FIELD(k_bias), OWNER_ATTENTION_BIAS, CODING_NONE, {SIZE_KEY}},
    {"self_attn.v_proj.weight", FIELD(v_proj), OWNER_ATTENTION, CODING_BLOCKS, {SIZE_KEY, SIZE_D}},
    {"self_attn.v_proj.bias", FIELD(v_bias), OWNER_ATTENTION_BIAS, CODING_NONE, {SIZE_KEY}},
    {"self_attn.o_proj.weight", FIELD(attn_out), OWNER_ATTENTION, CODING_BLOCKS, {SIZE_D, SIZE_QUERY}},
    {"self_attn.o_proj.bias", FIELD(attn_out_bias), OWNER_ATTENTION_BIAS, CODING_NONE, {SIZE_D}},
    {"self_attn.q_norm.weight", FIELD(q_norm), OWNER_ATTENTION, CODING_NONE, {SIZE_DH}},
    {"self_attn.k_norm.weight", FIELD(k_norm), OWNER_ATTENTION, CODING_NONE, {SIZE_DH}},
    {"post_attention_layernorm.weight", FIELD(ffn_norm), OWNER_ANY, CODING_NONE, {SIZE_D}},
    {"mlp.gate_proj.weight", FIELD(w1), OWNER_DENSE, CODING_BLOCKS, {SIZE_F, SIZE_D}},
    {"mlp.up_proj.weight", FIELD(w3), OWNER_DENSE, CODING_BLOCKS, {SIZE_F, SIZE_D}},
    {"mlp.down_proj.weight", FIELD(w2), OWNER_DENSE, CODING_BLOCKS, {SIZE_D, SIZE_F}},
    {"mlp.gate.weight", FIELD(router), OWNER_SPARSE, CODING_NONE, {SIZE_E, SIZE_D}},
    {"mlp.shared_expert_gate.weight", FIELD(shared_gate), OWNER_SPARSE, CODING_NONE, {SIZE_ONE, SIZE_D}},
    {"mlp.shared_expert.gate_proj.weight", FIELD(shared.gate), OWNER_SPARSE, CODING_BLOCKS, {SIZE_FS, SIZE_D}},
    {"mlp.shared_expert.up_proj.weight", FIELD(shared.up), OWNER_SPARSE, CODING_BLOCKS, {SIZE_FS, SIZE_D}},
    {"mlp.shared_expert.down_proj.weight", FIELD(shared.down), OWNER_SPARSE, CODING_BLOCKS, {SIZE_D, SIZE_FS}},
};

static const struct slot qwen35_experts[] = {
    {"mlp.experts.%u.gate_proj.weight", EXPERT(gate), OWNER_SPARSE, CODING_EXPERT, {SIZE_FM, SIZE_D}},
    {"mlp.experts.%u.up_proj.weight", EXPERT(up), OWNER_SPARSE, CODING_EXPERT, {SIZE_FM, SIZE_D}},
    {"mlp.experts.%u.down_proj.weight", EXPERT(down), OWNER_SPARSE, CODING_EXPERT, {SIZE_D, SIZE_FM}},
};

static const struct slot qwen35_fused[] = {
    {"mlp.experts.gate_up_proj", FIELD(gate_up), OWNER_SPARSE, CODING_EXPERT, {SIZE_E, SIZE_2FM, SIZE_D}},
    {"mlp.experts.down_proj", FIELD(down), OWNER_SPARSE, CODING_EXPERT, {SIZE_E, SIZE_D, SIZE_FM}},
};

static const struct layout lfm2_layout = {lfm2_slots, sizeof lfm2_slots / sizeof *lfm2_slots, lfm2_experts, NULL,
                                          "embedding_norm.weight"};
static const struct layout qwen35_layout = {qwen35_slots, sizeof qwen35_slots / sizeof *qwen35_slots, qwen35_experts,
                                            qwen35_fused, "norm.weight"};

const struct layout *layout_of(const struct config *config)
{
    return config_is_lfm2(config) ? &lfm2_layout : &qwen35_layout;
}

bool layout_has(const struct config *config, uint32_t layer, const struct slot *slot)
{
    const enum mixer mixer = config->mixers[layer];
    const bool sparse = config_is_sparse(config, layer);
    switch (slot->owner) {
    case OWNER_CONV:
        return mixer == MIXER_CONV;
    case OWNER_CONV_BIAS:
        return mixer == MIXER_CONV && config->conv_bias;
    case OWNER_ATTENTION:
        return mixer == MIXER_ATTENTION;
    case OWNER_ATTENTION_BIAS:
        return mixer == MIXER_ATTENTION && config->attention_bias;
    case OWNER_DELTA:
        return mixer == MIXER_DELTA;
    case OWNER_DENSE:
        return !sparse;
    case OWNER_SPARSE:
        return sparse;
    case OWNER_EXPERT_BIAS:
        return sparse && config->expert_bias;
    case OWNER_ANY:
        break;
    }
    return true;
}

bool layout_is_projection(const struct slot *slot)
{
    return slot->coding != CODING_NONE || (slot->shape[1] != SIZE_END && slot->shape[2] == SIZE_END);
}

struct weight *layout_field(struct layer *layer, const struct slot *slot)
{
    return (struct weight *)(void *)((char *)layer + slot->field);
}

static const char *past_digits(const char *text)
{
    return text + strspn(text, "0123456789");
}

// `pattern` may hold one %u.
static bool is_called(const char *pattern, const char *below)
{
    const char *number = strchr(pattern, '%');
    if (!number)
        return !strcmp(pattern, below);
    const size_t n = (size_t)(number - pattern);
    return !strncmp(pattern, below, n) && !strcmp(number + 2, past_digits(below + n));
}

static const struct slot *find_slot(const struct slot *slots, size_t n, const char *below)
{
    for (size_t i = 0; i < n; i++)
        if (is_called(slots[i].name, below))
            return &slots[i];
    return NULL;
}

const struct slot *layout_slot(const struct config *config, const char *name)
{
    const struct layout *layout = layout_of(config);
    const char *below = strstr(name, "layers.");
    if (!below || *(below = past_digits(below + strlen("layers."))) != '.')
        return NULL;
    below++;
    const struct slot *slot = find_slot(layout->slots, layout->n, below);
    if (!slot)
        slot = find_slot(layout->experts, LAYOUT_EXPERT, below);
    return slot || !layout->fused ? slot : find_slot(layout->fused, LAYOUT_FUSED, below);
}
