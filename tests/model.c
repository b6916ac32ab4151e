// Binding: the fixture, every legal odd shape, and every way in which the tensors are not those of the config.
#include <criterion/criterion.h>
#include <stdio.h>

#include "harness/base/files.h"
#include "harness/model/model.h"
#include "tests/small_model.h"

static struct arena arena;
static char *scratch, *path;
static struct safetensors *file;

static void make_scratch(void)
{
    struct error error;
    cr_assert_eq(directory_scratch(&arena, &scratch, &error), 0, "%s", error.text);
    path = file_join(&arena, scratch, "model.safetensors");
}

static void remove_scratch(void)
{
    safetensors_close(&file);
    directory_remove(scratch);
    arena_close(&arena);
}

TestSuite(model, .init = make_scratch, .fini = remove_scratch);

// Writes the list, opens it and binds it.
static int bind(const struct small_model *small, bool quantized, struct model *model, const char **note,
                struct error *error)
{
    safetensors_close(&file);
    small_write(small, 0, small->n, 256, path);
    cr_assert_eq(safetensors_open(&file, path, error), 0, "%s", error->text);
    const struct tensor **tensors = arena_alloc(&arena, file->n_tensors, sizeof *tensors);
    for (size_t i = 0; i < file->n_tensors; i++)
        tensors[i] = &file->tensors[i];
    const struct tensor_table table = {file->n_tensors, tensors};
    return model_bind(&arena, &small->config, &table, quantized, model, note, error);
}

static void expect_bound(const char *name, const struct small_model *small)
{
    struct model model;
    const char *note;
    struct error error = {0};
    cr_assert_eq(bind(small, false, &model, &note, &error), 0, "%s: %s", name, error.text);
    cr_assert_null(note, "%s", name);
    cr_assert_eq(model.n_weights, small->n, "%s", name);
}

static void expect_refused(const char *name, const struct small_model *small, bool quantized, const char *expected)
{
    struct model model;
    struct error error = {0};
    cr_expect_eq(bind(small, quantized, &model, NULL, &error), ERROR_INPUT, "%s: accepted", name);
    cr_expect(strstr(error.text, expected), "%s: found '%s', expected it to say '%s'", name, error.text, expected);
}

static void add_elements(void *context, const struct weight *weight)
{
    *(uint64_t *)context += (uint64_t)weight->rows * weight->cols;
}

Test(model, the_fixture_has_its_published_number_of_parameters)
{
    struct checkpoint *checkpoint;
    struct config config;
    struct model model;
    const char *note;
    struct error error = {0};
    cr_assert_eq(checkpoint_open(&checkpoint, ASSAY_FIXTURES "/models/lfm2-mini", &error), 0, "%s", error.text);
    cr_assert_eq(config_open(&arena, checkpoint->config_path, &config, &error), 0, "%s", error.text);
    cr_assert_eq(model_bind(&arena, &config, &checkpoint->table, false, &model, &note, &error), 0, "%s", error.text);
    uint64_t parameters = 0;
    model_visit(&model, add_elements, &parameters);
    cr_assert_eq(parameters, 3889344);                 // README of fixtures
    cr_assert_eq(model.n_weights, 2 + 5 * 8 + 3 * 11); // embedding and final norm, 5 conv layers, 3 attention layers
    cr_assert(model.config.tied && model.head.data == model.embedding.data && !note);
    cr_assert_eq(model.layers[2].q_proj.format, WEIGHT_BF16);
    cr_assert(model.layers[0].q_proj.format == WEIGHT_NONE && model.layers[2].in_proj.format == WEIGHT_NONE);
    cr_assert(model.layers[0].conv.rows == 192 && model.layers[0].conv.cols == 3);
    cr_assert(model.layers[0].in_proj.rows == 576 && model.layers[7].w2.cols == 448);
    cr_assert_str_eq(model.layers[4].attn_out.name, "model.layers.4.self_attn.out_proj.weight");
    checkpoint_close(&checkpoint);
}

static void expect_field(const struct weight *weight, const char *name)
{
    const struct tensor *tensor = safetensors_find(file, name);
    cr_expect(tensor && weight->data == tensor->data, "%s is bound to %s", name, weight->name);
    cr_expect_str_eq(weight->name, name);
}

