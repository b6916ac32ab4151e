// kernels_avx512_expert: LIN of the experts' formats with the bits of kernels.c, on inputs as kernels_avx512.c arranges
// them: the 16 lanes of a group of 128 inputs in one register, element j of every lane side by side.
//
// Their weights are made as they are read, and have no scale.
#include <assert.h>

#include "runtime/kernels_avx2.h"

enum { GROUP = 128 }; // 16 lanes of 8 inputs

// What the weights of a row are made of, beside its codes.
struct key {
    const uint16_t *scale, *bias; // A4: of the row
    size_t blocks;                // and how many it has: 1, or one for 32 inputs
    __m512i halves[8];            // K8: the codebook
    __m512 book;                  // K4: the same, widened
};

ALWAYS void read_key(const struct weight *weight, enum weight_format format, size_t row, bool new_book,
                     struct key *key)
{
    if (format == WEIGHT_A4) {
        key->blocks = weight->cols / weight->block;
        key->scale = weight->scale + row * key->blocks;
        key->bias = weight->bias + row * key->blocks;
    } else if (format == WEIGHT_K4 && new_book) {
        key->book =
            _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(weight->lut + row / WEIGHT_BOOK_ROWS * 16)));
    } else if (new_book) {
        for (int i = 0; i < 8; i++)
            key->halves[i] = _mm512_loadu_si512(weight->lut + row / WEIGHT_BOOK_ROWS * 256 + 32 * i);
    }
}

// Those of the group of n inputs at k, one a lane; four lanes share one.
ALWAYS __m512 of_lanes(const uint16_t *halves, size_t blocks, uint32_t k, uint32_t n)
{
    if (blocks == 1)
        return _mm512_set1_ps(half_to_float(halves[0]));
    const __m128i four = _mm_maskz_loadu_epi16((__mmask8)((1 << (n + 31) / 32) - 1), halves + k / 32);
    const __m512i shared = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(shared, _mm512_castps128_ps512(_mm_cvtph_ps(four)));
}

// 64 bytes at `bytes` + `at`, of which there are `n` after `bytes`; zeros past them, whose memory is not touched.
ALWAYS __m512i load_bytes(const unsigned char *bytes, size_t at, size_t n)
{
    if (n >= at + 64)
        return _mm512_loadu_si512(bytes + at);
    return _mm512_maskz_loadu_epi8(n > at ? ((uint64_t)1 << (n - at)) - 1 : 0, bytes + at);
}

// The entries of 32 indices, each in 16 bits: six bits choose in a quarter of the book, two the quarter.
ALWAYS __m512i look_up(const __m512i halves[8], __m512i index)
{
    const __mmask32 odd = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64)),
                    upper = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
    __m512i quarter[4];
    for (int i = 0; i < 4; i++)
        quarter[i] = _mm512_permutex2var_epi16(halves[2 * i], index, halves[2 * i + 1]);
    return _mm512_mask_mov_epi16(_mm512_mask_mov_epi16(quarter[0], odd, quarter[1]), upper,
                                 _mm512_mask_mov_epi16(quarter[2], odd, quarter[3]));
}

ALWAYS __m512 low_halves(__m512i words)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
}

// Lane i of w[j] = weight 8 i + j of the n <= 128 whose codes are at `codes`; k is the first one's input.
ALWAYS void make_weights(const struct key *key, enum weight_format format, const unsigned char *codes, uint32_t k,
                         uint32_t n, enum precision dequant, __m512 w[8])
{
    const size_t bytes = format == WEIGHT_K8 ? n : (n + 1) / 2;
    const __m512i first = load_bytes(codes, 0, bytes);
    if (format == WEIGHT_A4) { // a lane's 8 codes are a word, the first one lowest
        const __m512 scale = of_lanes(key->scale, key->blocks, k, n), bias = of_lanes(key->bias, key->blocks, k, n);
        for (unsigned j = 0; j < 8; j++) {
            const __m512i code = _mm512_and_si512(_mm512_srli_epi32(first, 4 * j), _mm512_set1_epi32(15));
            w[j] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(code), bias);
            if (dequant == PRECISION_F16)
                w[j] = _mm512_cvtph_ps(_mm512_cvtps_ph(w[j], _MM_FROUND_TO_NEAREST_INT));
        }
    } else if (format == WEIGHT_K4) { // likewise; the permutation reads four bits
        for (unsigned j = 0; j < 8; j++)
            w[j] = _mm512_permutexvar_ps(_mm512_srli_epi32(first, 4 * j), key->book);
    } else { // a lane's 8 indices are two words
        const __m512i second = load_bytes(codes, 64, bytes);
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        const __m512i low_bytes = _mm512_set1_epi16(255);
        for (unsigned half = 0; half < 2; half++) {
            const __m512i word = _mm512_permutex2var_epi32(first, half ? odd : even, second);
            const __m512i a = look_up(key->halves, _mm512_and_si512(word, low_bytes)); // indices 0 and 2
            const __m512i b = look_up(key->halves, _mm512_srli_epi16(word, 8));        // 1 and 3
            w[4 * half] = low_halves(a);
            w[4 * half + 1] = low_halves(b);
            w[4 * half + 2] = low_halves(_mm512_srli_epi32(a, 16));
            w[4 * half + 3] = low_halves(_mm512_srli_epi32(b, 16));
        }
    }
}

