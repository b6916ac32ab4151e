// AVX-512 (F, BW, VL, DQ): 32 lanes are two registers of sixteen. Bits as linear.c.
#include <immintrin.h>

#include "reference/linear_kernels.h"

// Memory delivers the most to several streams at once: ROWS rows far apart, each a long way through the matrix, of
// which AHEAD bytes are asked into the second cache before they are read. x, once fetched, serves all of them.
enum { REGISTERS = 2, ROWS = 8, AHEAD = 2048, LINE = 64 };

// Elements of a block of 32 of a row, widened, in the order of the kernel's x. scale: of their codes.
typedef void (*widen_fn)(struct linear_row row, size_t block, size_t scale, __m512 w[REGISTERS]);

LINEAR_INLINE void widen_f32(struct linear_row row, size_t block, size_t scale, __m512 w[REGISTERS])
{
    (void)scale;
    w[0] = _mm512_loadu_ps(row.data + 128 * block);
    w[1] = _mm512_loadu_ps(row.data + 128 * block + 64);
}

LINEAR_INLINE void widen_f16(struct linear_row row, size_t block, size_t scale, __m512 w[REGISTERS])
{
    (void)scale;
    w[0] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(row.data + 64 * block)));
    w[1] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(row.data + 64 * block + 32)));
}

// Split order: a bf16 is the upper half of a float, so even elements move up and odd ones stand already in place.
LINEAR_INLINE void widen_bf16(struct linear_row row, size_t block, size_t scale, __m512 w[REGISTERS])
{
    (void)scale;
    const __m512i pairs = _mm512_loadu_si512(row.data + 64 * block);
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    w[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)));
}

LINEAR_INLINE void widen_q8(struct linear_row row, size_t block, size_t scale, __m512 w[REGISTERS])
{
    const __m512 factor = _mm512_set1_ps(_cvtsh_ss(row.scale[scale]));
    for (size_t i = 0; i < REGISTERS; i++) {
        const __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)(row.data + 32 * block + 16 * i));
        w[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), factor); // exact
    }
}

// Split order: the low nibble of each byte is the even element.
LINEAR_INLINE void widen_q4(struct linear_row row, size_t block, size_t scale, __m512 w[REGISTERS])
{
    const __m512 factor = _mm512_set1_ps(_cvtsh_ss(row.scale[scale]));
    const __m512i bytes =
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(row.data + 16 * block)));
    const __m512i even = _mm512_srai_epi32(_mm512_slli_epi32(bytes, 28), 28);
    const __m512i odd = _mm512_srai_epi32(_mm512_slli_epi32(bytes, 24), 28);
    w[0] = _mm512_mul_ps(_mm512_cvtepi32_ps(even), factor);
    w[1] = _mm512_mul_ps(_mm512_cvtepi32_ps(odd), factor);
}

// (l, l+4), (l, l+2), (l, l+1): `low` holds lanes 0-3, `high` lanes 4-7.
LINEAR_INLINE float sum_of_eight(__m128 low, __m128 high)
{
    const __m128 four = _mm_add_ps(low, high);
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

LINEAR_INLINE __m256 sum_of_halves(__m512 sixteen)
{
    return _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps(sixteen, 1));
}

LINEAR_INLINE float sum_natural(const __m512 acc[REGISTERS])
{
    const __m256 eight = sum_of_halves(_mm512_add_ps(acc[0], acc[1])); // (l, l+16), (l, l+8)
    return sum_of_eight(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

LINEAR_INLINE float sum_split(const __m512 acc[REGISTERS])
{
    const __m256 even = sum_of_halves(acc[0]); // (l, l+16)
    const __m256 odd = sum_of_halves(acc[1]);
    const __m128 even4 = _mm_add_ps(_mm256_castps256_ps128(even), _mm256_extractf128_ps(even, 1)); // (l, l+8)
    const __m128 odd4 = _mm_add_ps(_mm256_castps256_ps128(odd), _mm256_extractf128_ps(odd, 1));
    return sum_of_eight(_mm_unpacklo_ps(even4, odd4), _mm_unpackhi_ps(even4, odd4));
}

LINEAR_INLINE void accumulate(__m512 acc[REGISTERS], const __m512 w[REGISTERS], const float *x)
{
    acc[0] = _mm512_fmadd_ps(w[0], _mm512_loadu_ps(x), acc[0]);
    acc[1] = _mm512_fmadd_ps(w[1], _mm512_loadu_ps(x + 16), acc[1]);
}

// The whole blocks, of `bytes` bytes each, of `n` rows.
LINEAR_INLINE void add_rows(widen_fn widen, size_t bytes, const struct weight *weight, const struct linear_row *row,
                            size_t n, const float *x, __m512 acc[ROWS][REGISTERS])
{
    const size_t blocks = weight->cols / LINEAR_LANES, scale_block = weight->block;
    for (size_t r = 0; r < n; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    for (size_t block = 0; block < blocks; block++) {
        const size_t scale = scale_block ? block * LINEAR_LANES / scale_block : 0;
        for (size_t r = 0; r < n; r++) {
            __m512 w[REGISTERS];
            for (size_t at = 0; at < bytes; at += LINE)
                _mm_prefetch((const char *)row[r].data + bytes * block + at + AHEAD, _MM_HINT_T1);
            widen(row[r], block, scale, w);
            accumulate(acc[r], w, x + block * LINEAR_LANES);
        }
    }
}

LINEAR_INLINE float finish(bool split, const struct weight *weight, const struct linear_input *input, size_t row,
                           __m512 acc[REGISTERS])
{
    const size_t whole = weight->cols - weight->cols % LINEAR_LANES;
    if (whole < weight->cols) {
        float tail[LINEAR_LANES];
        linear_tail(weight, row, split, tail);
        const __m512 w[REGISTERS] = {_mm512_loadu_ps(tail), _mm512_loadu_ps(tail + 16)};
        accumulate(acc, w, split ? input->split + whole : input->tail);
    }
    return split ? sum_split(acc) : sum_natural(acc);
}

LINEAR_INLINE void run(widen_fn widen, size_t bytes, bool split, const struct weight *weight,
                       const struct linear_input *input, size_t first, size_t end, float *y)
{
    const float *x = split ? input->split : input->x;
    const size_t each = (end - first) / ROWS; // rows of a stream
    struct linear_row rows[ROWS];
    __m512 acc[ROWS][REGISTERS];
    for (size_t row = first; row < first + each; row++) {
        for (size_t r = 0; r < ROWS; r++)
            rows[r] = linear_row_at(weight, row + r * each);
        add_rows(widen, bytes, weight, rows, ROWS, x, acc);
        for (size_t r = 0; r < ROWS; r++)
            y[row + r * each] = finish(split, weight, input, row + r * each, acc[r]);
    }
    for (size_t row = first + ROWS * each; row < end; row++) {
        rows[0] = linear_row_at(weight, row);
        add_rows(widen, bytes, weight, rows, 1, x, acc);
        y[row] = finish(split, weight, input, row, acc[0]);
    }
}

void linear_f32_avx512(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                       float *y)
{
    run(widen_f32, 128, false, weight, input, first, end, y);
}

void linear_f16_avx512(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                       float *y)
{
    run(widen_f16, 64, false, weight, input, first, end, y);
}

void linear_bf16_avx512(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                        float *y)
{
    run(widen_bf16, 64, true, weight, input, first, end, y);
}

void linear_q8_avx512(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                      float *y)
{
    run(widen_q8, 32, false, weight, input, first, end, y);
}

void linear_q4_avx512(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                      float *y)
{
    run(widen_q4, 16, true, weight, input, first, end, y);
}
