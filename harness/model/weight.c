#include "harness/model/weight.h"

#include <math.h>
#include <string.h>

#include "harness/base/half.h"

const char *weight_format_name(enum weight_format format)
{
    static const char *const names[] = {"none", "F32", "F16", "BF16", "Q8", "Q4", "A4", "K8", "K4"};
    return names[format];
}

uint64_t weight_row_bytes(const struct weight *weight)
{
    switch (weight->format) {
    case WEIGHT_F32:
        return 4 * (uint64_t)weight->cols;
    case WEIGHT_F16:
    case WEIGHT_BF16:
        return 2 * (uint64_t)weight->cols;
    case WEIGHT_Q8:
    case WEIGHT_K8:
        return weight->cols;
    case WEIGHT_Q4:
    case WEIGHT_A4:
    case WEIGHT_K4:
        return ((uint64_t)weight->cols + 1) / 2;
    case WEIGHT_NONE:
        break;
    }
    return 0;
}

uint64_t weight_bytes(const struct weight *weight)
{
    const uint64_t blocks = weight->block ? weight->cols / weight->block : 0;
    const uint64_t entries = weight->format == WEIGHT_K8 ? 256 : weight->format == WEIGHT_K4 ? 16 : 0;
    const uint64_t row = weight_row_bytes(weight) + 2 * blocks * (weight->bias ? 2 : 1);
    return weight->rows * row + 2 * entries * (weight->rows / WEIGHT_BOOK_ROWS);
}

struct weight weight_rows(const struct weight *weight, uint32_t first, uint32_t n)
{
    struct weight part = *weight;
    const size_t scales = weight->block ? (size_t)first * (weight->cols / weight->block) : 0;
    const size_t entries = (size_t)(first / WEIGHT_BOOK_ROWS) * (weight->format == WEIGHT_K8 ? 256 : 16);
    part.rows = n;
    if (weight->data) // shapes alone, without data, are bound in tests and for sizes
        part.data = (const unsigned char *)weight->data + first * weight_row_bytes(weight);
    if (weight->scale)
        part.scale = weight->scale + scales;
    if (weight->bias)
        part.bias = weight->bias + scales;
    if (weight->lut)
        part.lut = weight->lut + entries;
    return part;
}

static uint32_t nibble(const unsigned char *row, uint32_t col)
{
    return row[col / 2] >> (col % 2 ? 4 : 0) & 0xF;
}

static int q4_code(const unsigned char *row, uint32_t col)
{
    const int code = (int)nibble(row, col);
    return code < 8 ? code : code - 16;
}

float weight_at(const struct weight *weight, uint32_t row, uint32_t col)
{
    const unsigned char *bytes = (const unsigned char *)weight->data + row * weight_row_bytes(weight);
    const uint64_t scale = weight->block ? (uint64_t)row * (weight->cols / weight->block) + col / weight->block : 0;
    const size_t book = row / WEIGHT_BOOK_ROWS;
    switch (weight->format) {
    case WEIGHT_F32:
        return ((const float *)(const void *)bytes)[col];
    case WEIGHT_F16:
        return half_to_float(((const uint16_t *)(const void *)bytes)[col]);
    case WEIGHT_BF16:
        return bfloat_to_float(((const uint16_t *)(const void *)bytes)[col]);
    case WEIGHT_Q8:
        return (float)((const int8_t *)bytes)[col] * half_to_float(weight->scale[scale]);
    case WEIGHT_Q4:
        return (float)q4_code(bytes, col) * half_to_float(weight->scale[scale]);
    case WEIGHT_A4:
        return fmaf(half_to_float(weight->scale[scale]), (float)nibble(bytes, col), half_to_float(weight->bias[scale]));
    case WEIGHT_K8:
        return half_to_float(weight->lut[book * 256 + bytes[col]]);
    case WEIGHT_K4:
        return half_to_float(weight->lut[book * 16 + nibble(bytes, col)]);
    case WEIGHT_NONE:
        break;
    }
    return 0;
}

// Codes of one block after the other, with the block's scale and bias fetched once. A4: scale x code is exact, so
// that a product and a sum round as the fma does.
static void scaled_part(const struct weight *weight, uint32_t row, uint32_t first, uint32_t n, float *out)
{
    const unsigned char *bytes = (const unsigned char *)weight->data + row * weight_row_bytes(weight);
    const size_t scales = (size_t)row * (weight->cols / weight->block);
    for (uint32_t col = first, end; col < first + n; col = end) {
        const uint32_t block = col / weight->block, left = weight->block - col % weight->block;
        const float scale = half_to_float(weight->scale[scales + block]);
        end = left < first + n - col ? col + left : first + n;
        if (weight->format == WEIGHT_Q8)
            for (uint32_t k = col; k < end; k++)
                *out++ = (float)((const int8_t *)bytes)[k] * scale;
        else if (weight->format == WEIGHT_Q4)
            for (uint32_t k = col; k < end; k++)
                *out++ = (float)q4_code(bytes, k) * scale;
        else
            for (uint32_t k = col; k < end; k++)
                *out++ = scale * (float)nibble(bytes, k) + half_to_float(weight->bias[scales + block]);
    }
}

static void book_part(const struct weight *weight, uint32_t row, uint32_t first, uint32_t n, float *out)
{
    const unsigned char *bytes = (const unsigned char *)weight->data + row * weight_row_bytes(weight);
    const size_t book = row / WEIGHT_BOOK_ROWS;
    if (weight->format == WEIGHT_K8)
        for (uint32_t i = 0; i < n; i++)
            out[i] = half_to_float(weight->lut[book * 256 + bytes[first + i]]);
    else
        for (uint32_t i = 0; i < n; i++)
            out[i] = half_to_float(weight->lut[book * 16 + nibble(bytes, first + i)]);
}

void weight_part(const struct weight *weight, uint32_t row, uint32_t first, uint32_t n, float *out)
{
    const unsigned char *bytes = (const unsigned char *)weight->data + row * weight_row_bytes(weight);
    const uint16_t *halves = (const uint16_t *)(const void *)bytes;
    switch (weight->format) {
    case WEIGHT_F32:
        memcpy(out, bytes + first * sizeof *out, n * sizeof *out);
        break;
    case WEIGHT_F16:
        for (uint32_t i = 0; i < n; i++)
            out[i] = half_to_float(halves[first + i]);
        break;
    case WEIGHT_BF16:
        for (uint32_t i = 0; i < n; i++)
            out[i] = bfloat_to_float(halves[first + i]);
        break;
    case WEIGHT_Q8:
    case WEIGHT_Q4:
    case WEIGHT_A4:
        scaled_part(weight, row, first, n, out);
        break;
    case WEIGHT_K8:
    case WEIGHT_K4:
        book_part(weight, row, first, n, out);
        break;
    case WEIGHT_NONE:
        memset(out, 0, n * sizeof *out);
    }
}

void weight_row(const struct weight *weight, uint32_t row, float *out)
{
    weight_part(weight, row, 0, weight->cols, out);
}
