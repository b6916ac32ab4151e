#include "harness/run/run.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/hash.h"
#include "harness/run/record.h"

int run_check_hashes(const struct trace *trace, const struct trace_contract *contract, struct error *error)
{
    const struct trace_contract *found = &trace->contract, *expected = contract;
    const struct {
        const char *key, *found, *expected;
    } hashes[] = {
        {"weights_sha256", found->weights_sha256, expected->weights_sha256},
        {"config_sha256", found->config_sha256, expected->config_sha256},
    };
    for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++)
        if (hashes[i].found[0] && hashes[i].expected[0] && strcmp(hashes[i].found, hashes[i].expected) != 0)
            return error_set(error, ERROR_CONTRACT, "%s comes from another model: its %s is %s, expected %s",
                             trace->file->path, hashes[i].key, hashes[i].found, hashes[i].expected);
    return 0;
}

static bool has_keys(const struct state *state)
{
    for (size_t i = 0; i < state->n; i++)
        if (state->tensors[i].kind == STATE_K)
            return true;
    return false;
}

static int check_state(const struct trace *trace, const struct state *found, const struct engine *engine,
                       struct arena *arena, struct error *error)
{
    if (!found->n)
        return error_set(error, ERROR_INPUT, "%s holds no state to continue from; record it with --state",
                         trace->file->path);
    if (found->position > engine->capacity)
        return error_set(error, ERROR_USAGE, "%s holds the state after %u positions; engine '%s' has room for %u",
                         trace->file->path, found->position, engine->name, engine->capacity);
    struct state expected;
    const int status = state_make(arena, engine->config, found->position, &expected, error);
    if (status)
        return status;
    if (has_keys(&expected) && !has_keys(found))
        return error_set(error, ERROR_INPUT, "%s holds no keys and values, without which nothing goes on after %u "
                         "positions; record it with --state, beside --state-every N for the positions on the way",
                         trace->file->path, found->position);
    bool same = found->n == expected.n;
    for (size_t i = 0; i < expected.n && same; i++) {
        const struct state_tensor *x = &found->tensors[i], *y = &expected.tensors[i];
        same = x->layer == y->layer && x->kind == y->kind && x->rank == y->rank &&
               memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) == 0;
        char name[48];
        if (!same)
            return error_set(error, ERROR_CONTRACT,
                             "%s: the states do not fit engine '%s': its '%s' is missing or has another "
                             "shape",
                             trace->file->path, engine->name, state_name(y->layer, y->kind, name));
    }
    return same ? 0
                : error_set(error, ERROR_CONTRACT, "%s holds %zu state tensors; engine '%s' has %zu",
                            trace->file->path, found->n, engine->name, expected.n);
}

// Puts the engine into a state of the trace run->from; `start` becomes the digest of the file.
static int seed(const struct run *run, struct engine *engine, char start[HASH_HEX], struct error *error)
{
    struct arena arena = {0};
    struct trace *trace = NULL;
    struct state state;
    int status = trace_open(&trace, run->from, error);
    if (!status)
        status = run_check_hashes(trace, run->contract, error);
    if (!status)
        status = run->at ? trace_state_at(trace, run->at, &arena, &state, error)
                         : trace_state(trace, &arena, &state, error);
    if (!status)
        status = check_state(trace, &state, engine, &arena, error);
    if (!status)
        status = hash_bytes(trace->file->map.bytes, (size_t)trace->file->map.size, start, error);
    if (!status)
        status = engine->class->load(engine, &state, error);
    assert(status || engine->position == state.position);
    trace_close(&trace);
    arena_close(&arena);
    return status;
}

// Lowest index of the maximum; false for a row without a pick (arithmetic.md 5).
static bool pick(const float *logits, uint32_t n, uint32_t *out)
{
    bool distinct = false;
    *out = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(logits[i]))
            return false;
        distinct = distinct || logits[i] != logits[0];
        if (logits[i] > logits[*out])
            *out = i;
    }
    return distinct;
}

