#include "reference/engine.h"

#include <assert.h>
#include <stdlib.h>

#include "harness/base/floating.h"
#include "reference/lfm2.h"
#include "reference/linear.h"
#include "reference/qwen35.h"

struct reference {
    struct engine engine; // first: the socket's pointer is ours
    struct decoder *decoder;
    const float *(*forward)(struct decoder *decoder, const uint32_t *tokens, uint32_t n, uint32_t position,
                            const struct batch_sink *sink);
};

static void reset(struct engine *engine)
{
    decoder_reset(((struct reference *)engine)->decoder);
    engine->position = 0;
}

static int check_tokens(const struct engine *engine, const uint32_t *tokens, uint32_t n, struct error *error)
{
    for (uint32_t t = 0; t < n; t++)
        if (tokens[t] >= engine->config->vocabulary)
            return error_set(error, ERROR_INPUT, "token %u is outside the vocabulary, expected 0 to %u", tokens[t],
                             engine->config->vocabulary - 1);
    if (n > engine->capacity - engine->position)
        return error_set(error, ERROR_USAGE, "%s: no room for position %u, it was opened for %u", engine->name,
                         engine->position + n - 1, engine->capacity);
    return 0;
}

// Logits [n, V].
static const float *forward(struct engine *engine, const uint32_t *tokens, uint32_t n, const struct batch_sink *sink)
{
    const struct reference *reference = (const struct reference *)engine;
    struct floating saved;
    floating_enter(&saved);
    const float *logits = reference->forward(reference->decoder, tokens, n, engine->position, sink);
    floating_leave(&saved);
    engine->position += n;
    return logits;
}

static int step(struct engine *engine, uint32_t token, const struct tap_sink *taps, const float **logits,
                struct error *error)
{
    const struct batch_sink sink = {.taps = taps};
    const int code = check_tokens(engine, &token, 1, error);
    if (!code)
        *logits = forward(engine, &token, 1, &sink);
    return code;
}

static int batch(struct engine *engine, const uint32_t *tokens, uint32_t n, const struct batch_sink *sink,
                 struct error *error)
{
    assert(n >= 1 && n <= engine->batch_width);
    int code = check_tokens(engine, tokens, n, error);
    if (!code && n > 1)
        code = decoder_make_room(((struct reference *)engine)->decoder, engine->batch_width, error);
    if (code)
        return code;
    const float *logits = forward(engine, tokens, n, sink);
    for (uint32_t t = 0; t < n; t++)
        sink->row(sink->context, t, logits + (size_t)t * engine->config->vocabulary);
    return 0;
}

static void save(const struct engine *engine, struct state *state)
{
    assert(state->position == engine->position);
    decoder_save(((const struct reference *)engine)->decoder, state);
}

static int load(struct engine *engine, const struct state *state, struct error *error)
{
    const int code = decoder_load(((struct reference *)engine)->decoder, state, error);
    if (!code)
        engine->position = state->position;
    return code;
}

static void close_reference(struct engine *engine)
{
    decoder_close(&((struct reference *)engine)->decoder);
    free(engine);
}

static const struct engine_class reference_class = {"reference", reset, step, save, load, close_reference, batch};

int reference_open(struct engine **engine, const struct model *model, const struct reference_options *options,
                   struct error *error)
{
    *engine = NULL;
    struct reference *opened = calloc(1, sizeof *opened);
    if (!opened)
        return error_set(error, ERROR_RUNTIME, "reference: no memory");
    struct linear linear;
    linear_open(&linear, options->isa, options->pool);
    linear.profile = options->profile;
    struct floating saved;
    floating_enter(&saved);
    const int code = decoder_open(&opened->decoder, model, &linear, options->isa, options->capacity, error);
    floating_leave(&saved);
    if (code) {
        free(opened);
        return code;
    }
    opened->forward = config_is_lfm2(&model->config) ? lfm2_forward : qwen35_forward;
    const uint32_t capacity = options->capacity;
    opened->engine = (struct engine){.class = &reference_class,
                                     .config = &model->config,
                                     .capacity = capacity,
                                     .batch_width = capacity < DECODER_WIDTH ? capacity : DECODER_WIDTH,
                                     .name = options->name,
                                     .device = "cpu",
                                     .precision = "float32"};
    *engine = &opened->engine;
    return 0;
}
