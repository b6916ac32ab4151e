// The audit of bundles of the other families: healthy ones, planted faults, and quantizers that are wrong on purpose.
#include "tests/bundle_fixture.h"
#include "tests/planting.h"
#include "tests/slow_experts.h"

#include "runtime/audit.h"
#include "runtime/distance.h"

static struct source mini;

static void open_mini(const char *name)
{
    source_open(&mini, name);
}

static void close_mini(void)
{
    source_close(&mini);
}

TestSuite(audit_families, .fini = close_mini);

static struct audit audited(const char *path, const char *expected_path)
{
    struct audit audit;
    struct error error = {0};
    struct bundle *bundle = opened(path), *expected = opened(expected_path);
    must(audit_bundle(&mini.arena, bundle, expected, &mini.model, NULL, 0, &audit, &error), &error);
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

static void finds(const struct audit *audit, const char *object, const char *what)
{
    for (size_t i = 0; i < audit->n_findings; i++)
        if (!strcmp(audit->findings[i].object, object) && strstr(audit->findings[i].what, what))
            return;
    cr_assert_fail("%zu findings, none that %s '%s'; the first: %s: %s", audit->n_findings, object, what,
                   audit->n_findings ? audit->findings[0].object : "",
                   audit->n_findings ? audit->findings[0].what : "");
}

// --- controls

static void every_scheme_is_healthy(const char *model)
{
    open_mini(model);
    for (const struct scheme *scheme = NULL; (scheme = next_scheme(scheme, mini.config.family));) {
        struct coverage coverage;
        struct error error = {0};
        uint64_t codes = 0, clamped = 0, scales = 0, subnormal = 0;
        const char *healthy = in_scratch(&mini, scheme->name);
        must(try_quantize(&mini, scheme->name, NULL, healthy, &coverage, &error), &error);
        for (size_t i = 0; i < coverage.n; i++) {
            codes += coverage.rows[i].statistics.codes;
            clamped += coverage.rows[i].statistics.clamped;
            scales += coverage.rows[i].statistics.scales;
            subnormal += coverage.rows[i].statistics.subnormal_scales;
        }
        coverage_close(&coverage);
        const struct audit own = audited(healthy, healthy), foreign = audited(planted(healthy, "foreign"), healthy);
        cr_assert_eq(own.n_findings, 0, "%s: %s", scheme->name, own.n_findings ? own.findings[0].what : "");
        cr_assert_eq(own.equal, own.tensors);
        cr_assert(own.codes == codes && own.clamped == clamped && own.scales == scales &&
                      own.subnormal_scales == subnormal,
                  "%s: quantize and audit count otherwise", scheme->name);
        cr_assert_eq(foreign.n_findings, 0, "%s by distance: %s", scheme->name,
                     foreign.n_findings ? foreign.findings[0].what : "");
        cr_assert_eq(foreign.equal, foreign.tensors);
    }
}

Test(audit_families, every_scheme_of_lfm2_moe_is_healthy_by_equality_and_by_distance)
{
    every_scheme_is_healthy("lfm2moe-mini");
}

Test(audit_families, every_scheme_of_qwen35_is_healthy_by_equality_and_by_distance)
{
    every_scheme_is_healthy("qwen35-mini");
}

Test(audit_families, every_scheme_of_qwen35_moe_is_healthy_by_equality_and_by_distance)
{
    every_scheme_is_healthy("qwen35moe-mini");
}

// --- planted faults, each named

struct expectation {
    const char *scheme, *fault, *object, *what; // cases of one scheme stand together
};

static void check_faults(const struct expectation *cases, size_t n)
{
    const char *healthy = NULL;
    for (size_t i = 0; i < n; i++) {
        if (!i || strcmp(cases[i].scheme, cases[i - 1].scheme))
            healthy = quantized(&mini, cases[i].scheme);
        const struct audit audit = audited(planted(healthy, cases[i].fault), healthy);
        finds(&audit, cases[i].object, cases[i].what);
    }
}

#define EXPERT "model.layers.3.feed_forward.experts.4."

Test(audit_families, every_planted_fault_of_lfm2_moe_is_found_and_named)
{
    static const struct expectation cases[] = {
        {"sym8", "scale_row_16", EXPERT "w2.weight", "row 17: 16 x what is computed"},
        {"sym8", "gate_up_swapped", EXPERT "w1.weight",
         "holds the values of " EXPERT "w3.weight, and the other way round"},
        {"sym8", "scale_block_off_by_one", EXPERT "w1.weight", "left neighbour's, shifted by one"},
        {"sym8", "sign_flipped_codes", EXPERT "w1.weight", "128 off, as signed codes read as unsigned"},
        {"int4aff", "scale_row_16", EXPERT "w2.weight", "row 17: 16 x what is computed"},
        {"int4aff", "nibble_order", EXPERT "w1.weight", "neighbours exchanged"},
        {"int4aff", "gate_up_swapped", EXPERT "w1.weight", "and the other way round"},
        {"int4km", "nibble_order", EXPERT "w1.weight", "neighbours exchanged"},
        {"int4km", "lut_shifted", EXPERT "w2.weight", "each codebook has those of the codebook before it"},
        {"int8km", "lut_shifted", EXPERT "w2.weight", "each codebook has those of the codebook before it"},
        {"int8km", "gate_up_swapped", EXPERT "w1.weight", "and the other way round"},
        {"int8km", "expert_of_another", EXPERT "w2.weight",
         "holds the values of model.layers.3.feed_forward.experts.3.w2.weight"},
        {"fp16", "expert_of_another", EXPERT "w2.weight",
         "holds the values of model.layers.3.feed_forward.experts.3."},
        {"int8lin", "norm_plus_one", "model.layers.3.operator_norm.weight", "1 more than what is computed"},
        {"int8lin", "head_rows_dead", "model.embed_tokens.weight", "all zero"},
        {"int8lin", "conv_weights_shifted", "model.layers.0.conv.conv.weight", "shifted by one"},
    };
    open_mini("lfm2moe-mini");
    check_faults(cases, sizeof cases / sizeof *cases);
}

#define QWEN "model.language_model.layers."

Test(audit_families, every_planted_fault_of_qwen35_is_found_and_named)
{
    static const struct expectation cases[] = {
        {"int8lin", "a_log_negated", QWEN "0.linear_attn.A_log", "of the opposite sign"},
        {"int8lin", "a_log_exponentiated", QWEN "0.linear_attn.A_log", "6 of 6 values differ"},
        {"int8lin", "dt_bias_zero", QWEN "0.linear_attn.dt_bias", "all zero where"},
        {"int8lin", "norm_plus_one", QWEN "4.input_layernorm.weight", "1 more than what is computed"},
        {"int8lin", "conv_weights_shifted", QWEN "0.linear_attn.conv1d.weight", "shifted by one"},
        {"int8lin", "scale_row_16", QWEN "4.mlp.down_proj.weight", "row 17: 16 x what is computed"},
        {"int8lin", "gate_up_swapped", QWEN "4.mlp.gate_proj.weight", "and the other way round"},
        {"int4lin", "nibble_order", QWEN "4.mlp.gate_proj.weight", "neighbours exchanged"},
        {"int8hu_block32_sym", "head_rows_dead", "lm_head.weight", "all zero"},
        {"int8hu_block32_sym", "kv_state_fp32", "precision.json kv_state", "does not declare it"},
        {"int8lin", "delta_state_fp32", "precision.json delta_state", "does not declare it"},
        {"int8lin", "delta_state_fp32_declared", "precision.json delta_state", "the policy does not allow"},
    };
    open_mini("qwen35-mini");
    check_faults(cases, sizeof cases / sizeof *cases);
}

#define FUSED QWEN "4.mlp.experts."

Test(audit_families, every_planted_fault_of_qwen35_moe_is_found_and_named_inside_of_the_tensor_of_all_experts)
{
    static const struct expectation cases[] = {
        {"sym8", "gate_up_swapped", FUSED "gate_up_proj", "gate and up are exchanged in 1 of 8 experts, expert 4"},
        {"sym8", "expert_of_another", FUSED "down_proj", "expert 4 holds the values of expert 3; 1 of 8 matrices"},
        {"sym8", "scale_row_16", FUSED "down_proj", "row 657: 16 x what is computed"}, // 4 x 160 + 17
        {"int4aff", "gate_up_swapped", FUSED "gate_up_proj", "gate and up are exchanged in 1 of 8 experts, expert 4"},
        {"int4km", "gate_up_swapped", FUSED "gate_up_proj", "gate and up are exchanged in 1 of 8 experts, expert 4"},
        {"int8km", "expert_of_another", FUSED "down_proj", "expert 4 holds the values of expert 3; 1 of 8 matrices"},
        {"int8km", "lut_shifted", FUSED "down_proj", "each codebook has those of the codebook before it"},
        {"fp16", "gate_up_swapped", FUSED "gate_up_proj", "gate and up are exchanged in 1 of 8 experts, expert 4"},
        {"int8lin", "dt_bias_zero", QWEN "0.linear_attn.dt_bias", "all zero where"},
    };
    open_mini("qwen35moe-mini");
    check_faults(cases, sizeof cases / sizeof *cases);
}

Test(audit_families, a_quantized_router_is_refused_before_any_audit)
{
    static const char *const models[] = {"lfm2moe-mini", "qwen35moe-mini"};
    for (int i = 0; i < 2; i++) {
        struct bundle *bundle;
        struct error error = {0};
        open_mini(models[i]);
        const char *fault = planted(quantized(&mini, "int8lin"), "router_quantized");
        refused(bundle_open(&bundle, fault, &error), ERROR_INPUT, &error, "gate.weight");
        cr_assert_not_null(strstr(error.text, "quantized form, which is not allowed here"));
        if (!i)
            close_mini();
    }
}

Test(audit_families, a_scheme_or_a_plan_that_the_family_does_not_have_is_refused)
{
    struct bundle *bundle;
    struct error error = {0};
    open_mini("qwen35-mini");
    const char *healthy = quantized(&mini, "int8lin"), *metadata = file_join(&mini.arena, healthy, "metadata.json");
    edit_text(&mini, metadata, "\"plan\": {}", "\"plan\": {\"attention_projections\": \"f32\"}");
    refused(bundle_open(&bundle, healthy, &error), ERROR_CONTRACT, &error, "attention_projections, of which");
    edit_text(&mini, metadata, "\"plan\": {\"attention_projections\": \"f32\"}", "\"plan\": {}");
    edit_text(&mini, metadata, "_decode_int8lin", "_decode_sym8");
    edit_text(&mini, metadata, "\"scheme\": \"int8lin\"", "\"scheme\": \"sym8\"");
    refused(bundle_open(&bundle, healthy, &error), ERROR_CONTRACT, &error, "scheme sym8 is a format of experts");
    refused(try_quantize(&mini, "sym8", NULL, in_scratch(&mini, "none"), NULL, &error), ERROR_USAGE, &error,
            "int4lin");
}

Test(audit_families, one_expert_format_under_the_name_of_another_is_refused)
{
    static const char *const pairs[][2] = {{"int4aff", "int4km"}, {"int8km", "sym8"}, {"int4km", "int8km"}};
    open_mini("lfm2moe-mini");
    for (int i = 0; i < 3; i++) {
        struct bundle *bundle;
        struct error error = {0};
        const char *healthy = quantized(&mini, pairs[i][0]),
                   *metadata = file_join(&mini.arena, healthy, "metadata.json");
        edit_text(&mini, metadata, pairs[i][0], pairs[i][1]); // the name
        edit_text(&mini, metadata, arena_print(&mini.arena, "\"scheme\": \"%s\"", pairs[i][0]),
                  arena_print(&mini.arena, "\"scheme\": \"%s\"", pairs[i][1]));
        refused(bundle_open(&bundle, healthy, &error), ERROR_CONTRACT, &error,
                "the bundle is not what its metadata says");
    }
}

// --- a quantizer that is wrong on purpose writes one expert's matrix

enum { WHERE = 3 }; // layer, and expert of it

static void rewrite(const char *path, enum search_variant variant)
{
    struct error error = {0};
    struct bundle *bundle = opened(path);
    const struct weight *stored = &bundle->model.layers[WHERE].experts[WHERE].down;
    const struct weight *source = &mini.model.layers[WHERE].experts[WHERE].down;
    const unsigned char *mapped = bundle->weights->map.bytes;
    const size_t size = (size_t)bundle->weights->map.size;
    const uint32_t blocks = source->cols / 32;
    unsigned char *bytes = malloc(size);
    float *row = malloc(source->cols * sizeof *row);
    memcpy(bytes, mapped, size);
    for (uint32_t r = 0; r < source->rows; r++) {
        weight_row(source, r, row);
        for (uint32_t b = 0; b < blocks; b++) {
            const size_t at = (size_t)r * blocks + b;
            unsigned char *codes_out = bytes + ((const unsigned char *)stored->data - mapped);
            int codes[32];
            uint16_t scale, bias;
            slow_block(row + 32 * b, codes, &scale, stored->bias ? &bias : NULL, variant);
            memcpy(bytes + ((const unsigned char *)stored->scale - mapped) + 2 * at, &scale, 2);
            if (stored->bias)
                memcpy(bytes + ((const unsigned char *)stored->bias - mapped) + 2 * at, &bias, 2);
            for (int k = 0; k < 32; k++)
                if (!stored->bias)
                    codes_out[32 * at + (size_t)k] = (unsigned char)codes[k];
                else if (k % 2)
                    codes_out[16 * at + (size_t)k / 2] = (unsigned char)(codes[k - 1] | codes[k] << 4);
        }
    }
    struct output *output;
    must(output_open(&output, file_join(&mini.arena, path, "weights.safetensors"), &error), &error);
    output_append(output, bytes, size);
    must(output_commit(&output, &error), &error);
    free(bytes);
    free(row);
    bundle_close(&bundle);
}

Test(audit_families, wrong_clips_and_codes_against_the_rounded_scale_are_found_and_the_right_ones_are_not)
{
    static const struct {
        const char *scheme;
        enum search_variant variant;
        bool found;
    } cases[] = {{"sym8", SEARCH_BY_THE_PAGE, false},    {"int4aff", SEARCH_BY_THE_PAGE, false},
                 {"sym8", SEARCH_ONLY_CLIPS, true},      {"int4aff", SEARCH_ONLY_CLIPS, true},
                 {"int4aff", SEARCH_NO_CLIPS, true},     {"sym8", SEARCH_ROUNDED_SCALE, true},
                 {"int4aff", SEARCH_ROUNDED_SCALE, true}};
    open_mini("lfm2moe-mini");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *healthy = quantized(&mini, cases[i].scheme), *copy = planted(healthy, "none");
        rewrite(copy, cases[i].variant);
        const struct audit audit = audited(copy, healthy);
        cr_assert_eq(audit.n_findings > 0, cases[i].found, "%s, variant %d", cases[i].scheme, (int)cases[i].variant);
        if (cases[i].found)
            cr_assert_str_eq(audit.findings[0].object, "model.layers.3.feed_forward.experts.3.w2.weight");
    }
}

