// kernels_avx512: LIN with the bits of kernels.c, in AVX-512 F, BW, VL and DQ. The other operators are AVX2's: a
// model spends its time in LIN.
//
// The 16 lanes of a group of 128 inputs lie in one register. Its inputs are kept transposed, element j of every lane
// side by side, and a row's 128 weights are transposed as they are read. A chain waits for each of its own additions,
// so several are computed side by side: neighbouring groups of one row, or the same group of several rows.
#include <assert.h>
#include <string.h>

#include "runtime/kernels_avx2.h"

enum {
    GROUP = 128,  // 16 lanes of 8 inputs
    CHAINS = 4,   // side by side
    AHEAD = 2048, // bytes of each row that are asked into the second cache before they are read
    LINE = 64,
};

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

// As kernels_avx2_linear.c: codes come out times 2^24 (int8) or 2^28 (int4), and the row's sum takes it back.
ALWAYS float code_unit(enum weight_format format)
{
    return format == WEIGHT_Q8 ? 0x1p-24f : format == WEIGHT_Q4 ? 0x1p-28f : 1;
}

ALWAYS size_t bytes_of(enum weight_format format, size_t n)
{
    return format == WEIGHT_F32 ? 4 * n : format == WEIGHT_Q8 ? n : format == WEIGHT_Q4 ? (n + 1) / 2 : 2 * n;
}

ALWAYS bool is_quantized(enum weight_format format)
{
    return format == WEIGHT_Q8 || format == WEIGHT_Q4;
}

// 64 bytes at `bytes` + `at`, of which the row has `n` after `bytes`; zeros past them, whose memory is not touched.
ALWAYS __m512 load_bytes(const unsigned char *bytes, size_t at, size_t n)
{
    if (n >= at + 64)
        return _mm512_loadu_ps(bytes + at);
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi8(n > at ? ((uint64_t)1 << (n - at)) - 1 : 0, bytes + at));
}

// The weights of a group as they are kept until each is needed.
struct packed {
    __m512 word[8]; // F32: element j of every lane; F16, BF16: elements 2 j, 2 j + 1; codes: 4 j .. 4 j + 3, or all
};

ALWAYS void pack_f32(const unsigned char *bytes, size_t n, struct packed *packed)
{
    // Two registers hold two lanes of eight words each; from four lanes, words 0 .. 3 and words 4 .. 7.
    const __m512i first = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
    __m512 low[4], high[4];
    for (size_t i = 0; i < 4; i++) {
        const __m512 a = load_bytes(bytes, 128 * i, n), b = load_bytes(bytes, 128 * i + 64, n);
        low[i] = _mm512_permutex2var_ps(a, first, b);
        high[i] = _mm512_permutex2var_ps(a, second, b);
    }
    transpose_quarters(low, packed->word);
    transpose_quarters(high, packed->word + 4);
}

ALWAYS void pack_halves(const unsigned char *bytes, size_t n, struct packed *packed)
{
    const __m512i by_word = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512 quarter[4];
    for (size_t i = 0; i < 4; i++)
        quarter[i] = _mm512_permutexvar_ps(by_word, load_bytes(bytes, 64 * i, n));
    transpose_quarters(quarter, packed->word);
}

// The `inputs` <= 128 weights at `bytes`; zeros past them.
ALWAYS void pack(const unsigned char *bytes, size_t inputs, enum weight_format format, struct packed *packed)
{
    const size_t n = bytes_of(format, inputs);
    if (format == WEIGHT_F32) {
        pack_f32(bytes, n, packed);
    } else if (format == WEIGHT_F16 || format == WEIGHT_BF16) {
        pack_halves(bytes, n, packed);
    } else if (format == WEIGHT_Q8) {
        const __m512 a = load_bytes(bytes, 0, n), b = load_bytes(bytes, 64, n); // lanes 0-7, 8-15
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        packed->word[0] = _mm512_permutex2var_ps(a, even, b);
        packed->word[1] = _mm512_permutex2var_ps(a, odd, b);
    } else {
        packed->word[0] = load_bytes(bytes, 0, n);
    }
}