static int put_state(struct trace_writer *writer, const struct engine *engine, struct error *error)
{
    struct arena arena = {0};
    struct state state;
    const int status = state_make(&arena, engine->config, engine->position, &state, error);
    if (!status) {
        engine->class->save(engine, &state);
        trace_put_state(writer, &state);
    }
    arena_close(&arena);
    return status;
}

static int put_snapshot(struct trace_writer *writer, const struct engine *engine, struct error *error)
{
    struct arena arena = {0};
    struct state state;
    const int status = state_make_recurrent(&arena, engine->config, engine->position, &state, error);
    if (!status) {
        engine->class->save(engine, &state);
        trace_put_snapshot(writer, &state);
    }
    arena_close(&arena);
    return status;
}

// Where the rows of the run go: to `writer`, the first ones also to `branch`.
struct rows {
    const struct run *run;
    struct engine *engine;
    struct trace_writer *writer, *branch; // branch NULL: none, or committed
    struct progress *progress;
    uint32_t first; // row of the call at hand
};

static void put_row(struct rows *rows, uint32_t t, uint32_t token, const float *logits)
{
    trace_put(rows->writer, t, token, logits);
    if (rows->branch)
        trace_put(rows->branch, t, token, logits);
    progress_step(rows->progress, 1);
}

static void put_batch_row(void *context, uint32_t t, const float *logits)
{
    struct rows *rows = context;
    put_row(rows, rows->first + t, rows->run->tokens[rows->first + t], logits);
}

static void begin_batch_row(void *context, uint32_t t)
{
    struct rows *rows = context;
    trace_row(rows->writer, rows->first + t);
}

static bool is_snapshot(const struct rows *rows)
{
    return rows->run->state_every && rows->engine->position % rows->run->state_every == 0;
}

static int commit_branch(struct rows *rows, struct error *error)
{
    const int status = put_state(rows->branch, rows->engine, error);
    return status ? status : trace_commit(&rows->branch, error);
}

// The given tokens [0, end), at most `chunk` a call; a call ends where the branch does, and at every snapshot.
static int batch_rows(struct rows *rows, uint32_t end, uint32_t chunk, struct error *error)
{
    const struct run *run = rows->run;
    struct engine *engine = rows->engine;
    const struct batch_sink sink = {.context = rows,
                                    .row = put_batch_row,
                                    .taps = run->taps == TAPS_NONE ? NULL : trace_taps(rows->writer),
                                    .tap_row = begin_batch_row};
    for (uint32_t t = 0; t < end;) {
        const uint32_t stop = rows->branch && run->branch < end ? run->branch : end;
        const uint32_t every = run->state_every, left = every ? every - engine->position % every : chunk;
        const uint32_t call = left < chunk ? left : chunk, n = stop - t < call ? stop - t : call;
        rows->first = t;
        int status = engine->class->batch(engine, run->tokens + t, n, &sink, error);
        t += n;
        if (!status && is_snapshot(rows))
            status = put_snapshot(rows->writer, engine, error);
        if (!status && rows->branch && t == run->branch)
            status = commit_branch(rows, error);
        if (status)
            return status;
    }
    return 0;
}

// Rows [first, end), a step each.
static int step_rows(struct rows *rows, uint32_t first, uint32_t end, uint32_t token, struct error *error)
{
    const struct run *run = rows->run;
    struct engine *engine = rows->engine;
    for (uint32_t t = first; t < end; t++) {
        const float *logits;
        trace_row(rows->writer, t);
        int status = engine->class->step(engine, token, trace_taps(rows->writer), &logits, error);
        if (status)
            return status;
        put_row(rows, t, token, logits);
        if (is_snapshot(rows))
            status = put_snapshot(rows->writer, engine, error);
        if (!status && rows->branch && t + 1 == run->branch)
            status = commit_branch(rows, error);
        if (status)
            return status;
        if (t + 1 < run->n)
            token = run->tokens[t + 1];
        else if (t + 1 < end && !pick(logits, engine->config->vocabulary, &token))
            return error_set(error, ERROR_RUNTIME,
                             "engine '%s' has no pick at position %u (a NaN, an infinity or equal "
                             "logits), so it cannot generate the next token",
                             engine->name, engine->position - 1);
    }
    return 0;
}

