// The formats of experts, against slow_experts.h; which tensor of which family is treated how; bundles of the unusual
// models of every family.
#include "tests/bundle_fixture.h"
#include "tests/slow_experts.h"

#include <stdio.h>

#include "runtime/quant.h"

static struct source mini;

static void open_lfm2(void)
{
    source_open(&mini, "lfm2moe-mini");
}

static void open_qwen(void)
{
    source_open(&mini, "qwen35moe-mini");
}

static void close_mini(void)
{
    source_close(&mini);
}

TestSuite(one_by_one, .init = open_lfm2, .fini = close_mini);
TestSuite(fused, .init = open_qwen, .fini = close_mini);

// --- every code and half of an expert's weights, as stored, against the slow quantizer

static uint64_t wrong_blocks(const struct weight *stored, const struct weight *source, enum search_variant variant)
{
    const uint32_t cols = source->cols, n = cols / 32;
    float *row = malloc(cols * sizeof *row);
    int16_t *found = malloc(cols * sizeof *found);
    uint64_t wrong = 0;
    for (uint32_t r = 0; r < source->rows; r++) {
        weight_row(source, r, row);
        quant_codes(stored, r, found);
        for (uint32_t b = 0; b < n; b++) {
            int codes[32];
            uint16_t scale, bias = 0;
            slow_block(row + 32 * b, codes, &scale, stored->bias ? &bias : NULL, variant);
            wrong += stored->scale[r * n + b] != scale;
            wrong += stored->bias && stored->bias[r * n + b] != bias;
            for (int k = 0; k < 32; k++)
                wrong += found[32 * b + (uint32_t)k] != codes[k];
        }
    }
    free(row);
    free(found);
    return wrong;
}

static uint64_t wrong_books(const struct weight *stored, const struct weight *source)
{
    const uint32_t cols = source->cols, entries = stored->format == WEIGHT_K8 ? 256 : 16;
    float *values = malloc(32 * (size_t)cols * sizeof *values);
    uint8_t *codes = malloc(32 * (size_t)cols);
    int16_t *found = malloc(cols * sizeof *found);
    uint64_t wrong = 0;
    for (uint32_t first = 0; first < source->rows; first += 32) {
        uint16_t halves[256];
        for (uint32_t i = 0; i < 32; i++)
            weight_row(source, first + i, values + i * cols);
        slow_book(values, 32 * cols, entries, halves, codes, BOOK_BY_THE_PAGE);
        for (uint32_t j = 0; j < entries; j++)
            wrong += stored->lut[first / 32 * entries + j] != halves[j];
        for (uint32_t i = 0; i < 32; i++) {
            quant_codes(stored, first + i, found);
            for (uint32_t k = 0; k < cols; k++)
                wrong += found[k] != codes[i * cols + k];
        }
    }
    free(values);
    free(codes);
    free(found);
    return wrong;
}

static uint64_t wrong_in(const struct weight *stored, const struct weight *source, enum search_variant variant)
{
    return stored->lut ? wrong_books(stored, source) : wrong_blocks(stored, source, variant);
}

static uint64_t wrong_in_expert(const struct bundle *bundle, uint32_t layer, uint32_t expert,
                                enum search_variant variant)
{
    const struct expert *stored = &bundle->model.layers[layer].experts[expert];
    const struct expert *source = &mini.model.layers[layer].experts[expert];
    return wrong_in(&stored->gate, &source->gate, variant) + wrong_in(&stored->up, &source->up, variant) +
           wrong_in(&stored->down, &source->down, variant);
}

static const struct {
    const char *scheme;
    enum weight_format stored;
    bool slow; // 256 entries by going through all: one expert of a layer
} formats[] = {{"sym8", WEIGHT_Q8, false},
               {"int4aff", WEIGHT_A4, false},
               {"int4km", WEIGHT_K4, true},
               {"int8km", WEIGHT_K8, true}};
enum { N_FORMATS = sizeof formats / sizeof *formats };