// Lane i of the result: weight 8 i + j, in units of code_unit.
ALWAYS __m512 unpack(const struct packed *packed, enum weight_format format, unsigned j)
{
    const __m512i halves = _mm512_castps_si512(packed->word[j / 2]), codes = _mm512_castps_si512(packed->word[j / 4]);
    switch (format) {
    case WEIGHT_F16:
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(j % 2 ? _mm512_srli_epi32(halves, 16) : halves));
    case WEIGHT_BF16:
        return _mm512_castsi512_ps(j % 2 ? _mm512_and_si512(halves, _mm512_set1_epi32((int)0xFFFF0000))
                                         : _mm512_slli_epi32(halves, 16));
    case WEIGHT_Q8: { // byte j % 4 of each word to its top, zeros below
        const __m512i first_to_top = _mm512_set4_epi32(0x0C808080, 0x08808080, 0x04808080, 0x00808080);
        const __m512i to_top = _mm512_add_epi32(first_to_top, _mm512_set1_epi32((int)(j % 4) << 24));
        return _mm512_cvtepi32_ps(j % 4 == 3 ? _mm512_and_si512(codes, _mm512_set1_epi32((int)0xFF000000))
                                             : _mm512_shuffle_epi8(codes, to_top));
    }
    case WEIGHT_Q4: { // a lane's 8 codes are a word, the first one lowest
        const __m512i up = _mm512_slli_epi32(_mm512_castps_si512(packed->word[0]), 28 - 4 * j);
        return _mm512_cvtepi32_ps(_mm512_and_si512(up, _mm512_set1_epi32((int)0xF0000000)));
    }
    default:
        return packed->word[j];
    }
}

// The scales of a group, one a lane; four lanes share one. n: how many the row has here, at most 4.
ALWAYS __m512 load_scales(const uint16_t *scale, size_t n)
{
    const __m128i four = n >= 4 ? _mm_loadl_epi64((const void *)scale)
                                : _mm_maskz_loadu_epi16((__mmask8)((1 << n) - 1), scale);
    const __m512i shared = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(shared, _mm512_castps128_ps512(_mm_cvtph_ps(four)));
}

ALWAYS __m512 half_step(__m512 v, enum precision sum)
{
    return sum == PRECISION_F16 ? _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)) : v;
}

// What all rows of a call have in common.
struct rows {
    const struct weight *weight;
    enum weight_format format;
    bool standard; // the standard rule
    struct linear_rule rule;
    const float *x;
};

// A weight as the rule wants it. One other than the standard wants true codes, rounded after dequantization or not.
ALWAYS __m512 weight_by_rule(const struct rows *rows, const struct packed *packed, unsigned j, __m512 scale)
{
    const __m512 w = unpack(packed, rows->format, j);
    if (rows->standard || !is_quantized(rows->format))
        return w;
    const __m512 code = _mm512_mul_ps(w, _mm512_set1_ps(code_unit(rows->format)));
    return rows->rule.dequant == PRECISION_F16 ? half_step(_mm512_mul_ps(code, scale), PRECISION_F16) : code;
}

ALWAYS __m512 scales_of(const struct rows *rows, size_t row, uint32_t k, uint32_t n)
{
    const struct weight *weight = rows->weight;
    if (!is_quantized(rows->format))
        return _mm512_set1_ps(1);
    if (weight->block == weight->cols)
        return _mm512_set1_ps(half_to_float(weight->scale[row]));
    return load_scales(weight->scale + row * (weight->cols / weight->block) + k / 32, (n + 31) / 32);
}

