// weight: one matrix of a model as it lies in the mapped file, and its exact values.
//
// The shapes and dtypes of every weight were checked by model_bind; nothing is checked again here.
#ifndef ASSAY_WEIGHT_H
#define ASSAY_WEIGHT_H

#include <stdint.h>

enum weight_format {
    WEIGHT_NONE, // an optional tensor that is not there
    WEIGHT_F32,
    WEIGHT_F16,
    WEIGHT_BF16,
    WEIGHT_Q8, // int8 codes, one fp16 scale per `block` inputs of a row
    WEIGHT_Q4, // the same with two codes per byte, low nibble first, two's complement
};
const char *weight_format_name(enum weight_format format);

// A matrix [rows, cols], row-major; a vector has rows = 1. Element = code x scale for the quantized formats, exact in
// fp32.
struct weight {
    const char *name;       // checkpoint name, ".weight" included
    enum weight_format format;
    uint32_t rows, cols;
    const void *data;       // elements or codes; Q4 rows are padded to a whole byte
    const uint16_t *scale;  // fp16 [rows, cols / block]; NULL unless quantized
    uint32_t block;         // inputs per scale: 32, or cols (per channel)
};

// Bytes of one row of elements or codes (scales excluded).
uint64_t weight_row_bytes(const struct weight *weight);
// Element [row, col] widened exactly to fp32. Slow; for tests, tables and tools.
float weight_at(const struct weight *weight, uint32_t row, uint32_t col);
// All `cols` elements of a row, widened exactly.
void weight_row(const struct weight *weight, uint32_t row, float *out);

#endif