Test(model, every_field_is_the_tensor_of_its_name)
{
    struct small_model small;
    struct model model;
    struct error error = {0};
    small_config(&small);
    small.config.conv_bias = true;
    small.config.key_heads = 4; // q, k, v and out, w1 and w3 cannot be told apart by shape
    small.config.head_width = 12;
    small_tensors(&small, DTYPE_F32);
    cr_assert_eq(bind(&small, false, &model, NULL, &error), 0, "%s", error.text);
    const struct lfm2_layer *conv = &model.layers[0], *attention = &model.layers[1];
    expect_field(&model.embedding, "model.embed_tokens.weight");
    expect_field(&model.final_norm, "model.embedding_norm.weight");
    expect_field(&conv->operator_norm, "model.layers.0.operator_norm.weight");
    expect_field(&conv->in_proj, "model.layers.0.conv.in_proj.weight");
    expect_field(&conv->in_proj_bias, "model.layers.0.conv.in_proj.bias");
    expect_field(&conv->conv, "model.layers.0.conv.conv.weight");
    expect_field(&conv->conv_bias, "model.layers.0.conv.conv.bias");
    expect_field(&conv->conv_out, "model.layers.0.conv.out_proj.weight");
    expect_field(&conv->conv_out_bias, "model.layers.0.conv.out_proj.bias");
    expect_field(&attention->q_proj, "model.layers.1.self_attn.q_proj.weight");
    expect_field(&attention->k_proj, "model.layers.1.self_attn.k_proj.weight");
    expect_field(&attention->v_proj, "model.layers.1.self_attn.v_proj.weight");
    expect_field(&attention->attn_out, "model.layers.1.self_attn.out_proj.weight");
    expect_field(&attention->q_norm, "model.layers.1.self_attn.q_layernorm.weight");
    expect_field(&attention->k_norm, "model.layers.1.self_attn.k_layernorm.weight");
    expect_field(&attention->ffn_norm, "model.layers.1.ffn_norm.weight");
    expect_field(&attention->w1, "model.layers.1.feed_forward.w1.weight");
    expect_field(&attention->w3, "model.layers.1.feed_forward.w3.weight");
    expect_field(&attention->w2, "model.layers.1.feed_forward.w2.weight");
    expect_field(&model.layers[2].operator_norm, "model.layers.2.operator_norm.weight");
}

Test(model, every_legal_shape_binds)
{
    static const struct {
        const char *name;
        uint32_t hidden, query_heads, key_heads, head_width, feed_forward, conv_taps;
        bool conv_bias;
    } rows[] = {
        {"as it is", 48, 4, 2, 8, 40, 3, false},
        {"a key head for every query head", 48, 6, 6, 8, 40, 3, false},
        {"three query heads to a key head", 48, 6, 2, 8, 40, 3, false},
        {"eight query heads to a key head", 64, 8, 1, 8, 96, 3, false},
        {"widths that no block divides", 33, 3, 1, 10, 37, 3, false},
        {"heads wider than the model", 16, 4, 2, 12, 24, 3, false},
        {"two taps", 48, 4, 2, 8, 40, 2, false},
        {"four taps with biases", 48, 4, 2, 8, 40, 4, true},
        {"one tap", 48, 4, 2, 8, 40, 1, false},
        {"everything as small as it can be", 1, 1, 1, 2, 1, 1, true},
    };
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct small_model small;
        small_config(&small);
        small.config.hidden = rows[i].hidden;
        small.config.query_heads = rows[i].query_heads;
        small.config.key_heads = rows[i].key_heads;
        small.config.head_width = rows[i].head_width;
        small.config.feed_forward = rows[i].feed_forward;
        small.config.conv_taps = rows[i].conv_taps;
        small.config.conv_bias = rows[i].conv_bias;
        small_tensors(&small, dtypes[i % 3]);
        expect_bound(rows[i].name, &small);
    }
}

Test(model, one_kind_of_mixer_alone_binds)
{
    static const enum mixer only[] = {MIXER_CONV, MIXER_ATTENTION};
    for (int i = 0; i < 2; i++) {
        struct small_model small;
        small_config(&small);
        small.mixers[0] = small.mixers[1] = small.mixers[2] = only[i];
        small_tensors(&small, DTYPE_F32);
        expect_bound("one kind", &small);
    }
}

