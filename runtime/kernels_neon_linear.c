// kernels_neon: LIN with the bits of kernels.c.
//
// The 4 lanes of a group of 32 inputs lie in one register. Its inputs are kept transposed, element j of every lane
// side by side, and a row's 32 weights are transposed as they are read.
#include <assert.h>

#include "runtime/kernels_neon.h"

enum { GROUP = 32 }; // 4 lanes of 8 inputs

void kernels_neon_arrange(const float *x, uint32_t n, float *arranged)
{
    memset(arranged, 0, kernels_arranged(n) * sizeof *arranged);
    for (uint32_t k = 0; k < n; k++)
        arranged[k / GROUP * GROUP + k % 8 * 4 + k % GROUP / 8] = x[k];
}

// Row i holds four words of lane i -> word[p] holds word p of the four lanes.
ALWAYS void transpose4(const uint32x4_t row[4], uint32x4_t word[4])
{
    const uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(row[0], row[1])); // words 0 and 2 of lanes 0, 1
    const uint64x2_t b = vreinterpretq_u64_u32(vtrn2q_u32(row[0], row[1])); // 1 and 3
    const uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(row[2], row[3]));
    const uint64x2_t d = vreinterpretq_u64_u32(vtrn2q_u32(row[2], row[3]));
    word[0] = vreinterpretq_u32_u64(vtrn1q_u64(a, c));
    word[1] = vreinterpretq_u32_u64(vtrn1q_u64(b, d));
    word[2] = vreinterpretq_u32_u64(vtrn2q_u64(a, c));
    word[3] = vreinterpretq_u32_u64(vtrn2q_u64(b, d));
}

ALWAYS uint32x4_t load_words(const unsigned char *bytes)
{
    return vreinterpretq_u32_u8(vld1q_u8(bytes));
}

// Lane i of w[j] = weight or code 8 i + j of the 32 at `bytes`.
ALWAYS void load_weights(const unsigned char *bytes, enum weight_format format, float32x4_t w[8])
{
    uint32x4_t row[4], word[4];
    if (format == WEIGHT_F32) {
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++)
                row[i] = load_words(bytes + 32 * i + 16 * half);
            transpose4(row, word);
            for (int j = 0; j < 4; j++)
                w[4 * half + j] = vreinterpretq_f32_u32(word[j]);
        }
    } else if (format == WEIGHT_F16 || format == WEIGHT_BF16) { // a word holds elements 2 j and 2 j + 1
        for (int i = 0; i < 4; i++)
            row[i] = load_words(bytes + 16 * i);
        transpose4(row, word);
        for (int j = 0; j < 4; j++) {
            const bool f16 = format == WEIGHT_F16;
            w[2 * j] = f16 ? widen(vmovn_u32(word[j])) : vreinterpretq_f32_u32(vshlq_n_u32(word[j], 16));
            w[2 * j + 1] = f16 ? widen(vshrn_n_u32(word[j], 16))
                               : vreinterpretq_f32_u32(vandq_u32(word[j], vdupq_n_u32(0xFFFF0000)));
        }
    } else if (format == WEIGHT_Q8) { // byte j of each word to its top, then down again with its sign
        const uint32x4_t a = load_words(bytes), b = load_words(bytes + 16); // lanes 0 and 1, 2 and 3
        const int32x4_t low = vreinterpretq_s32_u32(vuzp1q_u32(a, b)), high = vreinterpretq_s32_u32(vuzp2q_u32(a, b));
        for (int j = 0; j < 4; j++) {
            const int32x4_t up = vdupq_n_s32(24 - 8 * j);
            w[j] = vcvtq_f32_s32(vshrq_n_s32(vshlq_s32(low, up), 24));
            w[j + 4] = vcvtq_f32_s32(vshrq_n_s32(vshlq_s32(high, up), 24));
        }
    } else { // a lane's 8 codes are a word, the first one lowest
        const int32x4_t codes = vreinterpretq_s32_u32(load_words(bytes));
        for (int j = 0; j < 8; j++)
            w[j] = vcvtq_f32_s32(vshrq_n_s32(vshlq_s32(codes, vdupq_n_s32(28 - 4 * j)), 28));
    }
}

// w and *scale as the rule wants them: weights rounded to half after dequantization.
ALWAYS void apply_rule(struct linear_rule rule, bool quantized, float32x4_t w[8], float32x4_t *scale)
{
    if (!quantized || rule.dequant != PRECISION_F16)
        return;
    for (int j = 0; j < 8; j++)
        w[j] = through_half(vmulq_f32(w[j], *scale));
    *scale = vdupq_n_f32(1);
}

