#include "tests/planting_copy.h"

#include <string.h>

#include "harness/base/files.h"

void *copy_bytes(const struct copy *copy, const void *data)
{
    return copy->weights + ((const unsigned char *)data - copy->bundle->weights->map.bytes);
}

static int read_text(struct copy *copy, const char *name, char **text, struct error *error)
{
    uint64_t size;
    const char *path = file_join(&copy->arena, copy->bundle->path, name);
    return path ? file_read(&copy->arena, path, BUNDLE_JSON_MAX, text, &size, error)
                : error_set(error, ERROR_RUNTIME, "no memory");
}

int copy_read(struct copy *copy, const struct bundle *bundle, struct error *error)
{
    copy->bundle = bundle;
    copy->plan = bundle->plan;
    copy->size = bundle->weights->map.size;
    copy->weights = arena_alloc(&copy->arena, (size_t)copy->size, 1);
    if (!copy->weights)
        return error_set(error, ERROR_RUNTIME, "no memory for %llu bytes", (unsigned long long)copy->size);
    memcpy(copy->weights, bundle->weights->map.bytes, (size_t)copy->size);
    const int code = read_text(copy, "config.json", &copy->config, error);
    return code ? code : read_text(copy, "metadata.json", &copy->metadata, error);
}

static int write_file(struct copy *copy, const char *directory, const char *name, const void *bytes, uint64_t size,
                      struct error *error)
{
    struct output *output;
    const char *path = file_join(&copy->arena, directory, name);
    const int code = path ? output_open(&output, path, error) : error_set(error, ERROR_RUNTIME, "no memory");
    if (code)
        return code;
    if (bytes)
        output_append(output, bytes, (size_t)size);
    else
        plan_write(output, copy->bundle->config.family, &copy->plan);
    return output_commit(&output, error);
}

// The header changes, so the file is written anew: the router's codes are zero, its scales likewise.
static int write_quantized_router(struct copy *copy, const char *path, struct error *error)
{
    const struct tensor_table *table = &copy->bundle->table;
    const struct weight *router = copy->router;
    struct safetensors_writer *writer;
    struct tensor_declaration *list = arena_alloc(&copy->arena, table->n + 1, sizeof *list);
    void *zeroes = arena_alloc(&copy->arena, router->rows, router->cols);
    char *codes = arena_print(&copy->arena, "%s.q8", router->name);
    char *scales = arena_print(&copy->arena, "%s.scale", router->name);
    if (!list || !zeroes || !codes || !scales)
        return error_set(error, ERROR_RUNTIME, "no memory");
    size_t n = 0;
    for (size_t i = 0; i < table->n; i++) {
        const struct tensor *tensor = table->tensors[i];
        if (!strncmp(tensor->name, "pad.", 4) || !strcmp(tensor->name, router->name))
            continue;
        list[n] = (struct tensor_declaration){.name = tensor->name, .dtype = tensor->dtype, .rank = tensor->rank};
        memcpy(list[n++].shape, tensor->shape, sizeof list[0].shape);
    }
    list[n] = (struct tensor_declaration){codes, DTYPE_I8, 2, {router->rows, router->cols}};
    list[n + 1] = (struct tensor_declaration){scales, DTYPE_F16, 2, {router->rows, 1}};
    const int code = safetensors_create(&writer, path, list, n + 2, NULL, 0, 256, error);
    if (code)
        return code;
    for (size_t i = 0; i < n; i++) {
        const struct tensor *tensor = tensor_table_find(table, list[i].name);
        safetensors_write(writer, i, 0, tensor->data, tensor->bytes);
    }
    safetensors_write(writer, n, 0, zeroes, (uint64_t)router->rows * router->cols);
    safetensors_write(writer, n + 1, 0, zeroes, (uint64_t)router->rows * sizeof(uint16_t));
    return safetensors_commit(&writer, error);
}

static int write_weights(struct copy *copy, const char *directory, struct error *error)
{
    if (!copy->router)
        return write_file(copy, directory, "weights.safetensors", copy->weights, copy->size, error);
    const char *path = file_join(&copy->arena, directory, "weights.safetensors");
    return path ? write_quantized_router(copy, path, error) : error_set(error, ERROR_RUNTIME, "no memory");
}

static int copy_tokenizer(struct copy *copy, const char *directory, struct error *error)
{
    struct file_map map;
    if (!copy->bundle->tokenizer_path)
        return 0;
    const char *tokenizer = file_join(&copy->arena, directory, "tokenizer");
    int code = tokenizer ? directory_make(tokenizer, error) : error_set(error, ERROR_RUNTIME, "no memory");
    if (!code)
        code = file_map_open(&map, copy->bundle->tokenizer_path, error);
    if (code)
        return code;
    code = write_file(copy, tokenizer, "tokenizer.json", map.bytes, map.size, error);
    file_map_close(&map);
    return code;
}

int copy_write(struct copy *copy, const char *directory, struct error *error)
{
    int code = directory_make(directory, error);
    if (!code)
        code = write_weights(copy, directory, error);
    if (!code)
        code = write_file(copy, directory, "config.json", copy->config, strlen(copy->config), error);
    if (!code)
        code = write_file(copy, directory, "metadata.json", copy->metadata, strlen(copy->metadata), error);
    if (!code)
        code = write_file(copy, directory, "precision.json", NULL, 0, error);
    return code ? code : copy_tokenizer(copy, directory, error);
}
