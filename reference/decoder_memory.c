#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/floating.h"
#include "reference/decoder.h"
#include "reference/math.h"
#include "reference/ops.h"

// --- opening

// As long as the decoder lives.
static float *kept(struct decoder *s, size_t n, bool *ok)
{
    float *memory = arena_alloc(&s->arena, n, sizeof *memory);
    *ok = *ok && memory;
    return memory;
}

// Until wider passes are asked for.
static float *floats(struct decoder *s, size_t n, bool *ok)
{
    float *memory = arena_alloc(&s->activations, n, sizeof *memory);
    *ok = *ok && memory;
    return memory;
}

// A vector (or the convolution's small matrix) in fp32; NULL when there is none.
static const float *widened(struct decoder *s, const struct weight *weight, bool *ok)
{
    if (weight->format == WEIGHT_NONE)
        return NULL;
    float *memory = kept(s, (size_t)weight->rows * weight->cols, ok);
    for (uint32_t row = 0; memory && row < weight->rows; row++)
        weight_row(weight, row, memory + (size_t)row * weight->cols);
    return memory;
}

static size_t delta_elements(const struct config *config)
{
    return (size_t)config->delta_value_heads * config->delta_key_width * config->delta_value_width;
}

static void open_layer(struct decoder *s, uint32_t i, bool *ok)
{
    const struct layer *w = &s->model->layers[i];
    const struct config *config = &s->model->config;
    struct decoder_layer *layer = &s->layers[i];
    layer->mixer_norm = widened(s, &w->mixer_norm, ok);
    layer->ffn_norm = widened(s, &w->ffn_norm, ok);
    layer->expert_bias = widened(s, &w->expert_bias, ok);
    if (w->mixer == MIXER_ATTENTION) {
        const size_t elements = (size_t)config->key_heads * s->capacity * config->head_width;
        layer->q_norm = widened(s, &w->q_norm, ok);
        layer->k_norm = widened(s, &w->k_norm, ok);
        layer->q_bias = widened(s, &w->q_bias, ok);
        layer->k_bias = widened(s, &w->k_bias, ok);
        layer->v_bias = widened(s, &w->v_bias, ok);
        layer->attn_out_bias = widened(s, &w->attn_out_bias, ok);
        layer->keys = kept(s, elements, ok);
        layer->values = kept(s, elements, ok);
        return;
    }
    layer->columns = kept(s, (size_t)config_conv_channels(config, i) * (config->conv_taps - 1), ok);
    if (w->mixer == MIXER_CONV) {
        layer->conv = widened(s, &w->conv, ok);
        layer->conv_bias = widened(s, &w->conv_bias, ok);
        layer->in_proj_bias = widened(s, &w->in_proj_bias, ok);
        layer->conv_out_bias = widened(s, &w->conv_out_bias, ok);
        return;
    }
    layer->conv = widened(s, &w->delta_conv, ok);
    layer->a_log = widened(s, &w->a_log, ok);
    layer->dt_bias = widened(s, &w->dt_bias, ok);
    layer->delta_norm = widened(s, &w->delta_norm, ok);
    layer->delta = kept(s, delta_elements(config), ok);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void open_experts(struct decoder *s, bool *ok)
{
    const struct config *config = &s->model->config;
    const size_t width = s->width, slots = width * config->experts_per_token;
    s->router = floats(s, width * config->experts, ok);
    s->selection = floats(s, width * config->experts, ok);
    s->chosen = arena_alloc(&s->activations, slots, sizeof *s->chosen);
    *ok = *ok && s->chosen;
    s->ids = floats(s, slots, ok);
    s->weights = floats(s, slots, ok);
    s->gathered = floats(s, width * config->hidden, ok);
    s->routed = floats(s, slots * config->hidden, ok);
    s->shared_gate = floats(s, width, ok);
}

// Rows of the delta net and of the attention that alternates with it.
static void open_delta(struct decoder *s, bool *ok)
{
    const struct config *config = &s->model->config;
    const size_t width = s->width, n_v = config->delta_value_heads, values = n_v * config->delta_value_width;
    s->query_gate = floats(s, width * 2 * config->query_heads * config->head_width, ok);
    s->mixed = floats(s, width * config_delta_channels(config), ok);
    s->convolved = floats(s, width * config_delta_channels(config), ok);
    s->a = floats(s, width * n_v, ok);
    s->b = floats(s, width * n_v, ok);
    s->g = floats(s, width * n_v, ok);
    s->beta = floats(s, width * n_v, ok);
    s->z = floats(s, width * values, ok);
    s->core = floats(s, width * values, ok);
}

static void open_activations(struct decoder *s, bool *ok)
{
    const struct config *config = &s->model->config;
    const size_t width = s->width, d = config->hidden;
    const size_t f = larger(config->feed_forward, larger(config->expert_width, config->shared_width));
    const size_t n_q = (size_t)config->query_heads * config->head_width;
    const size_t n_k = (size_t)config->key_heads * config->head_width;
    const size_t keys = (size_t)config->delta_key_heads * config->delta_key_width;
    const size_t values = (size_t)config->delta_value_heads * config->delta_value_width;
    s->cosine = floats(s, width * (config->rotary_width / 2), ok);
    s->sine = floats(s, width * (config->rotary_width / 2), ok);
    s->h = floats(s, width * d, ok);
    s->u = floats(s, width * d, ok);
    s->m = floats(s, width * d, ok);
    s->q = floats(s, width * larger(n_q, keys), ok);
    s->k = floats(s, width * larger(n_k, keys), ok);
    s->v = floats(s, width * larger(n_k, values), ok);
    s->attn = floats(s, width * n_q, ok);
    s->scores = floats(s, (size_t)config->query_heads * s->capacity, ok);
    s->sums = arena_alloc(&s->activations, larger(n_q, values), sizeof *s->sums);
    *ok = *ok && s->sums;
    s->gate = floats(s, width * f, ok);
    s->up = floats(s, width * f, ok);
    s->logits = floats(s, width * config->vocabulary, ok);
    if (config_is_lfm2(config)) {
        s->bcx = floats(s, width * 3 * d, ok);
        s->bx = floats(s, width * d, ok);
        s->c = floats(s, width * d, ok);
    } else {
        open_delta(s, ok);
    }
    if (config->experts)
        open_experts(s, ok);
    const uint32_t widest = (uint32_t)larger(larger(d, values), larger(n_q, f)); // input of a linear layer
    s->input.split = floats(s, linear_split_size(widest), ok);
    s->batch.packed = width > 1 ? floats(s, linear_batch_size(widest, s->width), ok) : NULL;
}

int decoder_make_room(struct decoder *s, uint32_t width, struct error *error)
{
    assert(width <= DECODER_WIDTH);
    if (width <= s->width)
        return 0;
    struct decoder wider = *s;
    bool ok = true;
    wider.activations = (struct arena){0};
    wider.width = width;
    open_activations(&wider, &ok);
    if (!ok) {
        arena_close(&wider.activations);
        return error_set(error, ERROR_RUNTIME, "reference: no memory for %u tokens at once; fewer may fit", width);
    }
    arena_close(&s->activations);
    *s = wider;
    return 0;
}

int decoder_open(struct decoder **decoder, const struct model *model, const struct linear *linear, enum isa isa,
                 uint32_t capacity, struct error *error)
{
    *decoder = NULL;
    if (capacity < 1 || capacity > MATH_ANGLE_MAX)
        return error_set(error, ERROR_USAGE, "reference: room for %u positions asked for; it can have 1 to %d",
                         capacity, (int)MATH_ANGLE_MAX);
    struct decoder *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(error, ERROR_RUNTIME, "reference: no memory");
    const struct config *config = &model->config;
    bool ok = true;
    s->model = model;
    s->linear = *linear;
    s->delta = delta_best(isa);
    s->swiglu = swiglu_best(isa);
    s->capacity = capacity;
    s->scale = math_reciprocal_sqrt(config->head_width);
    s->delta_scale = math_reciprocal_sqrt(config->delta_key_width);
    s->layers = arena_alloc(&s->arena, config->layers, sizeof *s->layers);
    ok = s->layers != NULL;
    for (uint32_t i = 0; ok && i < config->layers; i++)
        open_layer(s, i, &ok);
    s->final_norm = widened(s, &model->final_norm, &ok);
    float *frequencies = kept(s, config->rotary_width / 2, &ok);
    if (!ok || decoder_make_room(s, 1, NULL)) {
        decoder_close(&s);
        return error_set(error, ERROR_RUNTIME, "reference: no memory for the caches of %u positions; fewer may fit",
                         capacity);
    }
    ops_rope_frequencies(config->rope_theta, config->rotary_width, frequencies);
    s->frequencies = frequencies;
    *decoder = s;
    return 0;
}

void decoder_close(struct decoder **decoder)
{
    if (!decoder || !*decoder)
        return;
    arena_close(&(*decoder)->activations);
    arena_close(&(*decoder)->arena);
    free(*decoder);
    *decoder = NULL;
}

void decoder_reset(struct decoder *s)
{
    const struct config *config = &s->model->config;
    for (uint32_t i = 0; i < config->layers; i++) {
        const struct decoder_layer *layer = &s->layers[i];
        if (layer->columns)
            memset(layer->columns, 0, config_conv_channels(config, i) * (config->conv_taps - 1) * sizeof(float));
        if (layer->delta)
            memset(layer->delta, 0, delta_elements(config) * sizeof(float));
    }
    // keys and values of positions that have not been written are never read
}

// --- the state, in and out

// The cache that a state tensor speaks of: `heads` pieces of `used` elements, `stride` apart. data NULL: the model
// has no such cache, or not of this shape.
struct cache {
    float *data;
    size_t heads, used, stride;
};

static bool has_shape(const struct state_tensor *tensor, uint64_t a, uint64_t b, uint64_t c)
{
    return tensor->rank == (c ? 3 : 2) && tensor->shape[0] == a && tensor->shape[1] == b && (!c || tensor->shape[2] == c);
}

static struct cache find_cache(const struct decoder *s, const struct state_tensor *tensor, uint32_t position)
{
    const struct config *config = &s->model->config;
    const struct cache none = {NULL, 0, 0, 0};
    if (tensor->layer >= config->layers)
        return none;
    const struct decoder_layer *layer = &s->layers[tensor->layer];
    const struct cache conv = {layer->columns, 1, tensor->elements, tensor->elements};
    const struct cache delta = {layer->delta, 1, tensor->elements, tensor->elements};
    if (tensor->kind == STATE_CONV)
        return has_shape(tensor, config_conv_channels(config, tensor->layer), config->conv_taps - 1, 0) ? conv : none;
    if (tensor->kind == STATE_DELTA)
        return has_shape(tensor, config->delta_value_heads, config->delta_key_width, config->delta_value_width) ? delta
                                                                                                            : none;
    const size_t dh = config->head_width;
    const struct cache heads = {tensor->kind == STATE_K ? layer->keys : layer->values, config->key_heads,
                                position * dh, s->capacity * dh};
    return has_shape(tensor, config->key_heads, position, dh) ? heads : none;
}

void decoder_save(const struct decoder *s, struct state *state)
{
    for (size_t i = 0; i < state->n; i++) {
        const struct state_tensor *tensor = &state->tensors[i];
        const struct cache cache = find_cache(s, tensor, state->position);
        assert(cache.data);
        for (size_t h = 0; h < cache.heads; h++)
            memcpy(tensor->data + h * cache.used, cache.data + h * cache.stride, cache.used * sizeof(float));
        ops_canonical(tensor->data, tensor->elements);
    }
}

// Each cache of the model exactly once, with the model's shape.
static int check_state(const struct decoder *s, const struct state *state, struct error *error)
{
    const struct config *config = &s->model->config;
    if (state->position > s->capacity)
        return error_set(error, ERROR_USAGE, "state: %u positions, but this engine was opened for %u",
                         state->position, s->capacity);
    for (size_t i = 0; i < state->n; i++) {
        char name[48];
        const struct state_tensor *tensor = &state->tensors[i];
        if (!find_cache(s, tensor, state->position).data)
            return error_set(
                error, ERROR_CONTRACT,
                "%s: this model has no such state, or not of this shape after %u positions; expected that of "
                "the same checkpoint",
                state_name(tensor->layer, tensor->kind, name), state->position);
        for (size_t j = 0; j < i; j++)
            if (state->tensors[j].layer == tensor->layer && state->tensors[j].kind == tensor->kind)
                return error_set(error, ERROR_CONTRACT, "%s: given twice",
                                 state_name(tensor->layer, tensor->kind, name));
    }
    size_t expected = 0;
    for (uint32_t i = 0; i < config->layers; i++)
        expected += config->mixers[i] == MIXER_CONV ? 1 : 2;
    if (state->n != expected)
        return error_set(error, ERROR_CONTRACT, "state: %zu tensors, expected %zu for the %u layers of this model",
                         state->n, expected, config->layers);
    return 0;
}

int decoder_load(struct decoder *s, const struct state *state, struct error *error)
{
    const int code = check_state(s, state, error);
    if (code)
        return code;
    for (size_t i = 0; i < state->n; i++) {
        const struct state_tensor *tensor = &state->tensors[i];
        const struct cache cache = find_cache(s, tensor, state->position);
        for (size_t h = 0; h < cache.heads; h++)
            memcpy(cache.data + h * cache.stride, tensor->data + h * cache.used, cache.used * sizeof(float));
    }
    return 0;
}
