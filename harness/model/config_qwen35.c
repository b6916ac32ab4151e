// Qwen3.5 and Qwen3.5-MoE, the text part (architecture.md 4.1, 5).
#include <string.h>

#include "harness/model/config_fields.h"

static int read_sizes(struct json root, struct config *config, struct error *error)
{
    const bool dense = config->family == FAMILY_QWEN35;
    const struct config_size sizes[] = {
        {"vocab_size", INT32_MAX, 248320, &config->vocabulary}, // ids are stored as I32
        {"hidden_size", CONFIG_WIDTH_MAX, dense ? 4096 : 2048, &config->hidden},
        {"num_hidden_layers", CONFIG_LAYERS_MAX, dense ? 32 : 40, &config->layers},
        {"num_attention_heads", CONFIG_WIDTH_MAX, 16, &config->query_heads},
        {"num_key_value_heads", CONFIG_WIDTH_MAX, dense ? 4 : 2, &config->key_heads},
        {"head_dim", CONFIG_WIDTH_MAX, 256, &config->head_width},
        {"linear_conv_kernel_dim", CONFIG_TAPS_MAX, 4, &config->conv_taps},
        {"linear_num_key_heads", CONFIG_WIDTH_MAX, 16, &config->delta_key_heads},
        {"linear_num_value_heads", CONFIG_WIDTH_MAX, 32, &config->delta_value_heads},
        {"linear_key_head_dim", CONFIG_WIDTH_MAX, 128, &config->delta_key_width},
        {"linear_value_head_dim", CONFIG_WIDTH_MAX, 128, &config->delta_value_width},
        {"max_position_embeddings", CONFIG_WIDTH_MAX, 32768, &config->max_positions},
    };
    double eps;
    int status = config_sizes(root, sizes, sizeof sizes / sizeof *sizes, error);
    if (!status)
        status = config_amount_or(root, "rms_norm_eps", 1e-6, &eps, error);
    if (!status)
        config->norm_eps = (float)eps;
    return status ? status : config_bool_or(root, "attention_bias", false, &config->attention_bias, error);
}

static int read_activation(struct json root, struct error *error)
{
    const struct json value = json_get(root, "hidden_act");
    const char *name = "silu";
    const int status = value.item ? json_need_string(value, &name, error) : 0;
    if (!status && strcmp(name, "silu"))
        return error_set(error, ERROR_INPUT, "%s: found '%s', expected 'silu', the one activation that is supported",
                         json_where(value), name);
    return status;
}

// Hk dk and Hv dv each at most the widest row, so that C fits 32 bits with room.
static int check_delta(struct json root, const struct config *config, struct error *error)
{
    const uint64_t keys = (uint64_t)config->delta_key_heads * config->delta_key_width;
    const uint64_t values = (uint64_t)config->delta_value_heads * config->delta_value_width;
    const uint64_t state = (uint64_t)config->delta_key_width * config->delta_value_width;
    if (config->delta_value_heads % config->delta_key_heads)
        return error_set(error, ERROR_INPUT,
                         "%s: linear_num_value_heads %u is no multiple of linear_num_key_heads %u; expected the same "
                         "number of value heads for every key head",
                         json_where(root), config->delta_value_heads, config->delta_key_heads);
    if (keys > CONFIG_WIDTH_MAX || values > CONFIG_WIDTH_MAX || state > CONFIG_WIDTH_MAX)
        return error_set(error, ERROR_INPUT,
                         "%s: %u key heads of width %u and %u value heads of width %u; expected at most %d values of "
                         "each together, and in the state of a head",
                         json_where(root), config->delta_key_heads, config->delta_key_width,
                         config->delta_value_heads, config->delta_value_width, CONFIG_WIDTH_MAX);
    return 0;
}

static int read_feed_forward(struct json root, struct config *config, struct error *error)
{
    if (config->family == FAMILY_QWEN35) {
        config->dense_layers = config->layers;
        return config_u32_or(root, "intermediate_size", 1, CONFIG_WIDTH_MAX, 12288, &config->feed_forward, error);
    }
    const struct config_size sizes[] = {
        {"moe_intermediate_size", CONFIG_WIDTH_MAX, 512, &config->expert_width},
        {"shared_expert_intermediate_size", CONFIG_WIDTH_MAX, 512, &config->shared_width},
        {"num_experts", CONFIG_EXPERTS_MAX, 256, &config->experts},
        {"num_experts_per_tok", CONFIG_EXPERTS_MAX, 8, &config->experts_per_token},
    };
    const int status = config_sizes(root, sizes, sizeof sizes / sizeof *sizes, error);
    config->expert_normalise = true; // always, whatever norm_topk_prob says
    config->expert_scale = 1;
    if (!status && config->experts_per_token > config->experts)
        return error_set(error, ERROR_INPUT, "%s: num_experts_per_tok %u of num_experts %u; expected at most all of them",
                         json_where(root), config->experts_per_token, config->experts);
    return status;
}

static int read_mixers(struct json root, struct config *config, struct error *error)
{
    const struct json types = json_get(root, "layer_types");
    uint32_t interval;
    if (json_present(types))
        return config_layer_types(types, "linear_attention", MIXER_DELTA, config, error);
    const int status = config_u32_or(root, "full_attention_interval", 1, CONFIG_LAYERS_MAX, 4, &interval, error);
    for (uint32_t i = 0; !status && i < config->layers; i++)
        config->mixers[i] = (i + 1) % interval ? MIXER_DELTA : MIXER_ATTENTION;
    return status;
}

int config_qwen35(struct arena *arena, struct json root, struct config *config, struct error *error)
{
    int status = read_sizes(root, config, error);
    if (!status)
        status = read_activation(root, error);
    if (!status)
        status = config_check_heads(root, config, error);
    if (!status)
        status = check_delta(root, config, error);
    if (!status)
        status = read_feed_forward(root, config, error);
    if (!status)
        status = config_make_mixers(arena, root, config, error);
    if (!status)
        status = read_mixers(root, config, error);
    if (!status)
        status = config_rope(root, 10000.0, 0.25, config, error);
    if (!status)
        status = config_bool_or(root, "tie_word_embeddings", false, &config->tied, error);
    return status ? status : config_tokens(root, -1, -1, config, error);
}
