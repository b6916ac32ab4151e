#include "tests/bundle_fixture.h"

#include <math.h>
#include <stdio.h>

#include "harness/base/half.h"
#include "runtime/quant.h"

static struct source mini;

static void open_mini(void)
{
    source_open(&mini, "lfm2-mini");
}

static void close_mini(void)
{
    source_close(&mini);
}

TestSuite(schemes, .init = open_mini, .fini = close_mini);

// --- an independent quantizer: arithmetic.md 4 in doubles, by the definition of "nearest, ties to even"

static double nearest_half(double x)
{
    if (x == 0)
        return x;
    const double quantum = ldexp(1, (ilogb(x) < -14 ? -14 : ilogb(x)) - 10);
    return nearbyint(x / quantum) * quantum;
}

enum variant { BY_THE_PAGE, FP32_SCALE, HALF_AWAY, TRUNCATED };

// A division of floats computed in double and rounded to float is the rounded division (53 >= 2 x 24 + 2 bits).
static double scale_of(const float *w, uint32_t n, double divisor)
{
    double absmax = 0;
    for (uint32_t k = 0; k < n; k++)
        absmax = fabs((double)w[k]) > absmax ? fabs((double)w[k]) : absmax;
    const double scale = (double)(float)(absmax / divisor);
    return scale < ldexp(1, -23) ? ldexp(1, -23) : scale;
}

static int code_of(float w, double scale, int low, int high, enum variant variant)
{
    const double quotient = (double)(float)((double)w / scale);
    const double code = variant == HALF_AWAY   ? round(quotient)
                        : variant == TRUNCATED ? trunc(quotient)
                                               : nearbyint(quotient);
    return code < low ? low : code > high ? high : (int)code;
}

// What the six schemes do, written down a second time.
static const struct {
    const char *scheme;
    double body, head; // divisors; 0: left alone
    bool head_per_row;
} expected[] = {
    {"fp16", 0, 0, false},
    {"int8lin", 127, 0, false},
    {"int8hu_block32_sym", 127, 127.5, false},
    {"int8hu_block32", 127, 127, false},
    {"int8hu_perchan_sym", 127, 127.5, true},
    {"int4lin", 7, 0, false},
};
enum { N_SCHEMES = sizeof expected / sizeof *expected };

static bool is_body(const char *name)
{
    return strstr(name, ".feed_forward.w") || strstr(name, ".conv.in_proj.weight") ||
           strstr(name, ".conv.out_proj.weight");
}

static uint64_t count_wrong(const struct weight *stored, const struct weight *source, double divisor, uint32_t block,
                            enum variant variant)
{
    const int high = divisor == 7 ? 7 : 127, low = divisor == 127.5 ? -128 : -high;
    float *row = calloc(source->cols, sizeof *row);
    int16_t *codes = calloc(source->cols, sizeof *codes);
    uint64_t wrong = 0;
    for (uint32_t r = 0; r < source->rows; r++) {
        weight_row(source, r, row);
        quant_codes(stored, r, codes);
        for (uint32_t first = 0; first < source->cols; first += block) {
            const double exact = scale_of(row + first, block, divisor), scale = nearest_half(exact);
            const uint16_t found = stored->scale[(r * (uint64_t)source->cols + first) / block];
            wrong += (double)half_to_float(found) != scale;
            for (uint32_t k = first; k < first + block; k++)
                wrong += codes[k] != code_of(row[k], variant == FP32_SCALE ? exact : scale, low, high, variant);
        }
    }
    free(row);
    free(codes);
    return wrong;
}

struct walk {
    const struct bundle *bundle;
    enum variant variant;
    double body, head;
    bool head_per_row;
    uint64_t wrong, quantized, exact, halves;
};

static void compare_plain(struct walk *walk, const struct weight *stored, const struct weight *source)
{
    const bool attention = strstr(source->name, "_proj.weight") && strstr(source->name, "self_attn");
    cr_assert_eq(stored->format, attention ? WEIGHT_F32 : WEIGHT_F16, "%s is stored as %s", source->name,
                 weight_format_name(stored->format));
    *(attention ? &walk->exact : &walk->halves) += 1;
    for (uint32_t r = 0; r < source->rows; r++)
        for (uint32_t k = 0; k < source->cols; k++) {
            const double w = (double)weight_at(source, r, k);
            walk->wrong += (double)weight_at(stored, r, k) != (attention ? w : nearest_half(w));
        }
}

