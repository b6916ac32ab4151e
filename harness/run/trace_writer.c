#include "harness/run/trace.h"

#include <assert.h>
#include <string.h>

#include "harness/base/half.h"

enum { METADATA_PAIRS = 18 };
#define NO_TENSOR SIZE_MAX

struct trace_writer {
    struct arena arena;
    struct safetensors_writer *file;
    const char *path, *engine;
    const struct config *config; // borrowed
    uint32_t n, vocabulary, end; // end: positions after the last token
    enum dtype logits_dtype;
    size_t tokens, logits; // indices of the file's tensors
    size_t *taps;          // [L, TAP_POINTS], NO_TENSOR where there is none
    size_t first_state, first_snapshot;
    struct state snapshot; // declared shapes of the recurrent part; no data
    uint32_t state_every, snapshots_put, snapshots_expected;
    struct state state; // declared shapes; no data
    struct tap_sink sink;
    uint32_t row; // where the sink stores
    uint64_t rows_put, taps_put, taps_expected;
    bool state_declared, state_put;
    float *values; // [n_values] canonical copies
    uint64_t n_values;
    uint16_t *halves;     // [V]
    struct error failure; // the first
};

// --- layout

// [2 METADATA_PAIRS] key, value. NULL when memory is exhausted.
static const char **metadata_make(struct arena *arena, const struct trace_spec *spec)
{
    const struct trace_contract *contract = &spec->contract;
    const char *position = arena_print(arena, "%u", contract->position);
    const char *generated = arena_print(arena, "%u", contract->generated);
    const char *every = arena_print(arena, "%u", spec->state_every);
    const char **metadata = arena_alloc(arena, 2 * METADATA_PAIRS, sizeof *metadata);
    if (!position || !generated || !every || !metadata)
        return NULL;
    const struct {
        const char *key, *value;
    } pairs[METADATA_PAIRS] = {
        {"schema", TRACE_SCHEMA},
        {"model", contract->model},
        {"model_type", contract->model_type},
        {"weights_sha256", contract->weights_sha256},
        {"config_sha256", contract->config_sha256},
        {"bundle_sha256", contract->bundle_sha256},
        {"tokenizer_sha256", contract->tokenizer_sha256},
        {"engine", contract->engine},
        {"engine_version", contract->engine_version},
        {"device", contract->device},
        {"precision", contract->precision},
        {"mode", contract->mode},
        {"start", contract->start},
        {"position", position},
        {"generated", generated},
        {"taps", tap_level_name(spec->taps)},
        {"state", spec->state ? "final" : "none"},
        {"state_every", every},
    };
    for (size_t i = 0; i < METADATA_PAIRS; i++) {
        assert(pairs[i].value); // unknown is "", never NULL
        metadata[2 * i] = pairs[i].key;
        metadata[2 * i + 1] = pairs[i].value;
    }
    return metadata;
}

struct layout {
    struct tensor_declaration *tensors;
    size_t n;
};

static size_t declare(struct layout *layout, const char *name, enum dtype dtype, uint32_t rank, const uint64_t *shape)
{
    struct tensor_declaration *tensor = &layout->tensors[layout->n];
    *tensor = (struct tensor_declaration){.name = name, .dtype = dtype, .rank = rank};
    memcpy(tensor->shape, shape, rank * sizeof *shape);
    return layout->n++;
}

static bool declare_tap(struct trace_writer *writer, struct layout *layout, const struct trace_spec *spec,
                        uint32_t layer, enum tap_point point)
{
    const uint32_t width = tap_width(spec->config, spec->taps, layer, point);
    if (!width)
        return true;
    char text[48];
    const char *name = arena_print(&writer->arena, "%s", tap_name(layer, point, text));
    writer->taps[(size_t)layer * TAP_POINTS + point] =
        declare(layout, name, tap_is_integer(point) ? DTYPE_I32 : DTYPE_F32, 2, (uint64_t[]){spec->n, width});
    writer->taps_expected += spec->n;
    if (width > writer->n_values)
        writer->n_values = width;
    return name != NULL;
}

