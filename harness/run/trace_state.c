#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/run/trace_parts.h"

// --- names and shapes

const char *trace_parse_number(const char *text, uint32_t *number)
{
    const size_t digits = strspn(text, "0123456789");
    if (!digits || digits > 9 || text[digits] != '.' || (text[0] == '0' && digits > 1))
        return NULL;
    *number = (uint32_t)strtoul(text, NULL, 10);
    return text + digits + 1;
}

// "LAYER.kind". Kinds of other model families are left to those who know them.
static bool parse_state(const char *name, uint32_t *layer, enum state_kind *kind)
{
    const char *text = trace_parse_number(name, layer);
    for (*kind = STATE_K; text && *kind < STATE_KINDS; (*kind)++)
        if (strcmp(text, state_kind_name(*kind)) == 0)
            return true;
    return false;
}

static bool parse_snapshot(const char *name, uint32_t *position, uint32_t *layer, enum state_kind *kind)
{
    const char *text = trace_parse_number(name + strlen("snapshot."), position);
    return text && parse_state(text, layer, kind);
}

static bool is_cache(enum state_kind kind)
{
    return kind == STATE_K || kind == STATE_V;
}

static uint64_t end_position(const struct trace *trace)
{
    return (uint64_t)trace->contract.position + trace->n;
}

static int check_recurrent(const struct tensor *tensor, enum state_kind kind, struct error *error)
{
    if (kind == STATE_CONV && (tensor->dtype != DTYPE_F32 || tensor->rank != 2))
        return trace_refuse_shape(tensor, "F32 [channels, K-1]", "", 0, error);
    if (kind == STATE_DELTA && (tensor->dtype != DTYPE_F32 || tensor->rank != 3))
        return trace_refuse_shape(tensor, "F32 [Hv, dk, dv]", "", 0, error);
    return 0;
}

int trace_check_state(const struct trace *trace, const struct tensor *tensor, struct error *error)
{
    uint32_t layer;
    enum state_kind kind;
    if (!parse_state(tensor->name + strlen("state."), &layer, &kind))
        return 0;
    const uint64_t end = end_position(trace);
    if (is_cache(kind) && (tensor->dtype != DTYPE_F32 || tensor->rank != 3 || tensor->shape[1] != end))
        return trace_refuse_shape(tensor, "F32 [Hkv, P, dh]", "P", end, error);
    return check_recurrent(tensor, kind, error);
}

int trace_check_snapshot(const struct trace *trace, const struct tensor *tensor, struct error *error)
{
    uint32_t position, layer;
    enum state_kind kind;
    if (!parse_snapshot(tensor->name, &position, &layer, &kind) || is_cache(kind))
        return error_set(error, ERROR_INPUT,
                         "%s: tensor '%s' is no snapshot that this build knows; expected snapshot.POSITION.LAYER.conv "
                         "or .delta (keys and values stand in the end state)",
                         tensor->file, tensor->name);
    if (position <= trace->contract.position || position > end_position(trace))
        return error_set(error, ERROR_INPUT, "%s: tensor '%s' is of position %u; this trace holds positions %u to %llu",
                         tensor->file, tensor->name, position, trace->contract.position + 1,
                         (unsigned long long)end_position(trace));
    return check_recurrent(tensor, kind, error);
}

// --- the end state

static void set_tensor(struct state_tensor *out, const struct tensor *tensor)
{
    out->rank = tensor->rank;
    memcpy(out->shape, tensor->shape, sizeof out->shape);
    out->elements = tensor->elements;
    out->data = (float *)tensor->data; // read-only mapping: a state that was read is never written to
}

static int by_layer(const void *a, const void *b)
{
    const struct state_tensor *x = a, *y = b;
    return x->layer != y->layer ? (x->layer > y->layer) - (x->layer < y->layer)
                                : (x->kind > y->kind) - (x->kind < y->kind);
}

static int no_memory(const struct trace *trace, struct error *error)
{
    return error_set(error, ERROR_RUNTIME, "%s: out of memory for its states", trace->file->path);
}

int trace_state(const struct trace *trace, struct arena *arena, struct state *state, struct error *error)
{
    *state = (struct state){.position = trace->contract.position + trace->n};
    state->tensors = arena_alloc(arena, trace->file->n_tensors, sizeof *state->tensors);
    if (!state->tensors)
        return no_memory(trace, error);
    for (size_t i = 0; i < trace->file->n_tensors; i++) {
        const struct tensor *tensor = &trace->file->tensors[i];
        struct state_tensor *out = &state->tensors[state->n];
        if (strncmp(tensor->name, "state.", 6) != 0)
            continue;
        if (!parse_state(tensor->name + 6, &out->layer, &out->kind))
            return error_set(error, ERROR_INPUT,
                             "%s: tensor '%s' is a state of no kind that this build knows; expected "
                             "state.LAYER.k, .v, .conv or .delta",
                             trace->file->path, tensor->name);
        set_tensor(out, tensor);
        state->n++;
    }
    qsort(state->tensors, state->n, sizeof *state->tensors, by_layer);
    return 0;
}

