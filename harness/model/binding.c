#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "harness/model/layout.h"

enum { BLOCK = 32 }; // inputs per scale of the per-block formats, rows per codebook

static const enum size vector_d[] = {SIZE_D, SIZE_END};
static const enum size matrix_v_d[] = {SIZE_V, SIZE_D, SIZE_END};

static const char head_name[] = "lm_head.weight";

// --- binding

struct binding {
    struct arena *arena;
    const struct config *config;
    const struct tensor_table *table;
    bool quantized;
    bool *used;         // [table->n]
    const char *prefix; // of all names but the head's
};

static int out_of_memory(struct error *error)
{
    return error_set(error, ERROR_RUNTIME, "memory exhausted while binding the model's weights");
}

// NAME + suffix of the table, marked as used; NULL when absent.
static const struct tensor *take(const struct binding *binding, const char *name, const char *suffix)
{
    char full[256];
    const int length = snprintf(full, sizeof full, "%s%s", name, suffix);
    if (length < 0 || (size_t)length >= sizeof full)
        return NULL;
    const size_t index = tensor_table_index(binding->table, full);
    if (index == binding->table->n)
        return NULL;
    binding->used[index] = true;
    return binding->table->tensors[index];
}

// "[F, d] = [448, 192]" or, of one size or of plain numbers, "[192]".
static const char *expected_text(const struct config *config, const enum size *shape, char text[160])
{
    const size_t size = 160;
    size_t used = 0;
    for (int pass = 0; pass < 2; pass++) {
        used += (size_t)snprintf(text + used, size - used, pass ? " = [" : "[");
        for (int i = 0; shape[i] != SIZE_END; i++) {
            used += (size_t)snprintf(text + used, size - used, "%s", i ? ", " : "");
            used += pass ? (size_t)snprintf(text + used, size - used, "%" PRIu64, size_value(config, shape[i]))
                         : (size_t)snprintf(text + used, size - used, "%s", size_name(shape[i]));
        }
        used += (size_t)snprintf(text + used, size - used, "]");
    }
    return text;
}

static int check_shape(const struct binding *binding, const struct tensor *tensor, const enum size *shape,
                       struct error *error)
{
    uint32_t rank = 0;
    bool equal = true;
    for (; shape[rank] != SIZE_END; rank++)
        equal = equal && rank < tensor->rank && tensor->shape[rank] == size_value(binding->config, shape[rank]);
    if (equal && tensor->rank == rank)
        return 0;
    char found[128], expected[160];
    return error_set(error, ERROR_INPUT, "%s: tensor %s: shape %s, expected %s by config.json%s", tensor->file,
                     tensor->name, tensor_shape_text(tensor, found), expected_text(binding->config, shape, expected),
                     shape[0] == SIZE_F || shape[1] == SIZE_F
                         ? " (F: block_ff_dim or intermediate_size, after block_auto_adjust_ff_dim)"
                         : "");
}

// A vector is one row; of more dimensions the last are the columns: [d, 1, K] is d rows, [E, Fm, d] E Fm rows.
static int set_sizes(const struct config *config, const char *name, const enum size *shape, struct weight *weight,
                     struct error *error)
{
    uint32_t rank = 0;
    uint64_t rows = 1;
    while (shape[rank] != SIZE_END)
        rank++;
    for (uint32_t i = 0; i + 1 < rank; i++)
        rows *= size_value(config, shape[i]);
    if (rows > UINT32_MAX / 2)
        return error_set(error, ERROR_INPUT, "tensor %s: %" PRIu64 " rows by config.json; expected at most %u", name, rows,
                         UINT32_MAX / 2);
    weight->rows = (uint32_t)rows;
    weight->cols = (uint32_t)size_value(config, shape[rank - 1]);
    return 0;
}

static int bind_plain(const struct binding *binding, const struct tensor *tensor, const enum size *shape,
                      struct weight *weight, struct error *error)
{
    switch (tensor->dtype) {
    case DTYPE_F32:
        weight->format = WEIGHT_F32;
        break;
    case DTYPE_F16:
        weight->format = WEIGHT_F16;
        break;
    case DTYPE_BF16:
        weight->format = WEIGHT_BF16;
        break;
    default:
        return error_set(error, ERROR_INPUT, "%s: tensor %s: dtype %s, expected F32, F16 or BF16", tensor->file,
                         tensor->name, dtype_name(tensor->dtype));
    }
    weight->data = tensor->data;
    return check_shape(binding, tensor, shape, error);
}