Test(model, formats_mix_freely_and_keep_their_values)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const enum weight_format formats[] = {WEIGHT_F32, WEIGHT_F16, WEIGHT_BF16};
    struct small_model small;
    struct model model;
    struct error error = {0};
    float row[48];
    for (size_t shift = 0; shift < 3; shift++) {
        small_config(&small);
        small_tensors(&small, DTYPE_F32);
        for (size_t i = 0; i < small.n; i++)
            small.tensors[i].dtype = dtypes[(i + shift) % 3];
        cr_assert_eq(bind(&small, false, &model, NULL, &error), 0, "%s", error.text);
        cr_assert_eq(model.embedding.format, formats[shift]);
        const uint64_t seed = small_find(&small, "model.embed_tokens.weight")->seed;
        for (uint32_t i = 0; i < 80; i++) {
            weight_row(&model.embedding, i, row);
            for (uint32_t j = 0; j < 48; j++) {
                cr_assert_eq(row[j], small_value(seed, i * 48 + j));
                cr_assert_eq(row[j], weight_at(&model.embedding, i, j));
            }
        }
    }
}

// --- tensors that are not those of the config

Test(model, a_spoilt_tensor_is_refused_by_name)
{
    static const struct {
        const char *name, *tensor;
        uint64_t shape[3];
        uint32_t rank;
        enum dtype dtype;
        const char *expected;
    } rows[] = {
        {"embedding with a row too few",
         "model.embed_tokens.weight",
         {79, 48},
         2,
         DTYPE_F32,
         "embed_tokens.weight: shape [79, 48], expected [V, d] = [80, 48]"},
        {"transposed projection",
         "model.layers.1.self_attn.k_proj.weight",
         {48, 16},
         2,
         DTYPE_F32,
         "k_proj.weight: shape [48, 16], expected [Hkv dh, d] = [16, 48]"},
        {"query heads for key heads",
         "model.layers.1.self_attn.v_proj.weight",
         {32, 48},
         2,
         DTYPE_F32,
         "v_proj.weight: shape [32, 48], expected [Hkv dh, d] = [16, 48]"},
        {"norm of a whole layer for a head's",
         "model.layers.1.self_attn.q_layernorm.weight",
         {48},
         1,
         DTYPE_F32,
         "q_layernorm.weight: shape [48], expected [dh] = [8]"},
        {"conv without its middle dimension",
         "model.layers.0.conv.conv.weight",
         {48, 3},
         2,
         DTYPE_F32,
         "conv.conv.weight: shape [48, 3], expected [d, 1, K] = [48, 1, 3]"},
        {"conv with another number of taps",
         "model.layers.0.conv.conv.weight",
         {48, 1, 4},
         3,
         DTYPE_F32,
         "conv.conv.weight: shape [48, 1, 4], expected [d, 1, K] = [48, 1, 3]"},
        {"in_proj without x",
         "model.layers.2.conv.in_proj.weight",
         {96, 48},
         2,
         DTYPE_F32,
         "in_proj.weight: shape [96, 48], expected [3d, d] = [144, 48]"},
        {"norm as a matrix",
         "model.layers.0.operator_norm.weight",
         {48, 1},
         2,
         DTYPE_F32,
         "operator_norm.weight: shape [48, 1], expected [d] = [48]"},
        {"scalar norm",
         "model.embedding_norm.weight",
         {0},
         0,
         DTYPE_F32,
         "embedding_norm.weight: shape [], expected [d] = [48]"},
        {"another width than config.json gives",
         "model.layers.0.feed_forward.w1.weight",
         {64, 48},
         2,
         DTYPE_F32,
         "w1.weight: shape [64, 48], expected [F, d] = [40, 48] by config.json (F: block_ff_dim or "
         "intermediate_size"},
        {"the same in w2",
         "model.layers.0.feed_forward.w2.weight",
         {48, 64},
         2,
         DTYPE_F32,
         "w2.weight: shape [48, 64], expected [d, F] = [48, 40] by config.json (F: "},
        {"integers",
         "model.layers.0.feed_forward.w3.weight",
         {40, 48},
         2,
         DTYPE_I8,
         "w3.weight: dtype I8, expected F32, F16 or BF16"},
        {"doubles",
         "model.embedding_norm.weight",
         {48},
         1,
         DTYPE_F64,
         "embedding_norm.weight: dtype F64, expected F32, F16 or BF16"},
    };
    struct small_model small;
    small_config(&small);
    small_tensors(&small, DTYPE_F32);
    expect_bound("control", &small);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        small_tensors(&small, DTYPE_F32);
        struct small_tensor *tensor = small_find(&small, rows[i].tensor);
        memcpy(tensor->shape, rows[i].shape, sizeof tensor->shape);
        tensor->rank = rows[i].rank;
        tensor->dtype = rows[i].dtype;
        expect_refused(rows[i].name, &small, false, rows[i].expected);
    }
}

