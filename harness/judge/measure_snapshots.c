#include <stdlib.h>
#include <string.h>

#include "harness/judge/measure.h"

// What one trace has at the snapshots: recurrent states, and the end state for its keys and values.
struct taken {
    size_t n;
    struct state *snapshots, end;
};

static int take(struct measuring *m, const struct trace *trace, struct taken *taken, struct error *error)
{
    *taken = (struct taken){0};
    if (!trace)
        return 0;
    const int code = trace_snapshots(trace, &m->comparison->arena, &taken->snapshots, &taken->n, error);
    return code ? code : trace_state(trace, &m->comparison->arena, &taken->end, error);
}

static const struct state *find(const struct taken *taken, uint32_t position)
{
    for (size_t i = 0; i < taken->n; i++)
        if (taken->snapshots[i].position == position)
            return &taken->snapshots[i];
    return NULL;
}

static const struct state_tensor *matching(const struct state *state, const struct state_tensor *tensor)
{
    for (size_t i = 0; state && i < state->n; i++)
        if (state->tensors[i].layer == tensor->layer && state->tensors[i].kind == tensor->kind &&
            state->tensors[i].rank == tensor->rank &&
            !memcmp(state->tensors[i].shape, tensor->shape, tensor->rank * sizeof *tensor->shape))
            return &state->tensors[i];
    return NULL;
}

// Columns [first, end) of keys or values [Hkv, P, dh], gathered.
static const float *columns(const struct state_tensor *tensor, uint32_t first, uint32_t end, float *out)
{
    const size_t stride = (size_t)(tensor->shape[1] * tensor->shape[2]), n = (size_t)(end - first) * (size_t)tensor->shape[2];
    for (size_t h = 0; h < tensor->shape[0]; h++)
        memcpy(out + h * n, tensor->data + h * stride + first * (size_t)tensor->shape[2], n * sizeof *out);
    return out;
}

static void measure_tensor(const struct state_tensor *r, const struct state_tensor *q, uint32_t first, uint32_t end,
                           float *room, struct metric_tensor *out)
{
    if (r->kind == STATE_CONV || r->kind == STATE_DELTA) {
        metric_tensor(r->data, q->data, r->elements, out);
        return;
    }
    const uint64_t n = r->shape[0] * (end - first) * r->shape[2];
    metric_tensor(columns(r, first, end, room), columns(q, first, end, room + n), n, out);
}

static void add(struct measuring *m, const struct state_tensor *r, const struct state_tensor *q,
                const struct state_tensor *e, uint32_t first, uint32_t end, float *room)
{
    struct comparison *comparison = m->comparison;
    if (!q)
        return;
    struct compared_snapshot *row = &comparison->snapshots[comparison->n_snapshots++];
    *row = (struct compared_snapshot){.case_index = m->case_index, .position = end, .layer = r->layer, .kind = r->kind,
                                      .has_expected = e != NULL};
    measure_tensor(r, q, first, end, room, &row->candidate);
    if (e)
        measure_tensor(r, e, first, end, room, &row->expected);
}

int measure_snapshots(struct measuring *m, const struct joined *joined, struct error *error)
{
    struct comparison *comparison = m->comparison;
    struct taken reference, candidate, expected;
    int code = take(m, joined->reference, &reference, error);
    if (!code)
        code = take(m, joined->arms[ARM_CANDIDATE], &candidate, error);
    if (!code)
        code = take(m, joined->arms[ARM_EXPECTED], &expected, error);
    if (code || !reference.n)
        return code;
    uint64_t largest = 1; // of keys or values
    for (size_t i = 0; i < reference.end.n; i++)
        largest = reference.end.tensors[i].elements > largest ? reference.end.tensors[i].elements : largest;
    const size_t rows = comparison->n_snapshots + reference.n * (reference.snapshots[0].n + reference.end.n);
    struct compared_snapshot *snapshots = realloc(comparison->snapshots, (rows + 1) * sizeof *snapshots);
    float *room = malloc(2 * (size_t)largest * sizeof *room);
    comparison->snapshots = snapshots ? snapshots : comparison->snapshots;
    if (!snapshots || !room) {
        free(room);
        return error_set(error, ERROR_RUNTIME, "out of memory for %zu snapshots", reference.n);
    }
    uint32_t first = joined->reference->contract.position;
    for (size_t k = 0; k < reference.n; k++) {
        const struct state *at = &reference.snapshots[k], *q = find(&candidate, at->position), *e = find(&expected, at->position);
        for (size_t i = 0; i < at->n; i++)
            add(m, &at->tensors[i], matching(q, &at->tensors[i]), matching(e, &at->tensors[i]), first, at->position, room);
        for (size_t i = 0; i < reference.end.n; i++) {
            const struct state_tensor *r = &reference.end.tensors[i];
            if (r->kind == STATE_K || r->kind == STATE_V)
                add(m, r, matching(&candidate.end, r), matching(&expected.end, r), first, at->position, room);
        }
        first = at->position;
    }
    free(room);
    return 0;
}
