// Any model.safetensors.index.json beside three sound shards is either refused with a sentence or names every tensor
// of those that it opens exactly once.
#include <assert.h>
#include <string.h>

#include "harness/model/checkpoint.h"
#include "tests/fuzz/input.h"

static const struct {
    const char *name, *tensors[3];
} shards[] = {{"a", {"embed", "norm", NULL}}, {"b", {"layer.0", NULL}}, {"c", {NULL}}};

enum { N_SHARDS = sizeof shards / sizeof *shards };

static void write_shards(void)
{
    char path[256];
    for (size_t i = 0; i < N_SHARDS; i++) {
        struct tensor_declaration tensors[3];
        struct safetensors_writer *writer;
        size_t n = 0;
        for (; shards[i].tensors[n]; n++)
            tensors[n] = (struct tensor_declaration){
                .name = shards[i].tensors[n], .dtype = DTYPE_F32, .rank = 1, .shape = {n + 1}};
        snprintf(path, sizeof path, "%s/%s", input_directory(), shards[i].name);
        int status = safetensors_create(&writer, path, tensors, n, NULL, 0, 8, NULL);
        assert(!status);
        for (size_t j = 0; j < n; j++)
            safetensors_write(writer, j, 0, (const float[3]){0}, 4 * (j + 1));
        status = safetensors_commit(&writer, NULL);
        assert(!status);
    }
    struct output *config;
    snprintf(path, sizeof path, "%s/config.json", input_directory());
    int status = output_open(&config, path, NULL);
    assert(!status);
    status = output_commit(&config, NULL);
    assert(!status);
}

// A shard that no tensor is placed in is not opened.
static void check(const struct checkpoint *checkpoint)
{
    size_t n = 0;
    assert(checkpoint->n_files && checkpoint->n_files <= N_SHARDS && !checkpoint->tokenizer_path);
    for (size_t i = 0; i < N_SHARDS; i++)
        for (size_t j = 0; shards[i].tensors[j]; j++) {
            const struct tensor *tensor = tensor_table_find(&checkpoint->table, shards[i].tensors[j]);
            assert(!tensor || (tensor->elements == j + 1 && ((const float *)tensor->data)[j] == 0.0f));
            n += tensor != NULL;
        }
    assert(n && checkpoint->table.n == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char index[256];
    struct checkpoint *checkpoint;
    struct error error = {0};
    if (!*index) {
        write_shards();
        input_link(index, "model.safetensors.index.json");
    }
    input_path(data, size);
    const int status = checkpoint_open(&checkpoint, input_directory(), &error);
    if (status) {
        assert(!checkpoint && status == error.code && strlen(error.text));
        return 0;
    }
    check(checkpoint);
    checkpoint_close(&checkpoint);
    return 0;
}
