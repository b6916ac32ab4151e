// safetensors: one file of named tensors, mapped; and its writer. The format: 8 bytes little-endian header length N,
// N bytes of JSON, then the data (huggingface/safetensors, safetensors/src/tensor.rs; spec in architecture.md 11).
//
// This is the root of trust of the whole program, and its input is hostile. Checked at open, each with a message that
// names file, tensor, found and expected: header length (against the file and 100,000,000), UTF-8 JSON object, how
// many values it has, every entry's fields and nothing else, known dtype, rank <= 8, no overflow in the product of
// dimensions, data_offsets ascending, inside the file and of exactly the size that dtype and shape give, no overlap,
// no hole, no trailing bytes, natural alignment of the data in memory, no duplicate name, __metadata__ a map from
// string to string.
#ifndef ASSAY_SAFETENSORS_H
#define ASSAY_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/files.h"

enum dtype {
    DTYPE_BOOL, DTYPE_U8, DTYPE_I8, DTYPE_I16, DTYPE_U16, DTYPE_F16, DTYPE_BF16,
    DTYPE_I32, DTYPE_U32, DTYPE_F32, DTYPE_I64, DTYPE_U64, DTYPE_F64, DTYPE_COUNT
};
size_t dtype_size(enum dtype dtype);       // bytes of an element
const char *dtype_name(enum dtype dtype);  // "F32"

// Every tensor takes some ten JSON values: the largest releases, experts one by one, have 40,000 tensors. The bound
// keeps a header that is all brackets and commas from taking fifty times its size of memory.
enum { TENSOR_RANK_MAX = 8, SAFETENSORS_HEADER_MAX = 100000000, SAFETENSORS_VALUES_MAX = 1000000 };

struct tensor {
    const char *name;
    enum dtype dtype;
    uint32_t rank;
    uint64_t shape[TENSOR_RANK_MAX];
    uint64_t elements; // product of the shape; 1 for rank 0
    uint64_t bytes;
    const void *data;  // in the mapping, aligned to the element; NULL when bytes is 0
    const char *file;  // name of the file, for messages
};

// "[192, 64]" into `text`.
const char *tensor_shape_text(const struct tensor *tensor, char text[128]);

struct safetensors {
    char *path;
    struct file_map map;
    struct arena arena;
    size_t n_tensors;
    struct tensor *tensors;   // sorted by name (strcmp)
    size_t n_metadata;
    const char **metadata;    // [2 n]: key, value, ...; in file order
};

// On success the caller closes; on failure nothing is held and *file is NULL.
int safetensors_open(struct safetensors **file, const char *path, struct error *error);
void safetensors_close(struct safetensors **file);
const struct tensor *safetensors_find(const struct safetensors *file, const char *name);
const char *safetensors_metadata(const struct safetensors *file, const char *key); // NULL when absent

// --- writing: declare every tensor, then fill in any order. Memory does not grow with the data.

struct tensor_declaration {
    const char *name;
    enum dtype dtype;
    uint32_t rank;
    uint64_t shape[TENSOR_RANK_MAX];
};

struct safetensors_writer;

// Lays the tensors out in the order given (the caller orders them; the same input gives the same bytes). `alignment`
// 8: packed; declare in descending order of element size (assert). Larger (256): every tensor that is not empty
// starts at such an offset of the file, the gaps being declared as U8 tensors "pad.<n>", since the format allows no
// holes.
// Names are unique, and none is "__metadata__" or, with pads, "pad." (assert). On failure *writer is NULL.
// metadata: [2 n] key, value, written sorted by key. `n_tensors` may be 0.
int safetensors_create(struct safetensors_writer **writer, const char *path, const struct tensor_declaration *tensors,
                       size_t n_tensors, const char *const *metadata, size_t n_metadata, uint64_t alignment,
                       struct error *error);
// `offset` and `bytes` lie inside tensor `index` (assert). Failures are kept and reported by commit.
void safetensors_write(struct safetensors_writer *writer, size_t index, uint64_t offset, const void *bytes,
                       uint64_t size);
// Refuses a tensor of which fewer bytes were written than it has. *writer is NULL afterwards in either case.
int safetensors_commit(struct safetensors_writer **writer, struct error *error);
void safetensors_abandon(struct safetensors_writer **writer);

#endif
