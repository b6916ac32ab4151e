// engine: the socket into which the reference, the runtime and foreign engines plug. What are the numbers? An engine knows
// no limits and no other engine.
#ifndef ASSAY_ENGINE_H
#define ASSAY_ENGINE_H

#include <stdint.h>

#include "harness/base/error.h"
#include "harness/model/config.h"
#include "harness/run/state.h"
#include "harness/run/tap.h"

struct engine;

// Where the rows of a batch go.
struct batch_sink {
    void *context;
    // Row t of the batch, each once, t increasing; logits [V] are the engine's and valid during the call.
    void (*row)(void *context, uint32_t t, const float *logits);
    const struct tap_sink *taps; // NULL: none
    // Told before taps->put: what follows belongs to row t. NULL when taps is.
    void (*tap_row)(void *context, uint32_t t);
};

struct engine_class {
    const char *name; // "reference", "int8"
    // Zero state, position 0.
    void (*reset)(struct engine *engine);
    // Consumes one token and gives the logits [V] of the next one, owned by the engine and valid until its next call.
    // Allocates nothing. ERROR_INPUT: token >= V; ERROR_USAGE: more positions than the engine was opened for.
    int (*step)(struct engine *engine, uint32_t token, const struct tap_sink *taps, const float **logits,
                struct error *error);
    // The state after the last step, copied into the tensors that `state` lists (made by state_make or
    // state_make_recurrent for engine->position).
    void (*save)(const struct engine *engine, struct state *state);
    // Continues from `state`. ERROR_RUNTIME when a value that is finite in fp32 overflows the engine's state dtype.
    int (*load)(struct engine *engine, const struct state *state, struct error *error);
    void (*close)(struct engine *engine);
    // Consumes 1 <= n <= engine->batch_width tokens: rows, taps and the state after them are, bit for bit, what n
    // calls of step would have given. The first batch may take memory for all (ERROR_RUNTIME: there is none), later
    // ones allocate nothing. Errors as step; then no token was consumed. NULL: the engine runs one token at a time.
    int (*batch)(struct engine *engine, const uint32_t *tokens, uint32_t n, const struct batch_sink *sink,
                 struct error *error);
};

struct engine {
    const struct engine_class *class;
    const struct config *config; // the owner of the model keeps it alive
    uint32_t position;           // tokens consumed since the zero state
    uint32_t capacity;           // positions this engine has room for
    uint32_t batch_width;        // tokens that class->batch takes at once; 0 without it
    const char *name;            // as it stands in traces and reports: "reference", "int8", "fp16", "int8+fault:NAME"
    const char *device;          // "cpu"
    const char *precision;       // "float32", "float16", ...
};

static inline void engine_close(struct engine **engine)
{
    if (engine && *engine) {
        (*engine)->class->close(*engine);
        *engine = 0;
    }
}

#define ASSAY_VERSION "0.1.0"

#endif
