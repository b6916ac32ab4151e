// kernels_avx512: LIN with the bits of kernels.c, in AVX-512 F, BW, VL and DQ. The other operators are AVX2's: a
// model spends its time in LIN.
//
// The 16 lanes of a group of 128 inputs lie in one register. Its inputs are kept transposed, element j of every lane
// side by side, and a row's 128 weights are transposed as they are read.
#include <assert.h>
#include <string.h>

#include "runtime/kernels_avx2.h"

enum { GROUP = 128 }; // 16 lanes of 8 inputs

static void arrange(const float *x, uint32_t n, float *arranged)
{
    memset(arranged, 0, kernels_arranged(n) * sizeof *arranged);
    for (uint32_t k = 0; k < n; k++)
        arranged[k / GROUP * GROUP + k % 8 * 16 + k % GROUP / 8] = x[k];
}

// quarter[i] holds, word by word, four words of the lanes 4 i .. 4 i + 3 -> word[p] holds word p of the lanes 0
// .. 15.
ALWAYS void transpose_quarters(const __m512 quarter[4], __m512 word[4])
{
    const __m512 a = _mm512_shuffle_f32x4(quarter[0], quarter[1], 0x44); // words 0 1 of lanes 0-3, then of 4-7
    const __m512 b = _mm512_shuffle_f32x4(quarter[2], quarter[3], 0x44);
    const __m512 c = _mm512_shuffle_f32x4(quarter[0], quarter[1], 0xEE);
    const __m512 d = _mm512_shuffle_f32x4(quarter[2], quarter[3], 0xEE);
    word[0] = _mm512_shuffle_f32x4(a, b, 0x88);
    word[1] = _mm512_shuffle_f32x4(a, b, 0xDD);
    word[2] = _mm512_shuffle_f32x4(c, d, 0x88);
    word[3] = _mm512_shuffle_f32x4(c, d, 0xDD);
}

// As kernels_avx2_linear.c: codes come out times 2^24 (int8) or 2^28 (int4), and the scale takes it back.
ALWAYS float code_unit(enum weight_format format)
{
    return format == WEIGHT_Q8 ? 0x1p-24f : format == WEIGHT_Q4 ? 0x1p-28f : 1;
}

ALWAYS void load_f32(const unsigned char *bytes, __m512 w[8])
{
    // Two registers hold two lanes of eight words each; from four lanes, words 0 .. 3 and words 4 .. 7.
    const __m512i first = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
    __m512 low[4], high[4];
    for (int i = 0; i < 4; i++) {
        const __m512 a = _mm512_loadu_ps(bytes + 128 * i), b = _mm512_loadu_ps(bytes + 128 * i + 64);
        low[i] = _mm512_permutex2var_ps(a, first, b);
        high[i] = _mm512_permutex2var_ps(a, second, b);
    }
    transpose_quarters(low, w);
    transpose_quarters(high, w + 4);
}

ALWAYS void load_halves(const unsigned char *bytes, enum weight_format format, __m512 w[8])
{
    const __m512i by_word = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512 quarter[4], word[4]; // a word holds elements 2 j and 2 j + 1
    for (int i = 0; i < 4; i++)
        quarter[i] = _mm512_permutexvar_ps(by_word, _mm512_loadu_ps(bytes + 64 * i));
    transpose_quarters(quarter, word);
    for (int j = 0; j < 4; j++) {
        const __m512i both = _mm512_castps_si512(word[j]);
        if (format == WEIGHT_F16) {
            w[2 * j] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
            w[2 * j + 1] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
        } else {
            w[2 * j] = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
            w[2 * j + 1] = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xFFFF0000)));
        }
    }
}

