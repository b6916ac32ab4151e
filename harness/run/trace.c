#include "harness/run/trace.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/half.h"
#include "harness/run/trace_parts.h"

// --- the contract

// A decimal number without sign, blanks or leading zeros; 0 when the key is absent.
static int read_number(const struct trace *trace, const char *key, uint32_t *out, struct error *error)
{
    const char *text = safetensors_metadata(trace->file, key);
    *out = 0;
    if (!text)
        return 0;
    uint64_t value = 0;
    size_t digits = 0;
    for (; text[digits] >= '0' && text[digits] <= '9' && value <= UINT32_MAX; digits++)
        value = 10 * value + (uint64_t)(text[digits] - '0');
    if (!digits || text[digits] || value > UINT32_MAX || (text[0] == '0' && digits > 1))
        return error_set(error, ERROR_INPUT,
                         "%s: metadata key '%s' is \"%.40s\"; expected a decimal number below 2^32",
                         trace->file->path, key, text);
    *out = (uint32_t)value;
    return 0;
}

static bool is_digest(const char *text)
{
    return strspn(text, "0123456789abcdef") == HASH_HEX - 1 && !text[HASH_HEX - 1];
}

static int read_contract(struct trace *trace, struct error *error)
{
    const struct safetensors *file = trace->file;
    const char *schema = safetensors_metadata(file, "schema");
    if (!schema || strcmp(schema, TRACE_SCHEMA) != 0)
        return error_set(error, ERROR_INPUT,
                         "%s: metadata key 'schema' is %s%.40s; expected " TRACE_SCHEMA
                         " (a trace, as `assay trace` writes it)",
                         file->path, schema ? "" : "absent", schema ? schema : "");
    struct trace_contract *contract = &trace->contract;
    const struct {
        const char *key;
        const char **value;
    } strings[] = {
        {"model", &contract->model},
        {"model_type", &contract->model_type},
        {"weights_sha256", &contract->weights_sha256},
        {"config_sha256", &contract->config_sha256},
        {"bundle_sha256", &contract->bundle_sha256},
        {"tokenizer_sha256", &contract->tokenizer_sha256},
        {"engine", &contract->engine},
        {"engine_version", &contract->engine_version},
        {"device", &contract->device},
        {"precision", &contract->precision},
        {"mode", &contract->mode},
        {"start", &contract->start},
    };
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        const char *value = safetensors_metadata(file, strings[i].key);
        *strings[i].value = value ? value : "";
    }
    int status = read_number(trace, "position", &contract->position, error);
    if (!status)
        status = read_number(trace, "generated", &contract->generated, error);
    if (status)
        return status;
    const bool seeded = is_digest(contract->start);
    if (!seeded && contract->start[0] && strcmp(contract->start, "zero") != 0)
        return error_set(error, ERROR_INPUT,
                         "%s: metadata key 'start' is \"%.80s\"; expected \"zero\" or the SHA-256 of the "
                         "trace whose state was seeded, 64 lower-case digits",
                         file->path, contract->start);
    if (seeded != (contract->position > 0))
        return error_set(error, ERROR_INPUT,
                         "%s: metadata key 'position' is %u with start \"%.80s\"; expected 0 exactly when "
                         "no state was seeded",
                         file->path, contract->position, contract->start);
    return 0;
}

// --- the tensors

int trace_refuse_shape(const struct tensor *tensor, const char *expected, const char *letter, uint64_t size,
                       struct error *error)
{
    char shape[128], dimension[48] = "";
    if (size)
        snprintf(dimension, sizeof dimension, " with %s = %llu", letter, (unsigned long long)size);
    return error_set(error, ERROR_INPUT, "%s: tensor '%s' is %s %s; expected %s%s", tensor->file, tensor->name,
                     dtype_name(tensor->dtype), tensor_shape_text(tensor, shape), expected, dimension);
}