// Of formats that the slow quantizer takes long for, experts of the first, a middle and the last place.
static void every_expert_is_right(uint32_t first_layer)
{
    const struct config *config = &mini.config;
    for (int f = 0; f < N_FORMATS; f++) {
        struct bundle *bundle = opened(quantized(&mini, formats[f].scheme));
        for (uint32_t l = first_layer; l < config->layers; l++)
            for (uint32_t e = 0; e < config->experts; e++) {
                if (formats[f].slow && e != 7 * (l - first_layer) % config->experts)
                    continue;
                cr_assert_eq(bundle->model.layers[l].experts[e].gate.format, formats[f].stored);
                const uint64_t wrong = wrong_in_expert(bundle, l, e, SEARCH_BY_THE_PAGE);
                cr_assert_eq(wrong, 0, "%s layer %u expert %u: %llu wrong", formats[f].scheme, l, e,
                             (unsigned long long)wrong);
            }
        bundle_close(&bundle);
    }
}

Test(one_by_one, every_code_scale_bias_and_entry_is_what_a_slow_quantizer_computes)
{
    every_expert_is_right(2);
}

Test(fused, every_code_scale_bias_and_entry_is_what_a_slow_quantizer_computes)
{
    every_expert_is_right(0);
}

Test(one_by_one, the_comparison_above_sees_wrong_clips_and_a_rounded_scale)
{
    static const struct {
        const char *scheme;
        uint64_t at_least[SEARCH_VARIANTS];
    } cases[] = {
        // sym8 clips nothing (below), so only the clips that are tried first can be missed
        {"sym8", {[SEARCH_ONLY_CLIPS] = 500000, [SEARCH_ROUNDED_SCALE] = 1000}},
        {"int4aff", {[SEARCH_NO_CLIPS] = 10000, [SEARCH_ONLY_CLIPS] = 10000, [SEARCH_ROUNDED_SCALE] = 100}},
    };
    for (int s = 0; s < 2; s++) {
        struct bundle *bundle = opened(quantized(&mini, cases[s].scheme));
        for (int v = SEARCH_NO_CLIPS; v < SEARCH_VARIANTS; v++) {
            uint64_t wrong = 0;
            for (uint32_t e = 0; e < 8; e++)
                wrong += wrong_in_expert(bundle, 3, e, (enum search_variant)v);
            cr_assert_geq(wrong, cases[s].at_least[v], "%s variant %d: %llu", cases[s].scheme, v,
                          (unsigned long long)wrong);
        }
        bundle_close(&bundle);
    }
}

// A clip by 5 % costs the largest value (0.05 x 127)^2 = 40 squared steps; without it all 32 together lose at most 32
// / 4.
Test(search, sym8_never_clips_a_block_of_32)
{
    struct quant_statistics statistics = {0};
    struct error error = {0};
    uint32_t state = 7;
    for (int i = 0; i < 2000; i++) {
        float w[32], absmax = 0;
        int8_t codes[32];
        uint16_t scale;
        for (int k = 0; k < 32; k++) {
            state = state * 1664525u + 1013904223u;
            w[k] = (float)(int32_t)state * 0x1p-31f * (k == i % 32 ? 8.0f : 1.0f);
            absmax = fmaxf(absmax, fabsf(w[k]));
        }
        must(quant_row(QUANT_INT8_SEARCH, w, 32, 32, codes, &scale, &statistics, &error), &error);
        cr_assert_eq(scale, half_from_float(absmax / 127.0f));
    }
}

static uint16_t scale_with(float w[32], float value, enum search_variant variant)
{
    int codes[32];
    uint16_t scale, bias;
    w[5] = value;
    slow_block(w, codes, &scale, &bias, variant);
    return scale;
}

