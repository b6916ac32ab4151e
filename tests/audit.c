#include "tests/bundle_fixture.h"

#include <math.h>

#include "harness/base/half.h"
#include "runtime/audit.h"
#include "runtime/distance.h"
#include "tests/planting.h"

static struct source mini;

static void open_mini(void)
{
    source_open(&mini, "lfm2-mini");
}

static void close_mini(void)
{
    source_close(&mini);
}

TestSuite(audit, .init = open_mini, .fini = close_mini);

static struct audit audited(const char *path, const char *expected_path, const char *const *allowed, size_t n_allowed)
{
    struct audit audit;
    struct error error = {0};
    struct bundle *bundle = opened(path), *expected = opened(expected_path);
    must(audit_bundle(&mini.arena, bundle, expected, &mini.model, allowed, n_allowed, &audit, &error), &error);
    bundle_close(&bundle);
    bundle_close(&expected);
    return audit;
}

static const char *planted(const char *healthy, const char *fault)
{
    struct error error = {0};
    const char *out = in_scratch(&mini, fault);
    must(plant_fault(healthy, fault, out, &error), &error);
    return out;
}

static void finds_only(const struct audit *audit, const char *object, const char *what)
{
    cr_assert_eq(audit->n_findings, 1, "%zu findings", audit->n_findings);
    cr_assert_str_eq(audit->findings[0].object, object);
    cr_assert_not_null(strstr(audit->findings[0].what, what), "'%s' does not say '%s'", audit->findings[0].what,
                       what);
}

// --- controls

Test(audit, a_healthy_bundle_of_every_scheme_is_equal_bit_for_bit)
{
    for (const struct scheme *scheme = NULL; (scheme = next_scheme(scheme, FAMILY_LFM2));) {
        const char *expected = quantized(&mini, scheme->name), *copy = in_scratch(&mini, "copy");
        struct error error = {0};
        must(plant_fault(expected, "none", copy, &error), &error);
        const struct audit audit = audited(copy, expected, NULL, 0);
        cr_assert_eq(audit.n_findings, 0, "%s: %s", scheme->name, audit.n_findings ? audit.findings[0].what : "");
        cr_assert_eq(audit.tensors, scheme->head.format == QUANT_NONE ? 75 : 76);
        cr_assert_eq(audit.equal, audit.tensors);
        cr_assert_eq(audit.wrong_codes + audit.wrong_scales, 0);
        // 24 feed-forward matrices of 448 x 192, 5 in and 5 out projections, the head of 4096 x 192
        const uint64_t body = 24u * 448 * 192 + 5u * 576 * 192 + 5u * 192 * 192, head = 4096u * 192;
        cr_assert_eq(audit.codes, (scheme->body.format ? body : 0) + (scheme->head.format ? head : 0));
        directory_remove(copy);
    }
}

Test(audit, clamped_codes_are_counted_as_quantize_counts_them_and_fail_nothing)
{
    struct coverage coverage;
    struct error error = {0};
    uint64_t clamped = 0, subnormal = 0;
    const char *out = in_scratch(&mini, "out");
    must(try_quantize(&mini, "int8hu_perchan_sym", NULL, out, &coverage, &error), &error);
    for (size_t i = 0; i < coverage.n; i++) {
        clamped += coverage.rows[i].statistics.clamped;
        subnormal += coverage.rows[i].statistics.subnormal_scales;
    }
    coverage_close(&coverage);
    const struct audit audit = audited(out, out, NULL, 0);
    cr_assert_gt(clamped, 0);
    cr_assert_eq(audit.clamped, clamped);
    cr_assert_eq(audit.subnormal_scales, subnormal);
    cr_assert_eq(audit.n_findings, 0);
}

// --- planted faults, each named

#define W1 "model.layers.4.feed_forward.w1.weight"
#define W2 "model.layers.4.feed_forward.w2.weight"
#define W3 "model.layers.4.feed_forward.w3.weight"

