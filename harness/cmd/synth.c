// assay synth: random weights at a model's full shape.
#include "harness/model/synth.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "harness/base/files.h"
#include "harness/cmd/options.h"
#include "runtime/staging.h"

enum { CONFIG_BYTES_MAX = 16 << 20, SPARE_BYTES = 16 << 20 }; // header, config.json and the file system's own

struct synth_run {
    const struct options *options;
    struct arena arena;
    struct config config;
    enum dtype dtype;
    uint64_t seed, bytes;
    const char *out;
    char *text; // config.json as it will be written
    uint64_t text_size;
    struct pool *pool;
    struct staging *staging;
};

static int read_dtype(struct synth_run *run, struct error *error)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } dtypes[] = {{"bf16", DTYPE_BF16}, {"f16", DTYPE_F16}, {"f32", DTYPE_F32}};
    const char *name = options_text(run->options, "dtype");
    run->dtype = DTYPE_BF16;
    for (size_t i = 0; name && i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(name, dtypes[i].name)) {
            run->dtype = dtypes[i].dtype;
            return 0;
        }
    return name ? error_set(error, ERROR_USAGE, "--dtype %s: expected bf16, f16 or f32", name) : 0;
}

// The document with fewer layers; a list of layer types is as long as there are layers.
static int cut_layers(struct synth_run *run, long layers, struct error *error)
{
    cJSON *root = cJSON_ParseWithLength(run->text, run->text_size);
    cJSON *text = run->config.nested ? cJSON_GetObjectItemCaseSensitive(root, "text_config") : root;
    cJSON *types = cJSON_GetObjectItemCaseSensitive(text, "layer_types");
    cJSON *count = cJSON_CreateNumber((double)layers);
    bool ok = text && count;
    if (ok && cJSON_HasObjectItem(text, "num_hidden_layers"))
        cJSON_ReplaceItemInObjectCaseSensitive(text, "num_hidden_layers", count);
    else if (ok)
        cJSON_AddItemToObject(text, "num_hidden_layers", count);
    while (cJSON_IsArray(types) && cJSON_GetArraySize(types) > layers)
        cJSON_DeleteItemFromArray(types, cJSON_GetArraySize(types) - 1);
    char *printed = ok ? cJSON_Print(root) : NULL;
    run->text = printed ? arena_print(&run->arena, "%s\n", printed) : NULL;
    cJSON_free(printed);
    cJSON_Delete(root);
    if (!run->text)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    run->text_size = strlen(run->text);
    return 0;
}

static int parse(struct synth_run *run, const char *path, struct error *error)
{
    struct json_document *document;
    int code = json_open_text(&document, path, run->text, (size_t)run->text_size, error);
    if (!code)
        code = config_read(&run->arena, json_root(document), &run->config, error);
    json_close(&document);
    return code;
}

static int read_config(struct synth_run *run, struct error *error)
{
    const char *path = run->options->positional[0];
    long layers;
    int code = file_read(&run->arena, path, CONFIG_BYTES_MAX, &run->text, &run->text_size, error);
    if (!code)
        code = parse(run, path, error);
    if (!code)
        code = options_number(run->options, "layers", 1, (long)run->config.layers, (long)run->config.layers, &layers,
                              error);
    if (!code && layers != (long)run->config.layers && !(code = cut_layers(run, layers, error)))
        code = parse(run, path, error);
    return code;
}

static int refuse_existing(const struct synth_run *run, struct error *error)
{
    if (!file_exists(run->out))
        return 0;
    return error_set(error, ERROR_USAGE, "%s: exists; expected a name that is free, since a checkpoint is never replaced",
                     run->out);
}

static int check_room(struct synth_run *run, struct error *error)
{
    struct statvfs disk;
    const char *where = staging_path(run->staging);
    const uint64_t needed = run->bytes + SPARE_BYTES;
    if (statvfs(where, &disk))
        return error_set(error, ERROR_RUNTIME, "%s: cannot ask for the room on its disk", run->out);
    const uint64_t room = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (room >= needed)
        return 0;
    return error_set(error, ERROR_RUNTIME,
                     "%s: %" PRIu64 " bytes are needed and %" PRIu64 " are free on that disk; make room, choose another "
                     "--out, or fewer --layers",
                     run->out, needed, room);
}

static int write_config(struct synth_run *run, struct error *error)
{
    struct output *output;
    const char *path = file_join(&run->arena, staging_path(run->staging), "config.json");
    const int code =
        path ? output_open(&output, path, error) : error_set(error, ERROR_RUNTIME, "out of memory");
    if (code)
        return code;
    output_append(output, run->text, (size_t)run->text_size);
    return output_commit(&output, error);
}

static int write_all(struct synth_run *run, struct error *error)
{
    int code = staging_open(&run->staging, run->out, error);
    if (code)
        return code;
    const char *weights = file_join(&run->arena, staging_path(run->staging), "model.safetensors");
    code = weights ? check_room(run, error) : error_set(error, ERROR_RUNTIME, "out of memory");
    if (!code)
        code = synth_weights(&run->config, run->dtype, run->seed, run->pool, run->options->quiet, weights, error);
    if (!code)
        code = write_config(run, error);
    if (code)
        staging_rename_error(run->staging, error);
    return code ? code : staging_commit(&run->staging, error);
}

static int run_synth(const struct options *options, struct error *error)
{
    struct synth_run run = {.options = options, .out = options_text(options, "out")};
    long seed;
    if (!run.out)
        return error_set(error, ERROR_USAGE, "--out DIR is missing. See: assay help synth");
    int code = options_number(options, "seed", 0, INT32_MAX, 1, &seed, error);
    run.seed = code ? 0 : (uint64_t)seed;
    if (!code)
        code = read_dtype(&run, error);
    if (!code)
        code = read_config(&run, error);
    if (!code)
        code = refuse_existing(&run, error);
    if (!code)
        code = synth_bytes(&run.config, run.dtype, &run.bytes, error);
    files_guard_signals(options->line);
    if (!code)
        code = pool_open(&run.pool, options->threads, error);
    if (!code)
        code = write_all(&run, error);
    if (!code)
        printf("%s: %" PRIu64 " bytes of random %s weights, %" PRIu32 " layers, seed %" PRIu64 "\n", run.out, run.bytes,
               dtype_name(run.dtype), run.config.layers, run.seed);
    staging_abandon(&run.staging);
    pool_close(&run.pool);
    arena_close(&run.arena);
    return code;
}

static const struct option synth_options[] = {
    {"seed", "N", "another seed, other weights (default: 1); equal arguments give equal bytes"},
    {"out", "DIR", "the checkpoint to write; must not exist"},
    {"dtype", "NAME", "bf16 (default), f16 or f32"},
    {"layers", "N", "only the first N layers, for a smaller disk"},
    {0},
};

const struct command command_synth = {
    "synth",
    "CONFIG.json --out DIR",
    "random weights at a model's full shape, for benchmarks",
    "Writes a checkpoint whose weights mean nothing: finite, scaled so that a forward pass stays so, and the same bytes\n"
    "for the same config, seed and dtype on every machine. The shapes of the releases are in fixtures/configs.",
    "assay synth fixtures/configs/lfm2.5-350m.json --seed 1 --layers 2 --out out/synth-350m",
    synth_options,
    1,
    1,
    run_synth};