// A tensor of `weight`, [rows / per, cols] where `per` rows share one, by expert where the experts lie in one tensor.
static bool is_part(const struct tensor *tensor, enum dtype dtype, const struct weight *weight, uint32_t experts,
                    uint32_t per, uint64_t cols)
{
    const uint64_t rows = weight->rows / per;
    if (tensor->dtype != dtype || tensor->rank != (experts ? 3 : 2) || tensor->shape[tensor->rank - 1] != cols)
        return false;
    return experts ? tensor->shape[0] == experts && tensor->shape[1] == rows / experts : tensor->shape[0] == rows;
}

static const char *part_text(const struct weight *weight, uint32_t experts, uint32_t per, uint64_t cols, char text[80])
{
    const uint32_t rows = weight->rows / per;
    if (experts)
        snprintf(text, 80, "[%u, %u, %" PRIu64 "]", experts, rows / experts, cols);
    else
        snprintf(text, 80, "[%u, %" PRIu64 "]", rows, cols);
    return text;
}

static int refuse_part(const struct weight *weight, const struct tensor *tensor, enum dtype dtype, uint32_t experts,
                       uint32_t per, uint64_t cols, struct error *error)
{
    char found[128], expected[80];
    return error_set(error, ERROR_INPUT, "%s: tensor %s: %s %s, expected %s %s", tensor->file, tensor->name,
                     dtype_name(tensor->dtype), tensor_shape_text(tensor, found), dtype_name(dtype),
                     part_text(weight, experts, per, cols, expected));
}

// The scales' shape says what a scale covers: [rows, cols / 32] blocks of 32, [rows, 1] a whole row.
static int bind_scales(const struct binding *binding, const struct tensor *codes, uint32_t experts,
                       struct weight *weight, struct error *error)
{
    char found[128], expected[80], row[80];
    const struct tensor *scale = take(binding, weight->name, ".scale");
    if (!scale)
        return error_set(error, ERROR_INPUT, "%s: tensor %s.scale is missing; expected it beside %s", codes->file,
                         weight->name, codes->name);
    if (weight->cols % BLOCK == 0 && is_part(scale, DTYPE_F16, weight, experts, 1, weight->cols / BLOCK))
        weight->block = BLOCK;
    else if (is_part(scale, DTYPE_F16, weight, experts, 1, 1))
        weight->block = weight->cols;
    else
        return error_set(error, ERROR_INPUT,
                         "%s: tensor %s: %s %s, expected F16 %s (blocks of 32, where the %u inputs "
                         "divide) or %s (one scale a row)",
                         scale->file, scale->name, dtype_name(scale->dtype), tensor_shape_text(scale, found),
                         part_text(weight, experts, 1, weight->cols / BLOCK, expected), weight->cols,
                         part_text(weight, experts, 1, 1, row));
    weight->scale = scale->data;
    return 0;
}

// One codebook for every 32 rows of an expert.
static int bind_codebook(const struct tensor *lut, uint32_t experts, struct weight *weight, struct error *error)
{
    const uint32_t entries = weight->format == WEIGHT_Q4 ? 16 : 256;
    const uint32_t rows = experts ? weight->rows / experts : weight->rows;
    if (rows % WEIGHT_BOOK_ROWS)
        return error_set(error, ERROR_INPUT, "%s: tensor %s: codebooks serve %d rows, but %u rows do not divide",
                         lut->file, lut->name, WEIGHT_BOOK_ROWS, rows);
    if (!is_part(lut, DTYPE_F16, weight, experts, WEIGHT_BOOK_ROWS, entries))
        return refuse_part(weight, lut, DTYPE_F16, experts, WEIGHT_BOOK_ROWS, entries, error);
    weight->format = weight->format == WEIGHT_Q4 ? WEIGHT_K4 : WEIGHT_K8;
    weight->lut = lut->data;
    return 0;
}