struct expectation {
    const char *fault, *object, *what;
    uint64_t wrong_codes, wrong_scales;
};

static void check_faults(const char *scheme, const struct expectation *cases, size_t n)
{
    const char *healthy = quantized(&mini, scheme);
    for (size_t i = 0; i < n; i++) {
        const struct audit audit = audited(planted(healthy, cases[i].fault), healthy, NULL, 0);
        finds_only(&audit, cases[i].object, cases[i].what);
        if (cases[i].wrong_codes + cases[i].wrong_scales) {
            cr_assert_eq(audit.wrong_codes, cases[i].wrong_codes, "%s", cases[i].fault);
            cr_assert_eq(audit.wrong_scales, cases[i].wrong_scales, "%s", cases[i].fault);
        }
    }
}

Test(audit, every_planted_fault_of_an_int8_bundle_is_found_and_named)
{
    static const struct expectation cases[] = {
        {"scale_row_16", W2, "14 of 2,688 scales differ, row 17: 16 x what is computed", 0, 14},
        {"head_rows_dead", "lm_head.weight",
         "738 of 24,576 scales differ, rows 3973..4095: all zero where 0.000751..0.00512", 0, 738},
        {"gate_up_swapped", W1, "holds the values of " W3 ", and the other way round", 0, 0},
        {"conv_weights_shifted", "model.layers.0.conv.conv.weight", "left neighbour's, shifted by one", 0, 0},
        {"scale_block_off_by_one", W1, "left neighbour's, shifted by one", 0, 0},
        {"sign_flipped_codes", W1,
         "86,016 of 86,016 codes differ, rows 0..447: 128 off, as signed codes read as unsigned", 86016, 0},
        {"embedding_row_nan", "model.embed_tokens.weight",
         "192 of 786,432 values differ, row 1: 192 are NaN or infinite", 0, 0},
        {"linear_sum_fp16", "precision.json linear_sum", "is f16, the scheme's default is f32, and compression.plan",
         0, 0},
        {"linear_sum_fp16_declared", "precision.json linear_sum", "the policy does not allow", 0, 0},
        {"dequant_fp16", "precision.json dequant", "does not declare it", 0, 0},
        {"kv_state_fp32", "precision.json kv_state", "is f32, the scheme's default is f16", 0, 0},
    };
    check_faults("int8hu_block32_sym", cases, sizeof cases / sizeof *cases);
}

Test(audit, every_planted_fault_of_an_int4_bundle_is_found_and_named)
{
    static const struct expectation cases[] = {
        {"scale_row_16", W2, "row 17: 16 x what is computed", 0, 14},
        {"head_rows_dead", "model.embed_tokens.weight", "rows 3973..4095: all zero", 0, 0},
        {"gate_up_swapped", W1, "holds the values of " W3, 0, 0},
        {"sign_flipped_codes", W1, "8 off, as signed codes read as unsigned", 86016, 0},
        {"nibble_order", W1, "neighbours exchanged", 0, 0},
    };
    check_faults("int4lin", cases, sizeof cases / sizeof *cases);
}

Test(audit, a_declared_deviation_that_the_policy_allows_is_no_finding)
{
    static const char *const allowed[] = {"kv_state=f32", "linear_sum=f16"}, *const others[] = {"linear_sum=f32",
                                                                                                "dequant=f16"};
    const char *healthy = quantized(&mini, "int8lin"), *declared = planted(healthy, "linear_sum_fp16_declared");
    cr_assert_eq(audited(declared, healthy, allowed, 2).n_findings, 0);
    cr_assert_eq(audited(declared, healthy, others, 2).n_findings, 1);
    // allowed by the policy, but the bundle does not say that it does so
    cr_assert_eq(audited(planted(healthy, "linear_sum_fp16"), healthy, allowed, 2).n_findings, 1);
}