// --- bundles made elsewhere

Test(audit_families, another_choice_of_clips_is_legal_by_distance_and_a_wrong_scale_is_not)
{
    open_mini("lfm2moe-mini");
    static const struct {
        const char *scheme, *fault;
    } cases[] = {{"sym8", "scale_row_16"},      {"int4aff", "scale_row_16"},    {"int4aff", "nibble_order"},
                 {"int4km", "lut_shifted"},     {"int8km", "lut_shifted"},      {"int4km", "nibble_order"},
                 {"int8km", "gate_up_swapped"}, {"sym8", "sign_flipped_codes"}, {"int4aff", "expert_of_another"}};
    const char *healthy = quantized(&mini, "int4aff"), *foreign = planted(healthy, "foreign");
    rewrite(foreign, SEARCH_NO_CLIPS);
    const struct audit legal = audited(foreign, healthy);
    cr_assert_eq(legal.n_findings, 0, "%s", legal.n_findings ? legal.findings[0].what : "");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        healthy = quantized(&mini, cases[i].scheme);
        const char *wrong = planted(planted(healthy, cases[i].fault), "foreign");
        const struct audit audit = audited(wrong, healthy);
        cr_assert_gt(audit.n_findings, 0, "%s %s", cases[i].scheme, cases[i].fault);
    }
}