// `format`, Q8 or Q4, is how the codes are stored; what stands beside them says what they mean.
static int bind_codes(const struct binding *binding, const struct tensor *codes, enum coding coding, uint32_t experts,
                      struct weight *weight, struct error *error)
{
    const bool q4 = weight->format == WEIGHT_Q4;
    const uint64_t row = q4 ? ((uint64_t)weight->cols + 1) / 2 : weight->cols;
    const enum dtype dtype = q4 ? DTYPE_U8 : DTYPE_I8;
    if (!is_part(codes, dtype, weight, experts, 1, row))
        return refuse_part(weight, codes, dtype, experts, 1, row, error);
    weight->data = codes->data;
    const struct tensor *lut = coding == CODING_EXPERT ? take(binding, weight->name, ".lut") : NULL;
    if (lut)
        return bind_codebook(lut, experts, weight, error);
    const int status = bind_scales(binding, codes, experts, weight, error);
    const struct tensor *bias = coding == CODING_EXPERT && q4 ? take(binding, weight->name, ".bias") : NULL;
    if (status || !bias)
        return status;
    if (!is_part(bias, DTYPE_F16, weight, experts, 1, weight->cols / weight->block))
        return refuse_part(weight, bias, DTYPE_F16, experts, 1, weight->cols / weight->block, error);
    weight->format = WEIGHT_A4;
    weight->bias = bias->data;
    return 0;
}

// Looks for NAME, then, where codes are allowed, for NAME.q8 and NAME.q4. Absent: format NONE, no error.
static int bind_any(const struct binding *binding, const char *name, const enum size *shape, enum coding coding,
                    struct weight *weight, struct error *error)
{
    *weight = (struct weight){.name = name};
    const int status = set_sizes(binding->config, name, shape, weight, error);
    const struct tensor *tensor = take(binding, name, "");
    if (status)
        return status;
    if (tensor)
        return bind_plain(binding, tensor, shape, weight, error);
    if (!binding->quantized || coding == CODING_NONE)
        return 0;
    tensor = take(binding, name, ".q8");
    weight->format = tensor ? WEIGHT_Q8 : WEIGHT_NONE;
    if (!tensor) {
        tensor = take(binding, name, ".q4");
        weight->format = tensor ? WEIGHT_Q4 : WEIGHT_NONE;
    }
    const uint32_t experts = shape[0] == SIZE_E && shape[2] != SIZE_END ? binding->config->experts : 0;
    return tensor ? bind_codes(binding, tensor, coding, experts, weight, error) : 0;
}

static int missing(const struct binding *binding, const char *name, const enum size *shape, struct error *error)
{
    char expected[160];
    return error_set(error, ERROR_INPUT, "tensor %s %s is missing from the weights; config.json asks for it%s", name,
                     expected_text(binding->config, shape, expected),
                     take(binding, name, ".q8") || take(binding, name, ".q4")
                         ? " (it is there in quantized form, which is not allowed here)"
                         : "");
}

static int bind_required(const struct binding *binding, const char *name, const enum size *shape, enum coding coding,
                         struct weight *weight, struct error *error)
{
    const int status = bind_any(binding, name, shape, coding, weight, error);
    return !status && weight->format == WEIGHT_NONE ? missing(binding, name, shape, error) : status;
}

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
            return out_of_memory(error);
        struct weight *weight = layout_field(layer, &fused[i]);
        const int status = i ? bind_required(binding, name, fused[i].shape, fused[i].coding, weight, error)
                             : bind_any(binding, name, fused[i].shape, fused[i].coding, weight, error);
        if (status)
            return status;
        if (weight->format == WEIGHT_NONE)
            return take(binding, name, ".q8") || take(binding, name, ".q4")
                       ? missing(binding, name, fused[i].shape, error)
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
        return out_of_memory(error);
    int status = bind_fused(binding, index, layer, &fused, error);
    if (status || fused)
        return status;
    for (uint32_t e = 0; e < config->experts; e++)
        for (int i = 0; i < LAYOUT_EXPERT; i++) {
            char below[64];
            snprintf(below, sizeof below, slots[i].name, e);
            const char *name = layer_name(binding, index, below);
            if (!name)
                return out_of_memory(error);
            struct weight *weight = (struct weight *)(void *)((char *)&layer->experts[e] + slots[i].field);
            status = bind_required(binding, name, slots[i].shape, slots[i].coding, weight, error);
            if (status)
                return status;
        }
    return 0;
}

