#include "harness/model/binding_parts.h"

#include <inttypes.h>
#include <stdio.h>

int binding_no_memory(struct error *error)
{
    return error_set(error, ERROR_RUNTIME, "memory exhausted while binding the model's weights");
}

const struct tensor *binding_take(const struct binding *binding, const char *name, const char *suffix)
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
        return error_set(error, ERROR_INPUT, "tensor %s: %" PRIu64 " rows by config.json; expected at most %u", name,
                         rows, UINT32_MAX / 2);
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

int binding_any(const struct binding *binding, const char *name, const enum size *shape, enum coding coding,
                struct weight *weight, struct error *error)
{
    *weight = (struct weight){.name = name};
    const int status = set_sizes(binding->config, name, shape, weight, error);
    const struct tensor *tensor = binding_take(binding, name, "");
    if (status)
        return status;
    if (tensor)
        return bind_plain(binding, tensor, shape, weight, error);
    if (!binding->quantized || coding == CODING_NONE)
        return 0;
    tensor = binding_take(binding, name, ".q8");
    weight->format = tensor ? WEIGHT_Q8 : WEIGHT_NONE;
    if (!tensor) {
        tensor = binding_take(binding, name, ".q4");
        weight->format = tensor ? WEIGHT_Q4 : WEIGHT_NONE;
    }
    const uint32_t experts = shape[0] == SIZE_E && shape[2] != SIZE_END ? binding->config->experts : 0;
    return tensor ? binding_codes(binding, tensor, coding, experts, weight, error) : 0;
}

int binding_missing(const struct binding *binding, const char *name, const enum size *shape, struct error *error)
{
    char expected[160];
    return error_set(error, ERROR_INPUT, "tensor %s %s is missing from the weights; config.json asks for it%s", name,
                     expected_text(binding->config, shape, expected),
                     binding_take(binding, name, ".q8") || binding_take(binding, name, ".q4")
                         ? " (it is there in quantized form, which is not allowed here)"
                         : "");
}

int binding_required(const struct binding *binding, const char *name, const enum size *shape, enum coding coding,
                     struct weight *weight, struct error *error)
{
    const int status = binding_any(binding, name, shape, coding, weight, error);
    return !status && weight->format == WEIGHT_NONE ? binding_missing(binding, name, shape, error) : status;
}
