// bits: an engine of the reference gives the same bits whatever the machine does; states leave and come back.
#ifndef ASSAY_TESTS_BITS_H
#define ASSAY_TESTS_BITS_H

#include <math.h>

#include "harness/base/half.h"
#include "tests/reference_fixture.h"

// Nineteen tokens that every fixture model has.
static const uint32_t PROMPT[] = {1, 17, 42, 9, 60, 33, 33, 2, 51, 8, 40, 25, 63, 0, 13, 29, 1, 55, 37};
enum { N_PROMPT = sizeof PROMPT / sizeof *PROMPT };

// A sink that counts rows and NaNs and hashes the bits.
struct watch {
    uint64_t hash;
    uint32_t rows, nans, foreign_nans; // foreign: not 0x7FC00000
};

static inline void bits_watch(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct watch *watch = context;
    watch->rows++;
    watch->hash = (watch->hash ^ layer ^ (uint64_t)point << 32) * UINT64_C(0x100000001B3);
    for (uint32_t i = 0; i < width; i++) {
        watch->hash = (watch->hash ^ float_to_bits(row[i])) * UINT64_C(0x100000001B3);
        watch->nans += isnan(row[i]) ? 1 : 0;
        watch->foreign_nans += isnan(row[i]) && float_to_bits(row[i]) != FLOAT_NAN_BITS ? 1 : 0;
    }
}

// Logits of PROMPT [N_PROMPT, V] and the state after it, as the slowest and plainest run gives them.
static inline float *bits_plain_run(struct fixture *fixture, const struct model *model, struct state *state)
{
    struct error error = {0};
    const size_t v = fixture->config.vocabulary;
    float *logits = arena_alloc(&fixture->arena, N_PROMPT * v, sizeof *logits);
    struct engine *engine = fixture_engine(model, NULL, ISA_SCALAR, N_PROMPT);
    for (size_t t = 0; t < N_PROMPT; t++)
        memcpy(logits + t * v, fixture_step(engine, PROMPT[t], NULL), v * sizeof *logits);
    must(state_make(&fixture->arena, &fixture->config, N_PROMPT, state, &error), &error);
    engine->class->save(engine, state);
    engine_close(&engine);
    return logits;
}

static inline bool bits_states_equal(const struct state *a, const struct state *b)
{
    bool equal = a->n == b->n && a->position == b->position;
    for (size_t i = 0; equal && i < a->n; i++)
        equal = a->tensors[i].elements == b->tensors[i].elements &&
                !memcmp(a->tensors[i].data, b->tensors[i].data, a->tensors[i].elements * sizeof(float));
    return equal;
}

struct bits {
    struct fixture *fixture;
    const struct model *model;
    const float *logits; // [N_PROMPT, V] expected
    struct state expected;
    uint64_t taps; // hash of the first run at level all
};

static inline void bits_check_run(struct bits *bits, struct pool *pool, enum isa isa, enum tap_level level)
{
    struct error error = {0};
    struct state state;
    struct watch watch = {0};
    const struct tap_sink taps = {level, &watch, bits_watch};
    const size_t v = bits->fixture->config.vocabulary;
    const char *model = bits->fixture->checkpoint->name;
    struct engine *engine = fixture_engine(bits->model, pool, isa, N_PROMPT + 5);
    for (size_t t = 0; t < N_PROMPT; t++)
        cr_assert(!memcmp(fixture_step(engine, PROMPT[t], &taps), bits->logits + t * v, v * sizeof(float)),
                  "%s: %s, %u threads, taps %d: logits of position %zu differ from scalar C on one thread", model,
                  isa_name(isa), pool_threads(pool), (int)level, t);
    must(state_make(&bits->fixture->arena, &bits->fixture->config, N_PROMPT, &state, &error), &error);
    engine->class->save(engine, &state);
    cr_assert(bits_states_equal(&bits->expected, &state), "%s: %s, %u threads: another state", model, isa_name(isa),
              pool_threads(pool));
    cr_assert_eq(watch.rows > 0, level != TAPS_NONE);
    if (level == TAPS_ALL) {
        cr_assert(!bits->taps || bits->taps == watch.hash, "%s: %s, %u threads: other taps", model, isa_name(isa),
                  pool_threads(pool));
        bits->taps = watch.hash;
    }
    engine_close(&engine);
}