Test(audit, another_rounding_under_the_same_name_is_found)
{
    // int8hu_block32 stores the head as int8hu_block32_sym does, with other numbers: only the audit can tell
    const char *clipping = quantized(&mini, "int8hu_block32"),
               *metadata = file_join(&mini.arena, clipping, "metadata.json");
    edit_text(&mini, metadata, "_decode_int8hu_block32", "_decode_int8hu_block32_sym");
    edit_text(&mini, metadata, "\"scheme\": \"int8hu_block32\"", "\"scheme\": \"int8hu_block32_sym\"");
    const struct audit audit = audited(clipping, quantized(&mini, "int8hu_block32_sym"), NULL, 0);
    cr_assert_eq(audit.n_findings, 2); // scales and codes of the head
    cr_assert_str_eq(audit.findings[0].object, "lm_head.weight");
    cr_assert_str_eq(audit.findings[1].object, "lm_head.weight");
    cr_assert_gt(audit.wrong_codes, 1000);
    cr_assert_gt(audit.wrong_scales, 1000);
}

// --- edits of the file

// Adds `step` to byte `offset` of every tensor whose name ends in `suffix`.
static void edit_tensors(const char *path, const char *suffix, uint64_t offset, int step)
{
    struct error error = {0};
    struct bundle *bundle = opened(path);
    const char *file = file_join(&mini.arena, path, "weights.safetensors");
    unsigned char *bytes = malloc((size_t)bundle->weights->map.size);
    memcpy(bytes, bundle->weights->map.bytes, (size_t)bundle->weights->map.size);
    for (size_t i = 0; i < bundle->table.n; i++) {
        const struct tensor *tensor = bundle->table.tensors[i];
        const size_t length = strlen(tensor->name), n = strlen(suffix);
        if (strncmp(tensor->name, "pad.", 4) && length >= n && !strcmp(tensor->name + length - n, suffix)) {
            unsigned char *at = bytes + ((const unsigned char *)tensor->data - bundle->weights->map.bytes) + offset;
            *at = (unsigned char)(*at + step);
        }
    }
    struct output *output;
    must(output_open(&output, file, &error), &error);
    output_append(output, bytes, (size_t)bundle->weights->map.size);
    must(output_commit(&output, &error), &error);
    free(bytes);
    bundle_close(&bundle);
}

Test(audit, one_bit_of_one_code_is_found_with_its_place)
{
    const char *healthy = quantized(&mini, "int8lin"), *copy = planted(healthy, "none");
    edit_tensors(copy, "layers.3.feed_forward.w3.weight.q8", 192 * 100 + 50, 1);
    const struct audit audit = audited(copy, healthy, NULL, 0);
    finds_only(&audit, "model.layers.3.feed_forward.w3.weight",
               "1 of 86,016 codes differ, row 100: the first, row 100 column 50");
    cr_assert_eq(audit.wrong_codes, 1);
    cr_assert_eq(audit.equal, audit.tensors - 1);
}

Test(audit, a_long_list_is_cut_and_the_rest_is_counted)
{
    const char *healthy = quantized(&mini, "int8lin"), *copy = planted(healthy, "none");
    edit_tensors(copy, ".scale", 1, 1);
    edit_tensors(copy, ".q8", 0, 1);
    edit_tensors(copy, "norm.weight", 0, 1);
    const struct audit audit = audited(copy, healthy, NULL, 0);
    cr_assert_eq(audit.n_findings, 25);
    // 34 quantized tensors with two findings each, 2 norms a layer, 2 more in each of 3 attention layers, the final
    // one
    const char *rest = arena_print(&mini.arena, "%d more", 34 * 2 + 8 * 2 + 3 * 2 + 1 - 24);
    cr_assert_not_null(strstr(audit.findings[24].what, rest), "%s", audit.findings[24].what);
    cr_assert_eq(audit.wrong_codes, 34);
    cr_assert_eq(audit.wrong_scales, 34);
}

// --- bundles made elsewhere

