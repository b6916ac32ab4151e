// The caches: keys in blocks of 32 positions side by side, values row by row, the last K-1 columns of a convolution's
// input, the delta net's state.
#include <math.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/step.h"

static size_t state_size(const struct step *run)
{
    return run->plan.rows[PLAN_KV_STATE] == PRECISION_F16 ? sizeof(uint16_t) : sizeof(float);
}

static size_t delta_size(const struct step *run)
{
    return run->plan.rows[PLAN_DELTA_STATE] == PRECISION_F16 ? sizeof(uint16_t) : sizeof(float);
}

static size_t positions(const struct step *run) // capacity in whole blocks
{
    return ((size_t)run->capacity + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK * ATTENTION_BLOCK;
}

static size_t history_size(const struct config *config, uint32_t layer)
{
    return (size_t)(config->conv_taps - 1) * config_conv_channels(config, layer);
}

static size_t delta_elements(const struct config *config)
{
    return (size_t)config->delta_value_heads * config->delta_key_width * config->delta_value_width;
}

static bool layer_open(struct step *run, uint32_t i, struct arena *arena)
{
    const struct config *config = &run->model->config;
    const size_t row = (size_t)config->key_heads * config->head_width * state_size(run);
    struct step_layer *own = &run->layers[i];
    if (config->mixers[i] == MIXER_ATTENTION) {
        own->keys = arena_alloc(arena, positions(run), row);
        own->values = arena_alloc(arena, positions(run), row);
        return own->keys && own->values;
    }
    own->history = arena_alloc(arena, history_size(config, i), sizeof *own->history);
    if (config->mixers[i] == MIXER_DELTA)
        own->delta = arena_alloc(arena, delta_elements(config), delta_size(run));
    return own->history && (own->delta || config->mixers[i] == MIXER_CONV);
}

int step_state_open(struct step *run, struct arena *arena, struct error *error)
{
    for (uint32_t i = 0; i < run->model->config.layers; i++)
        if (!layer_open(run, i, arena))
            return error_set(error, ERROR_RUNTIME,
                             "memory is exhausted: layer %u has no room for the state of %u positions; "
                             "ask for fewer",
                             i, run->capacity);
    return 0;
}

// --- where an element lies

static size_t key_index(const struct step *run, uint32_t head, uint32_t t, uint32_t c)
{
    const size_t dh = run->model->config.head_width;
    return head * positions(run) * dh + (t / ATTENTION_BLOCK * dh + c) * ATTENTION_BLOCK + t % ATTENTION_BLOCK;
}

static size_t value_index(const struct step *run, uint32_t head, uint32_t t, uint32_t c)
{
    const size_t dh = run->model->config.head_width;
    return (head * positions(run) + t) * dh + c;
}

static void put(void *cache, enum precision precision, size_t index, float value)
{
    if (precision == PRECISION_F16)
        ((uint16_t *)cache)[index] = half_from_float(value);
    else
        ((float *)cache)[index] = value == value ? value : float_from_bits(FLOAT_NAN_BITS);
}

static float get(const void *cache, enum precision precision, size_t index)
{
    return precision == PRECISION_F16 ? half_to_float(((const uint16_t *)cache)[index])
                                      : ((const float *)cache)[index];
}

// --- the step's side

void step_remember_column(struct step *run, uint32_t layer, const float *column)
{
    const size_t d = config_conv_channels(&run->model->config, layer), size = history_size(&run->model->config, layer);
    float *history = run->layers[layer].history;
    if (!size)
        return; // one tap needs no history
    memmove(history, history + d, (size - d) * sizeof *history);
    memcpy(history + size - d, column, d * sizeof *history);
}

void step_remember_position(struct step *run, uint32_t layer, uint32_t slot, const float *k,
                                    const float *v)
{
    const struct config *config = &run->model->config;
    const struct step_layer *own = &run->layers[layer];
    const enum precision precision = run->plan.rows[PLAN_KV_STATE];
    for (uint32_t head = 0; head < config->key_heads; head++)
        for (uint32_t c = 0; c < config->head_width; c++) {
            put(own->keys, precision, key_index(run, head, slot, c), *k++);
            put(own->values, precision, value_index(run, head, slot, c), *v++);
        }
}

struct attention_view step_view(const struct step *run, uint32_t layer, uint32_t head,
                                        uint32_t length)
{
    const uint32_t dh = run->model->config.head_width;
    const size_t skip = head * positions(run) * dh * state_size(run);
    return (struct attention_view){
        .keys = (const unsigned char *)run->layers[layer].keys + skip,
        .values = (const unsigned char *)run->layers[layer].values + skip,
        .state = run->plan.rows[PLAN_KV_STATE],
        .head_width = dh,
        .length = length,
        .scale = (float)(1.0 / sqrt((double)dh)),
    };
}

// --- the engine's side

void step_reset(struct step *run)
{
    const struct config *config = &run->model->config;
    run->loaded = 0;
    for (uint32_t i = 0; i < config->layers && run->fault != FAULT_STATE_NOT_RESET; i++) {
        if (run->layers[i].history)
            memset(run->layers[i].history, 0, history_size(config, i) * sizeof(float));
        if (run->layers[i].delta)
            memset(run->layers[i].delta, 0, delta_elements(config) * delta_size(run));
    }
    // Keys and values past the position are never read, but by the one fault that leaves a slot unwritten.
    for (uint32_t i = 0; i < config->layers && run->fault == FAULT_KV_SLOT; i++)
        if (config->mixers[i] == MIXER_ATTENTION) {
            const size_t size = positions(run) * config->key_heads * config->head_width * state_size(run);
            memset(run->layers[i].keys, 0, size);
            memset(run->layers[i].values, 0, size);
        }
}

static size_t delta_index(const struct step *run, uint32_t head, uint32_t i, uint32_t j)
{
    const struct config *config = &run->model->config;
    return ((size_t)head * config->delta_key_width + i) * config->delta_value_width + j;
}

static enum plan_row state_row(enum state_kind kind)
{
    return kind == STATE_CONV ? PLAN_CONV_STATE : kind == STATE_DELTA ? PLAN_DELTA_STATE : PLAN_KV_STATE;
}

// Element [head, t, c] of a k or v, [channel, column] of a conv, [head, i, j] of a delta, in the order of struct state.
static float state_get(const struct step *run, const struct state_tensor *tensor, const uint64_t at[3])
{
    const struct step_layer *own = &run->layers[tensor->layer];
    const uint32_t a = (uint32_t)at[0], b = (uint32_t)at[1], c = (uint32_t)at[2];
    if (tensor->kind == STATE_CONV)
        return own->history[(size_t)b * config_conv_channels(&run->model->config, tensor->layer) + a];
    const enum precision precision = run->plan.rows[state_row(tensor->kind)];
    if (tensor->kind == STATE_DELTA)
        return get(own->delta, precision, delta_index(run, a, b, c));
    return tensor->kind == STATE_K ? get(own->keys, precision, key_index(run, a, b, c))
                                   : get(own->values, precision, value_index(run, a, b, c));
}

static void state_put(struct step *run, const struct state_tensor *tensor, const uint64_t at[3], float value)
{
    struct step_layer *own = &run->layers[tensor->layer];
    const uint32_t a = (uint32_t)at[0], b = (uint32_t)at[1], c = (uint32_t)at[2];
    const enum precision precision = run->plan.rows[state_row(tensor->kind)];
    if (tensor->kind == STATE_K)
        put(own->keys, precision, key_index(run, a, b, c), value);
    else if (tensor->kind == STATE_V)
        put(own->values, precision, value_index(run, a, b, c), value);
    else if (tensor->kind == STATE_DELTA)
        put(own->delta, precision, delta_index(run, a, b, c), value);
    else
        own->history[(size_t)b * config_conv_channels(&run->model->config, tensor->layer) + a] =
            precision == PRECISION_F16 ? half_round(value) : value;
}

// The indices of element number `e`.
static void state_at(const struct state_tensor *tensor, uint64_t e, uint64_t at[3])
{
    const uint64_t last = tensor->shape[tensor->rank - 1];
    at[2] = tensor->rank == 3 ? e % last : 0;
    at[1] = tensor->rank == 3 ? e / last % tensor->shape[1] : e % last;
    at[0] = e / (tensor->elements / tensor->shape[0]);
}

void step_save(const struct step *run, struct state *state)
{
    uint64_t at[3];
    for (size_t i = 0; i < state->n; i++)
        for (uint64_t e = 0; e < state->tensors[i].elements; e++) {
            state_at(&state->tensors[i], e, at);
            state->tensors[i].data[e] = run->fault == FAULT_STATE_ZERO ? 0 : state_get(run, &state->tensors[i], at);
        }
}

static int state_check(const struct step *run, const struct state *state, struct error *error)
{
    struct arena arena = {0};
    struct state own;
    int failed = state_make(&arena, &run->model->config, state->position, &own, error);
    if (!failed && own.n != state->n)
        failed = error_set(error, ERROR_CONTRACT,
                           "state: found %zu tensors, this model has %zu; it is the state of another model", state->n,
                           own.n);
    for (size_t i = 0; !failed && i < own.n; i++) {
        const struct state_tensor *a = &own.tensors[i], *b = &state->tensors[i];
        if (a->layer != b->layer || a->kind != b->kind || a->rank != b->rank ||
            memcmp(a->shape, b->shape, sizeof *a->shape * a->rank)) {
            char name[48];
            failed = error_set(error, ERROR_CONTRACT,
                               "%s: the state to load has no such tensor of this model's shape after %u "
                               "positions; it is the state of another model",
                               state_name(a->layer, a->kind, name), state->position);
        }
    }
    arena_close(&arena);
    return failed;
}

// Finite in fp32 and infinite as a half: a finding, not something to be rounded away.
static int overflow_check(const struct step *run, const struct state_tensor *tensor, struct error *error)
{
    const enum plan_row row = state_row(tensor->kind);
    for (uint64_t e = 0; run->plan.rows[row] == PRECISION_F16 && e < tensor->elements; e++) {
        char name[48];
        if (isfinite(tensor->data[e]) && isinf(half_round(tensor->data[e])))
            return error_set(error, ERROR_RUNTIME,
                             "%s: element %llu is %g, which overflows the f16 state (at most 65504); the state "
                             "does not fit this runtime",
                             state_name(tensor->layer, tensor->kind, name), (unsigned long long)e,
                             (double)tensor->data[e]);
    }
    return 0;
}

int step_load(struct step *run, const struct state *state, struct error *error)
{
    if (state->position > run->capacity)
        return error_set(error, ERROR_USAGE, "the state has %u positions and the engine was opened for %u",
                         state->position, run->capacity);
    int failed = state_check(run, state, error);
    for (size_t i = 0; !failed && i < state->n; i++)
        failed = overflow_check(run, &state->tensors[i], error);
    if (failed)
        return failed;
    run->loaded = state->position;
    uint64_t at[3];
    for (size_t i = 0; i < state->n; i++) {
        if (run->fault == FAULT_RESTORE_LOSES_CONV && state->tensors[i].kind == STATE_CONV)
            continue;
        if (run->fault == FAULT_RESTORE_LOSES_DELTA && state->tensors[i].kind == STATE_DELTA)
            continue;
        for (uint64_t e = 0; e < state->tensors[i].elements; e++) {
            state_at(&state->tensors[i], e, at);
            state_put(run, &state->tensors[i], at, state->tensors[i].data[e]);
        }
    }
    return 0;
}