static inline void bits_check(const char *name, const unsigned *threads, size_t n_threads)
{
    struct error error = {0};
    struct fixture fixture;
    fixture_open(&fixture, name);
    struct bits bits = {.fixture = &fixture, .model = &fixture.model};
    bits.logits = bits_plain_run(&fixture, &fixture.model, &bits.expected);
    for (size_t i = 0; i < n_threads; i++) {
        struct pool *pool;
        must(pool_open(&pool, threads[i], &error), &error);
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (!isa_available((enum isa)isa))
                continue;
            bits_check_run(&bits, pool, (enum isa)isa, i % 2 ? TAPS_LAYERS : TAPS_NONE);
            bits_check_run(&bits, pool, (enum isa)isa, TAPS_ALL);
        }
        pool_close(&pool);
    }
    fixture_close(&fixture);
}

// A state that is saved and loaded, from before the first token on, continues as if never stopped.
static inline void bits_check_restore(const char *name)
{
    struct fixture fixture;
    struct error error = {0};
    struct state end, middle, state;
    fixture_open(&fixture, name);
    const size_t v = fixture.config.vocabulary;
    const float *logits = bits_plain_run(&fixture, &fixture.model, &end);
    for (uint32_t cut = 0; cut < N_PROMPT; cut += 3) { // also while windows are filling
        struct engine *first = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT);
        struct engine *second = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT + 40); // other strides
        for (uint32_t t = 0; t < cut; t++)
            fixture_step(first, PROMPT[t], NULL);
        for (uint32_t t = 0; t < 7; t++)
            fixture_step(second, 5, NULL); // what it held before must not matter
        must(state_make(&fixture.arena, &fixture.config, cut, &middle, &error), &error);
        first->class->save(first, &middle);
        must(second->class->load(second, &middle, &error), &error);
        cr_assert_eq(second->position, cut);
        for (uint32_t t = cut; t < N_PROMPT; t++)
            cr_assert(!memcmp(fixture_step(second, PROMPT[t], NULL), logits + t * v, v * sizeof *logits),
                      "%s restored at %u: position %u differs", name, cut, t);
        must(state_make(&fixture.arena, &fixture.config, N_PROMPT, &state, &error), &error);
        second->class->save(second, &state);
        cr_assert(bits_states_equal(&end, &state), "%s restored at %u: another end state", name, cut);
        engine_close(&first);
        engine_close(&second);
    }
    fixture_close(&fixture);
}

// One value off in any cache changes what follows: every cache is read.
static inline void bits_check_state_is_read(const char *name)
{
    struct fixture fixture;
    struct error error = {0};
    struct state end;
    fixture_open(&fixture, name);
    bits_plain_run(&fixture, &fixture.model, &end);
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT + 1);
    must(engine->class->load(engine, &end, &error), &error);
    const size_t bytes = fixture.config.vocabulary * sizeof(float);
    float *logits = arena_alloc(&fixture.arena, 1, bytes);
    memcpy(logits, fixture_step(engine, 9, NULL), bytes);
    for (size_t i = 0; i < end.n; i++) {
        const struct state_tensor *tensor = &end.tensors[i];
        float *value = &tensor->data[tensor->elements - 1];
        const float kept = *value;
        *value += 1.0f;
        must(engine->class->load(engine, &end, &error), &error);
        cr_expect(memcmp(logits, fixture_step(engine, 9, NULL), bytes), "%s, layer %u, %s", name, tensor->layer,
                  state_kind_name(tensor->kind));
        *value = kept;
    }
    engine_close(&engine);
    fixture_close(&fixture);
}

static inline void bits_check_reset(const char *name)
{
    struct fixture fixture;
    struct state end;
    fixture_open(&fixture, name);
    const size_t v = fixture.config.vocabulary;
    const float *logits = bits_plain_run(&fixture, &fixture.model, &end);
    struct engine *engine = fixture_engine(&fixture.model, NULL, isa_best(), N_PROMPT);
    for (int run = 0; run < 2; run++) {
        engine->class->reset(engine);
        cr_assert_eq(engine->position, 0);
        for (size_t t = 0; t < N_PROMPT; t++)
            cr_assert(!memcmp(fixture_step(engine, PROMPT[t], NULL), logits + t * v, v * sizeof *logits));
    }
    engine_close(&engine);
    fixture_close(&fixture);
}

#endif