Test(audit, a_foreign_copy_passes_the_distance_rule_in_every_scheme)
{
    for (const struct scheme *scheme = NULL; (scheme = next_scheme(scheme, FAMILY_LFM2));) {
        const char *healthy = quantized(&mini, scheme->name), *foreign = planted(healthy, "foreign");
        const struct audit audit = audited(foreign, healthy, NULL, 0);
        cr_assert_eq(audit.n_findings, 0, "%s: %s", scheme->name, audit.n_findings ? audit.findings[0].what : "");
        directory_remove(foreign);
    }
}

Test(audit, a_foreign_code_one_step_off_is_too_far)
{
    const char *healthy = quantized(&mini, "int8lin"), *foreign = planted(healthy, "foreign");
    edit_tensors(foreign, "layers.3.feed_forward.w3.weight.q8", 192 * 100 + 50, 1);
    const struct audit audit = audited(foreign, healthy, NULL, 0);
    finds_only(&audit, "model.layers.3.feed_forward.w3.weight",
               "1 elements are farther from the checkpoint than half a step: the first, row 100 column 50");
}

Test(audit, a_foreign_scale_one_ulp_off_is_no_finding_where_the_codes_still_fit)
{
    // with every weight zero but the first, an ulp of the scale moves w - code x scale by 127 x 2^-11 of a step
    const uint16_t computed = half_from_float(1.0f), found = (uint16_t)(computed + 1);
    const int16_t codes[32] = {127};
    const float w[32] = {127.0f};
    const struct weight weight = {
        .name = "w", .format = WEIGHT_Q8, .rows = 1, .cols = 32, .data = codes, .scale = &found, .block = 32};
    struct distance distance;
    distance_start(&distance);
    distance_row(&distance, QUANT_INT8_CLIP, 0, &weight, &computed, codes, w);
    cr_assert_eq(distance.far, 0);
    cr_assert_eq(distance.wrong_scales, 0);
}

static struct distance distance_of(enum quant_format format, float scale, float computed, int16_t code, float w)
{
    const uint16_t found = half_from_float(scale), wanted = half_from_float(computed);
    const struct weight weight = {
        .name = "w", .format = WEIGHT_Q8, .rows = 1, .cols = 1, .data = &code, .scale = &found, .block = 1};
    struct distance distance;
    distance_start(&distance);
    distance_row(&distance, format, 0, &weight, &wanted, &code, &w);
    return distance;
}

Test(distance, half_a_step_is_near_and_more_is_far)
{
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 1, 1, 10, 10.5f).far, 0);
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 1, 1, 11, 10.5f).far, 0); // an exact tie may go either way
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 1, 1, 10, 10.51f).far, 1);
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 1, 1, -10, 10.0f).far, 1);
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 1, 1, 10, NAN).far, 1);
}

Test(distance, a_clamped_element_sits_at_the_end_of_the_range_only)
{
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 1, 1, 127, 127.554f).far, 0);
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 1, 1, 126, 127.554f).far, 1);
    cr_assert_eq(distance_of(QUANT_INT8_CLIP, 1, 1, -127, -127.6f).far, 0);
    cr_assert_eq(distance_of(QUANT_INT8_CLIP, 1, 1, -128, -128.0f).far, 1, "-128 is no code of clipping");
}

Test(distance, a_scale_that_is_not_the_schemes_is_found_however_well_its_codes_fit)
{
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 16, 1, 6, 100.0f).wrong_scales, 1, "too coarse");
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 0.0625f, 1, 127, 100.0f).wrong_scales, 1,
                 "too fine, everything clamped");
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 0, 1, 127, 100.0f).wrong_scales, 1, "dead");
    cr_assert_eq(distance_of(QUANT_INT8_SYM, NAN, 1, 100, 100.0f).wrong_scales, 1, "NaN");
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 1, 0x1p-23f, 0, 0.0f).wrong_scales, 0,
                 "a zero block may have any scale");
    cr_assert_eq(distance_of(QUANT_INT8_SYM, 1.001f, 1, 100, 100.0f).wrong_scales, 0);
}