static int bind_layer(const struct binding *binding, uint32_t index, struct layer *layer, struct error *error)
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
            return out_of_memory(error);
        const int status =
            bind_required(binding, name, slot->shape, slot->coding, layout_field(layer, slot), error);
        if (status)
            return status;
    }
    return layer->sparse ? bind_experts(binding, index, layer, error) : 0;
}

// --- the head

// Equal values, whatever the formats; bytes first, since an untied head is usually a different matrix at once.
static int equal_values(struct arena *arena, const struct weight *a, const struct weight *b, bool *equal)
{
    *equal = a->format == b->format && !memcmp(a->data, b->data, a->rows * weight_row_bytes(a));
    if (*equal)
        return 0;
    float *left = arena_alloc(arena, a->cols, sizeof *left), *right = arena_alloc(arena, b->cols, sizeof *right);
    if (!left || !right)
        return ERROR_RUNTIME;
    *equal = true;
    for (uint32_t row = 0; row < a->rows && *equal; row++) {
        weight_row(a, row, left);
        weight_row(b, row, right);
        for (uint32_t i = 0; i < a->cols && *equal; i++)
            *equal = left[i] == right[i];
    }
    return 0;
}

// model.h's rule. A head that a bundle stores in another form than the embedding is an untied copy by construction.
static int bind_head(const struct binding *binding, struct model *model, const char **note, struct error *error)
{
    struct config *config = &model->config;
    struct weight *embedding = &model->embedding, *head = &model->head;
    int status = bind_any(binding, head_name, matrix_v_d, CODING_BLOCKS, head, error);
    if (!status)
        status = bind_any(binding, model->embedding_name, matrix_v_d, CODING_NONE, embedding, error);
    if (status)
        return status;
    const bool plain_head = head->format != WEIGHT_NONE && !head->scale;
    if (embedding->format == WEIGHT_NONE) {
        if (!config->tied || !plain_head)
            return missing(binding, model->embedding_name, matrix_v_d, error);
        *embedding = *head;
        *note = arena_print(binding->arena, "lm_head.weight is stored and %s is not: it serves as both",
                            model->embedding_name);
        return *note ? 0 : out_of_memory(error);
    }
    if (head->format == WEIGHT_NONE) {
        if (!config->tied)
            return error_set(error, ERROR_INPUT,
                             "tensor %s is missing from the weights, and config.json does not tie the "
                             "head to the embedding (tie_word_embeddings, tie_embedding); expected one or the other",
                             head_name);
        *head = *embedding;
        return 0;
    }
    if (!config->tied)
        return 0;
    config->tied = false;
    if (binding->quantized && head->format != embedding->format)
        return 0;
    status = equal_values(binding->arena, head, embedding, &config->tied);
    if (status)
        return out_of_memory(error);
    if (config->tied)
        *head = *embedding;
    else
        *note =
            "config.json ties the head to the embedding, but lm_head.weight is stored with other values: it is used, "
            "as in transformers";
    return 0;
}

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
    return model->embedding_name ? 0 : out_of_memory(error);
}

static int bind_final_norm(const struct binding *binding, struct model *model, struct error *error)
{
    const char *name = arena_print(binding->arena, "%s%s", binding->prefix, layout_of(binding->config)->final_norm);
    return name ? bind_required(binding, name, vector_d, CODING_NONE, &model->final_norm, error)
                : out_of_memory(error);
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
        return out_of_memory(error);
    int status = find_prefix(&binding, model, error);
    binding.prefix = model->prefix;
    if (!status)
        status = bind_head(&binding, model, &note, error);
    for (uint32_t i = 0; i < config->layers && !status; i++)
        status = bind_layer(&binding, i, &model->layers[i], error);
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