// Where the best clip changes as one value grows, the errors of two are equal to the last bit about every other time.
Test(search, of_equal_errors_the_first_clip_wins)
{
    struct quant_statistics statistics = {0};
    struct error error = {0};
    uint32_t ties = 0, changes = 0, state = 1;
    for (int i = 0; i < 400; i++) {
        float w[32] = {-7.5f, 7.5f};
        for (int k = 2; k < 32; k++) {
            state = state * 1664525u + 1013904223u;
            w[k] = (float)(int32_t)state * 0x1p-31f * 5.0f;
        }
        float low = w[5], high = low + 0.3f;
        const uint16_t before = scale_with(w, low, SEARCH_BY_THE_PAGE);
        if (before == scale_with(w, high, SEARCH_BY_THE_PAGE))
            continue;
        changes++;
        for (int step = 0; step < 40; step++) {
            const float middle = low + (high - low) / 2;
            *(scale_with(w, middle, SEARCH_BY_THE_PAGE) == before ? &low : &high) = middle;
        }
        const float ends[2] = {low, high};
        for (int e = 0; e < 2; e++) {
            int8_t codes[32];
            uint16_t scale, bias;
            const uint16_t last = scale_with(w, ends[e], SEARCH_TIES_LAST);
            const uint16_t first = scale_with(w, ends[e], SEARCH_BY_THE_PAGE);
            must(quant_row_affine(w, 32, codes, &scale, &bias, &statistics, &error), &error);
            cr_assert_eq(scale, first);
            ties += first != last;
        }
    }
    cr_assert_gt(changes, 20);
    cr_assert_gt(ties, 5, "%u ties in %u changes", ties, changes);
}

Test(search, a_block_of_zeros_or_of_one_value_is_kept)
{
    struct quant_statistics statistics = {0};
    struct error error = {0};
    const float values[] = {0.0f, -0.0f, 0.25f, -3.0f};
    for (int i = 0; i < 4; i++) {
        float w[32];
        int8_t codes[32];
        uint16_t scale, bias;
        for (int k = 0; k < 32; k++)
            w[k] = values[i];
        must(quant_row_affine(w, 32, codes, &scale, &bias, &statistics, &error), &error);
        cr_assert_eq(fmaf(half_to_float(scale), (float)codes[31], half_to_float(bias)), values[i]);
        must(quant_row(QUANT_INT8_SEARCH, w, 32, 32, codes, &scale, &statistics, &error), &error);
        cr_assert(values[i] != 0.0f || (scale == 0 && codes[31] == 0)); // 1e-8 is less than half of the least half
    }
}

Test(search, values_that_are_not_finite_or_need_more_than_a_half_are_refused)
{
    struct quant_statistics statistics = {0};
    const float bad[] = {NAN, INFINITY, 1e30f, 3e38f};
    for (int i = 0; i < 4; i++) {
        struct error error = {0};
        float w[64] = {0};
        int8_t codes[64];
        uint16_t scales[2], biases[2];
        w[40] = bad[i];
        refused(quant_row_affine(w, 64, codes, scales, biases, &statistics, &error), ERROR_INPUT, &error,
                i < 2 ? "column 40" : "column 32");
        refused(quant_row(QUANT_INT8_SEARCH, w, 64, 32, codes, scales, &statistics, &error), ERROR_INPUT, &error,
                i < 2 ? "column 40" : "column 32");
    }
}

// --- which tensor of which family is treated how

static struct quant_decision decide(const struct config *config, const char *scheme, const char *name, uint32_t rows,
                                    uint32_t cols)
{
    const struct weight weight = {.name = name, .format = WEIGHT_BF16, .rows = rows, .cols = cols};
    struct quant_decision decision;
    quant_decide(scheme_named(scheme), config, NULL, 0, &weight, false, &decision);
    return decision;
}

static const struct config lfm2_moe = {.family = FAMILY_LFM2_MOE, .experts = 8, .hidden = 64, .expert_width = 96};
static const struct config qwen35_moe = {.family = FAMILY_QWEN35_MOE, .experts = 8, .hidden = 64, .expert_width = 96};
static const struct config qwen35_odd = {.family = FAMILY_QWEN35_MOE, .experts = 8, .hidden = 64, .expert_width = 48};

