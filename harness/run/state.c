#include "harness/run/state.h"

#include <assert.h>
#include <stdio.h>

static const char *const kind_names[] = {[STATE_K] = "k", [STATE_V] = "v", [STATE_CONV] = "conv"};

const char *state_kind_name(enum state_kind kind)
{
    assert(kind <= STATE_CONV);
    return kind_names[kind];
}

const char *state_name(uint32_t layer, enum state_kind kind, char text[48])
{
    snprintf(text, 48, "state.%u.%s", layer, state_kind_name(kind));
    return text;
}

static bool tensor_make(struct arena *arena, const struct config *config, uint32_t position,
                        struct state_tensor *tensor)
{
    if (tensor->kind == STATE_CONV) {
        tensor->rank = 2;
        tensor->shape[0] = config->hidden;
        tensor->shape[1] = config->conv_taps - 1;
        tensor->elements = tensor->shape[0] * tensor->shape[1];
    } else {
        tensor->rank = 3;
        tensor->shape[0] = config->key_heads;
        tensor->shape[1] = position;
        tensor->shape[2] = config->head_width;
        // Only the first product cannot overflow by itself: both factors have 32 bits.
        if (tensor->shape[0] * tensor->shape[1] > SIZE_MAX / config->head_width)
            return false;
        tensor->elements = tensor->shape[0] * tensor->shape[1] * tensor->shape[2];
    }
    tensor->data = arena_alloc(arena, (size_t)tensor->elements, sizeof *tensor->data);
    return tensor->data != NULL;
}

int state_make(struct arena *arena, const struct config *config, uint32_t position, struct state *state,
               struct error *error)
{
    assert(config->conv_taps >= 1);
    *state = (struct state){.position = position};
    struct state_tensor *tensors = arena_alloc(arena, config->layers, 2 * sizeof *tensors);
    if (!tensors)
        goto memory;
    size_t n = 0;
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        const bool is_attention = config->mixers[layer] == MIXER_ATTENTION;
        const enum state_kind first = is_attention ? STATE_K : STATE_CONV, last = is_attention ? STATE_V : STATE_CONV;
        for (enum state_kind kind = first; kind <= last; kind++) {
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
