#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/floating.h"
#include "reference/lfm2.h"
#include "reference/math.h"
#include "reference/ops.h"

// --- opening

static float *floats(struct arena *arena, size_t n, bool *ok)
{
    float *memory = arena_alloc(arena, n, sizeof *memory);
    *ok = *ok && memory;
    return memory;
}

// A vector (or the convolution's small matrix) in fp32; NULL when there is none.
static const float *widened(struct lfm2 *s, const struct weight *weight, bool *ok)
{
    if (weight->format == WEIGHT_NONE)
        return NULL;
    float *memory = floats(&s->arena, (size_t)weight->rows * weight->cols, ok);
    for (uint32_t row = 0; memory && row < weight->rows; row++)
        weight_row(weight, row, memory + (size_t)row * weight->cols);
    return memory;
}

static void open_layer(struct lfm2 *s, uint32_t i, bool *ok)
{
    const struct lfm2_layer *w = &s->model->layers[i];
    const struct config *config = &s->model->config;
    struct lfm2_memory *memory = &s->layers[i];
    memory->operator_norm = widened(s, &w->operator_norm, ok);
    memory->ffn_norm = widened(s, &w->ffn_norm, ok);
    if (w->mixer == MIXER_CONV) {
        memory->conv = widened(s, &w->conv, ok);
        memory->conv_bias = widened(s, &w->conv_bias, ok);
        memory->in_proj_bias = widened(s, &w->in_proj_bias, ok);
        memory->conv_out_bias = widened(s, &w->conv_out_bias, ok);
        memory->columns = floats(&s->arena, (size_t)config->hidden * (config->conv_taps - 1), ok);
    } else {
        const size_t elements = (size_t)config->key_heads * s->capacity * config->head_width;
        memory->q_norm = widened(s, &w->q_norm, ok);
        memory->k_norm = widened(s, &w->k_norm, ok);
        memory->keys = floats(&s->arena, elements, ok);
        memory->values = floats(&s->arena, elements, ok);
    }
}

static void open_activations(struct lfm2 *s, bool *ok)
{
    const struct config *config = &s->model->config;
    struct arena *arena = &s->activations;
    const size_t width = s->width, d = config->hidden, f = config->feed_forward;
    const size_t n_q = (size_t)config->query_heads * config->head_width;
    const size_t n_k = (size_t)config->key_heads * config->head_width;
    s->cosine = floats(arena, width * (config->head_width / 2), ok);
    s->sine = floats(arena, width * (config->head_width / 2), ok);
    s->h = floats(arena, width * d, ok);
    s->u = floats(arena, width * d, ok);
    s->m = floats(arena, width * d, ok);
    s->bcx = floats(arena, width * 3 * d, ok);
    s->bx = floats(arena, width * d, ok);
    s->c = floats(arena, width * d, ok);
    s->q = floats(arena, width * n_q, ok);
    s->attn = floats(arena, width * n_q, ok);
    s->k = floats(arena, width * n_k, ok);
    s->v = floats(arena, width * n_k, ok);
    s->scores = floats(arena, (size_t)config->query_heads * s->capacity, ok);
    s->sums = arena_alloc(arena, n_q, sizeof *s->sums);
    *ok = *ok && s->sums;
    s->gate = floats(arena, width * f, ok);
    s->up = floats(arena, width * f, ok);
    s->logits = floats(arena, width * config->vocabulary, ok);
    const size_t wider = n_q > d ? n_q : d;
    const uint32_t widest = (uint32_t)(wider > f ? wider : f);
    s->input.split = floats(arena, linear_split_size(widest), ok);
    s->batch.packed = width > 1 ? floats(arena, linear_batch_size(widest, s->width), ok) : NULL;
}

