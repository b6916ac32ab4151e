#include "harness/model/model.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 32 }; // inputs per scale of the per-block formats

// --- the architecture: every tensor of a layer, its field, its shape (architecture.md 2.4)

enum size { SIZE_END, SIZE_ONE, SIZE_V, SIZE_D, SIZE_3D, SIZE_F, SIZE_K, SIZE_DH, SIZE_QUERY, SIZE_KEY };

static const char *const size_names[] = {"", "1", "V", "d", "3d", "F", "K", "dh", "Hq dh", "Hkv dh"};

static uint64_t size_value(const struct config *config, enum size size)
{
    switch (size) {
    case SIZE_V:
        return config->vocabulary;
    case SIZE_D:
        return config->hidden;
    case SIZE_3D:
        return 3 * (uint64_t)config->hidden;
    case SIZE_F:
        return config->feed_forward;
    case SIZE_K:
        return config->conv_taps;
    case SIZE_DH:
        return config->head_width;
    case SIZE_QUERY:
        return (uint64_t)config->query_heads * config->head_width;
    case SIZE_KEY:
        return (uint64_t)config->key_heads * config->head_width;
    case SIZE_ONE:
    case SIZE_END:
        break;
    }
    return 1;
}

enum owner { OWNER_ANY, OWNER_CONV, OWNER_CONV_BIAS, OWNER_ATTENTION };

struct slot {
    const char *name; // below "model.layers.<i>."
    size_t field;     // of struct lfm2_layer
    enum owner owner;
    enum size shape[4]; // ends with SIZE_END; two dimensions: a projection, which a bundle may quantize
};

#define FIELD(name) offsetof(struct lfm2_layer, name)

static const struct slot slots[] = {
    {"operator_norm.weight", FIELD(operator_norm), OWNER_ANY, {SIZE_D}},
    {"conv.in_proj.weight", FIELD(in_proj), OWNER_CONV, {SIZE_3D, SIZE_D}},
    {"conv.in_proj.bias", FIELD(in_proj_bias), OWNER_CONV_BIAS, {SIZE_3D}},
    {"conv.conv.weight", FIELD(conv), OWNER_CONV, {SIZE_D, SIZE_ONE, SIZE_K}},
    {"conv.conv.bias", FIELD(conv_bias), OWNER_CONV_BIAS, {SIZE_D}},
    {"conv.out_proj.weight", FIELD(conv_out), OWNER_CONV, {SIZE_D, SIZE_D}},
    {"conv.out_proj.bias", FIELD(conv_out_bias), OWNER_CONV_BIAS, {SIZE_D}},
    {"self_attn.q_proj.weight", FIELD(q_proj), OWNER_ATTENTION, {SIZE_QUERY, SIZE_D}},
    {"self_attn.k_proj.weight", FIELD(k_proj), OWNER_ATTENTION, {SIZE_KEY, SIZE_D}},
    {"self_attn.v_proj.weight", FIELD(v_proj), OWNER_ATTENTION, {SIZE_KEY, SIZE_D}},
    {"self_attn.out_proj.weight", FIELD(attn_out), OWNER_ATTENTION, {SIZE_D, SIZE_QUERY}},
    {"self_attn.q_layernorm.weight", FIELD(q_norm), OWNER_ATTENTION, {SIZE_DH}},
    {"self_attn.k_layernorm.weight", FIELD(k_norm), OWNER_ATTENTION, {SIZE_DH}},
    {"ffn_norm.weight", FIELD(ffn_norm), OWNER_ANY, {SIZE_D}},
    {"feed_forward.w1.weight", FIELD(w1), OWNER_ANY, {SIZE_F, SIZE_D}},
    {"feed_forward.w3.weight", FIELD(w3), OWNER_ANY, {SIZE_F, SIZE_D}},
    {"feed_forward.w2.weight", FIELD(w2), OWNER_ANY, {SIZE_D, SIZE_F}},
};
enum { N_SLOTS = sizeof slots / sizeof *slots };

static const enum size vector_d[] = {SIZE_D, SIZE_END};
static const enum size matrix_v_d[] = {SIZE_V, SIZE_D, SIZE_END};

static const char embedding_name[] = "model.embed_tokens.weight";
static const char final_norm_name[] = "model.embedding_norm.weight";
static const char head_name[] = "lm_head.weight";

static struct weight *field_of(struct lfm2_layer *layer, const struct slot *slot)
{
    return (struct weight *)(void *)((char *)layer + slot->field);
}

static bool is_projection(const struct slot *slot)
{
    return slot->shape[1] != SIZE_END && slot->shape[2] == SIZE_END;
}