static const struct weight *sources[512];
static size_t n_sources;

static void list_source(void *context, const struct weight *weight)
{
    (void)context;
    sources[n_sources++] = weight;
}

static void compare_weight(void *context, const struct weight *stored)
{
    struct walk *walk = context;
    const bool is_head = stored == &walk->bundle->model.head;
    const struct weight *source = is_head ? &mini.model.head : NULL;
    for (size_t i = 0; i < n_sources && !source; i++)
        source = strcmp(sources[i]->name, stored->name) ? NULL : sources[i];
    cr_assert_not_null(source, "%s is not in the checkpoint", stored->name);
    const double divisor = is_head ? walk->head : is_body(stored->name) ? walk->body : 0;
    if (divisor == 0) {
        compare_plain(walk, stored, source);
        return;
    }
    walk->quantized++;
    cr_assert_eq(stored->format, divisor == 7 ? WEIGHT_Q4 : WEIGHT_Q8);
    const uint32_t block = is_head && walk->head_per_row ? source->cols : 32;
    cr_assert_eq(stored->block, block);
    walk->wrong += count_wrong(stored, source, divisor, block, walk->variant);
}

static struct walk compare_all(struct bundle *bundle, size_t scheme, enum variant variant)
{
    struct walk walk = {
        bundle, variant, expected[scheme].body, expected[scheme].head, expected[scheme].head_per_row, 0, 0, 0, 0};
    n_sources = 0;
    model_visit(&mini.model, list_source, NULL);
    model_visit(&bundle->model, compare_weight, &walk);
    return walk;
}

Test(schemes, every_code_scale_and_half_of_all_six_is_what_an_independent_quantizer_computes)
{
    for (size_t s = 0; s < N_SCHEMES; s++) {
        struct bundle *bundle = opened(quantized(&mini, expected[s].scheme));
        const struct walk walk = compare_all(bundle, s, BY_THE_PAGE);
        cr_assert_eq(walk.wrong, 0, "%s: %llu wrong", expected[s].scheme, (unsigned long long)walk.wrong);
        // 8 layers: 24 feed-forward and 10 short-convolution projections (5 layers x 2), 12 of attention (3 x 4)
        cr_assert_eq(walk.quantized, (expected[s].body > 0 ? 34u : 0u) + (expected[s].head > 0 ? 1u : 0u));
        cr_assert_eq(walk.exact, 12);
        bundle_close(&bundle);
    }
}

Test(schemes, the_comparison_above_sees_another_rounding_of_codes_or_scales)
{
    struct bundle *bundle = opened(quantized(&mini, "int8hu_block32_sym"));
    cr_assert_gt(compare_all(bundle, 2, FP32_SCALE).wrong, 1000, "codes against the unrounded scale pass");
    cr_assert_gt(compare_all(bundle, 2, TRUNCATED).wrong, 1000000, "truncated codes pass");
    cr_assert_gt(compare_all(bundle, 3, BY_THE_PAGE).wrong, 100000, "a head with clipping passes as symmetric");
    bundle_close(&bundle);
}

Test(schemes, a_weight_is_its_code_times_its_scale_exactly)
{
    struct bundle *bundle = opened(quantized(&mini, "int8hu_perchan_sym"));
    const struct weight *weights[] = {&bundle->model.head, &bundle->model.layers[3].w2};
    for (int i = 0; i < 2; i++) {
        const struct weight *w = weights[i];
        int16_t codes[1024];
        for (uint32_t r = 0; r < w->rows; r++) {
            quant_codes(w, r, codes);
            for (uint32_t k = 0; k < w->cols; k++) {
                const double scale = (double)half_to_float(w->scale[r * (w->cols / w->block) + k / w->block]);
                cr_assert_eq((double)weight_at(w, r, k), codes[k] * scale);
            }
        }
    }
    bundle_close(&bundle);
}