// --- snapshots

struct found {
    uint32_t position;
    struct state_tensor tensor;
};

static int by_position(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return x->position != y->position ? (x->position > y->position) - (x->position < y->position)
                                      : by_layer(&x->tensor, &y->tensor);
}

static bool same_tensors(const struct state *a, const struct state *b)
{
    bool same = a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++)
        same = a->tensors[i].layer == b->tensors[i].layer && a->tensors[i].kind == b->tensors[i].kind &&
               a->tensors[i].rank == b->tensors[i].rank &&
               !memcmp(a->tensors[i].shape, b->tensors[i].shape, a->tensors[i].rank * sizeof *a->tensors[i].shape);
    return same;
}

int trace_snapshots(const struct trace *trace, struct arena *arena, struct state **out, size_t *n, struct error *error)
{
    *n = 0;
    *out = NULL;
    struct found *found = malloc((trace->file->n_tensors + 1) * sizeof *found);
    size_t count = 0;
    if (!found)
        return no_memory(trace, error);
    for (size_t i = 0; i < trace->file->n_tensors; i++) {
        const struct tensor *tensor = &trace->file->tensors[i];
        struct found *one = &found[count];
        if (!strncmp(tensor->name, "snapshot.", 9) &&
            parse_snapshot(tensor->name, &one->position, &one->tensor.layer, &one->tensor.kind)) {
            set_tensor(&one->tensor, tensor);
            count++;
        }
    }
    qsort(found, count, sizeof *found, by_position);
    struct state_tensor *tensors = arena_alloc(arena, count, sizeof *tensors);
    struct state *states = arena_alloc(arena, count, sizeof *states);
    int code = tensors && states ? 0 : no_memory(trace, error);
    for (size_t i = 0; i < count && !code; i++) {
        tensors[i] = found[i].tensor;
        if (!i || found[i].position != found[i - 1].position)
            states[(*n)++] = (struct state){.position = found[i].position, .tensors = &tensors[i]};
        states[*n - 1].n++;
    }
    free(found);
    for (size_t i = 1; i < *n && !code; i++)
        if (!same_tensors(&states[0], &states[i]))
            code = error_set(error, ERROR_INPUT, "%s: the snapshots of positions %u and %u hold different tensors",
                             trace->file->path, states[0].position, states[i].position);
    *out = states;
    return code;
}

// The first `position` columns of keys or values [Hkv, P, dh].
static bool cut(struct arena *arena, const struct state_tensor *whole, uint32_t position, struct state_tensor *out)
{
    const size_t columns = (size_t)whole->shape[2] * position, stride = (size_t)(whole->shape[1] * whole->shape[2]);
    *out = *whole;
    out->shape[1] = position;
    out->elements = whole->shape[0] * columns;
    out->data = arena_alloc(arena, (size_t)out->elements, sizeof *out->data);
    for (size_t h = 0; out->data && h < whole->shape[0]; h++)
        memcpy(out->data + h * columns, whole->data + h * stride, columns * sizeof *out->data);
    return out->data != NULL;
}

int trace_state_at(const struct trace *trace, uint32_t position, struct arena *arena, struct state *state,
                   struct error *error)
{
    struct state end, *snapshots;
    size_t n, at = 0;
    int code = trace_state(trace, arena, &end, error);
    if (code || position == end.position) {
        *state = end;
        return code;
    }
    code = trace_snapshots(trace, arena, &snapshots, &n, error);
    while (!code && at < n && snapshots[at].position != position)
        at++;
    if (!code && at == n)
        code = n ? error_set(error, ERROR_INPUT, "%s: no snapshot after %u positions; there are %zu, from %u to %u",
                             trace->file->path, position, n, snapshots[0].position, snapshots[n - 1].position)
                 : error_set(error, ERROR_INPUT, "%s: no snapshot after %u positions, the trace has %u; record it "
                             "with --state-every N and --state", trace->file->path, position, end.position);
    if (code)
        return code;
    *state = (struct state){.position = position, .tensors = arena_alloc(arena, end.n + snapshots[at].n, sizeof *end.tensors)};
    bool complete = state->tensors != NULL;
    for (size_t i = 0; complete && i < snapshots[at].n; i++)
        state->tensors[state->n++] = snapshots[at].tensors[i];
    for (size_t i = 0; complete && i < end.n; i++)
        if (is_cache(end.tensors[i].kind))
            complete = cut(arena, &end.tensors[i], position, &state->tensors[state->n++]);
    if (!complete)
        return no_memory(trace, error);
    qsort(state->tensors, state->n, sizeof *state->tensors, by_layer);
    return 0;
}
