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
    WEIGHT_A4, // experts: two codes 0 ... 15 per byte; element = fma(scale, code, bias) in fp32
    WEIGHT_K8, // experts: a byte is the index of an fp16 entry in the codebook of 32 rows
    WEIGHT_K4, // the same with two indices per byte, low nibble first
};
enum { WEIGHT_FORMATS = WEIGHT_K4 + 1 };
const char *weight_format_name(enum weight_format format);

enum { WEIGHT_BOOK_ROWS = 32 }; // rows that share a codebook

// A matrix [rows, cols], row-major; a vector has rows = 1. Element = code x scale for Q8 and Q4, exact in fp32.
struct weight {
    const char *name;       // checkpoint name, ".weight" included
    enum weight_format format;
    uint32_t rows, cols;
    const void *data;       // elements or codes; Q4 rows are padded to a whole byte
    const uint16_t *scale;  // fp16 [rows, cols / block]; NULL unless Q8, Q4 or A4
    const uint16_t *bias;   // A4: fp16, as scale
    const uint16_t *lut;    // K8, K4: fp16 [rows / 32, 256 or 16]
    uint32_t block;         // inputs per scale: 32, or cols (per channel); 0 without scales
};

// Rows [first, first + n) as a weight of its own, of the same name. K8, K4: first is a multiple of 32.
struct weight weight_rows(const struct weight *weight, uint32_t first, uint32_t n);
// Bytes of one row of elements or codes (scales excluded).
uint64_t weight_row_bytes(const struct weight *weight);
// Bytes of all elements or codes with their scales, biases and codebooks.
uint64_t weight_bytes(const struct weight *weight);
// Element [row, col] widened to fp32, exactly but for A4. Slow; for tests, tables and tools.
float weight_at(const struct weight *weight, uint32_t row, uint32_t col);
// Elements [first, first + n) of a row, likewise.
void weight_part(const struct weight *weight, uint32_t row, uint32_t first, uint32_t n, float *out);
// All `cols` elements of a row.
void weight_row(const struct weight *weight, uint32_t row, float *out);

#endif
