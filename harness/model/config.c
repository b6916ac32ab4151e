#include "harness/model/config.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/files.h"

// Limits that keep every product of two sizes far inside 64 bits and every matrix dimension inside 32. The largest
// released model has d = 2048, F = 10752, V = 128,000, L = 30.
enum {
    WIDTH_MAX = 1 << 24, // any width; positions too: beyond it float32 no longer counts them one by one
    LAYERS_MAX = 1024,
    TAPS_MAX = 16,
    CONFIG_BYTES_MAX = 16 << 20,
};

static int need_u32_or(struct json root, const char *key, uint32_t low, uint32_t high, uint32_t absent, uint32_t *out,
                       struct error *error)
{
    const struct json value = json_get(root, key);
    *out = absent;
    return value.item ? json_need_u32(value, low, high, out, error) : 0;
}

static int need_bool_or(struct json root, const char *key, bool absent, bool *out, struct error *error)
{
    const struct json value = json_get(root, key);
    *out = absent;
    return value.item ? json_need_bool(value, out, error) : 0;
}

// A number in [0, FLT_MAX]: what enters float arithmetic.
static int need_amount_or(struct json root, const char *key, double absent, double *out, struct error *error)
{
    const struct json value = json_get(root, key);
    *out = absent;
    if (!value.item)
        return 0;
    const int status = json_need_number(value, out, error);
    if (!status && !(*out >= 0 && *out <= FLT_MAX))
        return error_set(error, ERROR_INPUT, "%s: found %.17g, expected a number from 0 to the largest float",
                         json_where(value), *out);
    return status;
}

static int read_family(struct json root, struct config *config, struct error *error)
{
    const struct json value = json_get(root, "model_type");
    const char *family;
    const int status = json_need_string(value, &family, error);
    if (status)
        return status;
    if (strcmp(family, "lfm2"))
        return error_set(error, ERROR_INPUT, "%s: found '%s', expected 'lfm2', the one family that is supported",
                         json_where(value), family);
    snprintf(config->model_type, sizeof config->model_type, "%s", family);
    return 0;
}

static int read_sizes(struct json root, struct config *config, struct error *error)
{
    const struct {
        const char *key;
        uint32_t high, absent;
        uint32_t *out;
    } fields[] = {
        {"vocab_size", INT32_MAX, 65536, &config->vocabulary}, // ids are stored as I32
        {"hidden_size", WIDTH_MAX, 2560, &config->hidden},
        {"num_hidden_layers", LAYERS_MAX, 32, &config->layers},
        {"num_attention_heads", WIDTH_MAX, 32, &config->query_heads},
        {"num_key_value_heads", WIDTH_MAX, 8, &config->key_heads},
        {"conv_L_cache", TAPS_MAX, 3, &config->conv_taps},
        {"max_position_embeddings", WIDTH_MAX, 128000, &config->max_positions},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const int status =
            need_u32_or(root, fields[i].key, 1, fields[i].high, fields[i].absent, fields[i].out, error);
        if (status)
            return status;
    }
    double eps;
    const int status = need_amount_or(root, "norm_eps", 1e-5, &eps, error);
    config->norm_eps = (float)eps;
    return status ? status : need_bool_or(root, "conv_bias", false, &config->conv_bias, error);
}