static bool belongs(const struct config *config, enum mixer mixer, enum owner owner)
{
    switch (owner) {
    case OWNER_CONV:
        return mixer == MIXER_CONV;
    case OWNER_CONV_BIAS:
        return mixer == MIXER_CONV && config->conv_bias;
    case OWNER_ATTENTION:
        return mixer == MIXER_ATTENTION;
    case OWNER_ANY:
        break;
    }
    return true;
}

// --- binding

struct binding {
    struct arena *arena;
    const struct config *config;
    const struct tensor_table *table;
    bool quantized;
    bool *used; // [table->n]
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
                         : (size_t)snprintf(text + used, size - used, "%s", size_names[shape[i]]);
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

// rows and cols of what passed check_shape: a vector is one row, [d, 1, K] is d rows.
static void set_sizes(const struct config *config, const enum size *shape, struct weight *weight)
{
    uint32_t rank = 0;
    while (shape[rank] != SIZE_END)
        rank++;
    weight->rows = rank == 1 ? 1 : (uint32_t)size_value(config, shape[0]);
    weight->cols = (uint32_t)size_value(config, shape[rank - 1]);
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

static bool is_matrix(const struct tensor *tensor, enum dtype dtype, uint64_t rows, uint64_t cols)
{
    return tensor->dtype == dtype && tensor->rank == 2 && tensor->shape[0] == rows && tensor->shape[1] == cols;
}

// The scales' shape says what a scale covers: [rows, cols / 32] blocks of 32, [rows, 1] a whole row.
static int bind_codes(const struct binding *binding, const struct tensor *codes, struct weight *weight,
                      struct error *error)
{
    char found[128];
    const bool q4 = weight->format == WEIGHT_Q4;
    const uint64_t row = q4 ? ((uint64_t)weight->cols + 1) / 2 : weight->cols;
    const enum dtype dtype = q4 ? DTYPE_U8 : DTYPE_I8;
    if (!is_matrix(codes, dtype, weight->rows, row))
        return error_set(error, ERROR_INPUT, "%s: tensor %s: %s %s, expected %s [%u, %" PRIu64 "]", codes->file,
                         codes->name, dtype_name(codes->dtype), tensor_shape_text(codes, found), dtype_name(dtype),
                         weight->rows, row);
    const struct tensor *scale = take(binding, weight->name, ".scale");
    if (!scale)
        return error_set(error, ERROR_INPUT, "%s: tensor %s.scale is missing; expected it beside %s", codes->file,
                         weight->name, codes->name);
    if (weight->cols % BLOCK == 0 && is_matrix(scale, DTYPE_F16, weight->rows, weight->cols / BLOCK))
        weight->block = BLOCK;
    else if (is_matrix(scale, DTYPE_F16, weight->rows, 1))
        weight->block = weight->cols;
    else
        return error_set(error, ERROR_INPUT,
                         "%s: tensor %s: %s %s, expected F16 [%u, %u] (blocks of 32, where the %u inputs "
                         "divide) or [%u, 1] (one scale a row)",
                         scale->file, scale->name, dtype_name(scale->dtype), tensor_shape_text(scale, found),
                         weight->rows, weight->cols / BLOCK, weight->cols, weight->rows);
    weight->data = codes->data;
    weight->scale = scale->data;
    return 0;
}

// Looks for NAME, then, where codes are allowed, for NAME.q8 and NAME.q4. Absent: format NONE, no error.
static int bind_any(const struct binding *binding, const char *name, const enum size *shape, bool codes_allowed,
                    struct weight *weight, struct error *error)
{
    *weight = (struct weight){.name = name};
    set_sizes(binding->config, shape, weight);
    const struct tensor *tensor = take(binding, name, "");
    if (tensor)
        return bind_plain(binding, tensor, shape, weight, error);
    if (!binding->quantized || !codes_allowed)
        return 0;
    tensor = take(binding, name, ".q8");
    weight->format = tensor ? WEIGHT_Q8 : WEIGHT_NONE;
    if (!tensor) {
        tensor = take(binding, name, ".q4");
        weight->format = tensor ? WEIGHT_Q4 : WEIGHT_NONE;
    }
    return tensor ? bind_codes(binding, tensor, weight, error) : 0;
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

static int bind_required(const struct binding *binding, const char *name, const enum size *shape, bool codes_allowed,
                         struct weight *weight, struct error *error)
{
    const int status = bind_any(binding, name, shape, codes_allowed, weight, error);
    return !status && weight->format == WEIGHT_NONE ? missing(binding, name, shape, error) : status;
}

static int bind_layer(const struct binding *binding, uint32_t index, struct lfm2_layer *layer, struct error *error)
{
    layer->mixer = binding->config->mixers[index];
    for (int i = 0; i < N_SLOTS; i++) {
        const struct slot *slot = &slots[i];
        if (!belongs(binding->config, layer->mixer, slot->owner))
            continue;
        const char *name = arena_print(binding->arena, "model.layers.%u.%s", index, slot->name);
        if (!name)
            return out_of_memory(error);
        const int status = bind_required(binding, name, slot->shape, is_projection(slot), field_of(layer, slot), error);
        if (status)
            return status;
    }
    return 0;
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
    int status = bind_any(binding, head_name, matrix_v_d, true, head, error);
    if (!status)
        status = bind_any(binding, embedding_name, matrix_v_d, false, embedding, error);
    if (status)
        return status;
    const bool plain_head = head->format != WEIGHT_NONE && !head->scale;
    if (embedding->format == WEIGHT_NONE) {
        if (!config->tied || !plain_head)
            return missing(binding, embedding_name, matrix_v_d, error);
        *embedding = *head;
        *note = "lm_head.weight is stored and model.embed_tokens.weight is not: it serves as both";
        return 0;
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

static int refuse_leftovers(const struct binding *binding, struct error *error)
{
    for (size_t i = 0; i < binding->table->n; i++) {
        const struct tensor *tensor = binding->table->tensors[i];
        char shape[128];
        if (!binding->used[i] && !is_pad(tensor->name))
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
    int status = bind_head(&binding, model, &note, error);
    for (uint32_t i = 0; i < config->layers && !status; i++)
        status = bind_layer(&binding, i, &model->layers[i], error);
    if (!status)
        status = bind_required(&binding, final_norm_name, vector_d, false, &model->final_norm, error);
    if (!status)
        status = refuse_leftovers(&binding, error);
    if (!status)
        model_visit(model, count, &model->n_weights);
    if (head_note)
        *head_note = note;
    return status;
}

void model_visit(const struct model *model, model_visit_fn visit, void *context)
{
    visit(context, &model->embedding);
    for (uint32_t i = 0; i < model->config.layers; i++) {
        for (int j = 0; j < N_SLOTS; j++) {
            const struct weight *weight = field_of(&model->layers[i], &slots[j]);
            if (weight->format != WEIGHT_NONE)
                visit(context, weight);
        }
    }
    visit(context, &model->final_norm);
    if (model->head.data != model->embedding.data)
        visit(context, &model->head);
}

// --- a checkpoint to be

static bool declare(const struct config *config, const char *name, const enum size *shape, enum dtype dtype,
                    struct tensor_declaration *out)
{
    *out = (struct tensor_declaration){.name = name, .dtype = dtype};
    for (; shape[out->rank] != SIZE_END; out->rank++)
        out->shape[out->rank] = size_value(config, shape[out->rank]);
    return name != NULL;
}

int model_declare(struct arena *arena, const struct config *config, enum dtype dtype,
                  struct tensor_declaration **tensors, size_t *n, struct error *error)
{
    struct tensor_declaration *list = arena_alloc(arena, 3 + (size_t)config->layers * N_SLOTS, sizeof *list);
    if (!list)
        return out_of_memory(error);
    size_t count = 0;
    bool ok = declare(config, embedding_name, matrix_v_d, dtype, &list[count++]);
    for (uint32_t i = 0; i < config->layers; i++)
        for (int j = 0; j < N_SLOTS; j++)
            if (belongs(config, config->mixers[i], slots[j].owner))
                ok = declare(config, arena_print(arena, "model.layers.%u.%s", i, slots[j].name), slots[j].shape, dtype,
                             &list[count++]) && ok;
    ok = declare(config, final_norm_name, vector_d, dtype, &list[count++]) && ok;
    if (!config->tied)
        ok = declare(config, head_name, matrix_v_d, dtype, &list[count++]) && ok;
    *tensors = list;
    *n = count;
    return ok ? 0 : out_of_memory(error);
}

static uint64_t row_traffic(const struct weight *weight)
{
    return weight_row_bytes(weight) + (weight->block ? 2 * (uint64_t)(weight->cols / weight->block) : 0);
}

static void add_traffic(void *context, const struct weight *weight)
{
    struct model_traffic *traffic = context;
    traffic->bytes += weight->rows * row_traffic(weight);
}

struct model_traffic model_step_traffic(const struct model *model)
{
    const struct weight *embedding = &model->embedding;
    struct model_traffic traffic = {.multiplications = (uint64_t)model->head.rows * model->head.cols};
    model_visit(model, add_traffic, &traffic);
    traffic.bytes += row_traffic(embedding);
    if (model->head.data != embedding->data)
        traffic.bytes -= embedding->rows * row_traffic(embedding);
    for (uint32_t i = 0; i < model->config.layers; i++)
        for (int j = 0; j < N_SLOTS; j++) {
            const struct weight *weight = field_of(&model->layers[i], &slots[j]);
            if (is_projection(&slots[j]) && weight->format != WEIGHT_NONE)
                traffic.multiplications += (uint64_t)weight->rows * weight->cols;
        }
    return traffic;
}
