// kernels_avx2: LIN with the bits of kernels.c.
//
// The 8 lanes of a group of 64 inputs lie in one register. Its inputs are kept transposed, element j of every lane
// side by side, and a row's 64 weights are transposed as they are read.
#include <assert.h>
#include <string.h>

#include "runtime/kernels_avx2.h"

enum { GROUP = 64 }; // 8 lanes of 8 inputs

void kernels_avx2_arrange(const float *x, uint32_t n, float *arranged)
{
    memset(arranged, 0, kernels_arranged(n) * sizeof *arranged);
    for (uint32_t k = 0; k < n; k++)
        arranged[k / GROUP * GROUP + k % 8 * 8 + k % GROUP / 8] = x[k];
}

// 16 bytes at `low` and 16 at `high`, one above the other.
ALWAYS __m256 load_pair(const void *low, const void *high)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}

// Rows of four words for lanes i | i + 4 -> words of the lanes 0 .. 7.
ALWAYS void transpose4(const __m256 row[4], __m256 word[4])
{
    const __m256 a = _mm256_unpacklo_ps(row[0], row[1]), b = _mm256_unpacklo_ps(row[2], row[3]);
    const __m256 c = _mm256_unpackhi_ps(row[0], row[1]), d = _mm256_unpackhi_ps(row[2], row[3]);
    word[0] = _mm256_shuffle_ps(a, b, 0x44);
    word[1] = _mm256_shuffle_ps(a, b, 0xEE);
    word[2] = _mm256_shuffle_ps(c, d, 0x44);
    word[3] = _mm256_shuffle_ps(c, d, 0xEE);
}

// Codes come out times 2^24 (int8) or 2^28 (int4): the top bits of a word need no sign extension. A power of two
// moves no bit of a significand, s stays far inside fp32's range, and the scale takes it back: the sum is the same,
// bit for bit.
ALWAYS float code_unit(enum weight_format format)
{
    return format == WEIGHT_Q8 ? 0x1p-24f : format == WEIGHT_Q4 ? 0x1p-28f : 1;
}

// Lane i of w[j] = weight 8 i + j of the 64 at `data`, in units of code_unit.
ALWAYS void load_weights(const void *data, enum weight_format format, __m256 w[8])
{
    const unsigned char *bytes = data;
    __m256 row[4], word[4];
    if (format == WEIGHT_F32) {
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++)
                row[i] = load_pair(bytes + 32 * i + 16 * half, bytes + 32 * (i + 4) + 16 * half);
            transpose4(row, w + 4 * half);
        }
    } else if (format == WEIGHT_F16) {
        // Elements 0 .. 3 of each lane below, 4 .. 7 above: three rounds of unpacking give element j | j + 4.
        __m256i part[8], pair[4], quad[4];
        for (int i = 0; i < 8; i++)
            part[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadl_epi64((const void *)(bytes + 16 * i))),
                                              _mm_loadl_epi64((const void *)(bytes + 16 * i + 8)), 1);
        for (int i = 0; i < 4; i++)
            pair[i] = _mm256_unpacklo_epi16(part[2 * i], part[2 * i + 1]);
        for (int i = 0; i < 2; i++) {
            quad[i] = _mm256_unpacklo_epi32(pair[2 * i], pair[2 * i + 1]);
            quad[i + 2] = _mm256_unpackhi_epi32(pair[2 * i], pair[2 * i + 1]);
        }
        for (int j = 0; j < 4; j++) {
            const __m256i eight = j % 2 ? _mm256_unpackhi_epi64(quad[j / 2 * 2], quad[j / 2 * 2 + 1])
                                        : _mm256_unpacklo_epi64(quad[j / 2 * 2], quad[j / 2 * 2 + 1]);
            w[j] = _mm256_cvtph_ps(_mm256_castsi256_si128(eight));
            w[j + 4] = _mm256_cvtph_ps(_mm256_extracti128_si256(eight, 1));
        }
    } else if (format == WEIGHT_BF16) {
        for (int i = 0; i < 4; i++)
            row[i] = load_pair(bytes + 16 * i, bytes + 16 * (i + 4));
        transpose4(row, word); // a word holds elements 2 j and 2 j + 1
        for (int j = 0; j < 4; j++) {
            const __m256i both = _mm256_castps_si256(word[j]);
            w[2 * j] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
            w[2 * j + 1] = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int)0xFFFF0000)));
        }
    } else if (format == WEIGHT_Q8) {
        const __m256 a = load_pair(bytes, bytes + 32);                          // lanes 0 1 | 4 5
        const __m256 b = load_pair(bytes + 16, bytes + 48);                     // lanes 2 3 | 6 7
        const __m256i low = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)); // codes 0 .. 3 of lanes 0 .. 7
        const __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xDD));
        const __m256i bytes_to_top = _mm256_setr_epi32(0x00808080, 0x04808080, 0x08808080, 0x0C808080, //
                                                       0x00808080, 0x04808080, 0x08808080, 0x0C808080);
        for (int j = 0; j < 4; j++) { // byte j of each word to its top, zeros below
            const __m256i top = _mm256_add_epi32(bytes_to_top, _mm256_set1_epi32(j << 24));
            w[j] = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(low, top));
            w[j + 4] = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(high, top));
        }
    } else {
        // A lane's 8 codes are a word, the first one lowest.
        const __m256i codes = _mm256_loadu_si256((const void *)bytes), nibble = _mm256_set1_epi32((int)0xF0000000);
        for (int j = 0; j < 8; j++)
            w[j] = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_slli_epi32(codes, 28 - 4 * j), nibble));
    }
}

