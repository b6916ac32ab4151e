#include "harness/model/model.h"

#include <assert.h>
#include <stdio.h>

#include "harness/model/layout.h"

static void visit_there(const struct weight *weight, model_visit_fn visit, void *context)
{
    if (weight->format != WEIGHT_NONE)
        visit(context, weight);
}

static void visit_expert(const struct expert *expert, model_visit_fn visit, void *context)
{
    visit_there(&expert->gate, visit, context);
    visit_there(&expert->up, visit, context);
    visit_there(&expert->down, visit, context);
}

static void visit_slots(const struct model *model, uint32_t layer, model_visit_fn visit, void *context)
{
    const struct layout *layout = layout_of(&model->config);
    for (size_t i = 0; i < layout->n; i++)
        visit_there(layout_field(&model->layers[layer], &layout->slots[i]), visit, context);
}

static void visit_layer(const struct model *model, uint32_t layer, model_visit_fn visit, void *context)
{
    const struct layer *weights = &model->layers[layer];
    visit_slots(model, layer, visit, context);
    visit_there(&weights->gate_up, visit, context);
    visit_there(&weights->down, visit, context);
    const bool one_by_one = weights->sparse && weights->gate_up.format == WEIGHT_NONE;
    for (uint32_t e = 0; one_by_one && e < model->config.experts; e++)
        visit_expert(&weights->experts[e], visit, context);
}

void model_visit(const struct model *model, model_visit_fn visit, void *context)
{
    visit(context, &model->embedding);
    for (uint32_t i = 0; i < model->config.layers; i++)
        visit_layer(model, i, visit, context);
    visit(context, &model->final_norm);
    if (model->head.data != model->embedding.data)
        visit(context, &model->head);
}

// --- a checkpoint to be

struct declaring {
    struct arena *arena;
    const struct config *config;
    enum dtype dtype;
    struct tensor_declaration *list;
    size_t n;
    bool failed;
};

static void declare(struct declaring *declaring, const char *name, const enum size *shape)
{
    struct tensor_declaration *out = &declaring->list[declaring->n++];
    *out = (struct tensor_declaration){.name = name, .dtype = declaring->dtype};
    for (; shape[out->rank] != SIZE_END; out->rank++)
        out->shape[out->rank] = size_value(declaring->config, shape[out->rank]);
    declaring->failed = declaring->failed || !name;
}

static void declare_slot(struct declaring *declaring, const char *prefix, uint32_t layer, const struct slot *slot,
                         uint32_t expert)
{
    char below[64];
    assert(slot->name);
    snprintf(below, sizeof below, slot->name, expert);
    declare(declaring, arena_print(declaring->arena, "%slayers.%u.%s", prefix, layer, below), slot->shape);
}

static void declare_layer(struct declaring *declaring, const char *prefix, uint32_t layer)
{
    const struct config *config = declaring->config;
    const struct layout *layout = layout_of(config);
    for (size_t i = 0; i < layout->n; i++)
        if (layout_has(config, layer, &layout->slots[i]))
            declare_slot(declaring, prefix, layer, &layout->slots[i], 0);
    if (!config_is_sparse(config, layer))
        return;
    for (int i = 0; layout->fused && i < LAYOUT_FUSED; i++)
        declare_slot(declaring, prefix, layer, &layout->fused[i], 0);
    for (uint32_t e = 0; !layout->fused && e < config->experts; e++)
        for (int i = 0; i < LAYOUT_EXPERT; i++)
            declare_slot(declaring, prefix, layer, &layout->experts[i], e);
}

int model_declare(struct arena *arena, const struct config *config, enum dtype dtype,
                  struct tensor_declaration **tensors, size_t *n, struct error *error)
{
    static const enum size vector_d[] = {SIZE_D, SIZE_END}, matrix_v_d[] = {SIZE_V, SIZE_D, SIZE_END};
    const struct layout *layout = layout_of(config);
    const char *prefix = config->nested ? "model.language_model." : "model.";
    const size_t room = 3 + config->layers * (layout->n + LAYOUT_FUSED + LAYOUT_EXPERT * (size_t)config->experts);
    struct declaring declaring = {.arena = arena, .config = config, .dtype = dtype,
                                  .list = arena_alloc(arena, room, sizeof *declaring.list)};
    if (!declaring.list)
        return error_set(error, ERROR_RUNTIME, "memory exhausted for the names of the model's tensors");
    declare(&declaring, arena_print(arena, "%sembed_tokens.weight", prefix), matrix_v_d);
    for (uint32_t i = 0; i < config->layers; i++)
        declare_layer(&declaring, prefix, i);
    declare(&declaring, arena_print(arena, "%s%s", prefix, layout->final_norm), vector_d);
    if (!config->tied)
        declare(&declaring, "lm_head.weight", matrix_v_d);
    *tensors = declaring.list;
    *n = declaring.n;
    return declaring.failed ? error_set(error, ERROR_RUNTIME, "memory exhausted for the names of the model's tensors")
                            : 0;
}

// --- what a token costs

static void add_traffic(void *context, const struct weight *weight)
{
    struct model_traffic *traffic = context;
    traffic->bytes += weight_bytes(weight);
}

static void add_product(struct model_traffic *traffic, const struct weight *weight, uint64_t times)
{
    traffic->multiplications += times * weight->rows * weight->cols;
}

// The experts of a model are of one shape, and of one form wherever it matters.
static void add_experts(struct model_traffic *traffic, const struct model *model, const struct layer *layer)
{
    const struct expert *first = &layer->experts[0];
    const uint64_t k = model->config.experts_per_token;
    traffic->bytes += k * (weight_bytes(&first->gate) + weight_bytes(&first->up) + weight_bytes(&first->down));
    add_product(traffic, &first->gate, k);
    add_product(traffic, &first->up, k);
    add_product(traffic, &first->down, k);
}

struct model_traffic model_step_traffic(const struct model *model)
{
    const struct weight row = weight_rows(&model->embedding, 0, 1);
    const struct layout *layout = layout_of(&model->config);
    struct model_traffic traffic = {.bytes = weight_bytes(&model->final_norm) + weight_bytes(&model->head) +
                                             weight_bytes(&row)};
    add_product(&traffic, &model->head, 1);
    for (uint32_t i = 0; i < model->config.layers; i++) {
        visit_slots(model, i, add_traffic, &traffic);
        for (size_t j = 0; j < layout->n; j++)
            if (layout_is_projection(&layout->slots[j]))
                add_product(&traffic, layout_field(&model->layers[i], &layout->slots[j]), 1);
        if (model->layers[i].sparse)
            add_experts(&traffic, model, &model->layers[i]);
    }
    return traffic;
}
