#include "harness/model/binding_parts.h"

#include <stdio.h>
#include <string.h>

static const enum size vector_d[] = {SIZE_D, SIZE_END};

static bool is_pad(const char *name)
{
    return !strncmp(name, "pad.", 4) && name[4] && !name[4 + strspn(name + 4, "0123456789")];
}

// Parts of a released Qwen3.5 that a text model does without; transformers leaves them out, too.
static bool left_out(const struct binding *binding, const struct tensor *tensor, struct model_left_out *count)
{
    const bool vision = !strncmp(tensor->name, "model.visual.", 13), prediction = !strncmp(tensor->name, "mtp.", 4);
    if (config_is_lfm2(binding->config) || binding->quantized || !(vision || prediction))
        return false;
    count->vision += vision;
    count->prediction += prediction;
    count->bytes += tensor->bytes;
    return true;
}

static int refuse_leftovers(const struct binding *binding, struct model_left_out *count, struct error *error)
{
    for (size_t i = 0; i < binding->table->n; i++) {
        const struct tensor *tensor = binding->table->tensors[i];
        char shape[128];
        if (!binding->used[i] && !is_pad(tensor->name) && !left_out(binding, tensor, count))
            return error_set(error, ERROR_INPUT,
                             "%s: tensor %s %s %s belongs to no part of the model in config.json (%s, %u "
                             "layers); expected only its tensors",
                             tensor->file, tensor->name, dtype_name(tensor->dtype), tensor_shape_text(tensor, shape),
                             binding->config->model_type, binding->config->layers);
    }
    return 0;
}

static void count(void *context, const struct weight *weight)
{
    (void)weight;
    ++*(uint32_t *)context;
}

// The checkpoint's own spelling, whichever of the two it has.
static int find_prefix(const struct binding *binding, struct model *model, struct error *error)
{
    static const char *const prefixes[] = {"model.language_model.", "model."};
    const char *final_norm = layout_of(binding->config)->final_norm;
    model->prefix = prefixes[!binding->config->nested];
    for (int i = 0; i < 2 && !config_is_lfm2(binding->config); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", prefixes[i], final_norm);
        if (tensor_table_find(binding->table, name)) {
            model->prefix = prefixes[i];
            break;
        }
    }
    model->embedding_name = arena_print(binding->arena, "%sembed_tokens.weight", model->prefix);
    return model->embedding_name ? 0 : binding_no_memory(error);
}

static int bind_final_norm(const struct binding *binding, struct model *model, struct error *error)
{
    const char *name = arena_print(binding->arena, "%s%s", binding->prefix, layout_of(binding->config)->final_norm);
    return name ? binding_required(binding, name, vector_d, CODING_NONE, &model->final_norm, error)
                : binding_no_memory(error);
}

int model_bind(struct arena *arena, const struct config *config, const struct tensor_table *table, bool quantized,
               struct model *model, const char **head_note, struct error *error)
{
    const char *note = NULL;
    *model = (struct model){.config = *config};
    struct binding binding = {.arena = arena, .config = config, .table = table, .quantized = quantized};
    binding.used = arena_alloc(arena, table->n, sizeof *binding.used);
    model->layers = arena_alloc(arena, config->layers, sizeof *model->layers);
    if (!binding.used || !model->layers)
        return binding_no_memory(error);
    int status = find_prefix(&binding, model, error);
    binding.prefix = model->prefix;
    if (!status)
        status = binding_head(&binding, model, &note, error);
    for (uint32_t i = 0; i < config->layers && !status; i++)
        status = binding_layer(&binding, i, &model->layers[i], error);
    if (!status)
        status = bind_final_norm(&binding, model, error);
    if (!status)
        status = refuse_leftovers(&binding, &model->left_out, error);
    if (!status)
        model_visit(model, count, &model->n_weights);
    if (head_note)
        *head_note = note;
    return status;
}
