// batch: the reference run many tokens a call against one token a call: rows, taps and states, bit for bit.
#ifndef ASSAY_TESTS_BATCH_H
#define ASSAY_TESTS_BATCH_H

#include "harness/base/half.h"
#include "reference/decoder.h"
#include "tests/reference_fixture.h"

enum { BATCH_POSITIONS = 257 }; // at most

// Logits [n, V], one hash of the taps of each row, and the end state.
struct batch_rows {
    size_t vocabulary;
    uint32_t first, row;
    float *logits;
    uint64_t taps[BATCH_POSITIONS];
    struct state state;
};

static inline uint32_t batch_token(uint32_t t)
{
    return t * 37 % 61 + t % 3; // below 64: every fixture model has it
}

static inline void batch_tap(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct batch_rows *rows = context;
    uint64_t hash = (rows->taps[rows->row] ^ layer ^ (uint64_t)point << 32) * UINT64_C(0x100000001B3);
    for (uint32_t i = 0; i < width; i++)
        hash = (hash ^ float_to_bits(row[i])) * UINT64_C(0x100000001B3);
    rows->taps[rows->row] = hash;
}

static inline void batch_begin(void *context, uint32_t t)
{
    struct batch_rows *rows = context;
    rows->row = rows->first + t;
}

static inline void batch_put(void *context, uint32_t t, const float *logits)
{
    struct batch_rows *rows = context;
    memcpy(rows->logits + (rows->first + t) * rows->vocabulary, logits, rows->vocabulary * sizeof *logits);
}

// Runs n tokens, `width` a call (1: steps), through `engine` from its zero state.
static inline struct batch_rows *batch_run(struct fixture *fixture, struct engine *engine, uint32_t n, uint32_t width)
{
    struct error error = {0};
    const size_t v = fixture->config.vocabulary;
    struct batch_rows *rows = arena_alloc(&fixture->arena, 1, sizeof *rows);
    const struct tap_sink taps = {TAPS_ALL, rows, batch_tap};
    const struct batch_sink sink = {rows, batch_put, &taps, batch_begin};
    rows->vocabulary = v;
    rows->logits = arena_alloc(&fixture->arena, n * v, sizeof(float));
    engine->class->reset(engine);
    for (uint32_t t = 0; t < n;) {
        uint32_t tokens[DECODER_WIDTH] = {0};
        const uint32_t most = width < engine->batch_width ? width : engine->batch_width;
        const uint32_t count = n - t < most ? n - t : most;
        for (uint32_t i = 0; i < count; i++)
            tokens[i] = batch_token(t + i);
        rows->first = rows->row = t;
        if (width == 1)
            memcpy(rows->logits + t * v, fixture_step(engine, tokens[0], &taps), v * sizeof(float));
        else
            must(engine->class->batch(engine, tokens, count, &sink, &error), &error);
        t += count;
        cr_assert_eq(engine->position, t);
    }
    must(state_make(&fixture->arena, &fixture->config, n, &rows->state, &error), &error);
    engine->class->save(engine, &rows->state);
    return rows;
}

// The first row that differs in logits or taps; n when none does and the states are equal, n + 1 when these differ.
static inline uint32_t batch_difference(const struct batch_rows *a, const struct batch_rows *b, uint32_t n)
{
    for (uint32_t t = 0; t < n; t++)
        if (memcmp(a->logits + t * a->vocabulary, b->logits + t * a->vocabulary, a->vocabulary * sizeof(float)) ||
            a->taps[t] != b->taps[t])
            return t;
    for (size_t i = 0; i < a->state.n; i++)
        if (memcmp(a->state.tensors[i].data, b->state.tensors[i].data, a->state.tensors[i].elements * sizeof(float)))
            return n + 1;
    return n;
}

// `width` tokens a call must give what batch_steps gave.
static inline void batch_check(struct fixture *fixture, enum isa isa, struct pool *pool, uint32_t n, uint32_t width,
                               const struct batch_rows *expected)
{
    struct engine *engine = fixture_engine(&fixture->model, pool, isa, n);
    const uint32_t t = batch_difference(expected, batch_run(fixture, engine, n, width), n);
    cr_expect_eq(t, n, "%s, %s, %u threads, %u tokens a call: %s %u differs from one token at a time",
                 fixture->checkpoint->name, isa_name(isa), pool_threads(pool), width,
                 t < n ? "row" : "the state, seen from row", t < n ? t : n);
    engine_close(&engine);
}

// What one token a call gives.
static inline struct batch_rows *batch_steps(struct fixture *fixture, uint32_t n)
{
    struct engine *engine = fixture_engine(&fixture->model, NULL, isa_best(), n);
    struct batch_rows *rows = batch_run(fixture, engine, n, 1);
    engine_close(&engine);
    return rows;
}

#endif