static int check_ids(const struct tensor *tensor, uint32_t vocabulary, struct error *error)
{
    const int32_t *ids = tensor->data;
    const int64_t limit = vocabulary ? (int64_t)vocabulary : (int64_t)INT32_MAX + 1;
    for (uint64_t i = 0; i < tensor->elements; i++)
        if (ids[i] < 0 || ids[i] >= limit)
            return error_set(error, ERROR_INPUT, "%s: id %llu of tensor '%s' is %ld; expected 0 to %lld",
                             tensor->file, (unsigned long long)i, tensor->name, (long)ids[i], (long long)limit - 1);
    return 0;
}

static int read_tokens(struct trace *trace, struct error *error)
{
    const struct tensor *tokens = safetensors_find(trace->file, "tokens");
    if (!tokens)
        return error_set(error, ERROR_INPUT, "%s: no tensor 'tokens'; expected I32 [N]", trace->file->path);
    if (tokens->dtype != DTYPE_I32 || tokens->rank != 1)
        return trace_refuse_shape(tokens, "I32 [N]", "N", 0, error);
    const uint64_t room = UINT32_MAX - trace->contract.position;
    if (!tokens->elements || tokens->elements > room)
        return error_set(error, ERROR_INPUT, "%s: tensor 'tokens' has %llu ids; expected 1 to %llu",
                         trace->file->path, (unsigned long long)tokens->elements, (unsigned long long)room);
    trace->n = (uint32_t)tokens->elements;
    trace->tokens = tokens->data;
    if (trace->contract.generated > trace->n)
        return error_set(error, ERROR_INPUT, "%s: metadata key 'generated' is %u, but there are only %u tokens",
                         trace->file->path, trace->contract.generated, trace->n);
    return 0;
}

static int read_logits(struct trace *trace, struct error *error)
{
    trace->logits = safetensors_find(trace->file, "logits");
    if (!trace->logits)
        return 0;
    const struct tensor *logits = trace->logits;
    const bool ok = (logits->dtype == DTYPE_F32 || logits->dtype == DTYPE_F16) && logits->rank == 2 &&
                    logits->shape[0] == trace->n && logits->shape[1] >= 1 && logits->shape[1] <= INT32_MAX;
    if (!ok)
        return trace_refuse_shape(logits, "F32 or F16 [N, V]", "N", trace->n, error);
    trace->vocabulary = (uint32_t)logits->shape[1];
    return 0;
}

static int read_topk(struct trace *trace, struct error *error)
{
    trace->topk_ids = safetensors_find(trace->file, "topk.ids");
    trace->topk_logits = safetensors_find(trace->file, "topk.logits");
    trace->logsumexp = safetensors_find(trace->file, "logsumexp");
    const struct tensor *ids = trace->topk_ids, *values = trace->topk_logits, *sum = trace->logsumexp;
    if (!ids && !values && !sum && trace->logits)
        return 0;
    if (!ids || !values || !sum)
        return error_set(error, ERROR_INPUT,
                         "%s: no tensor '%s'; expected 'logits' [N, V], or all of 'topk.ids' [N, K], "
                         "'topk.logits' [N, K] and 'logsumexp' [N]",
                         trace->file->path,
                         !ids && !values && !sum ? "logits"
                         : !ids                  ? "topk.ids"
                         : !values               ? "topk.logits"
                                                 : "logsumexp");
    if (ids->dtype != DTYPE_I32 || ids->rank != 2 || ids->shape[0] != trace->n || !ids->shape[1])
        return trace_refuse_shape(ids, "I32 [N, K]", "N", trace->n, error);
    if (values->dtype != DTYPE_F32 || values->rank != 2 || values->shape[0] != trace->n ||
        values->shape[1] != ids->shape[1])
        return trace_refuse_shape(values, "F32 [N, K] like 'topk.ids'", "N", trace->n, error);
    if (sum->dtype != DTYPE_F32 || sum->rank != 1 || sum->shape[0] != trace->n)
        return trace_refuse_shape(sum, "F32 [N]", "N", trace->n, error);
    return check_ids(ids, trace->vocabulary, error);
}

// TAP_POINTS: none that this build knows.
static enum tap_point parse_point(const char *name)
{
    enum tap_point point = 0;
    while (point < TAP_POINTS && strcmp(name, tap_point_name(point)) != 0)
        point++;
    return point;
}