// zoo.md 0.4: +absmax gives 127.5, which rounds to 128 and is clamped; zoo and arithmetic.md measured 0.8-0.9 % of
// elements.
Test(schemes, symmetric_clamps_under_one_percent_and_clipping_next_to_nothing)
{
    struct error error = {0};
    struct coverage coverage;
    must(try_quantize(&mini, "int8hu_block32_sym", NULL, in_scratch(&mini, "sym"), &coverage, &error), &error);
    uint64_t body = 0, head = 0, codes = 0;
    for (size_t i = 0; i < coverage.n; i++) {
        const bool is_head = !strcmp(coverage.rows[i].tensor, "lm_head.weight");
        *(is_head ? &head : &body) += coverage.rows[i].statistics.clamped;
        codes += is_head ? coverage.rows[i].statistics.codes : 0;
    }
    const double share = (double)head / (double)codes;
    cr_assert(share > 0.007 && share < 0.0101, "%g of the head is clamped", share);
    // absmax / scale is at most 127 (1 + 2^-11) = 127.06, which rounds to 127
    cr_assert_eq(body, 0);
    coverage_close(&coverage);
}

// --- one row

static struct quant_statistics statistics;

static int row_of(enum quant_format format, const float *w, uint32_t n, uint32_t block, int8_t *codes,
                  uint16_t *scales)
{
    struct error error = {0};
    statistics = (struct quant_statistics){0};
    const int code = quant_row(format, w, n, block, codes, scales, &statistics, &error);
    cr_assert(!code || *error.text);
    return code;
}

Test(quant_row, ties_go_to_the_even_code)
{
    // absmax / 127 = 2^-7 exactly, so that w = (k + 1/2) 2^-7 is a tie
    const float w[8] = {127 * 0x1p-7f,   0.5f * 0x1p-7f,  1.5f * 0x1p-7f,   2.5f * 0x1p-7f,
                        -0.5f * 0x1p-7f, -1.5f * 0x1p-7f, 126.5f * 0x1p-7f, -126.5f * 0x1p-7f};
    const int8_t even[8] = {127, 0, 2, 2, 0, -2, 126, -126};
    int8_t codes[8];
    uint16_t scale;
    cr_assert_eq(row_of(QUANT_INT8_CLIP, w, 8, 8, codes, &scale), 0);
    cr_assert_eq(half_to_float(scale), 0x1p-7f);
    for (int k = 0; k < 8; k++)
        cr_assert_eq(codes[k], even[k], "%g became %d", (double)w[k], codes[k]);
    // the same input tells rounding away from zero apart
    cr_assert_neq(code_of(w[1], 0x1p-7, -127, 127, HALF_AWAY), even[1]);
}

Test(quant_row, symmetric_clamps_the_positive_maximum_only)
{
    const float w[2] = {127.5f, -127.5f};
    int8_t codes[2];
    uint16_t scale;
    cr_assert_eq(row_of(QUANT_INT8_SYM, w, 2, 2, codes, &scale), 0);
    cr_assert_eq(half_to_float(scale), 1.0f);
    cr_assert_eq(codes[0], 127); // 127.5 rounds to 128, which is not a code
    cr_assert_eq(codes[1], -128);
    cr_assert_eq(statistics.clamped, 1);
}

Test(quant_row, a_scale_rounded_down_clamps_both_ends_of_clipping)
{
    // 2^-23 is the floor; 1.249 times it rounds down to it, so absmax / scale is 158.6
    const float absmax = 127 * 1.249f * 0x1p-23f, w[2] = {absmax, -absmax};
    int8_t codes[2];
    uint16_t scale;
    cr_assert_eq(row_of(QUANT_INT8_CLIP, w, 2, 2, codes, &scale), 0);
    cr_assert_eq(scale, 2);
    cr_assert_eq(codes[0], 127);
    cr_assert_eq(codes[1], -127);
    cr_assert_eq(statistics.clamped, 2);
    cr_assert_eq(statistics.subnormal_scales, 1);
}

Test(quant_row, codes_follow_the_rounded_subnormal_scale)
{
    // absmax / 127 = 3.25 x 2^-24 rounds to 3 x 2^-24: absmax is code 138 before the clamp, half of it 69
    const float absmax = 127 * 3.25f * 0x1p-24f, w[2] = {absmax, absmax / 2};
    int8_t codes[2];
    uint16_t scale;
    cr_assert_eq(row_of(QUANT_INT8_CLIP, w, 2, 2, codes, &scale), 0);
    cr_assert_eq(scale, 3);
    cr_assert_eq(codes[0], 127);
    cr_assert_eq(codes[1], 69); // 68.8; against the unrounded scale it would be 64
    cr_assert_eq(statistics.subnormal_scales, 1);
}

