#include "harness/model/binding_parts.h"

#include <string.h>

static const enum size matrix_v_d[] = {SIZE_V, SIZE_D, SIZE_END};

static const char head_name[] = "lm_head.weight";

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
int binding_head(const struct binding *binding, struct model *model, const char **note, struct error *error)
{
    struct config *config = &model->config;
    struct weight *embedding = &model->embedding, *head = &model->head;
    int status = binding_any(binding, head_name, matrix_v_d, CODING_BLOCKS, head, error);
    if (!status)
        status = binding_any(binding, model->embedding_name, matrix_v_d, CODING_NONE, embedding, error);
    if (status)
        return status;
    const bool plain_head = head->format != WEIGHT_NONE && !head->scale;
    if (embedding->format == WEIGHT_NONE) {
        if (!config->tied || !plain_head)
            return binding_missing(binding, model->embedding_name, matrix_v_d, error);
        *embedding = *head;
        *note = arena_print(binding->arena, "lm_head.weight is stored and %s is not: it serves as both",
                            model->embedding_name);
        return *note ? 0 : binding_no_memory(error);
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
        return binding_no_memory(error);
    if (config->tied)
        *head = *embedding;
    else
        *note =
            "config.json ties the head to the embedding, but lm_head.weight is stored with other values: it is used, "
            "as in transformers";
    return 0;
}