static struct distance distance_of_book(const uint16_t lut[16], uint8_t code, float w, float expected)
{
    uint8_t codes[32];
    float values[32], computed[32];
    for (int i = 0; i < 32; i++) {
        codes[i] = code;
        values[i] = w;
        computed[i] = expected;
    }
    const struct weight weight = {.name = "w", .format = WEIGHT_K4, .rows = 32, .cols = 1, .data = codes, .lut = lut};
    struct distance distance;
    distance_start(&distance);
    distance_book(&distance, 0, &weight, computed, values);
    return distance;
}

Test(distance_book, the_nearest_entry_is_asked_for_in_whatever_order_a_book_has_and_the_book_must_fit)
{
    uint16_t lut[16];
    for (int j = 0; j < 16; j++)
        lut[j] = half_from_float((float)(15 - j)); // descending
    cr_assert_eq(distance_of_book(lut, 5, 10.2f, 10.2f).far, 0);
    cr_assert_eq(distance_of_book(lut, 5, 10.5f, 10.5f).far, 0); // between two: either
    cr_assert_eq(distance_of_book(lut, 4, 10.5f, 10.5f).far, 0);
    cr_assert_eq(distance_of_book(lut, 4, 10.2f, 10.2f).far, 32);
    cr_assert_eq(distance_of_book(lut, 0, 40.0f, 15.0f).far, 0);           // beyond the last entry
    cr_assert_eq(distance_of_book(lut, 5, 10.2f, 10.09f).wrong_scales, 0); // 0.2 off where 0.11 is computed
    cr_assert_eq(distance_of_book(lut, 5, 10.2f, 10.11f).wrong_scales, 1); // 0.2 off where 0.09 is computed
    lut[9] = HALF_NAN;
    cr_assert_eq(distance_of_book(lut, 5, 10.2f, 10.2f).far, 32);
}
