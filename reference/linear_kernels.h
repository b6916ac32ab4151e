// linear_kernels: the fast twins of linear.c's definition, and the little they share. Included by linear*.c only.
#ifndef ASSAY_REFERENCE_LINEAR_KERNELS_H
#define ASSAY_REFERENCE_LINEAR_KERNELS_H

#include <stdbool.h>

#include "reference/linear.h"

// The kernels of a file are one loop around five ways to widen; without this the compiler keeps one copy of the loop
// and calls the widening through a pointer. Speed only.
#if defined(__GNUC__)
#define LINEAR_INLINE static inline __attribute__((always_inline))
#else
#define LINEAR_INLINE static inline
#endif

// A vector that several instructions use is loaded once, not by each of them: tiles are bound by loads. Speed only.
#if defined(__GNUC__) && defined(__x86_64__)
#define LINEAR_KEEP(vector) __asm__("" : "+v"(vector))
#elif defined(__GNUC__) && defined(__aarch64__)
#define LINEAR_KEEP(vector) __asm__("" : "+w"(vector))
#else
#define LINEAR_KEEP(vector) ((void)0)
#endif

// Asks for a line of memory, into the second cache: the nearest one is the inputs'. Speed only; any address.
#if defined(__GNUC__)
#define LINEAR_FETCH(address) __builtin_prefetch((address), 0, 2)
#else
#define LINEAR_FETCH(address) ((void)0)
#endif

// Where lane `lane` stands in a block of struct linear_input's split order.
static inline size_t linear_split_lane(size_t lane)
{
    return lane / 2 + lane % 2 * (LINEAR_LANES / 2);
}

// Elements k ... k + n - 1 of a row, widened; n <= 32, k a multiple of 32, so that they share one scale.
void linear_widen(const struct weight *weight, size_t row, uint32_t k, uint32_t n, float w[LINEAR_LANES]);
// The tree. acc is overwritten.
float linear_sum_of_lanes(float acc[LINEAR_LANES]);
// Does choosing `isa` allow kernels of `kernel`? The x86 sets contain one another.
bool linear_isa_includes(enum isa isa, enum isa kernel);

// Where the rows of a piece lie, from its first input on. Rows that are not there are the last one again.
struct linear_rows {
    const unsigned char *data;
    const uint16_t *scale; // of whole rows; NULL: none
    size_t bytes, scales;  // from row to row
    uint32_t last;
};

struct linear_row {
    const unsigned char *data;
    const uint16_t *scale;
};

static inline struct linear_rows linear_rows_of(const struct linear_piece *piece)
{
    const struct weight *weight = piece->weight;
    const struct weight before = {.format = weight->format, .cols = piece->k};
    struct linear_rows rows = {.bytes = weight_row_bytes(weight), .last = piece->rows - 1};
    rows.data = (const unsigned char *)weight->data + piece->row * rows.bytes + weight_row_bytes(&before);
    if (weight->scale) {
        rows.scales = weight->cols / weight->block;
        rows.scale = weight->scale + piece->row * rows.scales;
    }
    return rows;
}

static inline struct linear_row linear_row_of(const struct linear_rows *rows, uint32_t r)
{
    const size_t at = r < rows->last ? r : rows->last;
    return (struct linear_row){rows->data + at * rows->bytes, rows->scale ? rows->scale + at * rows->scales : NULL};
}

static inline struct linear_row linear_row_at(const struct weight *weight, size_t row)
{
    return (struct linear_row){(const unsigned char *)weight->data + row * weight_row_bytes(weight),
                               weight->scale ? weight->scale + row * (weight->cols / weight->block) : NULL};
}

// The last cols mod 32 elements of a row, widened, then -0: with x = +0 there, fma(-0, +0, acc) leaves every acc as
// it is, -0, Inf and NaN included. Natural or split order.
void linear_tail(const struct weight *weight, size_t row, bool split, float tail[LINEAR_LANES]);

#define LINEAR_KERNEL(name)                                                                                          \
    void name(const struct weight *weight, const struct linear_input *input, size_t first, size_t end, float *y)
#if defined(__x86_64__)
LINEAR_KERNEL(linear_f32_avx2);
LINEAR_KERNEL(linear_f16_avx2);
LINEAR_KERNEL(linear_bf16_avx2);
LINEAR_KERNEL(linear_q8_avx2);
LINEAR_KERNEL(linear_q4_avx2);
LINEAR_KERNEL(linear_f32_avx512);
LINEAR_KERNEL(linear_f16_avx512);
LINEAR_KERNEL(linear_bf16_avx512);
LINEAR_KERNEL(linear_q8_avx512);
LINEAR_KERNEL(linear_q4_avx512);

void linear_multiply_avx2(const struct linear_piece *piece);
void linear_sum_avx2(const float *lanes, size_t step, uint32_t n, float *y);
void linear_multiply_avx512(const struct linear_piece *piece);
void linear_sum_avx512(const float *lanes, size_t step, uint32_t n, float *y);
#elif defined(__aarch64__)
LINEAR_KERNEL(linear_f32_neon);
LINEAR_KERNEL(linear_f16_neon);
LINEAR_KERNEL(linear_bf16_neon);
LINEAR_KERNEL(linear_q8_neon);
LINEAR_KERNEL(linear_q4_neon);

void linear_multiply_neon(const struct linear_piece *piece);
void linear_sum_neon(const float *lanes, size_t step, uint32_t n, float *y);
#endif
#undef LINEAR_KERNEL

#endif