static int check_tap(const struct trace *trace, const struct tensor *tensor, struct error *error)
{
    uint32_t layer;
    const char *text = tensor->name + strlen("tap."), *name = trace_parse_number(text, &layer);
    const enum tap_point point = parse_point(name ? name : text);
    const enum dtype dtype = tap_is_integer(point) ? DTYPE_I32 : DTYPE_F32;
    const bool ok = tensor->rank == 2 && tensor->shape[0] == trace->n && tensor->shape[1] >= 1 &&
                    tensor->shape[1] <= UINT32_MAX && (tensor->dtype == dtype || point == TAP_POINTS);
    return ok ? 0 : trace_refuse_shape(tensor, dtype == DTYPE_I32 ? "I32 [N, k]" : "F32 [N, width]", "N", trace->n, error);
}

static int check_tensors(const struct trace *trace, struct error *error)
{
    int status = 0;
    for (size_t i = 0; i < trace->file->n_tensors && !status; i++) {
        const struct tensor *tensor = &trace->file->tensors[i];
        if (strncmp(tensor->name, "tap.", 4) == 0)
            status = check_tap(trace, tensor, error);
        else if (strncmp(tensor->name, "state.", 6) == 0)
            status = trace_check_state(trace, tensor, error);
        else if (strncmp(tensor->name, "snapshot.", 9) == 0)
            status = trace_check_snapshot(trace, tensor, error);
    }
    return status;
}

// --- life

int trace_open(struct trace **out, const char *path, struct error *error)
{
    *out = NULL;
    struct trace *trace = calloc(1, sizeof *trace);
    if (!trace)
        return error_set(error, ERROR_RUNTIME, "%s: out of memory for a trace; close other programs and repeat",
                         path);
    int status = safetensors_open(&trace->file, path, error);
    if (!status)
        status = read_contract(trace, error);
    if (!status)
        status = read_tokens(trace, error);
    if (!status)
        status = read_logits(trace, error);
    if (!status)
        status = read_topk(trace, error);
    if (!status)
        status = check_ids(safetensors_find(trace->file, "tokens"), trace->vocabulary, error);
    if (!status)
        status = check_tensors(trace, error);
    if (status)
        trace_close(&trace);
    *out = trace;
    return status;
}

void trace_close(struct trace **trace)
{
    if (!trace || !*trace)
        return;
    safetensors_close(&(*trace)->file);
    arena_close(&(*trace)->arena);
    free(*trace);
    *trace = NULL;
}

// --- rows and state

const float *trace_logits(const struct trace *trace, uint32_t t, float *scratch)
{
    assert(trace->logits && t < trace->n);
    const uint64_t first = (uint64_t)t * trace->vocabulary;
    if (trace->logits->dtype == DTYPE_F32)
        return (const float *)trace->logits->data + first;
    const uint16_t *row = (const uint16_t *)trace->logits->data + first;
    for (uint32_t i = 0; i < trace->vocabulary; i++)
        scratch[i] = half_to_float(row[i]);
    return scratch;
}

const float *trace_tap(const struct trace *trace, uint32_t t, uint32_t layer, enum tap_point point, uint32_t *width)
{
    assert(t < trace->n && !tap_is_integer(point));
    char name[48];
    const struct tensor *tensor = safetensors_find(trace->file, tap_name(layer, point, name));
    *width = tensor ? (uint32_t)tensor->shape[1] : 0;
    return tensor ? (const float *)tensor->data + (uint64_t)t * *width : NULL;
}

const int32_t *trace_experts(const struct trace *trace, uint32_t t, uint32_t layer, uint32_t *k)
{
    assert(t < trace->n);
    char name[48];
    const struct tensor *tensor = safetensors_find(trace->file, tap_name(layer, TAP_EXPERTS, name));
    *k = tensor ? (uint32_t)tensor->shape[1] : 0;
    return tensor ? (const int32_t *)tensor->data + (uint64_t)t * *k : NULL;
}