// head_dim is honoured, so Hq dh need not be d; null is an error there and here.
static int read_heads(struct json root, struct config *config, struct error *error)
{
    const struct json value = json_get(root, "head_dim");
    const char *file = json_where(root);
    if (value.item) {
        const int status = json_need_u32(value, 1, WIDTH_MAX, &config->head_width, error);
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
    if (config->query_heads % config->key_heads)
        return error_set(error, ERROR_INPUT,
                         "%s: num_attention_heads %u is no multiple of num_key_value_heads %u; expected "
                         "the same number of query heads for every key head",
                         file, config->query_heads, config->key_heads);
    if ((uint64_t)config->query_heads * config->head_width > WIDTH_MAX)
        return error_set(error, ERROR_INPUT, "%s: %u heads of width %u; expected at most %d values together", file,
                         config->query_heads, config->head_width, WIDTH_MAX);
    return 0;
}

// F of architecture.md 2.2: block_ff_dim (or intermediate_size), two thirds of it times the multiplier, rounded up.
static int read_feed_forward(struct json root, struct config *config, struct error *error)
{
    bool adjust;
    double multiplier;
    uint32_t width, multiple;
    const char *key = json_get(root, "block_ff_dim").item ? "block_ff_dim" : "intermediate_size";
    int status = need_u32_or(root, key, 1, WIDTH_MAX, 12288, &width, error);
    if (!status)
        status = need_bool_or(root, "block_auto_adjust_ff_dim", true, &adjust, error);
    if (!status)
        status = need_amount_or(root, "block_ffn_dim_multiplier", 1.0, &multiplier, error);
    if (!status)
        status = need_u32_or(root, "block_multiple_of", 1, WIDTH_MAX, 256, &multiple, error);
    if (status)
        return status;
    config->feed_forward = width;
    if (!adjust)
        return 0;
    const double scaled = trunc(multiplier * (double)(2 * width / 3));
    const double blocks = ceil(scaled / multiple); // exact wherever it is accepted: integers of at most 2^24
    if (!(scaled >= 1 && blocks * multiple <= WIDTH_MAX))
        return error_set(error, ERROR_INPUT,
                         "%s: %s %u, adjusted by block_ffn_dim_multiplier %g and block_multiple_of %u, "
                         "gives no feed-forward width from 1 to %d",
                         json_where(root), key, width, multiplier, multiple, WIDTH_MAX);
    config->feed_forward = (uint32_t)blocks * multiple;
    return 0;
}

static int read_layer_types(struct json list, struct config *config, struct error *error)
{
    int status = json_need_array(list, error);
    if (status)
        return status;
    if (json_length(list) != config->layers)
        return error_set(error, ERROR_INPUT, "%s: %zu entries, expected num_hidden_layers = %u", json_where(list),
                         json_length(list), config->layers);
    uint32_t layer = 0;
    for (struct json entry = json_first(list); entry.item; entry = json_next(entry), layer++) {
        const char *type;
        status = json_need_string(entry, &type, error);
        if (status)
            return status;
        if (!strcmp(type, "full_attention"))
            config->mixers[layer] = MIXER_ATTENTION;
        else if (!strcmp(type, "conv"))
            config->mixers[layer] = MIXER_CONV;
        else
            return error_set(error, ERROR_INPUT, "%s: found '%s', expected 'conv' or 'full_attention'",
                             json_where(entry), type);
    }
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

static int read_mixers(struct arena *arena, struct json root, struct config *config, struct error *error)
{
    config->mixers = arena_alloc(arena, config->layers, sizeof *config->mixers);
    if (!config->mixers)
        return error_set(error, ERROR_RUNTIME, "%s: memory exhausted", json_where(root));
    for (uint32_t i = 0; i < config->layers; i++)
        config->mixers[i] = MIXER_CONV;
    const struct json types = json_get(root, "layer_types"), indices = json_get(root, "full_attn_idxs");
    if (json_present(types))
        return read_layer_types(types, config, error);
    if (json_present(indices))
        return read_full_attn_idxs(indices, config, error);
    for (uint32_t i = 0; i < config->layers; i++)
        config->mixers[i] = MIXER_ATTENTION;
    return 0;
}

// rope_scaling (the whole dict, unless null or empty) over rope_parameters; a key missing inside comes from the top
// level, then from the default. The alias `theta` is not read by transformers 5 and not here.
static int read_rope(struct json root, struct config *config, struct error *error)
{
    struct json rope = json_get(root, "rope_scaling");
    if (json_present(rope) && !json_is_object(rope))
        return json_need_object(rope, error);
    if (!json_present(rope) || !json_length(rope))
        rope = json_get(root, "rope_parameters");
    const char *type = "default";
    struct json theta = json_get(root, "rope_theta");
    if (json_present(rope)) {
        int status = json_need_object(rope, error);
        for (struct json member = json_first(rope); !status && member.item; member = json_next(member)) {
            if (json_is_object(member))
                status = error_set(error, ERROR_INPUT,
                                   "%s: rope settings of their own for '%s'; expected one "
                                   "theta for all layers",
                                   json_where(rope), json_key(member));
        }
        struct json named = json_get(rope, "rope_type");
        if (!named.item)
            named = json_get(rope, "type"); // its name in transformers 4
        if (!status && named.item)
            status = json_need_string(named, &type, error);
        if (status)
            return status;
        if (json_get(rope, "rope_theta").item)
            theta = json_get(rope, "rope_theta");
    }
    if (strcmp(type, "default"))
        return error_set(error, ERROR_INPUT,
                         "%s: rope_type '%s' changes the frequencies; only 'default' is supported", json_where(rope),
                         type);
    config->rope_theta = 1e6;
    const int status = theta.item ? json_need_number(theta, &config->rope_theta, error) : 0;
    if (!status && !(config->rope_theta > 0 && config->rope_theta <= FLT_MAX))
        return error_set(error, ERROR_INPUT, "%s: found %.17g, expected a positive number up to the largest float",
                         json_where(theta), config->rope_theta);
    return status;
}

static int read_head_and_tokens(struct json root, struct config *config, struct error *error)
{
    const char *tie = json_get(root, "tie_embedding").item ? "tie_embedding" : "tie_word_embeddings";
    int status = need_bool_or(root, tie, true, &config->tied, error);
    if (status)
        return status;
    const struct json bos = json_get(root, "bos_token_id"), eos = json_get(root, "eos_token_id");
    config->bos = bos.item ? -1 : 1;
    if (json_present(bos))
        status = json_need_integer(bos, 0, INT32_MAX, &config->bos, error);
    config->n_eos = eos.item ? 0 : 1;
    config->eos[0] = 2;
    if (status || !json_present(eos))
        return status;
    const size_t room = sizeof config->eos / sizeof *config->eos;
    if (!json_is_array(eos)) {
        config->n_eos = 1;
        return json_need_u32(eos, 0, INT32_MAX, &config->eos[0], error);
    }
    if (json_length(eos) > room)
        return error_set(error, ERROR_INPUT, "%s: %zu stop tokens, expected at most %zu", json_where(eos),
                         json_length(eos), room);
    for (struct json entry = json_first(eos); entry.item && !status; entry = json_next(entry))
        status = json_need_u32(entry, 0, INT32_MAX, &config->eos[config->n_eos++], error);
    return status;
}

int config_read(struct arena *arena, struct json root, struct config *config, struct error *error)
{
    *config = (struct config){0};
    int status = json_need_object(root, error);
    if (!status)
        status = read_family(root, config, error);
    if (!status)
        status = read_sizes(root, config, error);
    if (!status)
        status = read_heads(root, config, error);
    if (!status)
        status = read_feed_forward(root, config, error);
    if (!status)
        status = read_mixers(arena, root, config, error);
    if (!status)
        status = read_rope(root, config, error);
    return status ? status : read_head_and_tokens(root, config, error);
}

int config_open(struct arena *arena, const char *path, struct config *config, struct error *error)
{
    struct json_document *document;
    int status = json_open_file(&document, path, CONFIG_BYTES_MAX, error);
    if (!status)
        status = config_read(arena, json_root(document), config, error);
    json_close(&document);
    return status;
}
