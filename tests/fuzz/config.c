// Any text at all is either refused with a sentence or becomes a config whose sizes the rest of the program may
// multiply.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct config *config)
{
    const uint32_t limit = 1 << 24;
    assert(config->vocabulary >= 1 && config->vocabulary <= INT32_MAX);
    assert(config->hidden >= 1 && config->hidden <= limit);
    assert(config->layers >= 1 && config->layers <= 1024);
    assert(config->key_heads >= 1 && config->query_heads % config->key_heads == 0);
    assert(config->head_width >= 2 && config->rotary_width >= 2);
    assert(config->rotary_width % 2 == 0 && config->rotary_width <= config->head_width);
    assert((uint64_t)config->query_heads * config->head_width <= limit);
    assert(config->conv_taps >= 1 && config->conv_taps <= 16);
    assert(config->max_positions >= 1 && config->max_positions <= limit);
    assert(isfinite(config->norm_eps) && config->norm_eps >= 0);
    assert(isfinite(config->rope_theta) && config->rope_theta > 0);
    assert(config->n_eos <= 8 && config->bos >= -1);
}

static void check_feed_forward(const struct config *config)
{
    const uint32_t limit = 1 << 24;
    assert(config->dense_layers <= config->layers && config->feed_forward <= limit);
    assert(config->feed_forward >= 1 || config->dense_layers == 0);
    if (!config->experts) {
        assert(config->dense_layers == config->layers);
        return;
    }
    assert(config->experts <= 4096 && config->experts_per_token >= 1 && config->experts_per_token <= config->experts);
    assert(config->expert_width >= 1 && config->expert_width <= limit && config->shared_width <= limit);
    assert(isfinite(config->expert_scale) && config->expert_scale >= 0);
}

static void check_mixers(const struct config *config)
{
    const uint64_t limit = 1 << 24, keys = config->delta_key_heads, values = config->delta_value_heads;
    for (uint32_t i = 0; i < config->layers; i++)
        assert(config->mixers[i] == MIXER_ATTENTION ||
               config->mixers[i] == (config_is_lfm2(config) ? MIXER_CONV : MIXER_DELTA));
    if (config_is_lfm2(config))
        return;
    assert(keys && values && values % keys == 0);
    assert(keys * config->delta_key_width <= limit && values * config->delta_value_width <= limit);
    assert((uint64_t)config->delta_key_width * config->delta_value_width <= limit);
    assert(config_delta_channels(config) >= 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_document *document;
    struct error error = {0};
    if (json_open_text(&document, "config.json", (const char *)data, size, &error))
        return 0;
    struct arena arena = {0};
    struct config config;
    const int status = config_read(&arena, json_root(document), &config, &error);
    if (status)
        assert(status == error.code && strlen(error.text));
    else {
        check(&config);
        check_feed_forward(&config);
        check_mixers(&config);
    }
    arena_close(&arena);
    json_close(&document);
    return 0;
}
