// Binding: the fixture, every legal odd shape, and every way in which the tensors are not those of the config.
#include <criterion/criterion.h>
#include <stdio.h>

#include "tests/small_binding.h"

TestSuite(model, .init = make_scratch, .fini = remove_scratch);

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
    small.config.head_width = small.config.rotary_width = 12;
    small_tensors(&small, DTYPE_F32);
    cr_assert_eq(bind(&small, false, &model, NULL, &error), 0, "%s", error.text);
    const struct layer *conv = &model.layers[0], *attention = &model.layers[1];
    expect_field(&model.embedding, "model.embed_tokens.weight");
    expect_field(&model.final_norm, "model.embedding_norm.weight");
    expect_field(&conv->mixer_norm, "model.layers.0.operator_norm.weight");
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
    expect_field(&model.layers[2].mixer_norm, "model.layers.2.operator_norm.weight");
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
        small.config.head_width = small.config.rotary_width = rows[i].head_width;
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