// Shapes as state_make would give them, without the memory that would grow with the number of positions.
static bool declare_state(struct trace_writer *writer, struct layout *layout, const struct trace_spec *spec)
{
    struct state *state = &writer->state;
    if (state_make(&writer->arena, spec->config, 0, state, NULL))
        return false;
    state->position = writer->end;
    writer->first_state = layout->n;
    for (size_t i = 0; i < state->n; i++) {
        struct state_tensor *tensor = &state->tensors[i];
        if (tensor->kind == STATE_K || tensor->kind == STATE_V)
            tensor->shape[1] = writer->end;
        char text[48];
        const char *name = arena_print(&writer->arena, "%s", state_name(tensor->layer, tensor->kind, text));
        if (!name)
            return false;
        declare(layout, name, DTYPE_F32, tensor->rank, tensor->shape);
    }
    return true;
}

static bool declare_snapshots(struct trace_writer *writer, struct layout *layout, uint32_t every)
{
    const uint32_t start = writer->end - writer->n;
    writer->first_snapshot = layout->n;
    for (uint32_t k = 1; k <= writer->snapshots_expected; k++)
        for (size_t i = 0; i < writer->snapshot.n; i++) {
            const struct state_tensor *tensor = &writer->snapshot.tensors[i];
            const char *name = arena_print(&writer->arena, "snapshot.%u.%u.%s", (start / every + k) * every, tensor->layer,
                                           state_kind_name(tensor->kind));
            if (!name)
                return false;
            declare(layout, name, DTYPE_F32, tensor->rank, tensor->shape);
        }
    return true;
}

// In descending size of the element, so that every tensor is aligned without padding: half logits come last.
static bool layout_make(struct trace_writer *writer, const struct trace_spec *spec, struct layout *layout)
{
    const uint32_t layers = spec->config->layers;
    const uint64_t logits_shape[] = {spec->n, spec->config->vocabulary};
    if (spec->state_every) {
        writer->snapshots_expected = writer->end / spec->state_every - (writer->end - spec->n) / spec->state_every;
        if (state_make_recurrent(&writer->arena, spec->config, 0, &writer->snapshot, NULL))
            return false;
    }
    const size_t room = (size_t)layers * (TAP_POINTS + 2) + 2 + writer->snapshots_expected * writer->snapshot.n;
    layout->tensors = arena_alloc(&writer->arena, room, sizeof *layout->tensors);
    writer->taps = arena_alloc(&writer->arena, (size_t)layers * TAP_POINTS, sizeof *writer->taps);
    if (!layout->tensors || !writer->taps)
        return false;
    for (size_t i = 0; i < (size_t)layers * TAP_POINTS; i++)
        writer->taps[i] = NO_TENSOR;
    writer->tokens = declare(layout, "tokens", DTYPE_I32, 1, (uint64_t[]){spec->n});
    if (spec->logits == DTYPE_F32)
        writer->logits = declare(layout, "logits", DTYPE_F32, 2, logits_shape);
    if (!declare_tap(writer, layout, spec, 0, TAP_EMBED))
        return false;
    for (uint32_t layer = 0; layer < layers; layer++)
        for (enum tap_point point = TAP_IN; point <= TAP_OUT; point++)
            if (!declare_tap(writer, layout, spec, layer, point))
                return false;
    if (!declare_tap(writer, layout, spec, 0, TAP_FINAL_NORM) ||
        (spec->state && !declare_state(writer, layout, spec)) ||
        (spec->state_every && !declare_snapshots(writer, layout, spec->state_every)))
        return false;
    if (spec->logits == DTYPE_F16)
        writer->logits = declare(layout, "logits", DTYPE_F16, 2, logits_shape);
    return true;
}