Test(quant_row, the_smallest_normal_scale_is_not_counted_as_subnormal)
{
    const float w[1] = {127 * 0x1p-14f}, below[1] = {127 * 0x1p-15f};
    int8_t code;
    uint16_t scale;
    cr_assert_eq(row_of(QUANT_INT8_CLIP, w, 1, 1, &code, &scale), 0);
    cr_assert_eq(statistics.subnormal_scales, 0);
    cr_assert_eq(row_of(QUANT_INT8_CLIP, below, 1, 1, &code, &scale), 0);
    cr_assert_eq(statistics.subnormal_scales, 1);
}

Test(quant_row, a_zero_block_has_the_floor_as_scale_and_zero_codes)
{
    const float w[4] = {0.0f, -0.0f, 0.0f, 0.0f};
    int8_t codes[4] = {9, 9, 9, 9};
    uint16_t scale;
    for (int format = QUANT_INT8_SYM; format <= QUANT_INT4_CLIP; format++) {
        cr_assert_eq(row_of((enum quant_format)format, w, 4, 4, codes, &scale), 0);
        cr_assert_eq(scale, 2); // 2^-23, two steps of a subnormal half
        for (int k = 0; k < 4; k++)
            cr_assert_eq(codes[k], 0);
    }
}

Test(quant_row, blocks_are_independent)
{
    float w[64];
    int8_t codes[64];
    uint16_t scales[2], alone;
    for (int k = 0; k < 64; k++)
        w[k] = (float)(k % 32 - 16) * (k < 32 ? 1.0f : 1e-3f);
    cr_assert_eq(row_of(QUANT_INT8_SYM, w, 64, 32, codes, scales), 0);
    cr_assert_eq(statistics.scales, 2);
    int8_t second[32];
    cr_assert_eq(row_of(QUANT_INT8_SYM, w + 32, 32, 32, second, &alone), 0);
    cr_assert_eq(alone, scales[1]);
    cr_assert_arr_eq(second, codes + 32, 32);
}

Test(quant_row, values_that_are_not_finite_are_refused_with_their_column)
{
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        const float w[4] = {1.0f, 2.0f, bad[i], 3.0f};
        int8_t codes[4];
        uint16_t scale;
        struct error error = {0};
        refused(quant_row(QUANT_INT8_SYM, w, 4, 4, codes, &scale, &statistics, &error), ERROR_INPUT, &error,
                "column 2");
    }
}

Test(quant_row, a_scale_over_the_largest_half_is_refused)
{
    // RN16 gives 65504 up to, and without, 65520
    const float largest[1] = {127 * 65519.0f}, over[1] = {127 * 65520.0f};
    int8_t code;
    uint16_t scale;
    cr_assert_eq(row_of(QUANT_INT8_CLIP, largest, 1, 1, &code, &scale), 0);
    cr_assert_eq(half_to_float(scale), 65504.0f);
    cr_assert_eq(row_of(QUANT_INT8_CLIP, over, 1, 1, &code, &scale), ERROR_INPUT);
}

Test(packing, four_bit_codes_stand_low_nibble_first_in_twos_complement)
{
    const int8_t codes[5] = {1, -1, -7, 7, 3};
    uint8_t packed[3];
    quant_pack(WEIGHT_Q4, codes, 5, packed);
    cr_assert_eq(packed[0], 0xF1);
    cr_assert_eq(packed[1], 0x79);
    cr_assert_eq(packed[2], 0x03);
}

Test(packing, unpacking_gives_every_code_back)
{
    int8_t codes[15];
    int16_t found[15];
    uint8_t packed[8];
    for (int k = 0; k < 15; k++)
        codes[k] = (int8_t)(k - 7);
    quant_pack(WEIGHT_Q4, codes, 15, packed);
    const struct weight weight = {.name = "w", .format = WEIGHT_Q4, .rows = 1, .cols = 15, .data = packed};
    quant_codes(&weight, 0, found);
    for (int k = 0; k < 15; k++)
        cr_assert_eq(found[k], codes[k]);
}

// --- which tensor is treated how

