#include "runtime/quantize.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "harness/base/floating.h"
#include "runtime/bundle.h"
#include "runtime/metadata.h"
#include "runtime/staging.h"

// --- what may be replaced

static bool is_part(const char *name)
{
    static const char *const parts[] = {
        ".", "..", "metadata.json", "config.json", "generation_config.json", "precision.json", "weights.safetensors",
        "tokenizer"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strcmp(name, parts[i]))
            return true;
    return false;
}

// *stranger: the first entry that is no part of a bundle, in the arena. *n counts the entries.
static int look_inside(struct arena *arena, const char *path, const char **stranger, size_t *n, struct error *error)
{
    DIR *directory = opendir(path);
    if (!directory)
        return error_set(error, ERROR_USAGE, "%s: cannot be read (%s); choose another output directory", path,
                         strerror(errno));
    const struct dirent *entry;
    while ((entry = readdir(directory)) && !*stranger) {
        if (!is_part(entry->d_name))
            *stranger = arena_print(arena, "%s", entry->d_name);
        *n += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    }
    closedir(directory);
    return 0;
}

static int check_replaceable(struct arena *arena, const char *path, struct error *error)
{
    if (!file_is_directory(path))
        return 0; // absent, or refused by staging_open
    const char *stranger = NULL;
    size_t n = 0;
    const int code = look_inside(arena, path, &stranger, &n, error);
    if (code || (!stranger && !n))
        return code;
    if (stranger)
        return error_set(
            error, ERROR_USAGE,
            "%s: holds %s, which is no part of a bundle, so the directory is not replaced; choose another output",
            path, stranger);
    struct json_document *document = NULL;
    struct metadata metadata;
    const char *file = file_join(arena, path, "metadata.json");
    if (!file)
        return error_set(error, ERROR_RUNTIME, "%s: no memory", path);
    const bool own = !json_open_file(&document, file, BUNDLE_JSON_MAX, NULL) &&
                     !metadata_read(arena, json_root(document), &metadata, NULL) && metadata.own;
    json_close(&document);
    return own ? 0
               : error_set(error, ERROR_USAGE,
                           "%s: exists and is no bundle made by assay, so it is not replaced; choose another output",
                           path);
}

// --- the files beside the weights

struct work {
    struct arena arena;
    const struct quantize_request *request;
    struct staging *staging;
    struct checkpoint_hashes hashes;
};

static int copy_file(const char *from, const char *to, struct error *error)
{
    struct file_map map;
    struct output *output;
    int code = file_map_open(&map, from, error);
    if (code)
        return code;
    code = output_open(&output, to, error);
    if (!code) {
        output_append(output, map.bytes, (size_t)map.size);
        code = output_commit(&output, error);
    }
    file_map_close(&map);
    return code;
}

// A file of the checkpoint, under its own name, into `directory`; nothing where the checkpoint has none.
static int copy_if_there(struct work *work, const char *name, const char *directory, struct error *error)
{
    const char *from = file_join(&work->arena, work->request->checkpoint->path, name);
    const char *to = file_join(&work->arena, directory, name);
    if (!from || !to)
        return error_set(error, ERROR_RUNTIME, "%s: no memory", work->request->out);
    return file_exists(from) ? copy_file(from, to, error) : 0;
}

// A chat template stands in tokenizer_config.json or, in newer releases, in a file of its own.
static int copy_tokenizer(struct work *work, struct error *error)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
    if (!work->request->checkpoint->tokenizer_path)
        return 0;
    const char *directory = file_join(&work->arena, staging_path(work->staging), "tokenizer");
    int code = directory ? directory_make(directory, error)
                         : error_set(error, ERROR_RUNTIME, "%s: no memory", work->request->out);
    for (size_t i = 0; i < sizeof names / sizeof *names && !code; i++)
        code = copy_if_there(work, names[i], directory, error);
    return code;
}