// Lane i of w[j] = weight 8 i + j of the 128 at `bytes`, in units of code_unit.
ALWAYS void load_weights(const unsigned char *bytes, enum weight_format format, __m512 w[8])
{
    if (format == WEIGHT_F32) {
        load_f32(bytes, w);
    } else if (format == WEIGHT_F16 || format == WEIGHT_BF16) {
        load_halves(bytes, format, w);
    } else if (format == WEIGHT_Q8) {
        const __m512i a = _mm512_loadu_si512(bytes), b = _mm512_loadu_si512(bytes + 64); // lanes 0-7, 8-15
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        const __m512i low = _mm512_permutex2var_epi32(a, even, b); // codes 0 .. 3 of every lane
        const __m512i high = _mm512_permutex2var_epi32(a, odd, b);
        const __m512i top = _mm512_set1_epi32((int)0xFF000000);
        for (unsigned j = 0; j < 4; j++) { // byte j of each word to its top, zeros below
            w[j] = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_slli_epi32(low, 24 - 8 * j), top));
            w[j + 4] = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_slli_epi32(high, 24 - 8 * j), top));
        }
    } else { // a lane's 8 codes are a word, the first one lowest
        const __m512i codes = _mm512_loadu_si512(bytes), nibble = _mm512_set1_epi32((int)0xF0000000);
        for (unsigned j = 0; j < 8; j++)
            w[j] = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_slli_epi32(codes, 28 - 4 * j), nibble));
    }
}

// The scales of a group, one a lane, times `unit`; four lanes share one. n: how many the row has here, at most 4.
ALWAYS __m512 load_scales(const uint16_t *scale, size_t n, float unit)
{
    uint64_t four = 0;
    if (n >= 4)
        memcpy(&four, scale, sizeof four);
    else
        memcpy(&four, scale, n * sizeof *scale);
    const __m128 widened = _mm_mul_ps(_mm_cvtph_ps(_mm_cvtsi64_si128((long long)four)), _mm_set1_ps(unit));
    const __m512i shared = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(shared, _mm512_castps128_ps512(widened));
}

ALWAYS __m512 half_step(__m512 v, enum precision sum)
{
    return sum == PRECISION_F16 ? _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)) : v;
}

// One group: acc = fma(scale, chain, acc) in every lane.
ALWAYS __m512 group(const __m512 w[8], const float *x, __m512 scale, enum precision sum, __m512 acc)
{
    __m512 s = half_step(_mm512_mul_ps(_mm512_loadu_ps(x), w[0]), sum);
    for (int j = 1; j < 8; j++)
        s = half_step(_mm512_fmadd_ps(_mm512_loadu_ps(x + 16 * j), w[j], s), sum);
    return half_step(_mm512_fmadd_ps(scale, s, acc), sum);
}

// The last group of a row, which has n < 128 inputs: what is not there is skipped.
ALWAYS __m512 group_tail(const __m512 w[8], const float *x, __m512 scale, enum precision sum, __m512 acc, uint32_t n)
{
    const __m512i before = _mm512_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120);
    const __m512i in_lane = _mm512_sub_epi32(_mm512_set1_epi32((int)n), before);
    __m512 s = half_step(_mm512_mul_ps(_mm512_loadu_ps(x), w[0]), sum);
    for (int j = 1; j < 8; j++) {
        const __m512 next = half_step(_mm512_fmadd_ps(_mm512_loadu_ps(x + 16 * j), w[j], s), sum);
        s = _mm512_mask_mov_ps(s, _mm512_cmpgt_epi32_mask(in_lane, _mm512_set1_epi32(j)), next);
    }
    const __m512 next = half_step(_mm512_fmadd_ps(scale, s, acc), sum);
    return _mm512_mask_mov_ps(acc, _mm512_cmpgt_epi32_mask(in_lane, _mm512_setzero_si512()), next);
}

// w and *scale as the rule wants them: weights rounded after dequantization, or true codes where sums round to half.
ALWAYS void apply_rule(struct linear_rule rule, enum weight_format format, __m512 w[8], __m512 *scale)
{
    if (format != WEIGHT_Q8 && format != WEIGHT_Q4)
        return;
    if (rule.dequant == PRECISION_F16) {
        for (int j = 0; j < 8; j++)
            w[j] = half_step(_mm512_mul_ps(w[j], *scale), PRECISION_F16);
        *scale = _mm512_set1_ps(1);
    } else if (rule.sum == PRECISION_F16) {
        const __m512 unit = _mm512_set1_ps(code_unit(format)), inverse = _mm512_set1_ps(1 / code_unit(format));
        for (int j = 0; j < 8; j++)
            w[j] = _mm512_mul_ps(w[j], unit);
        *scale = _mm512_mul_ps(*scale, inverse);
    }
}

