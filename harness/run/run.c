#include "harness/run/run.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/base/hash.h"

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

// Puts the engine into the end state of the trace run->from; `start` becomes the digest of the file.
static int seed(const struct run *run, struct engine *engine, char start[HASH_HEX], struct error *error)
{
    struct arena arena = {0};
    struct trace *trace = NULL;
    struct state state;
    int status = trace_open(&trace, run->from, error);
    if (!status)
        status = run_check_hashes(trace, run->contract, error);
    if (!status)
        status = trace_state(trace, &arena, &state, error);
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

// All rows of the run: to `writer`, the first ones also to `branch`, which is committed on the way.
static int run_rows(const struct run *run, struct engine *engine, struct trace_writer *writer,
                    struct trace_writer **branch, struct progress *progress, struct error *error)
{
    const uint32_t total = run->n + run->generate, vocabulary = engine->config->vocabulary;
    uint32_t token = run->tokens[0];
    for (uint32_t t = 0; t < total; t++) {
        const float *logits;
        trace_row(writer, t);
        int status = engine->class->step(engine, token, trace_taps(writer), &logits, error);
        if (status)
            return status;
        trace_put(writer, t, token, logits);
        if (*branch)
            trace_put(*branch, t, token, logits);
        if (*branch && t + 1 == run->branch) {
            status = put_state(*branch, engine, error);
            if (!status)
                status = trace_commit(branch, error);
            if (status)
                return status;
        }
        if (t + 1 < run->n)
            token = run->tokens[t + 1];
        else if (t + 1 < total && !pick(logits, vocabulary, &token))
            return error_set(error, ERROR_RUNTIME,
                             "engine '%s' has no pick at position %u (a NaN, an infinity or equal "
                             "logits), so it cannot generate the next token",
                             engine->name, engine->position - 1);
        progress_step(progress, 1);
    }
    return run->state ? put_state(writer, engine, error) : 0;
}

void run_contract(struct trace_contract *contract, const struct engine *engine)
{
    contract->engine = engine->name;
    contract->engine_version = ASSAY_VERSION;
    contract->device = engine->device;
    contract->precision = engine->precision;
    contract->mode = "s1";
}

int run_record(const struct run *run, struct engine *engine, struct progress *progress, struct error *error)
{
    char start[HASH_HEX] = "zero";
    const uint64_t total = (uint64_t)run->n + run->generate;
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
                              .state = run->state};
    run_contract(&spec.contract, engine);
    spec.contract.start = start;
    spec.contract.position = engine->position;
    spec.contract.generated = run->generate;
    struct trace_writer *writer = NULL, *branch = NULL;
    status = trace_create(&writer, run->path, &spec, error);
    if (!status && run->branch_path) {
        assert(run->branch >= 1 && run->branch <= run->n);
        spec.n = run->branch;
        spec.taps = TAPS_NONE;
        spec.state = true;
        spec.contract.generated = 0;
        status = trace_create(&branch, run->branch_path, &spec, error);
    }
    if (!status)
        status = run_rows(run, engine, writer, &branch, progress, error);
    if (!status)
        status = trace_commit(&writer, error);
    trace_abandon(&branch);
    trace_abandon(&writer);
    return status;
}
