// AVX-512 (F, BW, VL, DQ): tiles of 3 rows by 8 tokens, 6 by 4 or 6 by 2, 16 lanes at a time: 24 accumulators, or 12.
// Bits as linear_tile.c.
#include <immintrin.h>

#include "reference/linear.h"
#include "reference/linear_kernels.h"
#include "reference/linear_tile.h"

enum { ROWS = 6, TOKENS = 8, WIDTH = 16, PARTS = 2 }; // ROWS, TOKENS: at most

// Lanes of one part of 32 elements of a row, widened. block: the 32 from the row's first; scale: of their codes.
typedef __m512 (*widen_fn)(struct linear_row row, size_t block, size_t part, size_t scale);

LINEAR_INLINE __m512 widen_f32(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return _mm512_loadu_ps(row.data + block * 128 + part * 64);
}

LINEAR_INLINE __m512 widen_f16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(row.data + block * 64 + part * 32)));
}

// A bf16 is the upper half of a float: one shuffle puts it there and zeros below.
LINEAR_INLINE __m512 widen_bf16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    const __m512i low = _mm512_set_epi32(0xF0000, 0xE0000, 0xD0000, 0xC0000, 0xB0000, 0xA0000, 0x90000, 0x80000,
                                         0x70000, 0x60000, 0x50000, 0x40000, 0x30000, 0x20000, 0x10000, 0);
    const __m512i from = part ? _mm512_or_si512(low, _mm512_set1_epi32(0x100000)) : low;
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xAAAAAAAA, from, _mm512_loadu_si512(row.data + block * 64)));
}

LINEAR_INLINE __m512 scaled(__m128i codes, const uint16_t *scale)
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), _mm512_set1_ps(_cvtsh_ss(*scale))); // exact
}

LINEAR_INLINE __m512 widen_q8(struct linear_row row, size_t block, size_t part, size_t scale)
{
    return scaled(_mm_loadu_si128((const __m128i *)(const void *)(row.data + block * 32 + part * 16)),
                  row.scale + scale);
}

// Low nibble first.
LINEAR_INLINE __m512 widen_q4(struct linear_row row, size_t block, size_t part, size_t scale)
{
    const __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(row.data + block * 16 + part * 8));
    const __m128i even = _mm_and_si128(bytes, _mm_set1_epi8(15)), eight = _mm_set1_epi8(8);
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    const __m128i codes = _mm_xor_si128(_mm_unpacklo_epi8(even, odd), eight);
    return scaled(_mm_sub_epi8(codes, eight), row.scale + scale); // sign of bit 3
}

// The accumulators of one part.
LINEAR_INLINE void multiply_tile(widen_fn widen, uint32_t n_rows, uint32_t n_tokens, const struct linear_piece *piece,
                                 const struct linear_rows *rows, uint32_t first, size_t part)
{
    const uint32_t scale_block = piece->weight->block;
    const size_t step = piece->ahead_step * n_rows;
    const unsigned char *ahead = piece->ahead + (part * piece->rows + first) * piece->ahead_step * piece->blocks;
    const float *x = piece->x + part * piece->part;
    float *lanes = piece->lanes + (size_t)first * n_tokens * LINEAR_LANES + part * WIDTH;
    struct linear_row row[ROWS];
    __m512 acc[ROWS][TOKENS], w[ROWS];
    for (uint32_t r = 0; r < n_rows; r++)
        row[r] = linear_row_of(rows, first + r);
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t t = 0; t < n_tokens; t++)
            acc[r][t] =
                piece->first ? _mm512_setzero_ps() : _mm512_load_ps(lanes + (r * n_tokens + t) * LINEAR_LANES);
    for (size_t block = 0; block < piece->blocks; block++, x += n_tokens * WIDTH) {
        const size_t scale = scale_block ? (piece->k + block * LINEAR_LANES) / scale_block : 0;
        for (size_t at = 0; at < step; at += 64)
            if (n_tokens < TOKENS) // little to do meanwhile: the second cache takes more at a time
                _mm_prefetch((const char *)ahead + at, _MM_HINT_T1);
            else
                _mm_prefetch((const char *)ahead + at, _MM_HINT_T0);
        ahead += step;
        for (uint32_t r = 0; r < n_rows; r++)
            w[r] = widen(row[r], block, part, scale);
        for (uint32_t r = 0; r < n_rows; r++)
            LINEAR_KEEP(w[r]);
        for (uint32_t t = 0; t < n_tokens; t++) {
            __m512 b = _mm512_load_ps(x + t * WIDTH);
            LINEAR_KEEP(b);
            for (uint32_t r = 0; r < n_rows; r++)
                acc[r][t] = _mm512_fmadd_ps(w[r], b, acc[r][t]);
        }
    }
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t t = 0; t < n_tokens; t++)
            _mm512_store_ps(lanes + (r * n_tokens + t) * LINEAR_LANES, acc[r][t]);
}

LINEAR_INLINE void multiply_rows(widen_fn widen, uint32_t n_rows, uint32_t n_tokens, const struct linear_piece *piece)
{
    const struct linear_rows rows = linear_rows_of(piece);
    for (size_t part = 0; part < PARTS; part++) // x of one part stays in the nearest cache for all rows
        for (uint32_t first = 0; first < piece->rows; first += n_rows)
            multiply_tile(widen, n_rows, n_tokens, piece, &rows, first, part);
}

LINEAR_INLINE void multiply(widen_fn widen, const struct linear_piece *piece)
{
    if (piece->tokens == 8)
        multiply_rows(widen, 3, 8, piece);
    else if (piece->tokens == 4)
        multiply_rows(widen, 6, 4, piece);
    else
        multiply_rows(widen, 6, 2, piece);
}

void linear_multiply_avx512(const struct linear_piece *piece)
{
    switch (piece->weight->format) {
    case WEIGHT_F32:
        multiply(widen_f32, piece);
        break;
    case WEIGHT_F16:
        multiply(widen_f16, piece);
        break;
    case WEIGHT_BF16:
        multiply(widen_bf16, piece);
        break;
    case WEIGHT_Q8:
        multiply(widen_q8, piece);
        break;
    default:
        multiply(widen_q4, piece);
    }
}

// (l, l+16) of one, then (l, l+8) of two outputs: 8 lanes of each.
LINEAR_INLINE __m512 sum_of_two(const float *lanes, size_t step)
{
    const float *next = lanes + step;
    const __m512 a = _mm512_add_ps(_mm512_load_ps(lanes), _mm512_load_ps(lanes + WIDTH));
    const __m512 b = _mm512_add_ps(_mm512_load_ps(next), _mm512_load_ps(next + WIDTH));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}

void linear_sum_avx512(const float *lanes, size_t step, uint32_t n, float *y)
{
    const __m512i every_fourth = _mm512_set_epi32(12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0);
    for (uint32_t i = 0; i < n; i += 4, lanes += 4 * step) {
        const __m512 two = sum_of_two(lanes, step), other = sum_of_two(lanes + 2 * step, step);
        __m512 sum = _mm512_add_ps(_mm512_shuffle_f32x4(two, other, 0x88), _mm512_shuffle_f32x4(two, other, 0xDD));
        sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0x4E)); // (l, l+2)
        sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0xB1));
        const __mmask8 there = (__mmask8)(n - i < 4 ? (1u << (n - i)) - 1 : 15);
        _mm_mask_storeu_ps(y + i, there, _mm512_castps512_ps128(_mm512_permutexvar_ps(every_fourth, sum)));
    }
}
