#include "runtime/engine.h"

#include <stdlib.h>

#include "harness/base/floating.h"
#include "runtime/lfm2.h"
#include "runtime/qwen35.h"

struct runtime_engine {
    struct engine base; // first: the socket's pointer is ours
    struct arena arena;
    struct step *run;
};

static struct runtime_engine *own(struct engine *engine)
{
    return (struct runtime_engine *)engine;
}

static void reset(struct engine *engine)
{
    engine->position = 0;
    step_reset(own(engine)->run);
}

static int step(struct engine *engine, uint32_t token, const struct tap_sink *taps, const float **logits,
                struct error *error)
{
    if (token >= engine->config->vocabulary)
        return error_set(error, ERROR_INPUT, "token %u at position %u: the vocabulary ends at %u", token,
                         engine->position, engine->config->vocabulary - 1);
    if (engine->position >= engine->capacity)
        return error_set(error, ERROR_USAGE, "%s: opened for %u positions, and one more is asked for", engine->name,
                         engine->capacity);
    const bool lfm2 = config_is_lfm2(engine->config);
    struct floating saved;
    floating_enter(&saved);
    *logits = (lfm2 ? runtime_lfm2_step : runtime_qwen35_step)(own(engine)->run, engine->position, token, taps);
    engine->position++;
    floating_leave(&saved);
    return 0;
}

static void save(const struct engine *engine, struct state *state)
{
    struct floating saved;
    floating_enter(&saved);
    step_save(((const struct runtime_engine *)engine)->run, state);
    floating_leave(&saved);
}

static int load(struct engine *engine, const struct state *state, struct error *error)
{
    struct floating saved;
    floating_enter(&saved);
    const int failed = step_load(own(engine)->run, state, error);
    if (!failed)
        engine->position = state->position;
    floating_leave(&saved);
    return failed;
}

static void engine_free(struct engine *engine)
{
    arena_close(&own(engine)->arena);
    free(engine);
}

static const struct engine_class class = {
    .name = "int8",
    .reset = reset,
    .step = step,
    .save = save,
    .load = load,
    .close = engine_free,
};

// The stored dtype decides what is computed; a plan that says otherwise would report a precision that was not there.
// Qwen3.5's projections are quantized with the body: no row of the plan speaks of them.
static int projections_check(const struct model *model, const struct plan *plan, struct error *error)
{
    const enum precision planned = plan->rows[PLAN_ATTENTION_PROJECTIONS];
    for (uint32_t i = 0; config_is_lfm2(&model->config) && i < model->config.layers; i++) {
        const struct layer *layer = &model->layers[i];
        const struct weight *weights[] = {&layer->q_proj, &layer->k_proj, &layer->v_proj, &layer->attn_out};
        for (size_t w = 0; layer->mixer == MIXER_ATTENTION && w < sizeof weights / sizeof *weights; w++) {
            const enum weight_format found = weights[w]->format;
            const bool agrees =
                planned == PRECISION_F16 ? found == WEIGHT_F16 : found == WEIGHT_F32 || found == WEIGHT_BF16;
            if (!agrees)
                return error_set(error, ERROR_CONTRACT,
                                 "%s: stored as %s, but the precision plan says %s = %s; correct the plan or "
                                 "quantize again",
                                 weights[w]->name, weight_format_name(found),
                                 plan_row_name(PLAN_ATTENTION_PROJECTIONS), precision_name(planned));
        }
    }
    return 0;
}

// A fault without effect would let a healthy run pass for a gate that failed to close.
static int fault_check(const struct config *config, const struct runtime_options *options, struct error *error)
{
    const enum precision delta = options->plan->rows[PLAN_DELTA_STATE];
    const char *name = fault_name(options->fault), *description = fault_description(options->fault);
    if (!fault_applies(options->fault, config))
        return error_set(error, ERROR_USAGE,
                         "fault \"%s\" (%s): this %s model has nothing that it could change; choose another", name,
                         description, family_name(config->family));
    if (options->fault == FAULT_DELTA_STATE_F16 && delta == PRECISION_F16)
        return error_set(error, ERROR_USAGE,
                         "fault \"%s\" (%s): the precision plan says %s = %s; it needs one that says f32", name,
                         description, plan_row_name(PLAN_DELTA_STATE), precision_name(delta));
    return 0;
}

static int engine_fill(struct runtime_engine *engine, const struct model *model,
                       const struct runtime_options *options, struct error *error)
{
    const char *fault = options->fault == FAULT_NONE ? "" : fault_name(options->fault);
    const char *name = arena_print(&engine->arena, "%s%s%s", options->name, *fault ? "+fault:" : "", fault);
    if (!name)
        return error_set(error, ERROR_RUNTIME, "memory is exhausted: no engine can be opened");
    engine->base = (struct engine){
        .class = &class,
        .config = &model->config,
        .capacity = options->capacity,
        .name = name,
        .device = "cpu",
        .precision = "float16",
    };
    int failed = fault_check(&model->config, options, error);
    if (!failed)
        failed = projections_check(model, options->plan, error);
    if (!failed)
        failed = step_open(&engine->arena, model, options->plan, options->fault, options->isa, options->pool,
                                   options->capacity, &engine->run, error);
    if (!failed)
        engine->run->profile = options->profile;
    return failed;
}

int runtime_open(struct engine **engine, const struct model *model, const struct runtime_options *options,
                 struct error *error)
{
    *engine = NULL;
    struct runtime_engine *opened = calloc(1, sizeof *opened);
    if (!opened)
        return error_set(error, ERROR_RUNTIME, "memory is exhausted: no engine can be opened");
    struct floating saved;
    floating_enter(&saved); // h(w) and the frequencies are computed here
    const int failed = engine_fill(opened, model, options, error);
    floating_leave(&saved);
    if (failed)
        engine_free(&opened->base);
    else
        *engine = &opened->base;
    return failed;
}
