#include "harness/model/weight.h"

#include <string.h>

#include "harness/base/half.h"

const char *weight_format_name(enum weight_format format)
{
    static const char *const names[] = {"none", "F32", "F16", "BF16", "Q8", "Q4"};
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
        return weight->cols;
    case WEIGHT_Q4:
        return ((uint64_t)weight->cols + 1) / 2;
    case WEIGHT_NONE:
        break;
    }
    return 0;
}

static int q4_code(const unsigned char *row, uint32_t col)
{
    const int nibble = row[col / 2] >> (col % 2 ? 4 : 0) & 0xF;
    return nibble < 8 ? nibble : nibble - 16;
}

float weight_at(const struct weight *weight, uint32_t row, uint32_t col)
{
    const unsigned char *bytes = (const unsigned char *)weight->data + row * weight_row_bytes(weight);
    const uint64_t scale = weight->block ? (uint64_t)row * (weight->cols / weight->block) + col / weight->block : 0;
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
    case WEIGHT_NONE:
        break;
    }
    return 0;
}

void weight_row(const struct weight *weight, uint32_t row, float *out)
{
    const unsigned char *bytes = (const unsigned char *)weight->data + row * weight_row_bytes(weight);
    const uint16_t *halves = (const uint16_t *)(const void *)bytes;
    const uint32_t n = weight->cols;
    switch (weight->format) {
    case WEIGHT_F32:
        memcpy(out, bytes, n * sizeof *out);
        break;
    case WEIGHT_F16:
        for (uint32_t i = 0; i < n; i++)
            out[i] = half_to_float(halves[i]);
        break;
    case WEIGHT_BF16:
        for (uint32_t i = 0; i < n; i++)
            out[i] = bfloat_to_float(halves[i]);
        break;
    case WEIGHT_Q8:
    case WEIGHT_Q4:
    case WEIGHT_NONE:
        for (uint32_t i = 0; i < n; i++)
            out[i] = weight_at(weight, row, i);
        break;
    }
}
