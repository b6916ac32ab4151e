#include "runtime/fault_delta.h"

#include <string.h>

#include "harness/base/half.h"

static size_t elements(const struct delta_state *state)
{
    return (size_t)state->key_width * state->value_width;
}

static float get(const struct delta_state *state, size_t index)
{
    return state->precision == PRECISION_F16 ? half_to_float(((const uint16_t *)state->s)[index])
                                             : ((const float *)state->s)[index];
}

static void put(const struct delta_state *state, size_t index, float value)
{
    if (state->precision == PRECISION_F16)
        ((uint16_t *)state->s)[index] = half_from_float(value);
    else
        ((float *)state->s)[index] = value;
}

static void scale(const struct delta_state *state, float factor)
{
    for (size_t i = 0; i < elements(state); i++)
        put(state, i, get(state, i) * factor);
}

// The same memory as [dv, dk]: where dk = dv, the transposed matrix.
static void transpose(const struct delta_state *state, float *spare)
{
    const size_t dk = state->key_width, dv = state->value_width;
    for (size_t i = 0; i < dk; i++)
        for (size_t j = 0; j < dv; j++)
            spare[j * dk + i] = get(state, i * dv + j);
    for (size_t i = 0; i < dk * dv; i++)
        put(state, i, spare[i]);
}

static void round_to_half(const struct delta_state *state)
{
    for (size_t i = 0; i < elements(state); i++)
        put(state, i, half_round(get(state, i)));
}

void fault_delta_step(const struct kernels *kernels, enum fault fault, const struct delta_state *state,
                      const float *q, const float *k, const float *v, float beta, float g, float *spare, float *out)
{
    struct delta_state used = *state;
    if (fault == FAULT_DELTA_STATE_LOST) {
        const size_t size = state->precision == PRECISION_F16 ? sizeof(uint16_t) : sizeof(float);
        memcpy(spare, state->s, elements(state) * size);
        used.s = spare;
    }
    if (fault == FAULT_DECAY_WITHOUT_EXP) {
        scale(&used, g);
        g = 0; // exp(0) is 1
    }
    kernels->delta_step(&used, q, k, v, beta, g, out);
    if (fault == FAULT_DELTA_STATE_TRANSPOSED)
        transpose(&used, spare);
    if (fault == FAULT_DELTA_STATE_F16)
        round_to_half(&used);
}
