#include "harness/model/binding_parts.h"

#include <inttypes.h>
#include <stdio.h>

enum { BLOCK = 32 }; // inputs per scale of the per-block formats

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
    const struct tensor *scale = binding_take(binding, weight->name, ".scale");
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

int binding_codes(const struct binding *binding, const struct tensor *codes, enum coding coding, uint32_t experts,
                  struct weight *weight, struct error *error)
{
    const bool q4 = weight->format == WEIGHT_Q4;
    const uint64_t row = q4 ? ((uint64_t)weight->cols + 1) / 2 : weight->cols;
    const enum dtype dtype = q4 ? DTYPE_U8 : DTYPE_I8;
    if (!is_part(codes, dtype, weight, experts, 1, row))
        return refuse_part(weight, codes, dtype, experts, 1, row, error);
    weight->data = codes->data;
    const struct tensor *lut = coding == CODING_EXPERT ? binding_take(binding, weight->name, ".lut") : NULL;
    if (lut)
        return bind_codebook(lut, experts, weight, error);
    const int status = bind_scales(binding, codes, experts, weight, error);
    const struct tensor *bias = coding == CODING_EXPERT && q4 ? binding_take(binding, weight->name, ".bias") : NULL;
    if (status || !bias)
        return status;
    if (!is_part(bias, DTYPE_F16, weight, experts, 1, weight->cols / weight->block))
        return refuse_part(weight, bias, DTYPE_F16, experts, 1, weight->cols / weight->block, error);
    weight->format = WEIGHT_A4;
    weight->bias = bias->data;
    return 0;
}
