#include "tests/kernels/matrix.h"

#include <math.h>

#include "harness/base/half.h"

static bool is_quantized(enum weight_format format)
{
    return format == WEIGHT_Q8 || format == WEIGHT_Q4 || format == WEIGHT_A4;
}

static bool has_book(enum weight_format format)
{
    return format == WEIGHT_K8 || format == WEIGHT_K4;
}

void matrix_put(struct matrix *matrix, size_t row, uint32_t k, float value, struct check *check)
{
    const size_t at = row * matrix->weight.cols + k;
    switch (matrix->weight.format) {
    case WEIGHT_F32:
        ((float *)matrix->data)[at] = value;
        break;
    case WEIGHT_F16:
        ((uint16_t *)matrix->data)[at] = half_from_float(value);
        break;
    case WEIGHT_BF16:
        ((uint16_t *)matrix->data)[at] = (uint16_t)(float_to_bits(value) >> 16);
        break;
    default: { // any code is a good code
        const bool bytes = matrix->weight.format == WEIGHT_Q8 || matrix->weight.format == WEIGHT_K8;
        ((uint8_t *)matrix->data)[row * weight_row_bytes(&matrix->weight) + (bytes ? k : k / 2)] =
            (uint8_t)check_random(check);
    }
    }
}

static float scale_value(struct check *check, enum regime regime)
{
    const float ordinary = 0.01f * check_unit(check);
    const float infinity = check_random(check) & 1 ? INFINITY : -INFINITY;
    switch (regime) {
    case REGIME_SUBNORMAL:
    case REGIME_UNDERFLOW:
        return 0x1p-24f;
    case REGIME_INFINITE:
        return check_random(check) % 5 ? ordinary : infinity;
    case REGIME_NAN:
        return check_random(check) % 5 ? ordinary : NAN;
    default:
        return ordinary;
    }
}

// n halves of about a weight.
static uint16_t *make_halves(struct check *check, enum regime regime, unsigned fence, size_t n)
{
    uint16_t *made = check_fenced(fence, n * sizeof *made);
    for (size_t i = 0; i < n; i++) {
        float w, x;
        check_pair(check, regime, true, &w, &x);
        made[i] = half_from_float(w);
    }
    return made;
}

static void make_scales(struct check *check, struct matrix *made, uint32_t rows, uint32_t block, enum regime regime)
{
    const size_t scales = rows * (size_t)(made->weight.cols / block);
    made->scale = check_fenced(FENCE_SCALE, scales * sizeof *made->scale);
    for (size_t i = 0; i < scales; i++)
        made->scale[i] = half_from_float(scale_value(check, regime));
    if (made->weight.format == WEIGHT_A4)
        made->bias = make_halves(check, regime, FENCE_BIAS, scales);
    made->weight.scale = made->scale;
    made->weight.bias = made->bias;
    made->weight.block = block;
}

struct matrix matrix_make(struct check *check, const struct matrix_shape *shape, enum regime regime)
{
    const enum weight_format format = shape->format;
    const uint32_t k = shape->k;
    struct matrix made = {.weight = {.name = "w", .format = format, .rows = shape->rows, .cols = k}};
    if (has_book(format)) {
        made.row = MATRIX_BEFORE;
        made.weight.rows += MATRIX_BEFORE;
        made.lut = make_halves(check, regime, FENCE_SCALE, 2 * (size_t)(format == WEIGHT_K8 ? 256 : 16));
        made.weight.lut = made.lut;
    }
    made.data = check_fenced(FENCE_DATA, made.weight.rows * (size_t)weight_row_bytes(&made.weight));
    made.weight.data = made.data;
    made.x = check_fenced(FENCE_X, (size_t)shape->tokens * k * sizeof *made.x);
    if (is_quantized(format))
        make_scales(check, &made, shape->rows, shape->block, regime);
    for (uint32_t i = 0; i < k; i++) {
        float w;
        for (size_t row = made.row; row < made.row + shape->rows; row++) {
            check_pair(check, regime, shape->halves, &w, &made.x[i]);
            if (shape->halves && format == WEIGHT_F32)
                w *= 1 + 0x1p-20f; // bits that no half has
            matrix_put(&made, row, i, w, check);
        }
        for (uint32_t t = 1; t < shape->tokens; t++)
            check_pair(check, regime, shape->halves, &w, &made.x[(size_t)t * k + i]);
    }
    return made;
}

bool matrix_next_block(enum weight_format format, uint32_t k, uint32_t *block)
{
    if (*block == k || (*block && !is_quantized(format)))
        return false;
    *block = *block || k % 32 || !is_quantized(format) ? k : 32;
    return true;
}