// acc = fma(scale, chain, acc) in every lane, for the groups k, k + GROUP, ... of the rows row, row + apart, ...: one
// of the two counts is 1, and the chains are computed side by side. A group has n <= 128 inputs; what is not there is
// skipped. `whole`: no chain is shorter than 8.
ALWAYS void add_chains(const struct rows *rows, size_t row, size_t n_rows, size_t apart, uint32_t k,
                       uint32_t n_groups, uint32_t n, bool whole, __m512 lane[CHAINS][2])
{
    const struct weight *weight = rows->weight;
    const enum precision sum = rows->rule.sum;
    const __m512i before = _mm512_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120);
    const __m512i in_lane = _mm512_sub_epi32(_mm512_set1_epi32((int)n), before);
    const size_t n_chains = n_rows * n_groups;
    struct packed packed[CHAINS];
    __m512 scale[CHAINS], s[CHAINS];
#pragma GCC unroll 4
    for (size_t c = 0; c < n_chains; c++) {
        const size_t r = row + (n_rows > 1 ? c * apart : 0);
        const uint32_t at = k + (n_rows > 1 ? 0 : (uint32_t)c * GROUP);
        const unsigned char *data = weight->data;
        const unsigned char *from = data + r * bytes_of(rows->format, weight->cols) + bytes_of(rows->format, at);
        for (size_t line = 0; line < bytes_of(rows->format, GROUP); line += LINE)
            _mm_prefetch((const char *)from + line + AHEAD, _MM_HINT_T1);
        pack(from, n, rows->format, &packed[c]);
        scale[c] = scales_of(rows, r, at, n);
    }
#pragma GCC unroll 8
    for (unsigned j = 0; j < 8; j++)
#pragma GCC unroll 4
        for (size_t c = 0; c < n_chains; c++) {
            const __m512 x = _mm512_loadu_ps(rows->x + k + (n_rows > 1 ? 0 : c * GROUP) + 16 * j);
            const __m512 w = weight_by_rule(rows, &packed[c], j, scale[c]);
            const __m512 next = half_step(j ? _mm512_fmadd_ps(x, w, s[c]) : _mm512_mul_ps(x, w), sum);
            const __mmask16 has = _mm512_cmpgt_epi32_mask(in_lane, _mm512_set1_epi32((int)j));
            s[c] = whole || !j ? next : _mm512_mask_mov_ps(s[c], has, next);
        }
#pragma GCC unroll 4
    for (size_t c = 0; c < n_chains; c++) {
        __m512 *acc = &lane[n_rows > 1 ? c : 0][(k / GROUP + (n_rows > 1 ? 0 : c)) % 2];
        const __m512 factor = rows->rule.dequant == PRECISION_F16 ? _mm512_set1_ps(1) : scale[c];
        const __m512 next = half_step(_mm512_fmadd_ps(factor, s[c], *acc), sum);
        *acc = n < GROUP ? _mm512_mask_mov_ps(*acc, _mm512_cmpgt_epi32_mask(in_lane, _mm512_setzero_si512()), next)
                         : next;
    }
}

ALWAYS float sum_of_lanes(const __m512 lane[2], enum precision sum)
{
    const __m256 eight[4] = {_mm512_castps512_ps256(lane[0]), _mm512_extractf32x8_ps(lane[0], 1),
                             _mm512_castps512_ps256(lane[1]), _mm512_extractf32x8_ps(lane[1], 1)};
    return tree(eight, sum);
}

// The trees of four rows side by side. y [4].
ALWAYS void sums_of_four(const __m512 lane[CHAINS][2], float unit, float *y)
{
    __m512 half[4], pair[2];
    for (int r = 0; r < 4; r++)
        half[r] = _mm512_add_ps(lane[r][0], lane[r][1]); // (l, l+16)
    for (int r = 0; r < 2; r++)                          // (l, l+8)
        pair[r] = _mm512_add_ps(_mm512_shuffle_f32x4(half[2 * r], half[2 * r + 1], 0x44),
                                _mm512_shuffle_f32x4(half[2 * r], half[2 * r + 1], 0xEE));
    const __m512 four = _mm512_add_ps(_mm512_shuffle_f32x4(pair[0], pair[1], 0x88), // (l, l+4): a quarter a row
                                      _mm512_shuffle_f32x4(pair[0], pair[1], 0xDD));
    const __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4E));
    const __m512 one = _mm512_mul_ps(_mm512_add_ps(two, _mm512_movehdup_ps(two)), _mm512_set1_ps(unit));
    _mm_storeu_ps(y, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, one)));
}