ALWAYS size_t bytes_of(enum weight_format format, size_t n)
{
    return format == WEIGHT_F32 ? 4 * n : format == WEIGHT_Q8 ? n : format == WEIGHT_Q4 ? (n + 1) / 2 : 2 * n;
}

ALWAYS float sum_of_lanes(const __m512 lane[2], enum precision sum)
{
    const __m256 eight[4] = {_mm512_castps512_ps256(lane[0]), _mm512_extractf32x8_ps(lane[0], 1),
                             _mm512_castps512_ps256(lane[1]), _mm512_extractf32x8_ps(lane[1], 1)};
    return tree(eight, sum);
}

ALWAYS void linear_rows(const struct weight *weight, enum weight_format format, struct linear_rule rule,
                        const float *x, size_t first, size_t end, float *y)
{
    const bool quantized = format == WEIGHT_Q8 || format == WEIGHT_Q4;
    const uint32_t cols = weight->cols;
    const bool per_row = quantized && weight->block == cols;
    const size_t row_scales = quantized ? cols / weight->block : 0;
    const float unit = code_unit(format);
    assert(!quantized || per_row || weight->block == 32);
    for (size_t r = first; r < end; r++) {
        const unsigned char *row = (const unsigned char *)weight->data + r * bytes_of(format, cols);
        const uint16_t *scales = quantized ? weight->scale + r * row_scales : NULL;
        const __m512 row_scale = _mm512_set1_ps(per_row ? half_to_float(scales[0]) * unit : 1);
        __m512 lane[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, w[8];
        uint32_t k = 0;
        for (; k + GROUP <= cols; k += GROUP) {
            __m512 scale = quantized && !per_row ? load_scales(scales + k / 32, 4, unit) : row_scale;
            load_weights(row + bytes_of(format, k), format, w);
            apply_rule(rule, format, w, &scale);
            lane[k / GROUP % 2] = group(w, x + k, scale, rule.sum, lane[k / GROUP % 2]);
        }
        if (k < cols) {
            unsigned char rest[4 * GROUP] = {0};
            memcpy(rest, row + bytes_of(format, k), bytes_of(format, cols - k));
            __m512 scale =
                quantized && !per_row ? load_scales(scales + k / 32, row_scales - k / 32, unit) : row_scale;
            load_weights(rest, format, w);
            apply_rule(rule, format, w, &scale);
            lane[k / GROUP % 2] = group_tail(w, x + k, scale, rule.sum, lane[k / GROUP % 2], cols - k);
        }
        y[r] = sum_of_lanes(lane, rule.sum);
    }
}

static void linear(const struct weight *weight, const float *x, struct linear_rule rule, size_t first, size_t end,
                   float *y)
{
    const struct linear_rule standard = {PRECISION_F32, PRECISION_F32};
    const bool is_standard = rule.sum == PRECISION_F32 && rule.dequant == PRECISION_F32;
    assert(weight->format != WEIGHT_NONE);
    switch (weight->format) { // one loop for each format under the default rule, and one under any other
#define ROWS_OF(format)                                                                                              \
    case format:                                                                                                     \
        if (is_standard)                                                                                             \
            linear_rows(weight, format, standard, x, first, end, y);                                                 \
        else                                                                                                         \
            linear_rows(weight, format, rule, x, first, end, y);                                                     \
        break;
        ROWS_OF(WEIGHT_F32)
        ROWS_OF(WEIGHT_F16)
        ROWS_OF(WEIGHT_BF16)
        ROWS_OF(WEIGHT_Q8)
        ROWS_OF(WEIGHT_Q4)
#undef ROWS_OF
    case WEIGHT_NONE:
    case WEIGHT_A4:
    case WEIGHT_K8:
    case WEIGHT_K4:
        assert(weight->format <= WEIGHT_Q4); // the experts' formats have kernels of their own
    }
}

void kernels_init_avx512(struct kernels *kernels)
{
    kernels->arrange = arrange;
    kernels->linear = linear;
}