// --- rows

// Payloads of NaN differ between processors, so only the canonical one is stored (arithmetic.md 1).
static const float *canonical(struct trace_writer *writer, const float *values, uint64_t n)
{
    assert(n <= writer->n_values);
    for (uint64_t i = 0; i < n; i++)
        writer->values[i] = values[i] == values[i] ? values[i] : float_from_bits(FLOAT_NAN_BITS);
    return writer->values;
}

// Small whole numbers, in the memory of canonical's.
static const int32_t *integers(struct trace_writer *writer, const float *values, uint64_t n)
{
    int32_t *out = (int32_t *)(void *)writer->values;
    assert(n <= writer->n_values);
    for (uint64_t i = 0; i < n; i++) {
        const int32_t value = (int32_t)values[i];
        memcpy(&out[i], &value, sizeof value);
    }
    return out;
}

static void put_tap(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct trace_writer *writer = context;
    const size_t index = writer->taps[(size_t)layer * TAP_POINTS + point];
    assert(index != NO_TENSOR && width == tap_width(writer->config, writer->sink.level, layer, point));
    const uint64_t bytes = (uint64_t)width * sizeof *row;
    const void *values = tap_is_integer(point) ? (const void *)integers(writer, row, width) : canonical(writer, row, width);
    safetensors_write(writer->file, index, writer->row * bytes, values, bytes);
    writer->taps_put++;
}

static void put_halves(struct trace_writer *writer, uint32_t t, const float *logits)
{
    for (uint32_t i = 0; i < writer->vocabulary; i++) {
        writer->halves[i] = half_from_float(logits[i]);
        const bool survives =
            logits[i] != logits[i] || float_to_bits(half_to_float(writer->halves[i])) == float_to_bits(logits[i]);
        if (!survives && !writer->failure.code)
            error_set(&writer->failure, ERROR_CONTRACT,
                      "%s: logit %u of row %u is %a, which a half cannot hold; the logits of "
                      "engine '%s' must be recorded as F32",
                      writer->path, i, t, (double)logits[i], writer->engine);
    }
    const uint64_t bytes = (uint64_t)writer->vocabulary * sizeof *writer->halves;
    safetensors_write(writer->file, writer->logits, t * bytes, writer->halves, bytes);
}

void trace_put(struct trace_writer *writer, uint32_t t, uint32_t token, const float *logits)
{
    assert(t < writer->n && token < writer->vocabulary);
    const int32_t id = (int32_t)token;
    safetensors_write(writer->file, writer->tokens, t * sizeof id, &id, sizeof id);
    if (writer->logits_dtype == DTYPE_F16) {
        put_halves(writer, t, logits);
    } else {
        const uint64_t bytes = (uint64_t)writer->vocabulary * sizeof *logits;
        safetensors_write(writer->file, writer->logits, t * bytes, canonical(writer, logits, writer->vocabulary),
                          bytes);
    }
    writer->rows_put++;
}

void trace_row(struct trace_writer *writer, uint32_t t)
{
    assert(t < writer->n);
    writer->row = t;
}

const struct tap_sink *trace_taps(struct trace_writer *writer)
{
    return &writer->sink;
}

static void put_tensors(struct trace_writer *writer, const struct state *state, const struct state *shapes, size_t first_tensor)
{
    assert(state->n == shapes->n);
    for (size_t i = 0; i < state->n; i++) {
        const struct state_tensor *tensor = &state->tensors[i], *declared = &shapes->tensors[i];
        assert(tensor->layer == declared->layer && tensor->kind == declared->kind && tensor->rank == declared->rank);
        assert(memcmp(tensor->shape, declared->shape, tensor->rank * sizeof *tensor->shape) == 0);
        (void)declared;
        for (uint64_t first = 0; first < tensor->elements; first += writer->n_values) {
            const uint64_t rest = tensor->elements - first, count = rest < writer->n_values ? rest : writer->n_values;
            safetensors_write(writer->file, first_tensor + i, first * sizeof *tensor->data,
                              canonical(writer, tensor->data + first, count), count * sizeof *tensor->data);
        }
    }
}