Test(model, every_missing_tensor_is_named)
{
    struct small_model small;
    small_config(&small);
    small.config.conv_bias = true;
    small_tensors(&small, DTYPE_BF16);
    expect_bound("control", &small);
    const size_t n = small.n;
    for (size_t i = 0; i < n; i++) {
        small_tensors(&small, DTYPE_BF16);
        char expected[160];
        snprintf(expected, sizeof expected, "tensor %s ", small.tensors[i].name);
        small_remove(&small, small.tensors[i].name);
        expect_refused("one missing", &small, false, expected);
    }
}

Test(model, what_belongs_to_no_part_of_the_model_is_named)
{
    static const char *const names[] = {
        "model.layers.3.operator_norm.weight",    // a layer too many
        "model.layers.0.self_attn.q_proj.weight", // attention in a conv layer
        "model.layers.1.conv.conv.weight",        // and the reverse
        "model.layers.0.conv.conv.bias",          // config.json says no biases
        "model.layers.0.feed_forward.w1.weight.q8",
        "model.layers.00.ffn_norm.weight",
        "model.rotary_emb.inv_freq",
        "pads.0",
        "lm_head.bias",
    };
    struct small_model small;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        small_config(&small);
        small_tensors(&small, DTYPE_F32);
        small_add(&small, DTYPE_F32, names[i], 48, 0, 0);
        expect_refused(names[i], &small, false, names[i]);
        expect_refused(names[i], &small, true, "belongs to no part of the model");
    }
    // the writer's own gaps are no tensors of anybody: the control of every test here has them, and one more by hand
    struct model model;
    struct error error = {0};
    const struct tensor pad = {
        .name = "pad.17", .dtype = DTYPE_U8, .rank = 1, .shape = {1}, .elements = 1, .file = "x"};
    small_config(&small);
    small_tensors(&small, DTYPE_F32);
    cr_assert_eq(bind(&small, false, &model, NULL, &error), 0);
    const struct tensor **tensors = arena_alloc(&arena, file->n_tensors + 1, sizeof *tensors);
    for (size_t i = 0; i < file->n_tensors; i++)
        tensors[i] = &file->tensors[i];
    tensors[file->n_tensors] = &pad; // sorts last
    const struct tensor_table table = {file->n_tensors + 1, tensors};
    cr_assert_eq(model_bind(&arena, &small.config, &table, false, &model, NULL, &error), 0, "%s", error.text);
}

// --- the head: the table of model.h, found in transformers 5.23.0

enum { HEAD_NONE, HEAD_EQUAL, HEAD_OTHER };

