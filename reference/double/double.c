#include "reference/double/double.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness/base/arena.h"
#include "harness/base/floating.h"
#include "reference/double/delta.h"
#include "reference/double/lfm2.h"
#include "reference/double/oracle.h"
#include "reference/double/qwen35.h"

// The number that config.json states: the shortest decimal that rounds to this float. Rounding eps to float is the
// first error of an fp32 engine (3e-10 in the logits of lfm2-mini), not part of the model.
static double stated(float value)
{
    char text[32];
    double decimal = (double)value;
    for (int digits = 0; digits < FLT_DECIMAL_DIG; digits++) {
        snprintf(text, sizeof text, "%.*e", digits, (double)value);
        decimal = strtod(text, NULL);
        if ((float)decimal == value)
            break;
    }
    return decimal;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void widest_row(void *context, const struct weight *weight)
{
    uint32_t *widest = context;
    *widest = larger(*widest, weight->cols);
}

// Columns of the widest of the rows that a layer holds at once.
static uint32_t widest_projection(const struct config *config)
{
    const uint32_t queries = config->query_heads * config->head_width;
    const uint32_t mixer = config_is_lfm2(config) ? larger(3 * config->hidden, queries)
                                                  : larger(2 * queries, config_delta_channels(config));
    const uint32_t experts = larger(config->expert_width, config->shared_width);
    return larger(larger(mixer, config->hidden), larger(config->feed_forward, experts));
}

static double *doubles(struct arena *arena, uint64_t rows, uint64_t width)
{
    return arena_alloc(arena, (size_t)rows, (size_t)width * sizeof(double)); // width < 2^34: no overflow
}

static int memory_open(struct arena *arena, struct oracle *o, struct error *error)
{
    const struct config *config = &o->model->config;
    const uint32_t d = config->hidden, n = o->n, dk = config->delta_key_width, dv = config->delta_value_width;
    const uint32_t channels = larger(d, config_delta_channels(config)), projection = widest_projection(config);
    uint32_t cols = 0;
    model_visit(o->model, widest_row, &cols);
    int ok =
        (o->row = arena_alloc(arena, cols, sizeof *o->row)) && (o->tile = doubles(arena, ORACLE_TILE_ROWS, cols));
    ok = ok && (o->h = doubles(arena, n, d)) && (o->u = doubles(arena, n, d)) && (o->m = doubles(arena, n, d));
    for (size_t i = 0; i < ORACLE_WIDE; i++)
        ok = ok && (o->wide[i] = doubles(arena, n, projection));
    ok = ok && (o->scores = doubles(arena, n, n)) && (o->cosine = doubles(arena, n, config->rotary_width / 2)) &&
         (o->sine = doubles(arena, n, config->rotary_width / 2)) &&
         (o->columns = doubles(arena, channels, config->conv_taps));
    ok = ok && (o->g = doubles(arena, n, config->delta_value_heads)) &&
         (o->beta = doubles(arena, n, config->delta_value_heads)) &&
         (o->delta = doubles(arena, (uint64_t)config->delta_value_heads * dk, dv)) &&
         (o->chunk = doubles(arena, double_delta_scratch(dk, dv), 1));
    ok = ok && (o->router = doubles(arena, n, config->experts)) &&
         (o->selection = doubles(arena, config->experts, 1)) &&
         (o->experts = doubles(arena, n, config->experts_per_token)) &&
         (o->weights = doubles(arena, n, config->experts_per_token));
    return ok ? 0
              : error_set(error, ERROR_RUNTIME,
                          "out of memory for %u positions in double at once; use a shorter text", n);
}

int double_run(const struct model *model, const uint32_t *tokens, uint32_t n, double *logits,
               const struct double_taps *taps, struct error *error)
{
    assert(n > 0);
    for (uint32_t t = 0; t < n; t++)
        if (tokens[t] >= model->config.vocabulary)
            return error_set(error, ERROR_INPUT, "token %u is %u, outside the vocabulary; expected 0 to %u", t,
                             tokens[t], model->config.vocabulary - 1);
    struct arena arena = {0};
    struct oracle oracle = {.model = model,
                            .taps = taps,
                            .n = n,
                            .eps = stated(model->config.norm_eps),
                            .expert_scale = stated(model->config.expert_scale)};
    const int status = memory_open(&arena, &oracle, error);
    if (!status) {
        struct floating saved;
        floating_enter(&saved);
        oracle_rotary_table(&oracle);
        if (config_is_lfm2(&model->config))
            double_lfm2_forward(&oracle, tokens, logits);
        else
            double_qwen35_forward(&oracle, tokens, logits);
        floating_leave(&saved);
    }
    arena_close(&arena);
    return status;
}