ALWAYS __m512 half_step(__m512 v, enum precision sum)
{
    return sum == PRECISION_F16 ? _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)) : v;
}

// acc = chain + acc in every lane that has any of the group's n inputs; what is not there is skipped.
ALWAYS __m512 add_chains(const __m512 w[8], const float *x, uint32_t n, enum precision sum, __m512 acc)
{
    const __m512i before = _mm512_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120);
    const __m512i in_lane = _mm512_sub_epi32(_mm512_set1_epi32((int)n), before);
    __m512 s = half_step(_mm512_mul_ps(_mm512_loadu_ps(x), w[0]), sum);
    for (int j = 1; j < 8; j++) {
        const __mmask16 has = _mm512_cmpgt_epi32_mask(in_lane, _mm512_set1_epi32(j));
        const __m512 next = half_step(_mm512_fmadd_ps(_mm512_loadu_ps(x + 16 * j), w[j], s), sum);
        s = n == GROUP ? next : _mm512_mask_mov_ps(s, has, next);
    }
    const __m512 next = half_step(_mm512_add_ps(s, acc), sum);
    const __mmask16 any = _mm512_cmpgt_epi32_mask(in_lane, _mm512_setzero_si512());
    return n == GROUP ? next : _mm512_mask_mov_ps(acc, any, next);
}

ALWAYS void linear_rows(const struct weight *weight, enum weight_format format, struct linear_rule rule,
                        const float *x, size_t first, size_t end, float *y)
{
    const uint32_t cols = weight->cols, whole = cols / GROUP * GROUP;
    const size_t inputs = format == WEIGHT_K8 ? 1 : 2; // of a byte
    struct key key = {.blocks = 0};
    assert(format != WEIGHT_A4 || weight->block == 32 || weight->block == cols);
    for (size_t r = first; r < end; r++) {
        const unsigned char *codes = (const unsigned char *)weight->data + r * ((cols + inputs - 1) / inputs);
        __m512 lane[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, w[8];
        read_key(weight, format, r, r == first || r % WEIGHT_BOOK_ROWS == 0, &key);
        for (uint32_t k = 0; k < whole; k += GROUP) {
            make_weights(&key, format, codes + k / inputs, k, GROUP, rule.dequant, w);
            lane[k / GROUP % 2] = add_chains(w, x + k, GROUP, rule.sum, lane[k / GROUP % 2]);
        }
        if (whole < cols) {
            const uint32_t n = cols - whole;
            make_weights(&key, format, codes + whole / inputs, whole, n, rule.dequant, w);
            lane[whole / GROUP % 2] = add_chains(w, x + whole, n, rule.sum, lane[whole / GROUP % 2]);
        }
        const __m256 eight[4] = {_mm512_castps512_ps256(lane[0]), _mm512_extractf32x8_ps(lane[0], 1),
                                 _mm512_castps512_ps256(lane[1]), _mm512_extractf32x8_ps(lane[1], 1)};
        y[r] = tree(eight, rule.sum);
    }
}

void kernels_avx512_linear_expert(const struct weight *weight, const float *x, struct linear_rule rule, size_t first,
                                  size_t end, float *y)
{
    const struct linear_rule standard = {PRECISION_F32, PRECISION_F32};
    const bool is_standard = rule.sum == PRECISION_F32 && rule.dequant == PRECISION_F32;
    switch (weight->format) { // one loop for each format under the default rule, and one under any other
#define ROWS_OF(format)                                                                                              \
    case format:                                                                                                     \
        if (is_standard)                                                                                             \
            linear_rows(weight, format, standard, x, first, end, y);                                                 \
        else                                                                                                         \
            linear_rows(weight, format, rule, x, first, end, y);                                                     \
        break;
        ROWS_OF(WEIGHT_A4)
        ROWS_OF(WEIGHT_K8)
        ROWS_OF(WEIGHT_K4)
#undef ROWS_OF
    default:
        assert(weight->format == WEIGHT_A4);
    }
}
