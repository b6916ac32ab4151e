// LFM2 and LFM2-MoE (architecture.md 2.1, 2.2, 3).
#include <float.h>
#include <math.h>

#include "harness/model/config_fields.h"

static int read_sizes(struct json root, struct config *config, struct error *error)
{
    const bool dense = config->family == FAMILY_LFM2;
    const struct config_size sizes[] = {
        {"vocab_size", INT32_MAX, 65536, &config->vocabulary}, // ids are stored as I32
        {"hidden_size", CONFIG_WIDTH_MAX, dense ? 2560 : 2048, &config->hidden},
        {"num_hidden_layers", CONFIG_LAYERS_MAX, 32, &config->layers},
        {"num_attention_heads", CONFIG_WIDTH_MAX, 32, &config->query_heads},
        {"num_key_value_heads", CONFIG_WIDTH_MAX, 8, &config->key_heads},
        {"conv_L_cache", CONFIG_TAPS_MAX, 3, &config->conv_taps},
        {"max_position_embeddings", CONFIG_WIDTH_MAX, 128000, &config->max_positions},
    };
    double eps;
    int status = config_sizes(root, sizes, sizeof sizes / sizeof *sizes, error);
    if (!status)
        status = config_amount_or(root, "norm_eps", 1e-5, &eps, error);
    if (!status)
        config->norm_eps = (float)eps;
    return status ? status : config_bool_or(root, "conv_bias", false, &config->conv_bias, error);
}

// head_dim is honoured, so Hq dh need not be d; null is an error there and here.
static int read_heads(struct json root, struct config *config, struct error *error)
{
    const struct json value = json_get(root, "head_dim");
    const char *file = json_where(root);
    if (value.item) {
        const int status = json_need_u32(value, 1, CONFIG_WIDTH_MAX, &config->head_width, error);
        if (status)
            return status;
    } else if (config->hidden % config->query_heads) {
        return error_set(error, ERROR_INPUT,
                         "%s: hidden_size %u is no multiple of num_attention_heads %u; expected one, "
                         "or head_dim",
                         file, config->hidden, config->query_heads);
    } else {
        config->head_width = config->hidden / config->query_heads;
    }
    if (config->head_width % 2)
        return error_set(error, ERROR_INPUT,
                         "%s: head width %u (%s) is odd; expected an even one, since the rotary "
                         "embedding turns pairs",
                         file, config->head_width, value.item ? "head_dim" : "hidden_size / num_attention_heads");
    return config_check_heads(root, config, error);
}

// F of architecture.md 2.2: block_ff_dim (or intermediate_size), two thirds of it times the multiplier, rounded up.
static int read_feed_forward(struct json root, struct config *config, struct error *error)
{
    bool adjust;
    double multiplier;
    uint32_t width, multiple;
    const char *key = json_get(root, "block_ff_dim").item ? "block_ff_dim" : "intermediate_size";
    int status = config_u32_or(root, key, 1, CONFIG_WIDTH_MAX, 12288, &width, error);
    if (!status)
        status = config_bool_or(root, "block_auto_adjust_ff_dim", true, &adjust, error);
    if (!status)
        status = config_amount_or(root, "block_ffn_dim_multiplier", 1.0, &multiplier, error);
    if (!status)
        status = config_u32_or(root, "block_multiple_of", 1, CONFIG_WIDTH_MAX, 256, &multiple, error);
    if (status)
        return status;
    config->feed_forward = width;
    if (!adjust)
        return 0;
    const double scaled = trunc(multiplier * (double)(2 * width / 3));
    const double blocks = ceil(scaled / multiple); // exact wherever it is accepted: integers of at most 2^24
    if (!(scaled >= 1 && blocks * multiple <= CONFIG_WIDTH_MAX))
        return error_set(error, ERROR_INPUT,
                         "%s: %s %u, adjusted by block_ffn_dim_multiplier %g and block_multiple_of %u, "
                         "gives no feed-forward width from 1 to %d",
                         json_where(root), key, width, multiplier, multiple, CONFIG_WIDTH_MAX);
    config->feed_forward = (uint32_t)blocks * multiple;
    return 0;
}