Test(families, attention_is_quantized_in_qwen_and_exact_in_lfm2)
{
    const char *q = "model.language_model.layers.3.self_attn.q_proj.weight";
    cr_assert_eq(decide(&qwen35_moe, "int8lin", q, 64, 64).rule.format, QUANT_INT8_CLIP);
    cr_assert_eq(decide(&qwen35_moe, "int4lin", q, 64, 64).rule.format, QUANT_INT4_CLIP);
    cr_assert_eq(decide(&qwen35_moe, "sym8", q, 64, 64).rule.format, QUANT_INT8_CLIP);
    const struct quant_decision exact = decide(&lfm2_moe, "sym8", "model.layers.3.self_attn.q_proj.weight", 64, 64);
    cr_assert_eq(exact.rule.format, QUANT_NONE);
    cr_assert_eq(exact.stored, DTYPE_F32);
}

Test(families, all_projections_of_the_delta_net_are_quantized_and_its_decay_is_exact)
{
    static const char *const projections[] = {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"};
    static const char *const exact[] = {"A_log", "dt_bias"}, *const halves[] = {"conv1d.weight", "norm.weight"};
    char name[80];
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "model.layers.0.linear_attn.%s.weight", projections[i]);
        cr_assert_eq(decide(&qwen35_moe, "int8lin", name, 4, 64).rule.format, QUANT_INT8_CLIP, "%s", name);
    }
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "model.layers.0.linear_attn.%s", exact[i]);
        cr_assert_eq(decide(&qwen35_moe, "int8lin", name, 1, 32).stored, DTYPE_F32, "%s", name);
        snprintf(name, sizeof name, "model.layers.0.linear_attn.%s", halves[i]);
        const struct quant_decision decision = decide(&qwen35_moe, "int8lin", name, 32, 32);
        cr_assert(decision.rule.format == QUANT_NONE && decision.stored == DTYPE_F16, "%s", name);
    }
}

Test(families, routers_and_the_gate_of_the_shared_expert_are_never_quantized)
{
    for (const struct scheme *scheme = NULL; (scheme = next_scheme(scheme, FAMILY_QWEN35_MOE));) {
        const struct quant_decision router =
                                        decide(&qwen35_moe, scheme->name, "model.layers.0.mlp.gate.weight", 8, 64),
                                    gate = decide(&qwen35_moe, scheme->name,
                                                  "model.layers.0.mlp.shared_expert_gate.weight", 1, 64),
                                    other = decide(&lfm2_moe, scheme->name, "model.layers.2.feed_forward.gate.weight",
                                                   8, 64);
        cr_assert(router.rule.format == QUANT_NONE && router.stored == DTYPE_F16);
        cr_assert(gate.rule.format == QUANT_NONE && gate.stored == DTYPE_F16);
        cr_assert(other.rule.format == QUANT_NONE && other.stored == DTYPE_F16);
    }
    cr_assert_eq(decide(&lfm2_moe, "int8lin", "model.layers.2.feed_forward.expert_bias", 1, 32).stored, DTYPE_F32);
}

Test(families, experts_and_the_shared_expert_have_the_formats_of_the_scheme)
{
    const char *w1 = "model.layers.2.feed_forward.experts.11.w1.weight",
               *fused = "model.layers.0.mlp.experts.gate_up_proj",
               *shared = "model.layers.0.mlp.shared_expert.up_proj.weight";
    cr_assert_eq(decide(&lfm2_moe, "int8lin", w1, 96, 64).rule.format, QUANT_INT8_CLIP);
    cr_assert_eq(decide(&lfm2_moe, "int4lin", w1, 96, 64).rule.format, QUANT_INT4_CLIP);
    cr_assert_eq(decide(&lfm2_moe, "sym8", w1, 96, 64).rule.format, QUANT_INT8_SEARCH);
    cr_assert_eq(decide(&qwen35_moe, "int8km", fused, 8 * 192, 64).rule.format, QUANT_INT8_BOOK);
    cr_assert_eq(decide(&qwen35_moe, "int4km", fused, 8 * 192, 64).rule.format, QUANT_INT4_BOOK);
    cr_assert_eq(decide(&qwen35_moe, "int4aff", fused, 8 * 192, 64).rule.format, QUANT_INT4_AFFINE);
    cr_assert_eq(decide(&qwen35_moe, "int4km", shared, 96, 64).rule.format, QUANT_INT8_CLIP);
    cr_assert_eq(decide(&qwen35_moe, "int4km", "model.layers.0.mlp.up_proj.weight", 96, 64).rule.format,
                 QUANT_INT8_CLIP);
}

