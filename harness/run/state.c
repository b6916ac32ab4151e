#include "harness/run/state.h"

#include <assert.h>
#include <stdio.h>

static const char *const kind_names[STATE_KINDS] = {"k", "v", "conv", "delta"};

const char *state_kind_name(enum state_kind kind)
{
    assert(kind < STATE_KINDS);
    return kind_names[kind];
}

const char *state_name(uint32_t layer, enum state_kind kind, char text[48])
{
    snprintf(text, 48, "state.%u.%s", layer, state_kind_name(kind));
    return text;
}

static void set_shape(struct state_tensor *tensor, const struct config *config, uint32_t position)
{
    const uint64_t conv[] = {config_conv_channels(config, tensor->layer), config->conv_taps - 1};
    const uint64_t delta[] = {config->delta_value_heads, config->delta_key_width, config->delta_value_width};
    const uint64_t cache[] = {config->key_heads, position, config->head_width};
    const uint64_t *shape = tensor->kind == STATE_CONV ? conv : tensor->kind == STATE_DELTA ? delta : cache;
    tensor->rank = tensor->kind == STATE_CONV ? 2 : 3;
    for (uint32_t i = 0; i < tensor->rank; i++)
        tensor->shape[i] = shape[i];
}

static bool tensor_make(struct arena *arena, const struct config *config, uint32_t position,
                        struct state_tensor *tensor)
{
    set_shape(tensor, config, position);
    const uint64_t last = tensor->rank == 3 ? tensor->shape[2] : 1;
    // Only the first product cannot overflow by itself: both factors have 32 bits.
    if (tensor->shape[0] * tensor->shape[1] > SIZE_MAX / last)
        return false;
    tensor->elements = tensor->shape[0] * tensor->shape[1] * last;
    tensor->data = arena_alloc(arena, (size_t)tensor->elements, sizeof *tensor->data);
    return tensor->data != NULL;
}

static int make(struct arena *arena, const struct config *config, uint32_t position, bool recurrent,
                struct state *state, struct error *error)
{
    static const enum state_kind first[] = {STATE_CONV, STATE_K, STATE_CONV}; // by mixer
    static const enum state_kind last[] = {STATE_CONV, STATE_V, STATE_DELTA};
    assert(config->conv_taps >= 1);
    *state = (struct state){.position = position};
    struct state_tensor *tensors = arena_alloc(arena, config->layers, 2 * sizeof *tensors);
    if (!tensors)
        goto memory;
    size_t n = 0;
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        const enum mixer mixer = config->mixers[layer];
        if (recurrent && mixer == MIXER_ATTENTION)
            continue;
        for (enum state_kind kind = first[mixer]; kind <= last[mixer]; kind++) {
            tensors[n] = (struct state_tensor){.layer = layer, .kind = kind};
            if (!tensor_make(arena, config, position, &tensors[n]))
                goto memory;
            n++;
        }
    }
    state->n = n;
    state->tensors = tensors;
    return 0;

memory:
    return error_set(error, ERROR_RUNTIME,
                     "out of memory for the state of %u layers after %u positions; "
                     "close other programs or use a shorter case",
                     config->layers, position);
}

int state_make(struct arena *arena, const struct config *config, uint32_t position, struct state *state,
               struct error *error)
{
    return make(arena, config, position, false, state, error);
}

int state_make_recurrent(struct arena *arena, const struct config *config, uint32_t position, struct state *state,
                         struct error *error)
{
    return make(arena, config, position, true, state, error);
}