Test(model, the_head_is_tied_as_transformers_ties_it)
{
    static const struct {
        const char *name;
        bool tied, embedding;
        int head;
        enum dtype head_dtype;
        bool tied_found;
        const char *note, *refused;
    } rows[] = {
        {"tied, one tensor", true, true, HEAD_NONE, 0, true, NULL, NULL},
        {"tied, an equal copy", true, true, HEAD_EQUAL, DTYPE_BF16, true, NULL, NULL},
        {"tied, an equal copy of another dtype", true, true, HEAD_EQUAL, DTYPE_F32, true, NULL, NULL},
        {"tied, other values", true, true, HEAD_OTHER, DTYPE_BF16, false, "stored with other values", NULL},
        {"tied, other values of another dtype", true, true, HEAD_OTHER, DTYPE_F16, false, "stored with other values",
         NULL},
        {"tied, only lm_head", true, false, HEAD_OTHER, DTYPE_BF16, true, "serves as both", NULL},
        {"tied, neither", true, false, HEAD_NONE, 0, true, NULL, "tensor model.embed_tokens.weight [V, d]"},
        {"untied, both", false, true, HEAD_OTHER, DTYPE_BF16, false, NULL, NULL},
        {"untied, an equal copy", false, true, HEAD_EQUAL, DTYPE_BF16, false, NULL, NULL},
        {"untied, no head", false, true, HEAD_NONE, 0, false, NULL, "tensor lm_head.weight is missing"},
        {"untied, no embedding", false, false, HEAD_OTHER, DTYPE_BF16, false, NULL,
         "tensor model.embed_tokens.weight [V, d]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct small_model small;
        struct model model;
        const char *note;
        struct error error = {0};
        small_config(&small);
        small.config.tied = rows[i].tied;
        small_tensors(&small, DTYPE_BF16);
        const uint64_t seed = small_find(&small, "model.embed_tokens.weight")->seed;
        if (rows[i].head != HEAD_NONE) {
            struct small_tensor *head = small_add(&small, rows[i].head_dtype, "lm_head.weight", 80, 48, 0);
            head->seed = rows[i].head == HEAD_EQUAL ? seed : head->seed;
        }
        if (!rows[i].embedding)
            small_remove(&small, "model.embed_tokens.weight");
        if (rows[i].refused) {
            expect_refused(rows[i].name, &small, false, rows[i].refused);
            continue;
        }
        cr_assert_eq(bind(&small, false, &model, &note, &error), 0, "%s: %s", rows[i].name, error.text);
        cr_expect_eq(model.config.tied, rows[i].tied_found, "%s", rows[i].name);
        cr_expect_eq(model.head.data == model.embedding.data, rows[i].tied_found, "%s", rows[i].name);
        cr_expect_str_eq(model.head.name,
                         rows[i].tied_found && rows[i].embedding ? "model.embed_tokens.weight" : "lm_head.weight");
        cr_expect_eq(!note, !rows[i].note, "%s: %s", rows[i].name, note ? note : "no note");
        cr_expect(!note || !rows[i].note || strstr(note, rows[i].note), "%s: %s", rows[i].name, note);
        const uint64_t n = small.n - (rows[i].head == HEAD_EQUAL && rows[i].tied ? 1 : 0);
        cr_expect_eq(model.n_weights, n, "%s", rows[i].name);
    }
}

Test(model, a_misshapen_head_is_refused_even_when_tied)
{
    struct small_model small;
    small_config(&small);
    small_tensors(&small, DTYPE_F32);
    small_add(&small, DTYPE_F32, "lm_head.weight", 48, 80, 0);
    expect_refused("transposed", &small, false, "lm_head.weight: shape [48, 80], expected [V, d] = [80, 48]");
}

// --- bundles

// Stores `name` [rows, cols] as codes with `scales` scales a row, instead of as itself.
static void quantize(struct small_model *small, const char *name, bool q4, uint64_t scales)
{
    char full[96];
    const struct small_tensor plain = *small_find(small, name);
    small_remove(small, name);
    snprintf(full, sizeof full, "%s.%s", name, q4 ? "q4" : "q8");
    small_add(small, q4 ? DTYPE_U8 : DTYPE_I8, full, plain.shape[0], q4 ? (plain.shape[1] + 1) / 2 : plain.shape[1],
              0);
    snprintf(full, sizeof full, "%s.scale", name);
    small_add(small, DTYPE_F16, full, plain.shape[0], scales, 0);
}

static void small_bundle(struct small_model *small) // d = 64, F = 96
{
    small_config(small);
    small->config.hidden = 64;
    small->config.feed_forward = 96;
    small_tensors(small, DTYPE_F16);
}

Test(model, codes_bind_with_the_block_that_the_scales_shape_says)
{
    static const char w1[] = "model.layers.0.feed_forward.w1.weight"; // [96, 64]
    static const char w2[] = "model.layers.0.feed_forward.w2.weight"; // [64, 96]
    struct small_model small;
    struct model model;
    struct error error = {0};
    small_bundle(&small);
    quantize(&small, w1, false, 2);
    quantize(&small, w2, false, 1);
    quantize(&small, "model.layers.1.self_attn.q_proj.weight", true, 2);
    quantize(&small, "model.layers.1.feed_forward.w1.weight", true, 1);
    cr_assert_eq(bind(&small, true, &model, NULL, &error), 0, "%s", error.text);
    cr_assert_eq(model.n_weights, small.n - 4); // a scale is no weight of its own
    const struct weight *gate = &model.layers[0].w1, *down = &model.layers[0].w2;
    const struct weight *query = &model.layers[1].q_proj, *gate4 = &model.layers[1].w1;
    cr_assert_str_eq(gate->name, w1);
    cr_assert(gate->format == WEIGHT_Q8 && gate->block == 32 && gate->rows == 96 && gate->cols == 64);
    cr_assert(down->format == WEIGHT_Q8 && down->block == 96 && down->rows == 64);
    cr_assert(query->format == WEIGHT_Q4 && query->block == 32 && query->cols == 64);
    cr_assert(gate4->format == WEIGHT_Q4 && gate4->block == 64);
    cr_assert(weight_row_bytes(gate) == 64 && weight_row_bytes(query) == 32);
    expect_refused("a checkpoint may not hold codes", &small, false, "quantized form");
}

Test(model, a_width_of_32_has_one_scale_a_row_in_either_reading)
{
    struct small_model small;
    struct model model;
    struct error error = {0};
    small_config(&small);
    small.config.feed_forward = 32;
    small_tensors(&small, DTYPE_F16);
    quantize(&small, "model.layers.0.feed_forward.w2.weight", false, 1);
    cr_assert_eq(bind(&small, true, &model, NULL, &error), 0, "%s", error.text);
    cr_assert_eq(model.layers[0].w2.block, 32);
}

Test(model, one_scale_a_row_is_not_taken_for_a_block_of_32_in_a_row_of_48)
{
    struct small_model small;
    struct model model;
    struct error error = {0};
    small_config(&small);
    small_tensors(&small, DTYPE_F16);
    quantize(&small, "model.layers.0.feed_forward.w1.weight", false, 1);
    cr_assert_eq(bind(&small, true, &model, NULL, &error), 0, "%s", error.text);
    cr_assert_eq(model.layers[0].w1.block, 48);
}

Test(model, spoilt_codes_and_scales_are_refused)
{
    static const char w1[] = "model.layers.0.feed_forward.w1.weight"; // [96, 64]
    static const struct {
        const char *name, *suffix;
        enum dtype dtype;
        uint64_t rows, cols;
        const char *expected;
    } rows[] = {
        {"codes of another dtype", ".q8", DTYPE_U8, 96, 64, "w1.weight.q8: U8 [96, 64], expected I8 [96, 64]"},
        {"codes as for 4 bits", ".q8", DTYPE_I8, 96, 32, "w1.weight.q8: I8 [96, 32], expected I8 [96, 64]"},
        {"F32 scales", ".scale", DTYPE_F32, 96, 2, "w1.weight.scale: F32 [96, 2], expected F16 [96, 2]"},
        {"a scale row missing", ".scale", DTYPE_F16, 95, 2, "w1.weight.scale: F16 [95, 2], expected F16 [96, 2]"},
        {"blocks of 16", ".scale", DTYPE_F16, 96, 4, "w1.weight.scale: F16 [96, 4], expected F16 [96, 2]"},
        {"scales without rows", ".scale", DTYPE_F16, 96, 0, "w1.weight.scale: F16 [96], expected F16 [96, 2]"},
    };
    struct small_model small;
    char full[96];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        small_bundle(&small);
        quantize(&small, w1, false, 2);
        snprintf(full, sizeof full, "%s%s", w1, rows[i].suffix);
        small_remove(&small, full);
        small_add(&small, rows[i].dtype, full, rows[i].rows, rows[i].cols, 0);
        expect_refused(rows[i].name, &small, true, rows[i].expected);
    }
    small_bundle(&small);
    quantize(&small, w1, false, 2);
    snprintf(full, sizeof full, "%s.scale", w1);
    small_remove(&small, full);
    expect_refused("no scale", &small, true, "w1.weight.scale is missing");
    small_bundle(&small);
    quantize(&small, w1, true, 2);
    small_add(&small, DTYPE_F16, w1, 96, 64, 0);
    expect_refused("both forms", &small, true, "w1.weight.q4 U8 [96, 32] belongs to no part");
    small_config(&small); // d = 48: no block of 32 divides it
    small_tensors(&small, DTYPE_F16);
    quantize(&small, w1, false, 2);
    expect_refused("48 inputs in two blocks", &small, true, "w1.weight.scale: F16 [40, 2]");
}