// The scales of a group, one a lane, times `unit`; four lanes share one. `second`: the row has two here.
ALWAYS __m256 load_scales(const uint16_t *scale, bool second, float unit)
{
    uint32_t two;
    if (second)
        memcpy(&two, scale, sizeof two);
    else
        two = *scale;
    const __m256 widened = _mm256_mul_ps(_mm256_cvtph_ps(_mm_cvtsi32_si128((int)two)), _mm256_set1_ps(unit));
    return _mm256_permutevar8x32_ps(widened, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

// One group: acc = fma(scale, chain, acc) in every lane.
ALWAYS __m256 group(const __m256 w[8], const float *x, __m256 scale, enum precision sum, __m256 acc)
{
    __m256 s = sum_step(_mm256_mul_ps(_mm256_loadu_ps(x), w[0]), sum);
    for (int j = 1; j < 8; j++)
        s = sum_step(_mm256_fmadd_ps(_mm256_loadu_ps(x + 8 * j), w[j], s), sum);
    return sum_step(_mm256_fmadd_ps(scale, s, acc), sum);
}

// The last group of a row, which has n < 64 inputs: what is not there is skipped.
ALWAYS __m256 group_tail(const __m256 w[8], const float *x, __m256 scale, enum precision sum, __m256 acc, uint32_t n)
{
    const __m256i in_lane =
        _mm256_sub_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56));
    __m256 s = sum_step(_mm256_mul_ps(_mm256_loadu_ps(x), w[0]), sum);
    for (int j = 1; j < 8; j++) {
        const __m256 next = sum_step(_mm256_fmadd_ps(_mm256_loadu_ps(x + 8 * j), w[j], s), sum);
        s = _mm256_blendv_ps(s, next, _mm256_castsi256_ps(_mm256_cmpgt_epi32(in_lane, _mm256_set1_epi32(j))));
    }
    const __m256 next = sum_step(_mm256_fmadd_ps(scale, s, acc), sum);
    return _mm256_blendv_ps(acc, next, _mm256_castsi256_ps(_mm256_cmpgt_epi32(in_lane, _mm256_setzero_si256())));
}

// w and *scale as the rule wants them: weights rounded after dequantization, or true codes where sums round to half.
ALWAYS void apply_rule(struct linear_rule rule, enum weight_format format, __m256 w[8], __m256 *scale)
{
    if (format != WEIGHT_Q8 && format != WEIGHT_Q4)
        return;
    if (rule.dequant == PRECISION_F16) {
        for (int j = 0; j < 8; j++)
            w[j] = through_half(_mm256_mul_ps(w[j], *scale));
        *scale = _mm256_set1_ps(1);
    } else if (rule.sum == PRECISION_F16) {
        const __m256 unit = _mm256_set1_ps(code_unit(format)), inverse = _mm256_set1_ps(1 / code_unit(format));
        for (int j = 0; j < 8; j++)
            w[j] = _mm256_mul_ps(w[j], unit);
        *scale = _mm256_mul_ps(*scale, inverse);
    }
}

