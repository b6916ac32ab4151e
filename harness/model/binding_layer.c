#include "harness/model/binding_parts.h"

#include <stdio.h>

static const char *layer_name(const struct binding *binding, uint32_t layer, const char *name)
{
    return arena_print(binding->arena, "%slayers.%u.%s", binding->prefix, layer, name);
}

// Views of gate_up and down, whose rows are the experts' one after the other.
static void view_experts(const struct config *config, struct layer *layer)
{
    const uint32_t fm = config->expert_width, d = config->hidden;
    for (uint32_t e = 0; e < config->experts; e++) {
        layer->experts[e].gate = weight_rows(&layer->gate_up, 2 * e * fm, fm);
        layer->experts[e].up = weight_rows(&layer->gate_up, (2 * e + 1) * fm, fm);
        layer->experts[e].down = weight_rows(&layer->down, e * d, d);
    }
}

// In one tensor, if the family has that and the first of them is there in any form.
static int bind_fused(const struct binding *binding, uint32_t index, struct layer *layer, bool *found,
                      struct error *error)
{
    const struct slot *fused = layout_of(binding->config)->fused;
    *found = false;
    for (int i = 0; fused && i < LAYOUT_FUSED; i++) {
        const char *name = layer_name(binding, index, fused[i].name);
        if (!name)
            return binding_no_memory(error);
        struct weight *weight = layout_field(layer, &fused[i]);
        const int status = i ? binding_required(binding, name, fused[i].shape, fused[i].coding, weight, error)
                             : binding_any(binding, name, fused[i].shape, fused[i].coding, weight, error);
        if (status)
            return status;
        if (weight->format == WEIGHT_NONE)
            return binding_take(binding, name, ".q8") || binding_take(binding, name, ".q4")
                       ? binding_missing(binding, name, fused[i].shape, error)
                       : 0;
        const uint32_t rows = i ? binding->config->hidden : binding->config->expert_width;
        if (weight->lut && rows % WEIGHT_BOOK_ROWS)
            return error_set(error, ERROR_INPUT, "tensor %s.lut: codebooks serve %d rows, but %u rows do not divide",
                             name, WEIGHT_BOOK_ROWS, rows);
    }
    *found = fused != NULL;
    if (*found)
        view_experts(binding->config, layer);
    return 0;
}

static int bind_experts(const struct binding *binding, uint32_t index, struct layer *layer, struct error *error)
{
    const struct config *config = binding->config;
    const struct slot *slots = layout_of(config)->experts;
    bool fused;
    layer->experts = arena_alloc(binding->arena, config->experts, sizeof *layer->experts);
    if (!layer->experts)
        return binding_no_memory(error);
    int status = bind_fused(binding, index, layer, &fused, error);
    if (status || fused)
        return status;
    for (uint32_t e = 0; e < config->experts; e++)
        for (int i = 0; i < LAYOUT_EXPERT; i++) {
            char below[64];
            snprintf(below, sizeof below, slots[i].name, e);
            const char *name = layer_name(binding, index, below);
            if (!name)
                return binding_no_memory(error);
            struct weight *weight = (struct weight *)(void *)((char *)&layer->experts[e] + slots[i].field);
            status = binding_required(binding, name, slots[i].shape, slots[i].coding, weight, error);
            if (status)
                return status;
        }
    return 0;
}

int binding_layer(const struct binding *binding, uint32_t index, struct layer *layer, struct error *error)
{
    const struct layout *layout = layout_of(binding->config);
    layer->mixer = binding->config->mixers[index];
    layer->sparse = config_is_sparse(binding->config, index);
    for (size_t i = 0; i < layout->n; i++) {
        const struct slot *slot = &layout->slots[i];
        if (!layout_has(binding->config, index, slot))
            continue;
        const char *name = layer_name(binding, index, slot->name);
        if (!name)
            return binding_no_memory(error);
        const int status =
            binding_required(binding, name, slot->shape, slot->coding, layout_field(layer, slot), error);
        if (status)
            return status;
    }
    return layer->sparse ? bind_experts(binding, index, layer, error) : 0;
}