static int read_experts(struct json root, struct config *config, struct error *error)
{
    double scale;
    const struct config_size sizes[] = {
        {"intermediate_size", CONFIG_WIDTH_MAX, 7168, &config->feed_forward}, // never adjusted
        {"moe_intermediate_size", CONFIG_WIDTH_MAX, 1792, &config->expert_width},
        {"num_experts", CONFIG_EXPERTS_MAX, 32, &config->experts},
        {"num_experts_per_tok", CONFIG_EXPERTS_MAX, 4, &config->experts_per_token},
    };
    int status = config_sizes(root, sizes, sizeof sizes / sizeof *sizes, error);
    if (!status)
        status = config_u32_or(root, "num_dense_layers", 0, CONFIG_WIDTH_MAX, 2, &config->dense_layers, error);
    if (!status)
        status = config_bool_or(root, "use_expert_bias", true, &config->expert_bias, error);
    if (!status)
        status = config_bool_or(root, "norm_topk_prob", true, &config->expert_normalise, error);
    if (!status)
        status = config_amount_or(root, "routed_scaling_factor", 1.0, &scale, error);
    if (status)
        return status;
    config->expert_scale = (float)scale;
    if (config->dense_layers > config->layers)
        config->dense_layers = config->layers;
    if (config->experts_per_token > config->experts)
        return error_set(error, ERROR_INPUT, "%s: num_experts_per_tok %u of num_experts %u; expected at most all of them",
                         json_where(root), config->experts_per_token, config->experts);
    return 0;
}

// An index beyond the last layer selects nothing, as in transformers: configs cut to fewer layers keep the list.
static int read_full_attn_idxs(struct json list, struct config *config, struct error *error)
{
    int status = json_need_array(list, error);
    for (struct json entry = json_first(list); !status && entry.item; entry = json_next(entry)) {
        uint32_t layer;
        status = json_need_u32(entry, 0, INT32_MAX, &layer, error);
        if (!status && layer < config->layers)
            config->mixers[layer] = MIXER_ATTENTION;
    }
    return status;
}

static int read_mixers(struct json root, struct config *config, struct error *error)
{
    const struct json types = json_get(root, "layer_types"), indices = json_get(root, "full_attn_idxs");
    for (uint32_t i = 0; i < config->layers; i++)
        config->mixers[i] = MIXER_CONV;
    if (json_present(types))
        return config_layer_types(types, "conv", MIXER_CONV, config, error);
    if (config->family == FAMILY_LFM2_MOE)
        return error_set(error, ERROR_INPUT, "%s: no layer_types; expected %u entries 'conv' or 'full_attention', since "
                         "this family has no default", json_where(root), config->layers);
    if (json_present(indices))
        return read_full_attn_idxs(indices, config, error);
    for (uint32_t i = 0; i < config->layers; i++)
        config->mixers[i] = MIXER_ATTENTION;
    return 0;
}

int config_lfm2(struct arena *arena, struct json root, struct config *config, struct error *error)
{
    const char *tie = json_get(root, "tie_embedding").item ? "tie_embedding" : "tie_word_embeddings";
    int status = read_sizes(root, config, error);
    if (!status)
        status = read_heads(root, config, error);
    if (!status && config->family == FAMILY_LFM2_MOE) {
        status = read_experts(root, config, error);
    } else if (!status) {
        status = read_feed_forward(root, config, error);
        config->dense_layers = config->layers;
    }
    if (!status)
        status = config_make_mixers(arena, root, config, error);
    if (!status)
        status = read_mixers(root, config, error);
    if (!status)
        status = config_rope(root, 1e6, 1.0, config, error);
    if (!status)
        status = config_bool_or(root, tie, true, &config->tied, error);
    return status ? status : config_tokens(root, 1, 2, config, error);
}
