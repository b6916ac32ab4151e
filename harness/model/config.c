#include "harness/model/config.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/model/config_fields.h"

enum { CONFIG_BYTES_MAX = 16 << 20 };

const char *family_name(enum family family)
{
    static const char *const names[] = {"lfm2", "lfm2_moe", "qwen3_5", "qwen3_5_moe"};
    return names[family];
}

// --- fields

int config_u32_or(struct json root, const char *key, uint32_t low, uint32_t high, uint32_t absent, uint32_t *out,
                  struct error *error)
{
    const struct json value = json_get(root, key);
    *out = absent;
    return value.item ? json_need_u32(value, low, high, out, error) : 0;
}

int config_bool_or(struct json root, const char *key, bool absent, bool *out, struct error *error)
{
    const struct json value = json_get(root, key);
    *out = absent;
    return value.item ? json_need_bool(value, out, error) : 0;
}

int config_amount_or(struct json root, const char *key, double absent, double *out, struct error *error)
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

int config_sizes(struct json root, const struct config_size *sizes, size_t n, struct error *error)
{
    for (size_t i = 0; i < n; i++) {
        const int status =
            config_u32_or(root, sizes[i].key, 1, sizes[i].high, sizes[i].absent, sizes[i].out, error);
        if (status)
            return status;
    }
    return 0;
}

int config_check_heads(struct json root, const struct config *config, struct error *error)
{
    const char *file = json_where(root);
    if (config->query_heads % config->key_heads)
        return error_set(error, ERROR_INPUT,
                         "%s: num_attention_heads %u is no multiple of num_key_value_heads %u; expected "
                         "the same number of query heads for every key head",
                         file, config->query_heads, config->key_heads);
    if ((uint64_t)config->query_heads * config->head_width > CONFIG_WIDTH_MAX)
        return error_set(error, ERROR_INPUT, "%s: %u heads of width %u; expected at most %d values together", file,
                         config->query_heads, config->head_width, CONFIG_WIDTH_MAX);
    return 0;
}

int config_make_mixers(struct arena *arena, struct json root, struct config *config, struct error *error)
{
    config->mixers = arena_alloc(arena, config->layers, sizeof *config->mixers);
    return config->mixers ? 0 : error_set(error, ERROR_RUNTIME, "%s: memory exhausted", json_where(root));
}

int config_layer_types(struct json list, const char *other, enum mixer mixer, struct config *config,
                       struct error *error)
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
        else if (!strcmp(type, other))
            config->mixers[layer] = mixer;
        else
            return error_set(error, ERROR_INPUT, "%s: found '%s', expected '%s' or 'full_attention'",
                             json_where(entry), type, other);
    }
    return 0;
}

// R = the whole part of dh times the factor, as transformers takes it.
static int read_rotary_width(struct json root, struct json partial, double absent, struct config *config,
                             struct error *error)
{
    double factor = absent;
    const int status = partial.item && absent < 1 ? json_need_number(partial, &factor, error) : 0;
    if (status)
        return status;
    const double width = (double)config->head_width * factor;
    if (!(width >= 2 && width < (double)config->head_width + 1))
        return error_set(error, ERROR_INPUT,
                         "%s: partial_rotary_factor %g of head width %u turns no pair or more than there are; expected "
                         "a factor up to 1",
                         json_where(root), factor, config->head_width);
    config->rotary_width = (uint32_t)width;
    if (config->rotary_width % 2)
        return error_set(error, ERROR_INPUT,
                         "%s: rotary width %u (head width %u times %g) is odd; expected an even one, since the rotary "
                         "embedding turns pairs",
                         json_where(root), config->rotary_width, config->head_width, factor);
    return 0;
}

int config_rope(struct json root, double theta_absent, double partial_absent, struct config *config,
                struct error *error)
{
    struct json rope = json_get(root, "rope_scaling");
    if (json_present(rope) && !json_is_object(rope))
        return json_need_object(rope, error);
    if (!json_present(rope) || !json_length(rope))
        rope = json_get(root, "rope_parameters");
    const char *type = "default";
    struct json theta = json_get(root, "rope_theta"), partial = json_get(root, "partial_rotary_factor");
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
        if (json_get(rope, "partial_rotary_factor").item)
            partial = json_get(rope, "partial_rotary_factor");
    }
    if (strcmp(type, "default"))
        return error_set(error, ERROR_INPUT,
                         "%s: rope_type '%s' changes the frequencies; only 'default' is supported", json_where(rope),
                         type);
    config->rope_theta = theta_absent;
    const int status = theta.item ? json_need_number(theta, &config->rope_theta, error) : 0;
    if (!status && !(config->rope_theta > 0 && config->rope_theta <= FLT_MAX))
        return error_set(error, ERROR_INPUT, "%s: found %.17g, expected a positive number up to the largest float",
                         json_where(theta), config->rope_theta);
    return status ? status : read_rotary_width(root, partial, partial_absent, config, error);
}

int config_tokens(struct json root, int64_t bos_absent, int64_t eos_absent, struct config *config,
                  struct error *error)
{
    const struct json bos = json_get(root, "bos_token_id"), eos = json_get(root, "eos_token_id");
    int status = 0;
    config->bos = bos.item ? -1 : bos_absent;
    if (json_present(bos))
        status = json_need_integer(bos, 0, INT32_MAX, &config->bos, error);
    config->n_eos = eos.item || eos_absent < 0 ? 0 : 1;
    config->eos[0] = eos_absent < 0 ? 0 : (uint32_t)eos_absent;
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

// --- the family

static const struct {
    const char *model_type;
    enum family family;
    bool nested;
} families[] = {
    {"lfm2", FAMILY_LFM2, false},
    {"lfm2_moe", FAMILY_LFM2_MOE, false},
    {"qwen3_5", FAMILY_QWEN35, true},
    {"qwen3_5_text", FAMILY_QWEN35, false},
    {"qwen3_5_moe", FAMILY_QWEN35_MOE, true},
    {"qwen3_5_moe_text", FAMILY_QWEN35_MOE, false},
};

const char *family_of_type(const char *model_type)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!strcmp(model_type, families[i].model_type))
            return family_name(families[i].family);
    return model_type;
}

static int read_family(struct json root, struct config *config, struct error *error)
{
    const struct json value = json_get(root, "model_type");
    const char *found;
    const int status = json_need_string(value, &found, error);
    if (status)
        return status;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!strcmp(found, families[i].model_type)) {
            snprintf(config->model_type, sizeof config->model_type, "%s", found);
            config->family = families[i].family;
            config->nested = families[i].nested;
            return 0;
        }
    return error_set(error, ERROR_INPUT,
                     "%s: found '%s', expected one of the supported families: lfm2, lfm2_moe, qwen3_5, qwen3_5_text, "
                     "qwen3_5_moe, qwen3_5_moe_text",
                     json_where(value), found);
}

int config_read(struct arena *arena, struct json root, struct config *config, struct error *error)
{
    *config = (struct config){0};
    int status = json_need_object(root, error);
    if (!status)
        status = read_family(root, config, error);
    struct json text = root;
    if (!status && config->nested) {
        text = json_get(root, "text_config");
        status = json_need_object(text, error);
    }
    if (status)
        return status;
    return config_is_lfm2(config) ? config_lfm2(arena, text, config, error)
                                  : config_qwen35(arena, text, config, error);
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