Test(model, only_projections_and_the_head_may_be_codes)
{
    struct small_model small;
    small_bundle(&small);
    quantize(&small, "model.embed_tokens.weight", false, 2);
    expect_refused("embedding", &small, true, "tensor model.embed_tokens.weight [V, d]");
    small_bundle(&small);
    small_remove(&small, "model.layers.0.conv.conv.weight");
    small_add(&small, DTYPE_I8, "model.layers.0.conv.conv.weight.q8", 64, 3, 0);
    small_add(&small, DTYPE_F16, "model.layers.0.conv.conv.weight.scale", 64, 1, 0);
    expect_refused("depthwise conv", &small, true, "tensor model.layers.0.conv.conv.weight [d, 1, K]");
}

Test(model, a_bundles_own_head_is_untied_without_a_note)
{
    static const struct {
        const char *name;
        bool codes;
    } rows[] = {{"codes", true}, {"F32 beside an F16 embedding", false}};
    for (size_t i = 0; i < 2; i++) {
        struct small_model small;
        struct model model;
        const char *note;
        struct error error = {0};
        small_bundle(&small);
        const uint64_t seed = small_find(&small, "model.embed_tokens.weight")->seed;
        small_add(&small, DTYPE_F32, "lm_head.weight", 80, 64, 0)->seed = seed;
        if (rows[i].codes)
            quantize(&small, "lm_head.weight", false, 2);
        cr_assert_eq(bind(&small, true, &model, &note, &error), 0, "%s: %s", rows[i].name, error.text);
        cr_expect(!note && !model.config.tied && model.head.data != model.embedding.data, "%s", rows[i].name);
        cr_expect_eq(model.head.format, rows[i].codes ? WEIGHT_Q8 : WEIGHT_F32, "%s", rows[i].name);
    }
}

