// fake_engine: an engine whose logits are a hash of everything it was fed, so that no lost or stale part of its state
// can hide; and with flaws on purpose.
#ifndef ASSAY_FAKE_ENGINE_H
#define ASSAY_FAKE_ENGINE_H

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "harness/run/engine.h"

enum { V = 17, D = 4, HKV = 2, DH = 2, K = 3, L = 2, CAPACITY = 64 };
static enum mixer mixers[L] = {MIXER_CONV, MIXER_ATTENTION};
static const struct config config = {.vocabulary = V,
                                     .hidden = D,
                                     .layers = L,
                                     .query_heads = 2,
                                     .key_heads = HKV,
                                     .head_width = DH,
                                     .rotary_width = DH,
                                     .feed_forward = 8,
                                     .conv_taps = K,
                                     .max_positions = CAPACITY,
                                     .mixers = mixers};
enum flaw {
    HEALTHY,
    OTHER_PICKS,
    LOAD_LOSES_CONV,
    LOAD_LOSES_KEYS,
    RESET_KEEPS_CONV,
    NAN_ROW,
    EQUAL_ROW,
    INFINITE_ROW,
    BATCH_SEES_LATER // the first row of a batch is computed with its second token in sight
};

struct fake {
    struct engine engine;
    enum flaw flaw;
    uint32_t flawed_position;
    uint32_t conv;             // hash of all tokens, below 2^24: exact in a float
    uint32_t tokens[CAPACITY]; // the keys
    float logits[V];
    uint64_t steps, calls; // calls: of batch
};

static void fake_reset(struct engine *engine)
{
    struct fake *fake = (struct fake *)engine;
    engine->position = 0;
    if (fake->flaw != RESET_KEEPS_CONV)
        fake->conv = 0;
}

static int fake_step(struct engine *engine, uint32_t token, const struct tap_sink *taps, const float **logits,
                     struct error *error)
{
    struct fake *fake = (struct fake *)engine;
    if (token >= V)
        return error_set(error, ERROR_INPUT, "token %u", token);
    if (engine->position >= engine->capacity)
        return error_set(error, ERROR_USAGE, "full");
    fake->tokens[engine->position] = token;
    fake->conv = (fake->conv * 1103515245u + token + 12345u) & 0xFFFFFF;
    uint32_t keys = 0;
    for (uint32_t t = 0; t <= engine->position; t++)
        keys = keys * 69069u + fake->tokens[t] + 1;
    const bool flawed = engine->position == fake->flawed_position;
    for (uint32_t i = 0; i < V; i++) {
        const uint32_t salt = fake->flaw == OTHER_PICKS ? 7919 : 0;
        fake->logits[i] =
            (float)(((fake->conv ^ keys) * (2 * i + 1 + salt) * 2654435761u) >> 22); // 10 bits: exact halves
        if (fake->flaw == EQUAL_ROW && flawed)
            fake->logits[i] = 1.0f;
    }
    if (flawed && (fake->flaw == NAN_ROW || fake->flaw == INFINITE_ROW))
        fake->logits[V - 1] = fake->flaw == NAN_ROW ? NAN : INFINITY;
    for (uint32_t layer = 0; layer < L; layer++)
        for (enum tap_point point = 0; point < TAP_POINTS; point++) {
            const float row[8] = {(float)fake->conv, (float)point};
            const uint32_t width = tap_width(&config, TAPS_ALL, layer, point);
            if (width)
                tap(taps, layer, point, row, width);
        }
    engine->position++;
    fake->steps++;
    *logits = fake->logits;
    return 0;
}

static void fake_save(const struct engine *engine, struct state *state)
{
    const struct fake *fake = (const struct fake *)engine;
    state->tensors[0].data[0] = (float)fake->conv;
    for (uint32_t t = 0; state->n > 1 && t < state->position; t++) // more than the recurrent part
        state->tensors[1].data[t * DH] = (float)fake->tokens[t];
}

static int fake_load(struct engine *engine, const struct state *state, struct error *error)
{
    struct fake *fake = (struct fake *)engine;
    (void)error;
    engine->position = state->position;
    if (fake->flaw != LOAD_LOSES_CONV)
        fake->conv = (uint32_t)state->tensors[0].data[0];
    for (uint32_t t = 0; t < state->position; t++)
        fake->tokens[t] = fake->flaw == LOAD_LOSES_KEYS ? 0 : (uint32_t)state->tensors[1].data[t * DH];
    return 0;
}

static void fake_close(struct engine *engine)
{
    (void)engine;
}

static int fake_batch(struct engine *engine, const uint32_t *tokens, uint32_t n, const struct batch_sink *sink,
                      struct error *error)
{
    struct fake *fake = (struct fake *)engine;
    for (uint32_t t = 0; t < n; t++) {
        const float *logits;
        if (sink->taps)
            sink->tap_row(sink->context, t);
        const int code = fake_step(engine, tokens[t], sink->taps, &logits, error);
        if (code)
            return code;
        if (fake->flaw == BATCH_SEES_LATER && n > 1 && t == 0)
            fake->logits[tokens[1]] += 1.0f;
        sink->row(sink->context, t, logits);
    }
    fake->calls++;
    return 0;
}

static const struct engine_class fake_class = {"fake", fake_reset, fake_step, fake_save, fake_load, fake_close, NULL};
static const struct engine_class fake_batch_class = {"fake",    fake_reset, fake_step, fake_save,
                                                     fake_load, fake_close, fake_batch};

static struct fake fake_make(enum flaw flaw)
{
    return (struct fake){.engine = {.class = &fake_class,
                                    .config = &config,
                                    .capacity = CAPACITY,
                                    .name = "fake",
                                    .device = "cpu",
                                    .precision = "float32"},
                         .flaw = flaw,
                         .flawed_position = UINT32_MAX};
}

// The same with batches of at most 5 tokens.
static inline struct fake fake_batching(enum flaw flaw)
{
    struct fake fake = fake_make(flaw);
    fake.engine.class = &fake_batch_class;
    fake.engine.batch_width = 5;
    return fake;
}

#endif
