// AVX2, FMA, F16C: tiles of 3 rows by 4 tokens, 8 lanes at a time: 12 accumulators. Bits as linear_tile.c.
#include <immintrin.h>
#include <string.h>

#include "reference/linear.h"
#include "reference/linear_kernels.h"
#include "reference/linear_tile.h"

enum { ROWS = 3, TOKENS = 4, WIDTH = 8 };

static __m256 widen_scaled(__m128i codes, const struct weight *weight, size_t row, size_t k)
{
    const __m256 scale =
        _mm256_set1_ps(_cvtsh_ss(weight->scale[row * (weight->cols / weight->block) + k / weight->block]));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), scale); // exact
}

// Eight int4 codes, low nibble first, as bytes.
static __m128i unpack_nibbles(const uint8_t *from)
{
    int word;
    memcpy(&word, from, sizeof word);
    const __m128i bytes = _mm_cvtsi32_si128(word), eight = _mm_set1_epi8(8);
    const __m128i even = _mm_and_si128(bytes, _mm_set1_epi8(15));
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    return _mm_sub_epi8(_mm_xor_si128(_mm_unpacklo_epi8(even, odd), eight), eight); // sign of bit 3
}

// Where lane i of row r belongs.
LINEAR_INLINE float *place(float *w, uint32_t i, uint32_t r, uint32_t blocks)
{
    return w + (((size_t)(i % LINEAR_LANES / WIDTH) * blocks + i / LINEAR_LANES) * ROWS + r) * WIDTH;
}

void linear_widen_avx2(const struct weight *weight, size_t row, uint32_t k, uint32_t n, uint32_t r,
                       uint32_t blocks, float *w)
{
    const unsigned char *data = (const unsigned char *)weight->data + row * weight_row_bytes(weight);
    if (weight->format == WEIGHT_F32) {
        const float *from = (const float *)(const void *)data + k;
        for (uint32_t i = 0; i < n; i += WIDTH)
            _mm256_store_ps(place(w, i, r, blocks), _mm256_loadu_ps(from + i));
    } else if (weight->format == WEIGHT_F16) {
        const uint16_t *from = (const uint16_t *)(const void *)data + k;
        for (uint32_t i = 0; i < n; i += WIDTH) {
            const __m128i bits = _mm_loadu_si128((const __m128i *)(const void *)(from + i));
            _mm256_store_ps(place(w, i, r, blocks), _mm256_cvtph_ps(bits));
        }
    } else if (weight->format == WEIGHT_BF16) {
        const uint16_t *from = (const uint16_t *)(const void *)data + k;
        for (uint32_t i = 0; i < n; i += WIDTH) {
            const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(from + i)));
            _mm256_store_ps(place(w, i, r, blocks), _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
        }
    } else if (weight->format == WEIGHT_Q8) {
        const int8_t *from = (const int8_t *)data + k;
        for (uint32_t i = 0; i < n; i += WIDTH) {
            const __m128i codes = _mm_loadl_epi64((const __m128i *)(const void *)(from + i));
            _mm256_store_ps(place(w, i, r, blocks), widen_scaled(codes, weight, row, k + i));
        }
    } else {
        for (uint32_t i = 0; i < n; i += WIDTH) {
            const __m128i codes = unpack_nibbles(data + (k + i) / 2);
            _mm256_store_ps(place(w, i, r, blocks), widen_scaled(codes, weight, row, k + i));
        }
    }
}

LINEAR_INLINE void multiply_part(const float *w, const float *x, uint32_t blocks, float *lanes,
                                 const unsigned char *ahead, size_t lines)
{
    __m256 acc[ROWS][TOKENS];
    for (int r = 0; r < ROWS; r++)
        for (int t = 0; t < TOKENS; t++)
            acc[r][t] = _mm256_load_ps(lanes + (r * TOKENS + t) * LINEAR_LANES);
    for (uint32_t block = 0; block < blocks; block++, w += ROWS * WIDTH, x += TOKENS * WIDTH) {
        if (block < lines)
            _mm_prefetch((const char *)ahead + (size_t)block * 64, _MM_HINT_T1);
        __m256 b[TOKENS];
        for (int t = 0; t < TOKENS; t++)
            b[t] = _mm256_load_ps(x + t * WIDTH);
        for (int r = 0; r < ROWS; r++) {
            const __m256 a = _mm256_load_ps(w + r * WIDTH);
            for (int t = 0; t < TOKENS; t++)
                acc[r][t] = _mm256_fmadd_ps(a, b[t], acc[r][t]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int t = 0; t < TOKENS; t++)
            _mm256_store_ps(lanes + (r * TOKENS + t) * LINEAR_LANES, acc[r][t]);
}

void linear_multiply_avx2(const float *w, const float *x, uint32_t blocks, float *lanes,
                          const struct linear_ahead *ahead)
{
    for (size_t part = 0; part < LINEAR_LANES / WIDTH; part++) {
        const size_t asked = part * blocks;
        const size_t lines = ahead->lines > asked ? ahead->lines - asked : 0;
        multiply_part(w + asked * ROWS * WIDTH, x + asked * TOKENS * WIDTH, blocks, lanes + part * WIDTH,
                      ahead->from + asked * 64, lines);
    }
}

void linear_sum_avx2(const float *lanes, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++, lanes += LINEAR_LANES) {
        const __m256 first = _mm256_add_ps(_mm256_load_ps(lanes), _mm256_load_ps(lanes + 2 * WIDTH)); // (l, l+16)
        const __m256 second = _mm256_add_ps(_mm256_load_ps(lanes + WIDTH), _mm256_load_ps(lanes + 3 * WIDTH));
        const __m256 eight = _mm256_add_ps(first, second); // (l, l+8)
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        y[i] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
}