Test(families, codebooks_need_32_rows_of_gate_and_up_each_and_blocks_32_columns)
{
    const char *fused = "model.layers.0.mlp.experts.gate_up_proj", *down = "model.layers.0.mlp.experts.down_proj",
               *one = "model.layers.0.mlp.experts.3.gate_proj.weight";
    // 2 Fm = 96 rows of an expert divide by 32, but a codebook of the middle 32 would serve gate and up
    const struct quant_decision fused_odd = decide(&qwen35_odd, "int8km", fused, 8 * 96, 64);
    cr_assert_eq(fused_odd.rule.format, QUANT_NONE);
    cr_assert_str_eq(fused_odd.why, "N is no multiple of 32");
    cr_assert_eq(fused_odd.stored, DTYPE_F16);
    cr_assert_eq(decide(&qwen35_odd, "int8km", one, 48, 64).rule.format, QUANT_NONE);
    cr_assert_eq(decide(&qwen35_odd, "int8km", down, 8 * 64, 48).rule.format, QUANT_INT8_BOOK);
    cr_assert_str_eq(decide(&qwen35_odd, "sym8", down, 8 * 64, 48).why, "K is no multiple of 32");
    cr_assert_eq(decide(&qwen35_odd, "sym8", fused, 8 * 96, 64).rule.format, QUANT_INT8_SEARCH);
}

Test(families, an_expert_format_is_refused_by_name_where_there_are_no_experts)
{
    static const enum family without[] = {FAMILY_LFM2, FAMILY_QWEN35}, with[] = {FAMILY_LFM2_MOE, FAMILY_QWEN35_MOE};
    for (int i = 0; i < 2; i++) {
        struct error error = {0};
        refused(scheme_check(scheme_named("int8km"), without[i], &error), ERROR_USAGE, &error, "scheme int8km");
        cr_assert_not_null(strstr(error.text, family_name(without[i])));
        cr_assert_not_null(strstr(error.text, "int8hu_perchan_sym"));
        cr_assert_null(strstr(error.text, "int4aff"));
        for (const struct scheme *scheme = schemes; scheme->name; scheme++)
            must(scheme_check(scheme, with[i], &error), &error);
    }
}

// --- bundles

static uint64_t found_codes, found_halves;

static void see_weight(void *context, const struct weight *weight)
{
    (void)context;
    *(weight->scale || weight->lut ? &found_codes : &found_halves) += 1;
}

Test(families, unusual_models_of_every_family_open_again_under_every_scheme)
{
    static const char *const models[] = {"odd-lfm2moe-all-attention",
                                         "odd-lfm2moe-all-dense",
                                         "odd-lfm2moe-every-expert",
                                         "odd-lfm2moe-group1-top1",
                                         "odd-lfm2moe-group3-taps4-bias",
                                         "odd-lfm2moe-group8-untied",
                                         "odd-lfm2moe-mixed-sharded",
                                         "odd-lfm2moe-one-attention",
                                         "odd-qwen35-all-attention",
                                         "odd-qwen35-group1-taps2",
                                         "odd-qwen35-group3-taps3-bias",
                                         "odd-qwen35-group8-values4",
                                         "odd-qwen35-head-only",
                                         "odd-qwen35-mixed-sharded",
                                         "odd-qwen35-one-attention",
                                         "odd-qwen35moe-all-attention",
                                         "odd-qwen35moe-every-expert",
                                         "odd-qwen35moe-group1-fused",
                                         "odd-qwen35moe-group3-top1-split",
                                         "odd-qwen35moe-group8-top4",
                                         "odd-qwen35moe-mixed-sharded"};
    uint32_t bundles = 0;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct source odd;
        source_open(&odd, models[i]);
        for (const struct scheme *scheme = NULL; (scheme = next_scheme(scheme, odd.config.family));) {
            struct coverage coverage;
            struct error error = {0};
            const char *out = in_scratch(&odd, scheme->name);
            uint64_t coded = 0;
            must(try_quantize(&odd, scheme->name, NULL, out, &coverage, &error), &error);
            for (size_t row = 0; row < coverage.n; row++) {
                const bool quantized_row = coverage.rows[row].statistics.codes > 0;
                coded += quantized_row;
                cr_assert_eq(quantized_row, !*coverage.rows[row].why,
                             "%s %s: %s is left alone and no reason is given", models[i], scheme->name,
                             coverage.rows[row].tensor);
            }
            coverage_close(&coverage);
            struct bundle *bundle = opened(out);
            found_codes = found_halves = 0;
            model_visit(&bundle->model, see_weight, NULL);
            cr_assert_eq(found_codes, coded, "%s %s", models[i], scheme->name);
            bundle_close(&bundle);
            bundles++;
        }
        source_close(&odd);
    }
    cr_assert_eq(bundles, 8u * 10 + 7u * 6 + 6u * 10);
}