// One group: acc = fma(scale, chain, acc) in every lane.
ALWAYS float32x4_t group(const float32x4_t w[8], const float *x, float32x4_t scale, enum precision sum,
                         float32x4_t acc)
{
    float32x4_t s = sum_step(vmulq_f32(vld1q_f32(x), w[0]), sum);
    for (int j = 1; j < 8; j++)
        s = sum_step(vfmaq_f32(s, vld1q_f32(x + 4 * j), w[j]), sum);
    return sum_step(vfmaq_f32(acc, scale, s), sum);
}

// The last group of a row, which has n < 32 inputs: what is not there is skipped.
ALWAYS float32x4_t group_tail(const float32x4_t w[8], const float *x, float32x4_t scale, enum precision sum,
                              float32x4_t acc, uint32_t n)
{
    static const int32_t before[4] = {0, 8, 16, 24};
    const int32x4_t in_lane = vsubq_s32(vdupq_n_s32((int32_t)n), vld1q_s32(before));
    float32x4_t s = sum_step(vmulq_f32(vld1q_f32(x), w[0]), sum);
    for (int j = 1; j < 8; j++) {
        const float32x4_t next = sum_step(vfmaq_f32(s, vld1q_f32(x + 4 * j), w[j]), sum);
        s = vbslq_f32(vcgtq_s32(in_lane, vdupq_n_s32(j)), next, s);
    }
    const float32x4_t next = sum_step(vfmaq_f32(acc, scale, s), sum);
    return vbslq_f32(vcgtq_s32(in_lane, vdupq_n_s32(0)), next, acc);
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
    const size_t row_scales = quantized ? cols / weight->block : 0;
    const size_t stride =
        quantized && weight->block != cols; // scales from one group to the next: 1, or 0 for a row's
    assert(!stride || weight->block == GROUP);
    for (size_t r = first; r < end; r++) {
        const unsigned char *row = (const unsigned char *)weight->data + r * bytes_of(format, cols);
        const uint16_t *scales = quantized ? weight->scale + r * row_scales : NULL;
        float32x4_t lane[REGISTERS], w[8];
        for (int i = 0; i < REGISTERS; i++)
            lane[i] = vdupq_n_f32(0);
        for (uint32_t k = 0; k < cols; k += GROUP) {
            const uint32_t left = cols - k;
            float32x4_t *acc = &lane[k / GROUP % REGISTERS];
            float32x4_t scale = quantized ? widen(vdup_n_u16(scales[k / GROUP * stride])) : vdupq_n_f32(1);
            unsigned char rest[4 * GROUP] = {0};
            const unsigned char *from = row + bytes_of(format, k);
            if (left < GROUP)
                from = memcpy(rest, from, bytes_of(format, left));
            load_weights(from, format, w);
            apply_rule(rule, quantized, w, &scale);
            *acc = left < GROUP ? group_tail(w, x + k, scale, rule.sum, *acc, left)
                                : group(w, x + k, scale, rule.sum, *acc);
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

void kernels_neon_linear(const struct weight *weight, const float *x, struct linear_rule rule, size_t first,
                         size_t end, float *y)
{
    static const linear_fn standard[] = {
        [WEIGHT_F32] = linear_f32, [WEIGHT_F16] = linear_f16, [WEIGHT_BF16] = linear_bf16,
        [WEIGHT_Q8] = linear_q8,   [WEIGHT_Q4] = linear_q4,
        [WEIGHT_A4] = kernels_neon_linear_expert, [WEIGHT_K8] = kernels_neon_linear_expert,
        [WEIGHT_K4] = kernels_neon_linear_expert,
    };
    static const linear_fn by_rule[] = {
        [WEIGHT_F32] = linear_f32_by_rule, [WEIGHT_F16] = linear_f16_by_rule, [WEIGHT_BF16] = linear_bf16_by_rule,
        [WEIGHT_Q8] = linear_q8_by_rule,   [WEIGHT_Q4] = linear_q4_by_rule,
        [WEIGHT_A4] = kernels_neon_linear_expert, [WEIGHT_K8] = kernels_neon_linear_expert,
        [WEIGHT_K4] = kernels_neon_linear_expert,
    };
    assert(weight->format != WEIGHT_NONE);
    const bool is_standard = rule.sum == PRECISION_F32 && rule.dequant == PRECISION_F32;
    (is_standard ? standard : by_rule)[weight->format](weight, rule, x, first, end, y);
}