int lfm2_make_room(struct lfm2 *s, uint32_t width, struct error *error)
{
    assert(width <= LFM2_WIDTH);
    if (width <= s->width)
        return 0;
    struct lfm2 wider = *s;
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

int lfm2_open(struct lfm2 **lfm2, const struct model *model, const struct linear *linear, uint32_t capacity,
              struct error *error)
{
    *lfm2 = NULL;
    if (capacity < 1 || capacity > MATH_ANGLE_MAX)
        return error_set(error, ERROR_USAGE, "reference: room for %u positions asked for; it can have 1 to %d",
                         capacity, (int)MATH_ANGLE_MAX);
    struct lfm2 *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(error, ERROR_RUNTIME, "reference: no memory");
    const struct config *config = &model->config;
    bool ok = true;
    s->model = model;
    s->linear = *linear;
    s->capacity = capacity;
    s->scale = math_reciprocal_sqrt(config->head_width);
    s->layers = arena_alloc(&s->arena, config->layers, sizeof *s->layers);
    ok = s->layers != NULL;
    for (uint32_t i = 0; ok && i < config->layers; i++)
        open_layer(s, i, &ok);
    s->final_norm = widened(s, &model->final_norm, &ok);
    float *frequencies = floats(&s->arena, config->head_width / 2, &ok);
    if (!ok || lfm2_make_room(s, 1, NULL)) {
        lfm2_close(&s);
        return error_set(error, ERROR_RUNTIME, "reference: no memory for the caches of %u positions; fewer may fit",
                         capacity);
    }
    ops_rope_frequencies(config->rope_theta, config->head_width, frequencies);
    s->frequencies = frequencies;
    *lfm2 = s;
    return 0;
}

void lfm2_close(struct lfm2 **lfm2)
{
    if (!lfm2 || !*lfm2)
        return;
    arena_close(&(*lfm2)->activations);
    arena_close(&(*lfm2)->arena);
    free(*lfm2);
    *lfm2 = NULL;
}

void lfm2_reset(struct lfm2 *s)
{
    const struct config *config = &s->model->config;
    const size_t elements = (size_t)config->hidden * (config->conv_taps - 1);
    for (uint32_t i = 0; i < config->layers; i++)
        if (s->layers[i].columns)
            memset(s->layers[i].columns, 0, elements * sizeof(float));
    // keys and values of positions that have not been written are never read
}

// --- the state, in and out

// The cache that a state tensor speaks of: `heads` pieces of `used` elements, `stride` apart. data NULL: the model
// has no such cache, or not of this shape.
struct cache {
    float *data;
    size_t heads, used, stride;
};

static struct cache find_cache(const struct lfm2 *s, const struct state_tensor *tensor, uint32_t position)
{
    const struct config *config = &s->model->config;
    struct cache cache = {NULL, 0, 0, 0};
    if (tensor->layer >= config->layers)
        return cache;
    const struct lfm2_memory *memory = &s->layers[tensor->layer];
    const uint64_t *shape = tensor->shape;
    if (tensor->kind == STATE_CONV) {
        if (tensor->rank == 2 && shape[0] == config->hidden && shape[1] == config->conv_taps - 1)
            cache = (struct cache){memory->columns, 1, tensor->elements, tensor->elements};
    } else if (tensor->rank == 3 && shape[0] == config->key_heads && shape[1] == position &&
               shape[2] == config->head_width) {
        const size_t dh = config->head_width;
        cache = (struct cache){tensor->kind == STATE_K ? memory->keys : memory->values, config->key_heads,
                               position * dh, s->capacity * dh};
    }
    return cache;
}

void lfm2_save(const struct lfm2 *s, struct state *state)
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
static int check_state(const struct lfm2 *s, const struct state *state, struct error *error)
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
        expected += config->mixers[i] == MIXER_ATTENTION ? 2 : 1;
    if (state->n != expected)
        return error_set(error, ERROR_CONTRACT, "state: %zu tensors, expected %zu for the %u layers of this model",
                         state->n, expected, config->layers);
    return 0;
}

int lfm2_load(struct lfm2 *s, const struct state *state, struct error *error)
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