// One row, or CHAINS of them, `apart` rows from one to the next.
ALWAYS void sum_rows(const struct rows *rows, size_t row, size_t n_rows, size_t apart, float *y)
{
    const uint32_t cols = rows->weight->cols;
    const uint32_t n_groups = n_rows > 1 || !is_quantized(rows->format) ? 1 : CHAINS; // as the registers allow
    const float unit = rows->standard ? code_unit(rows->format) : 1;
    __m512 lane[CHAINS][2];
    for (size_t r = 0; r < n_rows; r++)
        lane[r][0] = lane[r][1] = _mm512_setzero_ps();
    uint32_t k = 0;
    for (; n_groups > 1 && k + n_groups * GROUP <= cols; k += n_groups * GROUP)
        add_chains(rows, row, 1, 0, k, n_groups, GROUP, true, lane);
    for (; n_groups == 1 && k + 2 * GROUP <= cols; k += 2 * GROUP) {
        add_chains(rows, row, n_rows, apart, k, 1, GROUP, true, lane);
        add_chains(rows, row, n_rows, apart, k + GROUP, 1, GROUP, true, lane);
    }
    for (; k + GROUP <= cols; k += GROUP)
        add_chains(rows, row, n_rows, apart, k, 1, GROUP, true, lane);
    if (k < cols && cols % 8 == 0)
        add_chains(rows, row, n_rows, apart, k, 1, cols - k, true, lane);
    else if (k < cols)
        add_chains(rows, row, n_rows, apart, k, 1, cols - k, false, lane);
    if (n_rows == CHAINS && rows->standard) {
        float four[CHAINS];
        sums_of_four(lane, unit, four);
        for (size_t r = 0; r < CHAINS; r++)
            y[row + r * apart] = four[r];
        return;
    }
    for (size_t r = 0; r < n_rows; r++)
        y[row + r * apart] = sum_of_lanes(lane[r], rows->rule.sum) * unit;
}

ALWAYS void linear_rows(const struct rows *rows, size_t first, size_t end, float *y)
{
    const uint32_t cols = rows->weight->cols;
    assert(!rows->weight->scale || rows->weight->block == 32 || rows->weight->block == cols);
    const size_t each = (end - first) / CHAINS; // far apart, they are as many streams from memory, the fastest way
    for (size_t row = first; row < first + each; row++)
        sum_rows(rows, row, CHAINS, each, y);
    for (size_t row = first + CHAINS * each; row < end; row++)
        sum_rows(rows, row, 1, 0, y);
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
            linear_rows(&(const struct rows){weight, format, true, standard, x}, first, end, y);                     \
        else                                                                                                         \
            linear_rows(&(const struct rows){weight, format, false, rule, x}, first, end, y);                        \
        break;
        ROWS_OF(WEIGHT_F32)
        ROWS_OF(WEIGHT_F16)
        ROWS_OF(WEIGHT_BF16)
        ROWS_OF(WEIGHT_Q8)
        ROWS_OF(WEIGHT_Q4)
#undef ROWS_OF
    case WEIGHT_A4:
    case WEIGHT_K8:
    case WEIGHT_K4:
        kernels_avx512_linear_expert(weight, x, rule, first, end, y);
        break;
    case WEIGHT_NONE:
        break;
    }
}

void kernels_init_avx512(struct kernels *kernels)
{
    kernels->arrange = arrange;
    kernels->linear = linear;
}
