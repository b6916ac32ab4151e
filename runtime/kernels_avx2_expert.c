// kernels_avx2_expert: LIN of the experts' formats with the bits of kernels.c, on inputs as kernels_avx2_linear.c
// arranges them: the 8 lanes of a group of 64 inputs in one register, element j of every lane side by side.
//
// Their weights are made as they are read, and have no scale.
#include <assert.h>
#include <stdalign.h>
#include <string.h>

#include "runtime/kernels_avx2.h"

enum { GROUP = 64, BOOK = 256 }; // 8 lanes of 8 inputs; entries of the largest codebook

// What the weights of a row are made of, beside its codes.
struct key {
    const uint16_t *scale, *bias; // A4: of the row
    size_t blocks;                // and how many it has: 1, or one for 32 inputs
    alignas(32) float book[BOOK]; // K8, K4: widened
};

ALWAYS void read_key(const struct weight *weight, enum weight_format format, size_t row, bool new_book,
                     struct key *key)
{
    if (format == WEIGHT_A4) {
        key->blocks = weight->cols / weight->block;
        key->scale = weight->scale + row * key->blocks;
        key->bias = weight->bias + row * key->blocks;
    } else if (new_book) {
        const size_t entries = format == WEIGHT_K8 ? 256 : 16;
        const uint16_t *book = weight->lut + row / WEIGHT_BOOK_ROWS * entries;
        for (size_t i = 0; i < entries; i += 8)
            _mm256_store_ps(key->book + i, load_halves(book + i));
    }
}

// Those of the group at input k, one a lane; four lanes share one.
ALWAYS __m256 of_lanes(const uint16_t *halves, size_t blocks, uint32_t k)
{
    const size_t at = blocks > 1 ? k / 32 : 0;
    uint32_t two = halves[at];
    two |= (uint32_t)halves[at + 1 < blocks ? at + 1 : at] << 16;
    return _mm256_permutevar8x32_ps(_mm256_cvtph_ps(_mm_cvtsi32_si128((int)two)),
                                    _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

// Lane i of w[j] = weight 8 i + j of the 64 whose codes are at `codes`; k is the first one's input.
ALWAYS void make_weights(const struct key *key, enum weight_format format, const unsigned char *codes, uint32_t k,
                         enum precision dequant, __m256 w[8])
{
    const __m256i first = _mm256_loadu_si256((const void *)codes);
    if (format == WEIGHT_A4) { // a lane's 8 codes are a word, the first one lowest
        const __m256 scale = of_lanes(key->scale, key->blocks, k), bias = of_lanes(key->bias, key->blocks, k);
        for (int j = 0; j < 8; j++) {
            const __m256i code = _mm256_and_si256(_mm256_srli_epi32(first, 4 * j), _mm256_set1_epi32(15));
            w[j] = sum_step(_mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(code), bias), dequant);
        }
    } else if (format == WEIGHT_K4) { // likewise; three bits choose in either half of the book, the fourth the half
        const __m256 low = _mm256_load_ps(key->book), high = _mm256_load_ps(key->book + 8);
        for (int j = 0; j < 8; j++) {
            const __m256i index = _mm256_srli_epi32(first, 4 * j), top = _mm256_slli_epi32(first, 28 - 4 * j);
            w[j] = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index),
                                    _mm256_castsi256_ps(top));
        }
    } else { // a lane's 8 indices are two words
        const __m256i second = _mm256_loadu_si256((const void *)(codes + 32));
        const __m256i a = _mm256_permute2x128_si256(first, second, 0x20); // lanes 0 1 | 4 5
        const __m256i b = _mm256_permute2x128_si256(first, second, 0x31); // lanes 2 3 | 6 7
        const __m256 low = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88);
        const __m256 high = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xDD);
        for (int j = 0; j < 8; j++) {
            const __m256i word = _mm256_castps_si256(j < 4 ? low : high);
            const __m256i index = _mm256_and_si256(_mm256_srli_epi32(word, 8 * (j % 4)), _mm256_set1_epi32(255));
            w[j] = _mm256_i32gather_ps(key->book, index, sizeof *key->book);
        }
    }
}

// acc = chain + acc in every lane that has any of the group's n inputs; what is not there is skipped.
ALWAYS __m256 add_chains(const __m256 w[8], const float *x, uint32_t n, enum precision sum, __m256 acc)
{
    const __m256i in_lane =
        _mm256_sub_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56));
    __m256 s = sum_step(_mm256_mul_ps(_mm256_loadu_ps(x), w[0]), sum);
    for (int j = 1; j < 8; j++) {
        const __m256i has = _mm256_cmpgt_epi32(in_lane, _mm256_set1_epi32(j));
        const __m256 next = sum_step(_mm256_fmadd_ps(_mm256_loadu_ps(x + 8 * j), w[j], s), sum);
        s = n == GROUP ? next : _mm256_blendv_ps(s, next, _mm256_castsi256_ps(has));
    }
    const __m256 next = sum_step(_mm256_add_ps(s, acc), sum);
    const __m256i any = _mm256_cmpgt_epi32(in_lane, _mm256_setzero_si256());
    return n == GROUP ? next : _mm256_blendv_ps(acc, next, _mm256_castsi256_ps(any));
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
        __m256 lane[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()}, w[8];
        read_key(weight, format, r, r == first || r % WEIGHT_BOOK_ROWS == 0, &key);
        for (uint32_t k = 0; k < whole; k += GROUP) {
            make_weights(&key, format, codes + k / inputs, k, rule.dequant, w);
            lane[k / GROUP % 4] = add_chains(w, x + k, GROUP, rule.sum, lane[k / GROUP % 4]);
        }
        if (whole < cols) {
            unsigned char rest[GROUP] = {0};
            memcpy(rest, codes + whole / inputs, (cols - whole + inputs - 1) / inputs);
            make_weights(&key, format, rest, whole, rule.dequant, w);
            lane[whole / GROUP % 4] = add_chains(w, x + whole, cols - whole, rule.sum, lane[whole / GROUP % 4]);
        }
        y[r] = tree(lane, rule.sum);
    }
}

// As in kernels_avx2_linear.c: the default rule's constants in one copy of the loop.
#define LINEAR_OF(name, format)                                                                                      \
    void name(const struct weight *weight, struct linear_rule rule, const float *x, size_t first, size_t end,        \
              float *y)                                                                                              \
    {                                                                                                                \
        if (rule.sum == PRECISION_F32 && rule.dequant == PRECISION_F32)                                              \
            linear_rows(weight, format, (struct linear_rule){PRECISION_F32, PRECISION_F32}, x, first, end, y);       \
        else                                                                                                         \
            linear_rows(weight, format, rule, x, first, end, y);                                                     \
    }
LINEAR_OF(kernels_avx2_linear_a4, WEIGHT_A4)
LINEAR_OF(kernels_avx2_linear_k8, WEIGHT_K8)
LINEAR_OF(kernels_avx2_linear_k4, WEIGHT_K4)
