// Any bytes at all are either refused with a sentence or become tensors that lie inside the file and tile its data.
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The reader maps a file: one in memory, rewritten for every input.
static const char *write_input(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("input", 0);
        assert(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    const int emptied = ftruncate(fd, 0);
    assert(!emptied);
    const ssize_t written = pwrite(fd, data, size, 0);
    assert(written == (ssize_t)size);
    return path;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *file;
    struct error error = {0};
    const int status = safetensors_open(&file, write_input(data, size), &error);
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