void trace_put_state(struct trace_writer *writer, const struct state *state)
{
    assert(writer->state_declared && !writer->state_put && state->position == writer->end);
    put_tensors(writer, state, &writer->state, writer->first_state);
    writer->state_put = true;
}

void trace_put_snapshot(struct trace_writer *writer, const struct state *state)
{
    const uint32_t before = (writer->end - writer->n) / writer->state_every;
    assert(state->position == (before + writer->snapshots_put + 1) * writer->state_every);
    (void)before;
    put_tensors(writer, state, &writer->snapshot, writer->first_snapshot + writer->snapshots_put * writer->snapshot.n);
    writer->snapshots_put++;
}

// --- life

int trace_create(struct trace_writer **out, const char *path, const struct trace_spec *spec, struct error *error)
{
    assert(spec->n > 0 && spec->n <= UINT32_MAX - spec->contract.position && spec->contract.generated <= spec->n);
    assert(spec->logits == DTYPE_F32 || spec->logits == DTYPE_F16);
    *out = NULL;
    struct arena arena = {0};
    struct trace_writer *writer = arena_alloc(&arena, 1, sizeof *writer);
    if (!writer)
        goto memory;
    *writer = (struct trace_writer){
        .arena = arena,
        .config = spec->config,
        .n = spec->n,
        .vocabulary = spec->config->vocabulary,
        .end = spec->contract.position + spec->n,
        .logits_dtype = spec->logits,
        .state_declared = spec->state,
        .state_every = spec->state_every,
        .n_values = spec->config->vocabulary,
        .sink = {.level = spec->taps, .context = writer, .put = put_tap},
    };
    struct layout layout = {0};
    const char **metadata = metadata_make(&writer->arena, spec);
    writer->path = arena_print(&writer->arena, "%s", path);
    writer->engine = arena_print(&writer->arena, "%s", spec->contract.engine);
    const bool fits = metadata && writer->path && writer->engine && layout_make(writer, spec, &layout);
    writer->values = arena_alloc(&writer->arena, (size_t)writer->n_values, sizeof *writer->values);
    writer->halves = arena_alloc(&writer->arena, writer->vocabulary, sizeof *writer->halves);
    arena = writer->arena;
    if (!fits || !writer->values || !writer->halves)
        goto memory;
    const int status =
        safetensors_create(&writer->file, path, layout.tensors, layout.n, metadata, METADATA_PAIRS, 8, error);
    if (status) {
        arena_close(&arena);
        return status;
    }
    *out = writer;
    return 0;

memory:
    arena_close(&arena);
    return error_set(error, ERROR_RUNTIME,
                     "%s: out of memory for one row of %u logits; close other programs and repeat", path,
                     spec->config->vocabulary);
}

// The arena holds the writer itself.
static void writer_free(struct trace_writer **writer)
{
    struct arena arena = (*writer)->arena;
    *writer = NULL;
    arena_close(&arena);
}

int trace_commit(struct trace_writer **writer, struct error *error)
{
    struct trace_writer *w = *writer;
    int status = w->failure.code;
    if (status) {
        error_set(error, status, "%s", w->failure.text);
        safetensors_abandon(&w->file);
    } else {
        assert(w->rows_put == w->n && w->taps_put == w->taps_expected && w->state_put == w->state_declared);
        assert(w->snapshots_put == w->snapshots_expected);
        status = safetensors_commit(&w->file, error);
    }
    writer_free(writer);
    return status;
}

void trace_abandon(struct trace_writer **writer)
{
    if (!writer || !*writer)
        return;
    safetensors_abandon(&(*writer)->file);
    writer_free(writer);
}