static int write_plan(struct work *work, struct error *error)
{
    struct output *output;
    const char *path = file_join(&work->arena, staging_path(work->staging), "precision.json");
    const int code = path ? output_open(&output, path, error)
                          : error_set(error, ERROR_RUNTIME, "%s: no memory", work->request->out);
    if (code)
        return code;
    struct plan plan;
    plan_default(&plan);
    plan_write(output, work->request->model->config.family, &plan);
    return output_commit(&output, error);
}

static void describe(struct work *work, struct metadata *metadata)
{
    const struct quantize_request *request = work->request;
    const struct config *config = &request->model->config;
    *metadata = (struct metadata){
        .name = metadata_name(&work->arena, request->checkpoint->name, request->scheme),
        .tokenizer = request->checkpoint->name,
        .model = request->checkpoint->name,
        .model_type = config->model_type,
        .vocabulary = config->vocabulary,
        .max_context = config->max_positions,
        .scheme = request->scheme,
        .scheme_name = request->scheme->name,
        .n_keep = request->n_keep,
        .keep = request->keep,
        .own = true,
    };
    memcpy(metadata->weights_sha256, work->hashes.weights, HASH_HEX);
    memcpy(metadata->config_sha256, work->hashes.config, HASH_HEX);
    memcpy(metadata->tokenizer_sha256, work->hashes.tokenizer, HASH_HEX);
}

static int write_metadata(struct work *work, struct error *error)
{
    struct metadata metadata;
    struct output *output;
    describe(work, &metadata);
    const char *path = file_join(&work->arena, staging_path(work->staging), "metadata.json");
    if (!path || !metadata.name)
        return error_set(error, ERROR_RUNTIME, "%s: no memory", work->request->out);
    int code = output_open(&output, path, error);
    if (code)
        return code;
    code = metadata_write(output, &work->arena, &metadata, error);
    if (!code)
        return output_commit(&output, error);
    output_abandon(&output);
    return code;
}

static int write_bundle(struct work *work, struct coverage *coverage, struct error *error)
{
    const struct quantize_request *request = work->request;
    const char *weights = file_join(&work->arena, staging_path(work->staging), "weights.safetensors");
    const char *config = file_join(&work->arena, staging_path(work->staging), "config.json");
    if (!weights || !config)
        return error_set(error, ERROR_RUNTIME, "%s: no memory", request->out);
    int code = quantize_weights(request, weights, coverage, error);
    if (!code)
        code = copy_file(request->checkpoint->config_path, config, error);
    if (!code)
        code = copy_if_there(work, "generation_config.json", staging_path(work->staging), error);
    if (!code)
        code = copy_tokenizer(work, error);
    if (!code)
        code = write_plan(work, error);
    return code ? code : write_metadata(work, error);
}

int quantize_bundle(const struct quantize_request *request, struct coverage *coverage, struct error *error)
{
    struct work work = {.request = request};
    struct coverage unasked = {0};
    struct floating environment;
    if (!coverage)
        coverage = &unasked;
    *coverage = (struct coverage){0};
    int code = 0;
    for (size_t i = 0; i < request->n_keep && !code; i++)
        code = quant_keep_check(request->keep[i], error);
    if (!code)
        code = scheme_check(request->scheme, request->model->config.family, error);
    if (!code)
        code = check_replaceable(&work.arena, request->out, error);
    if (!code)
        code = checkpoint_hash(request->checkpoint, &work.hashes, error);
    if (!code)
        code = staging_open(&work.staging, request->out, error);
    if (!code) {
        floating_enter(&environment);
        code = write_bundle(&work, coverage, error);
        floating_leave(&environment);
        if (code)
            staging_rename_error(work.staging, error);
    }
    if (!code)
        code = staging_commit(&work.staging, error);
    staging_abandon(&work.staging);
    coverage_close(&unasked);
    arena_close(&work.arena);
    return code;
}

void coverage_close(struct coverage *coverage)
{
    arena_close(&coverage->arena);
    *coverage = (struct coverage){0};
}