// All rows. The last given token is a step where tokens are generated from its row.
static int run_rows(struct rows *rows, struct error *error)
{
    const struct run *run = rows->run;
    const uint32_t width = rows->engine->batch_width, chunk = run->chunk < width ? run->chunk : width;
    uint32_t first = 0;
    if (chunk > 1) {
        first = run->generate ? run->n - 1 : run->n;
        const int status = batch_rows(rows, first, chunk, error);
        if (status)
            return status;
    }
    int status = 0;
    if (first < run->n)
        status = step_rows(rows, first, run->n + run->generate, run->tokens[first], error);
    return status || !run->state ? status : put_state(rows->writer, rows->engine, error);
}

static const char *mode_name(uint32_t chunk, char text[RUN_MODE_TEXT])
{
    if (chunk > 1 && chunk != RECORD_BATCH)
        snprintf(text, RUN_MODE_TEXT, "chunk:%u", chunk);
    else
        snprintf(text, RUN_MODE_TEXT, "%s", chunk == RECORD_BATCH ? "batch" : "s1");
    return text;
}

void run_contract(struct trace_contract *contract, const struct engine *engine, uint32_t chunk, char mode[RUN_MODE_TEXT])
{
    contract->engine = engine->name;
    contract->engine_version = ASSAY_VERSION;
    contract->device = engine->device;
    contract->precision = engine->precision;
    contract->mode = mode_name(chunk, mode);
}

int run_record(const struct run *run, struct engine *engine, struct progress *progress, struct error *error)
{
    char start[HASH_HEX] = "zero", mode[RUN_MODE_TEXT];
    const uint64_t total = (uint64_t)run->n + run->generate;
    if (run->chunk > 1 && !engine->class->batch)
        return error_set(error, ERROR_USAGE, "engine '%s' runs one token at a time; expected mode s1, found %s",
                         engine->name, mode_name(run->chunk, mode));
    engine->class->reset(engine);
    int status = run->from ? seed(run, engine, start, error) : 0;
    if (status)
        return status;
    if (total > engine->capacity - engine->position)
        return error_set(error, ERROR_USAGE,
                         "engine '%s' has room for %u positions, of which %u are taken; this run needs %llu "
                         "more",
                         engine->name, engine->capacity, engine->position, (unsigned long long)total);
    struct trace_spec spec = {.contract = *run->contract,
                              .config = engine->config,
                              .n = (uint32_t)total,
                              .logits = run->logits,
                              .taps = run->taps,
                              .state = run->state,
                              .state_every = run->state_every};
    run_contract(&spec.contract, engine, run->chunk, mode);
    spec.contract.start = start;
    spec.contract.position = engine->position;
    spec.contract.generated = run->generate;
    struct rows rows = {.run = run, .engine = engine, .progress = progress};
    status = trace_create(&rows.writer, run->path, &spec, error);
    if (!status && run->branch_path) {
        assert(run->branch >= 1 && run->branch <= run->n);
        spec.n = run->branch;
        spec.taps = TAPS_NONE;
        spec.state_every = 0;
        spec.state = true;
        spec.contract.generated = 0;
        status = trace_create(&rows.branch, run->branch_path, &spec, error);
    }
    if (!status)
        status = run_rows(&rows, error);
    if (!status)
        status = trace_commit(&rows.writer, error);
    trace_abandon(&rows.branch);
    trace_abandon(&rows.writer);
    return status;
}
