// quantize: a bundle from a checkpoint, row by row, and the table that says what happened to every tensor.
#ifndef ASSAY_QUANTIZE_H
#define ASSAY_QUANTIZE_H

#include <stdbool.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/model/checkpoint.h"
#include "harness/model/model.h"
#include "runtime/quant.h"

// A tied head that is not quantized has a row, too: it is not stored and takes no bytes.
struct coverage_row {
    const char *tensor;                 // checkpoint name
    const char *stored;                 // "int8 block 32 [-127, 127]", "F16", "F32", "not stored"
    uint64_t source_bytes;              // 0 for a head that the checkpoint does not have
    uint64_t bytes;                     // codes and scales, or elements; without the gaps of the alignment
    double relative_error;              // ||w - w'|| / ||w||, 0 when w is zero
    struct quant_statistics statistics; // zero when left alone
    const char *why;                    // why it was left alone; "" when quantized
};

struct coverage {
    struct arena arena;
    size_t n;
    struct coverage_row *rows;
    uint64_t source_bytes, bytes;
};

struct quantize_request {
    const struct checkpoint *checkpoint;
    const struct model *model; // bound from it
    const struct scheme *scheme;
    const char *const *keep; // "PATTERN=fp16"
    size_t n_keep;
    const char *out; // directory; made. Refused when it holds anything that is not a bundle of ours
    bool quiet;
};

// Writes the bundle directory: into a temporary directory beside it, renamed at the end. The same checkpoint,
// directory name included, scheme and keep give the same bytes. coverage may be NULL; otherwise the caller closes it,
// on failure too. ERROR_USAGE: a scheme that the family does not have, a keep pattern that is none, or matches nothing that the scheme quantizes.
// ERROR_INPUT: a weight that is not finite, or whose half or scale would be infinite, with tensor, row and column.
int quantize_bundle(const struct quantize_request *request, struct coverage *coverage, struct error *error);
void coverage_close(struct coverage *coverage);

// Its part that writes weights.safetensors, to `path`.
int quantize_weights(const struct quantize_request *request, const char *path, struct coverage *coverage,
                     struct error *error);

#endif