static char *read_all(struct source *source, const char *path, uint64_t *size)
{
    char *text;
    struct error error = {0};
    must(file_read(&source->arena, path, 1 << 26, &text, size, &error), &error);
    return text;
}

Test(fused, the_same_bytes_come_twice_and_experts_keep_their_three_dimensions)
{
    static const struct {
        const char *scheme, *suffix;
        uint64_t shape[3];
    } cases[] = {{"sym8", ".q8", {8, 128, 160}},    {"sym8", ".scale", {8, 128, 5}}, {"int4aff", ".q4", {8, 128, 80}},
                 {"int4aff", ".bias", {8, 128, 5}}, {"int8km", ".lut", {8, 4, 256}}, {"int4km", ".lut", {8, 4, 16}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t sizes[2];
        const char *out = quantized(&mini, cases[i].scheme),
                   *weights = file_join(&mini.arena, out, "weights.safetensors");
        const char *first = read_all(&mini, weights, &sizes[0]);
        struct bundle *bundle = opened(quantized(&mini, cases[i].scheme));
        const char *second = read_all(&mini, weights, &sizes[1]);
        cr_assert(sizes[0] == sizes[1] && !memcmp(first, second, (size_t)sizes[0]), "%s", cases[i].scheme);
        const char *name = arena_print(&mini.arena, "%s%s", bundle->model.layers[1].gate_up.name, cases[i].suffix);
        const struct tensor *tensor = tensor_table_find(&bundle->table, name);
        cr_assert_not_null(tensor, "%s", name);
        cr_assert_eq(tensor->rank, 3);
        cr_assert_arr_eq(tensor->shape, cases[i].shape, sizeof cases[i].shape);
        bundle_close(&bundle);
    }
}

Test(one_by_one, keep_leaves_the_experts_that_it_names)
{
    struct coverage coverage;
    struct error error = {0};
    const char *keep = "*.experts.3.w?.weight=fp16", *out = in_scratch(&mini, "kept");
    must(try_quantize(&mini, "int4km", keep, out, &coverage, &error), &error);
    uint32_t kept = 0;
    for (size_t i = 0; i < coverage.n; i++)
        kept += !strcmp(coverage.rows[i].why, "--keep '*.experts.3.w?.weight=fp16'");
    cr_assert_eq(kept, 4 * 3); // layers 2 to 5
    coverage_close(&coverage);
    struct bundle *bundle = opened(out);
    cr_assert_eq(bundle->model.layers[2].experts[3].up.format, WEIGHT_F16);
    cr_assert_eq(bundle->model.layers[2].experts[4].up.format, WEIGHT_K4);
    bundle_close(&bundle);
    refused(try_quantize(&mini, "sym8", "*.feed_forward.gate.weight=fp16", out, NULL, &error), ERROR_USAGE, &error,
            "matches no tensor");
}