ALWAYS size_t bytes_of(enum weight_format format, size_t n)
{
    return format == WEIGHT_F32 ? 4 * n : format == WEIGHT_Q8 ? n : format == WEIGHT_Q4 ? (n + 1) / 2 : 2 * n;
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
        const __m256 row_scale = _mm256_set1_ps(per_row ? half_to_float(scales[0]) * unit : 1);
        __m256 lane[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()}, w[8];
        uint32_t k = 0;
        for (; k + GROUP <= cols; k += GROUP) {
            __m256 scale = quantized && !per_row ? load_scales(scales + k / 32, true, unit) : row_scale;
            load_weights(row + bytes_of(format, k), format, w);
            apply_rule(rule, format, w, &scale);
            lane[k / GROUP % 4] = group(w, x + k, scale, rule.sum, lane[k / GROUP % 4]);
        }
        if (k < cols) {
            unsigned char rest[4 * GROUP] = {0};
            memcpy(rest, row + bytes_of(format, k), bytes_of(format, cols - k));
            __m256 scale =
                quantized && !per_row ? load_scales(scales + k / 32, row_scales - k / 32 > 1, unit) : row_scale;
            load_weights(rest, format, w);
            apply_rule(rule, format, w, &scale);
            lane[k / GROUP % 4] = group_tail(w, x + k, scale, rule.sum, lane[k / GROUP % 4], cols - k);
        }
        y[r] = tree(lane, rule.sum);
    }
}

// One function for each format under the default rule, so that each gets the registers to itself, and one under any
// other rule.
typedef void (*linear_fn)(const struct weight *weight, struct linear_rule rule, const float *x, size_t first,
                          size_t end, float *y);

#define LINEAR_OF(name, format)                                                                                      \
    static void name(const struct weight *weight, struct linear_rule rule, const float *x, size_t first, size_t end, \
                     float *y)                                                                                       \
    {                                                                                                                \
        (void)rule;                                                                                                  \
        linear_rows(weight, format, (struct linear_rule){PRECISION_F32, PRECISION_F32}, x, first, end, y);           \
    }                                                                                                                \
    static void name##_by_rule(const struct weight *weight, struct linear_rule rule, const float *x, size_t first,   \
                               size_t end, float *y)                                                                 \
    {                                                                                                                \
        linear_rows(weight, format, rule, x, first, end, y);                                                         \
    }
LINEAR_OF(linear_f32, WEIGHT_F32)
LINEAR_OF(linear_f16, WEIGHT_F16)
LINEAR_OF(linear_bf16, WEIGHT_BF16)
LINEAR_OF(linear_q8, WEIGHT_Q8)
LINEAR_OF(linear_q4, WEIGHT_Q4)

void kernels_avx2_linear(const struct weight *weight, const float *x, struct linear_rule rule, size_t first,
                         size_t end, float *y)
{
    static const linear_fn standard[] = {
        [WEIGHT_F32] = linear_f32, [WEIGHT_F16] = linear_f16, [WEIGHT_BF16] = linear_bf16,
        [WEIGHT_Q8] = linear_q8,   [WEIGHT_Q4] = linear_q4,
        [WEIGHT_A4] = kernels_avx2_linear_a4, [WEIGHT_K8] = kernels_avx2_linear_k8,
        [WEIGHT_K4] = kernels_avx2_linear_k4,
    };
    static const linear_fn by_rule[] = {
        [WEIGHT_F32] = linear_f32_by_rule, [WEIGHT_F16] = linear_f16_by_rule, [WEIGHT_BF16] = linear_bf16_by_rule,
        [WEIGHT_Q8] = linear_q8_by_rule,   [WEIGHT_Q4] = linear_q4_by_rule,
        [WEIGHT_A4] = kernels_avx2_linear_a4, [WEIGHT_K8] = kernels_avx2_linear_k8,
        [WEIGHT_K4] = kernels_avx2_linear_k4,
    };
    assert(weight->format != WEIGHT_NONE);
    const bool is_standard = rule.sum == PRECISION_F32 && rule.dequant == PRECISION_F32;
    (is_standard ? standard : by_rule)[weight->format](weight, rule, x, first, end, y);
}