Test(model, elements_of_codes_are_code_times_scale_exactly)
{
    // two rows of 64: blocks of 32 with scales 0.5, 2^-24 (the smallest half), -0.099976 (0xAE66) and 65504
    static const uint16_t scales[] = {0x3800, 0x0001, 0xAE66, 0x7BFF};
    int8_t q8[2 * 64];
    uint8_t q4[2 * 32];
    float row[64];
    for (int i = 0; i < 128; i++) {
        q8[i] = (int8_t)(2 * i - 128);
        if (i % 2 == 0)
            q4[i / 2] = (uint8_t)((i / 2 % 16) | (15 - i / 2 % 16) << 4); // low nibble first
    }
    const struct weight eight = {
        .name = "w", .format = WEIGHT_Q8, .rows = 2, .cols = 64, .data = q8, .scale = scales, .block = 32};
    const struct weight four = {
        .name = "w", .format = WEIGHT_Q4, .rows = 2, .cols = 64, .data = q4, .scale = scales, .block = 32};
    static const double exact[] = {0.5, 0x1p-24, -0x1.998p-4, 65504};
    for (uint32_t r = 0; r < 2; r++) {
        for (uint32_t c = 0; c < 64; c++) {
            const int i = (int)(r * 64 + c), low = i / 2 % 16, nibble = c % 2 ? 15 - low : low;
            const double scale = exact[i / 32];
            cr_assert_eq((double)weight_at(&eight, r, c), (2 * i - 128) * scale);
            cr_assert_eq((double)weight_at(&four, r, c), (nibble < 8 ? nibble : nibble - 16) * scale);
        }
    }
    weight_row(&four, 1, row);
    for (uint32_t c = 0; c < 64; c++)
        cr_assert_eq(row[c], weight_at(&four, 1, c));
    const struct weight odd = {
        .name = "w", .format = WEIGHT_Q4, .rows = 2, .cols = 3, .data = q4, .scale = scales, .block = 3};
    cr_assert_eq(weight_row_bytes(&odd), 2); // the second row begins at a whole byte
    cr_assert_eq(weight_at(&odd, 1, 0), 2 * 0x1p-24F);
}
