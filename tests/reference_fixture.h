// reference_fixture: a fixture model with everything it needs, opened for a test of the reference.
#ifndef ASSAY_TESTS_REFERENCE_FIXTURE_H
#define ASSAY_TESTS_REFERENCE_FIXTURE_H

#include <criterion/criterion.h>
#include <string.h>

#include "harness/model/checkpoint.h"
#include "reference/engine.h"

struct fixture {
    struct checkpoint *checkpoint;
    struct arena arena;
    struct config config;
    struct model model;
};

static inline void must(int code, const struct error *error)
{
    cr_assert_eq(code, 0, "%s", error->text);
}

static inline void fixture_open(struct fixture *fixture, const char *name)
{
    struct error error = {0};
    memset(fixture, 0, sizeof *fixture);
    const char *path = arena_print(&fixture->arena, "%s/models/%s", ASSAY_FIXTURES, name);
    must(checkpoint_open(&fixture->checkpoint, path, &error), &error);
    must(config_open(&fixture->arena, fixture->checkpoint->config_path, &fixture->config, &error), &error);
    must(model_bind(&fixture->arena, &fixture->config, &fixture->checkpoint->table, false, &fixture->model, NULL,
                    &error),
         &error);
}

static inline void fixture_close(struct fixture *fixture)
{
    arena_close(&fixture->arena);
    checkpoint_close(&fixture->checkpoint);
}

static inline struct engine *fixture_engine(const struct model *model, struct pool *pool, enum isa isa,
                                            uint32_t capacity)
{
    struct error error = {0};
    struct engine *engine;
    const struct reference_options options = {.pool = pool, .isa = isa, .capacity = capacity, .name = "reference"};
    must(reference_open(&engine, model, &options, &error), &error);
    return engine;
}

static inline const float *fixture_step(struct engine *engine, uint32_t token, const struct tap_sink *taps)
{
    struct error error = {0};
    const float *logits = NULL;
    must(engine->class->step(engine, token, taps, &logits, &error), &error);
    return logits;
}

// A copy of `model` whose layers may be changed.
static inline struct model fixture_mutable(struct fixture *fixture)
{
    struct model copy = fixture->model;
    copy.layers = arena_alloc(&fixture->arena, fixture->config.layers, sizeof *copy.layers);
    memcpy(copy.layers, fixture->model.layers, fixture->config.layers * sizeof *copy.layers);
    return copy;
}

// Models of unusual shape: groups of 1, 3 and 8, widths that are no multiples of 32, 2 to 4 taps, biases, F32, F16,
// BF16.
static const char *const ODD[] = {"odd-all-attention", "odd-group1-taps2", "odd-group3-taps4-bias",
                                  "odd-group8-untied", "odd-head-only",    "odd-mixed-sharded",
                                  "odd-one-attention"};
enum { N_ODD = sizeof ODD / sizeof *ODD };

#endif
