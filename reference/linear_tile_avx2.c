// AVX2, FMA, F16C: tiles of 3 rows by 4 tokens or 6 by 2, 8 lanes at a time: 12 accumulators. Bits as linear_tile.c.
#include <immintrin.h>
#include <string.h>

#include "reference/linear.h"
#include "reference/linear_kernels.h"
#include "reference/linear_tile.h"

enum { ROWS = 6, TOKENS = 4, WIDTH = 8, PARTS = 4 }; // ROWS, TOKENS: at most

// Lanes of one part of 32 elements of a row, widened. block: the 32 from the row's first; scale: of their codes.
typedef __m256 (*widen_fn)(struct linear_row row, size_t block, size_t part, size_t scale);

LINEAR_INLINE __m256 widen_f32(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return _mm256_loadu_ps((const float *)(const void *)(row.data + block * 128 + part * 32));
}

LINEAR_INLINE __m256 widen_f16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(row.data + block * 64 + part * 16)));
}

// A bf16 is the upper half of a float: one shuffle puts it there and zeros below.
LINEAR_INLINE __m256 widen_bf16(struct linear_row row, size_t block, size_t part, size_t scale)
{
    (void)scale;
    const __m256i from = _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7, -1, -1, 8, 9, -1,
                                          -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
    const __m128i eight = _mm_loadu_si128((const __m128i *)(const void *)(row.data + block * 64 + part * 16));
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(eight), from));
}

LINEAR_INLINE __m256 scaled(__m128i codes, const uint16_t *scale)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), _mm256_set1_ps(_cvtsh_ss(*scale))); // exact
}

LINEAR_INLINE __m256 widen_q8(struct linear_row row, size_t block, size_t part, size_t scale)
{
    return scaled(_mm_loadl_epi64((const __m128i *)(const void *)(row.data + block * 32 + part * 8)),
                  row.scale + scale);
}

// Low nibble first.
LINEAR_INLINE __m256 widen_q4(struct linear_row row, size_t block, size_t part, size_t scale)
{
    int word;
    memcpy(&word, row.data + block * 16 + part * 4, sizeof word);
    const __m128i bytes = _mm_cvtsi32_si128(word), eight = _mm_set1_epi8(8);
    const __m128i even = _mm_and_si128(bytes, _mm_set1_epi8(15));
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
    __m256 acc[ROWS][TOKENS], b[TOKENS];
    for (uint32_t r = 0; r < n_rows; r++)
        row[r] = linear_row_of(rows, first + r);
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t t = 0; t < n_tokens; t++)
            acc[r][t] =
                piece->first ? _mm256_setzero_ps() : _mm256_load_ps(lanes + (r * n_tokens + t) * LINEAR_LANES);
    for (size_t block = 0; block < piece->blocks; block++, x += n_tokens * WIDTH) {
        const size_t scale = scale_block ? (piece->k + block * LINEAR_LANES) / scale_block : 0;
        for (size_t at = 0; at < step; at += 64)
            if (n_tokens < TOKENS) // little to do meanwhile: the second cache takes more at a time
                _mm_prefetch((const char *)ahead + at, _MM_HINT_T1);
            else
                _mm_prefetch((const char *)ahead + at, _MM_HINT_T0);
        ahead += step;
        for (uint32_t t = 0; t < n_tokens; t++) {
            b[t] = _mm256_load_ps(x + t * WIDTH);
            LINEAR_KEEP(b[t]);
        }
        for (uint32_t r = 0; r < n_rows; r++) {
            const __m256 a = widen(row[r], block, part, scale);
            for (uint32_t t = 0; t < n_tokens; t++)
                acc[r][t] = _mm256_fmadd_ps(a, b[t], acc[r][t]);
        }
    }
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t t = 0; t < n_tokens; t++)
            _mm256_store_ps(lanes + (r * n_tokens + t) * LINEAR_LANES, acc[r][t]);
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
    if (piece->tokens == 4)
        multiply_rows(widen, 3, 4, piece);
    else
        multiply_rows(widen, 6, 2, piece);
}

void linear_multiply_avx2(const struct linear_piece *piece)
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

void linear_sum_avx2(const float *lanes, size_t step, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++, lanes += step) {
        const __m256 first = _mm256_add_ps(_mm256_load_ps(lanes), _mm256_load_ps(lanes + 2 * WIDTH)); // (l, l+16)
        const __m256 second = _mm256_add_ps(_mm256_load_ps(lanes + WIDTH), _mm256_load_ps(lanes + 3 * WIDTH));
        const __m256 eight = _mm256_add_ps(first, second); // (l, l+8)
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        y[i] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
}
