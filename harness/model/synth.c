#include "harness/model/synth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/arena.h"
#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "harness/base/progress.h"
#include "harness/model/model.h"

static const uint64_t GAMMA = UINT64_C(0x9E3779B97F4A7C15);
enum { CHUNK = 1 << 22, GRAIN = 1 << 16 }; // elements written, and handed to a thread, at a time

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static uint64_t fnv1a(const char *text)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325);
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001B3);
    return hash;
}

static bool ends_with(const char *name, const char *end)
{
    const size_t length = strlen(name), tail = strlen(end);
    return length >= tail && !strcmp(name + length - tail, end);
}

// What vectors are made of, by the end of their name; the first that fits.
static const struct {
    const char *end;
    float centre, spread;
} vectors[] = {
    {"dt_bias", -4, 2},
    {"A_log", 0.5f, 1.5f},
    {"bias", 0, 0.1f},                    // the experts' too
    {"linear_attn.norm.weight", 1, 0.5f}, // Qwen3.5's one plain norm
    {".q_norm.weight", 0.5f, 0.5f},       // zero-centred, like the four that follow
    {".k_norm.weight", 0.5f, 0.5f},
    {"input_layernorm.weight", 0, 0.5f},
    {"post_attention_layernorm.weight", 0, 0.5f},
    {".norm.weight", 0, 0.5f},
    {"q_layernorm.weight", 1.5f, 0.5f}, // LFM2: plain
    {"k_layernorm.weight", 1.5f, 0.5f},
    {"", 1, 0.5f},
};

struct synth_stream synth_stream(uint64_t seed, const struct tensor_declaration *tensor)
{
    struct synth_stream stream = {.key = mix(seed + GAMMA) ^ fnv1a(tensor->name), .dtype = tensor->dtype};
    if (tensor->rank > 1) {
        const double inputs = (double)tensor->shape[tensor->rank - 1];
        const bool table = ends_with(tensor->name, "embed_tokens.weight") || ends_with(tensor->name, "lm_head.weight");
        stream.spread = (float)((table ? 2 : 1) * sqrt(3 / inputs));
        return stream;
    }
    size_t kind = 0;
    while (!ends_with(tensor->name, vectors[kind].end))
        kind++;
    stream.centre = vectors[kind].centre;
    stream.spread = vectors[kind].spread;
    return stream;
}

static float element(const struct synth_stream *stream, uint64_t index)
{
    const int32_t whole = (int32_t)(mix(stream->key + (index + 1) * GAMMA) >> 40) - (1 << 23);
    const float scaled = (float)whole * 0x1p-23f * stream->spread;
    return scaled + stream->centre;
}

void synth_fill(const struct synth_stream *stream, uint64_t first, size_t n, void *out)
{
    float *floats = out;
    uint16_t *halves = out;
    if (stream->dtype == DTYPE_F32)
        for (size_t i = 0; i < n; i++)
            floats[i] = element(stream, first + i);
    else if (stream->dtype == DTYPE_F16)
        for (size_t i = 0; i < n; i++)
            halves[i] = half_from_float(element(stream, first + i));
    else
        for (size_t i = 0; i < n; i++)
            halves[i] = bfloat_from_float(element(stream, first + i));
}

// --- a whole file

static uint64_t elements_of(const struct tensor_declaration *tensor)
{
    uint64_t elements = 1;
    for (uint32_t i = 0; i < tensor->rank; i++)
        elements *= tensor->shape[i]; // two widths of at most 2^31 (config.h) and 16 taps: no overflow
    return elements;
}

int synth_bytes(const struct config *config, enum dtype dtype, uint64_t *bytes, struct error *error)
{
    struct arena arena = {0};
    struct tensor_declaration *tensors;
    size_t n;
    *bytes = 0;
    const int code = model_declare(&arena, config, dtype, &tensors, &n, error);
    for (size_t i = 0; !code && i < n; i++)
        *bytes += elements_of(&tensors[i]) * dtype_size(dtype);
    arena_close(&arena);
    return code;
}

struct chunk {
    const struct synth_stream *stream;
    uint64_t first;
    unsigned char *out;
};

static void fill_range(void *context, size_t first, size_t end)
{
    const struct chunk *chunk = context;
    synth_fill(chunk->stream, chunk->first + first, end - first,
               chunk->out + first * dtype_size(chunk->stream->dtype));
}

int synth_weights(const struct config *config, enum dtype dtype, uint64_t seed, struct pool *pool, bool quiet,
                  const char *path, struct error *error)
{
    struct arena arena = {0};
    struct tensor_declaration *tensors;
    struct safetensors_writer *writer = NULL;
    struct progress progress;
    size_t n;
    uint64_t bytes = 0;
    void *buffer = malloc(CHUNK * dtype_size(dtype));
    int code = buffer ? 0 : error_set(error, ERROR_RUNTIME, "%s: no memory", path);
    if (!code)
        code = synth_bytes(config, dtype, &bytes, error);
    if (!code)
        code = model_declare(&arena, config, dtype, &tensors, &n, error);
    if (!code) // without metadata "format", transformers refuses the file
        code = safetensors_create(&writer, path, tensors, n, (const char *const[]){"format", "pt"}, 1, 8, error);
    progress_start(&progress, "random weights", bytes, quiet);
    progress.unit = "bytes";
    for (size_t t = 0; !code && t < n; t++) {
        const struct synth_stream stream = synth_stream(seed, &tensors[t]);
        const uint64_t elements = elements_of(&tensors[t]);
        for (uint64_t first = 0; first < elements; first += CHUNK) {
            const size_t count = elements - first < CHUNK ? (size_t)(elements - first) : CHUNK;
            struct chunk chunk = {&stream, first, buffer};
            pool_run(pool, count, GRAIN, fill_range, &chunk);
            safetensors_write(writer, t, first * dtype_size(dtype), buffer, count * dtype_size(dtype));
            progress_step(&progress, count * dtype_size(dtype));
        }
    }
    if (!code) {
        progress_finish(&progress);
        code = safetensors_commit(&writer, error);
    }
    safetensors_abandon(&writer);
    arena_close(&arena);
    free(buffer);
    return code;
}