static struct quant_decision decide(const char *scheme, const char *name, uint32_t cols, bool is_head,
                                    const char *keep)
{
    const struct weight weight = {.name = name, .format = WEIGHT_BF16, .rows = 64, .cols = cols};
    struct quant_decision decision;
    static const struct config lfm2 = {.family = FAMILY_LFM2};
    quant_decide(scheme_named(scheme), &lfm2, &keep, keep ? 1 : 0, &weight, is_head, &decision);
    return decision;
}

Test(decision, attention_projections_stay_exact_whatever_the_scheme)
{
    static const char *const names[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    for (const struct scheme *scheme = NULL; (scheme = next_scheme(scheme, FAMILY_LFM2));)
        for (int i = 0; i < 4; i++) {
            char name[64];
            snprintf(name, sizeof name, "model.layers.2.self_attn.%s.weight", names[i]);
            const struct quant_decision decision = decide(scheme->name, name, 64, false, NULL);
            cr_assert_eq(decision.rule.format, QUANT_NONE);
            cr_assert_eq(decision.stored, DTYPE_F32);
        }
}

Test(decision, embedding_convolution_norms_and_biases_are_left_alone_as_halves)
{
    static const char *const names[] = {
        "model.embed_tokens.weight",        "model.layers.0.conv.conv.weight",
        "model.layers.0.conv.in_proj.bias", "model.layers.2.self_attn.q_layernorm.weight",
        "model.layers.0.ffn_norm.weight",   "model.embedding_norm.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct quant_decision decision = decide("int8hu_block32_sym", names[i], 64, false, NULL);
        cr_assert_eq(decision.rule.format, QUANT_NONE, "%s", names[i]);
        cr_assert_eq(decision.stored, DTYPE_F16);
        cr_assert(*decision.why);
    }
}

Test(decision, a_width_that_is_no_multiple_of_32_leaves_blocks_alone_and_not_rows)
{
    cr_assert_eq(decide("int8lin", "model.layers.0.feed_forward.w1.weight", 33, false, NULL).rule.format, QUANT_NONE);
    cr_assert_eq(decide("int8lin", "model.layers.0.feed_forward.w1.weight", 64, false, NULL).rule.format,
                 QUANT_INT8_CLIP);
    cr_assert_eq(decide("int8hu_perchan_sym", "lm_head.weight", 33, true, NULL).rule.format, QUANT_INT8_SYM);
    cr_assert_eq(decide("int8hu_block32_sym", "lm_head.weight", 33, true, NULL).rule.format, QUANT_NONE);
}

Test(decision, keep_matches_the_checkpoint_name_and_the_head_by_its_own_name)
{
    const char *w1 = "model.layers.0.feed_forward.w1.weight", *tied = "model.embed_tokens.weight";
    cr_assert_eq(decide("int8lin", w1, 64, false, "*.layers.0.*=fp16").rule.format, QUANT_NONE);
    cr_assert_str_eq(decide("int8lin", w1, 64, false, "*.layers.0.*=fp16").why, "*.layers.0.*=fp16");
    cr_assert_eq(decide("int8lin", w1, 64, false, "*.layers.1.*=fp16").rule.format, QUANT_INT8_CLIP);
    cr_assert_eq(decide("int8hu_block32", tied, 64, true, "lm_head.weight=fp16").rule.format, QUANT_NONE);
    cr_assert_eq(decide("int8hu_block32", tied, 64, true, "*embed*=fp16").rule.format, QUANT_INT8_CLIP);
}

Test(decision, keep_knows_half_precision_only)
{
    struct error error = {0};
    cr_assert_eq(quant_keep_check("*.w1.*=fp16", &error), 0);
    cr_assert_eq(quant_keep_check("*[=]*=fp16", &error), 0);
    static const char *const wrong[] = {"*.w1.*", "*.w1.*=fp32", "=fp16", "", "*.w1.*=fp16 "};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        refused(quant_keep_check(wrong[i], &error), ERROR_USAGE, &error, "PATTERN=fp16");
}

Test(decision, an_unknown_scheme_is_refused_with_the_names_of_all)
{
    const struct scheme *scheme;
    struct error error = {0};
    refused(scheme_find("int8hu", &scheme, &error), ERROR_USAGE, &error, "int8hu_perchan_sym");
    for (size_t s = 0; s < N_SCHEMES; s++)
        cr_assert_not_null(strstr(error.text, expected[s].scheme));
}
