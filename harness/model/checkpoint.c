#include "harness/model/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "harness/base/json.h"

enum { INDEX_BYTES_MAX = 1 << 25 }; // over 200,000 tensors; its values take 40 times their bytes in memory

// --- tensor table

size_t tensor_table_index(const struct tensor_table *table, const char *name)
{
    size_t low = 0, high = table->n;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(table->tensors[middle]->name, name);
        if (!order)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return table->n;
}

const struct tensor *tensor_table_find(const struct tensor_table *table, const char *name)
{
    const size_t index = tensor_table_index(table, name);
    return index < table->n ? table->tensors[index] : NULL;
}

static int compare_tensors(const void *left, const void *right)
{
    const struct tensor *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

static int out_of_memory(const struct checkpoint *checkpoint, struct error *error)
{
    return error_set(error, ERROR_RUNTIME, "%s: memory exhausted while opening the checkpoint",
                     checkpoint->path ? checkpoint->path : "checkpoint");
}

// All tensors of all files, sorted by name. Unique: within a file by its own checks, across files by the index.
static int make_table(struct checkpoint *checkpoint, struct error *error)
{
    size_t n = 0;
    for (size_t i = 0; i < checkpoint->n_files; i++)
        n += checkpoint->files[i]->n_tensors;
    const struct tensor **tensors = arena_alloc(&checkpoint->arena, n, sizeof *tensors);
    if (!tensors)
        return out_of_memory(checkpoint, error);
    n = 0;
    for (size_t i = 0; i < checkpoint->n_files; i++) {
        const struct safetensors *file = checkpoint->files[i];
        for (size_t j = 0; j < file->n_tensors; j++)
            tensors[n++] = &file->tensors[j];
    }
    qsort(tensors, n, sizeof *tensors, compare_tensors);
    checkpoint->table = (struct tensor_table){.n = n, .tensors = tensors};
    return 0;
}

// --- sharded checkpoints

struct index_entry {
    const char *tensor;
    const char *file_name;
    size_t file;
    bool seen; // met in that file
};

struct index {
    const char *path;
    struct json_document *document;
    struct arena scratch;
    size_t n;
    struct index_entry *entries; // sorted by tensor
    size_t n_files;
    const char **file_names; // ascending
};

static int compare_entries(const void *left, const void *right)
{
    const struct index_entry *a = left, *b = right;
    return strcmp(a->tensor, b->tensor);
}

static int compare_texts(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

// A name in this directory and nowhere else: the index is input like any other.
static bool is_plain_name(const char *name)
{
    return *name && !strpbrk(name, "/\\") && strcmp(name, ".") && strcmp(name, "..");
}

static int read_weight_map(struct index *index, struct error *error)
{
    const struct json map = json_get(json_root(index->document), "weight_map");
    int status = json_need_object(map, error);
    if (status)
        return status;
    const size_t n = json_length(map);
    if (!n)
        return error_set(error, ERROR_INPUT, "%s: weight_map is empty; expected a shard for every tensor",
                         index->path);
    index->entries = arena_alloc(&index->scratch, n, sizeof *index->entries);
    index->file_names = arena_alloc(&index->scratch, n, sizeof *index->file_names);
    if (!index->entries || !index->file_names)
        return error_set(error, ERROR_RUNTIME, "%s: memory exhausted", index->path);
    for (struct json member = json_first(map); member.item; member = json_next(member)) {
        struct index_entry *entry = &index->entries[index->n++];
        entry->tensor = json_key(member);
        status = json_need_string(member, &entry->file_name, error);
        if (status)
            return status;
        if (!is_plain_name(entry->file_name))
            return error_set(error, ERROR_INPUT, "%s: found '%s', expected the name of a file in the same directory",
                             json_where(member), entry->file_name);
        index->file_names[index->n_files++] = entry->file_name;
    }
    qsort(index->entries, n, sizeof *index->entries, compare_entries);
    qsort(index->file_names, n, sizeof *index->file_names, compare_texts);
    index->n_files = 0;
    for (size_t i = 0; i < n; i++) {
        if (!i || strcmp(index->file_names[i], index->file_names[index->n_files - 1]))
            index->file_names[index->n_files++] = index->file_names[i];
    }
    for (size_t i = 0; i < n; i++) {
        const char **name = bsearch(&index->entries[i].file_name, index->file_names, index->n_files,
                                    sizeof *index->file_names, compare_texts);
        index->entries[i].file = (size_t)(name - index->file_names);
    }
    return 0;
}

static int check_shard(const struct checkpoint *checkpoint, struct index *index, size_t shard, struct error *error)
{
    const struct safetensors *file = checkpoint->files[shard];
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct index_entry key = {.tensor = file->tensors[i].name};
        struct index_entry *entry = bsearch(&key, index->entries, index->n, sizeof key, compare_entries);
        if (!entry)
            return error_set(error, ERROR_INPUT, "%s: tensor %s is not named in %s; expected every tensor there",
                             file->path, key.tensor, index->path);
        if (entry->file == shard) {
            entry->seen = true;
            continue;
        }
        const bool twice = safetensors_find(checkpoint->files[entry->file], key.tensor) != NULL;
        return error_set(error, ERROR_INPUT,
                         twice ? "%s: tensor %s is in two shards, here and in %s; expected one"
                               : "%s: tensor %s is stored here; expected it in %s, where the index places it",
                         file->path, key.tensor, entry->file_name);
    }
    return 0;
}

static int open_shards(struct checkpoint *checkpoint, struct index *index, struct error *error)
{
    checkpoint->files = arena_alloc(&checkpoint->arena, index->n_files, sizeof *checkpoint->files);
    if (!checkpoint->files)
        return out_of_memory(checkpoint, error);
    for (size_t i = 0; i < index->n_files; i++) {
        const char *path = file_join(&checkpoint->arena, checkpoint->path, index->file_names[i]);
        if (!path)
            return out_of_memory(checkpoint, error);
        if (!file_exists(path))
            return error_set(error, ERROR_INPUT, "%s: does not exist, and %s names it; download all shards", path,
                             index->path);
        const int status = safetensors_open(&checkpoint->files[i], path, error);
        if (status)
            return status;
        checkpoint->n_files++;
    }
    for (size_t i = 0; i < index->n_files; i++) {
        const int status = check_shard(checkpoint, index, i, error);
        if (status)
            return status;
    }
    for (size_t i = 0; i < index->n; i++) {
        const struct index_entry *entry = &index->entries[i];
        if (!entry->seen)
            return error_set(error, ERROR_INPUT, "%s: tensor %s: expected in %s, found in no shard", index->path,
                             entry->tensor, entry->file_name);
    }
    return 0;
}

static int open_sharded(struct checkpoint *checkpoint, const char *path, struct error *error)
{
    struct index index = {.path = path};
    int status = json_open_file(&index.document, path, INDEX_BYTES_MAX, error);
    if (!status)
        status = read_weight_map(&index, error);
    if (!status)
        status = open_shards(checkpoint, &index, error);
    arena_close(&index.scratch);
    json_close(&index.document);
    return status;
}

// --- the directory

static int open_single(struct checkpoint *checkpoint, const char *path, struct error *error)
{
    checkpoint->files = arena_alloc(&checkpoint->arena, 1, sizeof *checkpoint->files);
    if (!checkpoint->files)
        return out_of_memory(checkpoint, error);
    const int status = safetensors_open(&checkpoint->files[0], path, error);
    checkpoint->n_files = status ? 0 : 1;
    return status;
}

// "lfm2-mini" of "fixtures/models/lfm2-mini/", of "." inside it, and of a link to it under that name.
static int read_name(struct checkpoint *checkpoint, struct error *error)
{
    char *path = arena_print(&checkpoint->arena, "%s", checkpoint->path);
    if (!path)
        return out_of_memory(checkpoint, error);
    for (size_t length = strlen(path); length > 1 && path[length - 1] == '/';)
        path[--length] = '\0';
    const char *slash = strrchr(path, '/');
    const char *last = slash && slash[1] ? slash + 1 : path;
    char *absolute = NULL;
    if (!strcmp(last, ".") || !strcmp(last, "..")) {
        absolute = realpath(path, NULL);
        slash = absolute ? strrchr(absolute, '/') : NULL;
        last = slash && slash[1] ? slash + 1 : last;
    }
    checkpoint->name = arena_print(&checkpoint->arena, "%s", last);
    free(absolute);
    return checkpoint->name ? 0 : out_of_memory(checkpoint, error);
}

static int open_files(struct checkpoint *checkpoint, struct error *error)
{
    struct arena *arena = &checkpoint->arena;
    const char *directory = checkpoint->path;
    const char *single = file_join(arena, directory, "model.safetensors");
    const char *index = file_join(arena, directory, "model.safetensors.index.json");
    const char *metadata = file_join(arena, directory, "metadata.json");
    checkpoint->config_path = file_join(arena, directory, "config.json");
    checkpoint->tokenizer_path = file_join(arena, directory, "tokenizer.json");
    if (!single || !index || !metadata || !checkpoint->config_path || !checkpoint->tokenizer_path)
        return out_of_memory(checkpoint, error);
    if (!file_exists(checkpoint->tokenizer_path))
        checkpoint->tokenizer_path = NULL;
    const bool weights = file_exists(single) || file_exists(index);
    if (!weights && file_exists(metadata))
        return error_set(error, ERROR_INPUT,
                         "%s: is a bundle (it has metadata.json), expected a checkpoint directory with config.json "
                         "and model.safetensors; give a bundle with --bundle",
                         directory);
    if (!file_exists(checkpoint->config_path))
        return error_set(error, ERROR_INPUT,
                         "%s: no config.json; expected a checkpoint directory as Hugging Face saves it", directory);
    if (!weights)
        return error_set(error, ERROR_INPUT,
                         "%s: neither model.safetensors nor model.safetensors.index.json; expected one", directory);
    // both: the single file wins, as in transformers
    return file_exists(single) ? open_single(checkpoint, single, error) : open_sharded(checkpoint, index, error);
}

int checkpoint_open(struct checkpoint **out, const char *directory, struct error *error)
{
    *out = NULL;
    if (!file_exists(directory))
        return error_set(error, ERROR_INPUT, "%s: does not exist; expected a checkpoint directory", directory);
    if (!file_is_directory(directory))
        return error_set(error, ERROR_INPUT,
                         "%s: is no directory; expected the one that holds config.json and model.safetensors",
                         directory);
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (!checkpoint)
        return error_set(error, ERROR_RUNTIME, "%s: memory exhausted", directory);
    checkpoint->path = arena_print(&checkpoint->arena, "%s", directory);
    int status = checkpoint->path ? read_name(checkpoint, error) : out_of_memory(checkpoint, error);
    if (!status)
        status = open_files(checkpoint, error);
    if (!status)
        status = make_table(checkpoint, error);
    if (status)
        checkpoint_close(&checkpoint);
    *out = checkpoint;
    return status;
}

void checkpoint_close(struct checkpoint **checkpoint)
{
    if (!checkpoint || !*checkpoint)
        return;
    for (size_t i = 0; i < (*checkpoint)->n_files; i++)
        safetensors_close(&(*checkpoint)->files[i]);
    arena_close(&(*checkpoint)->arena);
    free(*checkpoint);
    *checkpoint = NULL;
}

int checkpoint_hash(const struct checkpoint *checkpoint, struct checkpoint_hashes *hashes, struct error *error)
{
    const char **paths = calloc(checkpoint->n_files, sizeof *paths);
    if (!paths)
        return out_of_memory(checkpoint, error);
    for (size_t i = 0; i < checkpoint->n_files; i++)
        paths[i] = checkpoint->files[i]->path;
    int status = hash_files(paths, checkpoint->n_files, hashes->weights, error);
    free(paths);
    if (!status)
        status = hash_file(checkpoint->config_path, hashes->config, error);
    hashes->tokenizer[0] = '\0';
    if (!status && checkpoint->tokenizer_path)
        status = hash_file(checkpoint->tokenizer_path, hashes->tokenizer, error);
    return status;
}
