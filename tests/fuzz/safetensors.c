// Any bytes at all are either refused with a sentence or become tensors that lie inside the file and tile its data.
#include <assert.h>
#include <string.h>

#include "harness/model/safetensors.h"
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *file;
    struct error error = {0};
    const int status = safetensors_open(&file, input_path(data, size), &error);
    if (status) {
        assert(!file && status == error.code && strlen(error.text));
        return 0;
    }
    uint64_t bytes = 0;
    volatile uint8_t touched = 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct tensor *tensor = &file->tensors[i];
        assert(!i || strcmp(file->tensors[i - 1].name, tensor->name) < 0);
        assert(tensor->bytes == tensor->elements * dtype_size(tensor->dtype));
        assert((uintptr_t)tensor->data % dtype_size(tensor->dtype) == 0);
        for (uint64_t j = 0; j < tensor->bytes; j++)
            touched = (uint8_t)(touched ^ ((const uint8_t *)tensor->data)[j]);
        bytes += tensor->bytes;
        assert(safetensors_find(file, tensor->name) == tensor);
    }
    assert(bytes < file->map.size);
    safetensors_close(&file);
    return 0;
}
