// Binding of LFM2-MoE, Qwen3.5 and Qwen3.5-MoE: the fixtures' own files, the forms in which experts may lie, what is left
// out, and each wrong tensor by name. Tables without data serve where only names, shapes and dtypes matter.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/model/checkpoint.h"
#include "harness/model/model.h"

static struct arena arena;
static struct checkpoint *checkpoint;

static void release(void)
{
    checkpoint_close(&checkpoint);
    arena_close(&arena);
}

TestSuite(model_families, .fini = release);

static struct model open_fixture(const char *name)
{
    struct config config;
    struct model model;
    struct error error = {0};
    checkpoint_close(&checkpoint);
    const char *path = arena_print(&arena, ASSAY_FIXTURES "/models/%s", name);
    cr_assert_eq(checkpoint_open(&checkpoint, path, &error), 0, "%s", error.text);
    cr_assert_eq(config_open(&arena, checkpoint->config_path, &config, &error), 0, "%s", error.text);
    cr_assert_eq(model_bind(&arena, &config, &checkpoint->table, false, &model, NULL, &error), 0, "%s", error.text);
    return model;
}

static void expect_named(const struct weight *weight, const char *name, uint32_t rows, uint32_t cols)
{
    const struct tensor *tensor = tensor_table_find(&checkpoint->table, name);
    cr_assert_not_null(tensor, "%s", name);
    cr_expect_eq(weight->data, tensor->data, "%s is bound to %s", name, weight->name);
    cr_expect_str_eq(weight->name, name);
    cr_expect(weight->rows == rows && weight->cols == cols, "%s: [%u, %u]", name, weight->rows, weight->cols);
}

static void add_elements(void *context, const struct weight *weight)
{
    *(uint64_t *)context += (uint64_t)weight->rows * weight->cols;
}

Test(model_families, fixtures_have_their_parameters)
{
    static const struct {
        const char *name;
        uint64_t parameters; // README of the fixtures; lfm2moe-mini's 32 biases of experts on top
        bool tied;
    } rows[] = {{"lfm2moe-mini", 4459328 + 32, true}, {"qwen35-mini", 4155592, true}, {"qwen35moe-mini", 4370320, false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t parameters = 0;
        const struct model model = open_fixture(rows[i].name);
        model_visit(&model, add_elements, &parameters);
        cr_expect_eq(parameters, rows[i].parameters, "%s", rows[i].name);
        cr_expect_eq(model.config.tied, rows[i].tied, "%s", rows[i].name);
        cr_expect_eq(model.head.data == model.embedding.data, rows[i].tied, "%s", rows[i].name);
    }
}

Test(model_families, every_field_of_a_delta_net_is_the_tensor_of_its_name)
{
    const struct model model = open_fixture("qwen35-mini");
    const struct layer *delta = &model.layers[4], *attention = &model.layers[7];
#define P "model.language_model.layers.4."
    expect_named(&delta->mixer_norm, P "input_layernorm.weight", 1, 192);
    expect_named(&delta->qkv_proj, P "linear_attn.in_proj_qkv.weight", 2 * 96 + 192, 192);
    expect_named(&delta->z_proj, P "linear_attn.in_proj_z.weight", 192, 192);
    expect_named(&delta->b_proj, P "linear_attn.in_proj_b.weight", 6, 192);
    expect_named(&delta->a_proj, P "linear_attn.in_proj_a.weight", 6, 192);
    expect_named(&delta->delta_conv, P "linear_attn.conv1d.weight", 384, 4);
    expect_named(&delta->a_log, P "linear_attn.A_log", 1, 6);
    expect_named(&delta->dt_bias, P "linear_attn.dt_bias", 1, 6);
    expect_named(&delta->delta_norm, P "linear_attn.norm.weight", 1, 32);
    expect_named(&delta->delta_out, P "linear_attn.out_proj.weight", 192, 192);
    expect_named(&delta->ffn_norm, P "post_attention_layernorm.weight", 1, 192);
    expect_named(&delta->w1, P "mlp.gate_proj.weight", 448, 192);
    expect_named(&delta->w3, P "mlp.up_proj.weight", 448, 192);
    expect_named(&delta->w2, P "mlp.down_proj.weight", 192, 448);
    cr_expect(delta->a_log.format == WEIGHT_F32 && delta->dt_bias.format == WEIGHT_BF16); // as each is stored
    cr_expect_eq(delta->q_proj.format, WEIGHT_NONE);
#undef P
#define P "model.language_model.layers.7."
    expect_named(&attention->q_proj, P "self_attn.q_proj.weight", 2 * 256, 192);
    expect_named(&attention->k_proj, P "self_attn.k_proj.weight", 128, 192);
    expect_named(&attention->v_proj, P "self_attn.v_proj.weight", 128, 192);
    expect_named(&attention->attn_out, P "self_attn.o_proj.weight", 192, 256);
    expect_named(&attention->q_norm, P "self_attn.q_norm.weight", 1, 64);
    expect_named(&attention->k_norm, P "self_attn.k_norm.weight", 1, 64);
    cr_expect(attention->q_bias.format == WEIGHT_NONE && attention->qkv_proj.format == WEIGHT_NONE);
#undef P
    expect_named(&model.final_norm, "model.language_model.norm.weight", 1, 192);
    cr_expect_str_eq(model.embedding_name, "model.language_model.embed_tokens.weight");
}

Test(model_families, experts_one_by_one_are_the_tensors_of_their_names)
{
    const struct model model = open_fixture("lfm2moe-mini");
    const struct layer *dense = &model.layers[1], *sparse = &model.layers[3];
    cr_expect(!dense->sparse && sparse->sparse && !dense->experts && sparse->w1.format == WEIGHT_NONE);
    expect_named(&dense->w1, "model.layers.1.feed_forward.w1.weight", 448, 192);
    expect_named(&sparse->router, "model.layers.3.feed_forward.gate.weight", 8, 192);
    expect_named(&sparse->expert_bias, "model.layers.3.feed_forward.expert_bias", 1, 8);
    expect_named(&sparse->experts[5].gate, "model.layers.3.feed_forward.experts.5.w1.weight", 128, 192);
    expect_named(&sparse->experts[5].up, "model.layers.3.feed_forward.experts.5.w3.weight", 128, 192);
    expect_named(&sparse->experts[5].down, "model.layers.3.feed_forward.experts.5.w2.weight", 192, 128);
    cr_expect(sparse->gate_up.format == WEIGHT_NONE && sparse->shared_gate.format == WEIGHT_NONE);
}

Test(model_families, fused_experts_are_views_gate_rows_first)
{
    const struct model model = open_fixture("qwen35moe-mini");
    const struct layer *layer = &model.layers[0];
#define P "model.language_model.layers.0.mlp."
    expect_named(&layer->gate_up, P "experts.gate_up_proj", 8 * 2 * 64, 160);
    expect_named(&layer->down, P "experts.down_proj", 8 * 160, 64);
    expect_named(&layer->router, P "gate.weight", 8, 160);
    expect_named(&layer->shared_gate, P "shared_expert_gate.weight", 1, 160);
    expect_named(&layer->shared.down, P "shared_expert.down_proj.weight", 160, 64);
#undef P
    for (uint32_t e = 0; e < 8; e++)
        for (uint32_t row = 0; row < 64; row += 63) {
            const struct expert *expert = &layer->experts[e];
            cr_expect_eq(weight_at(&expert->gate, row, 7), weight_at(&layer->gate_up, e * 128 + row, 7));
            cr_expect_eq(weight_at(&expert->up, row, 7), weight_at(&layer->gate_up, e * 128 + 64 + row, 7));
            cr_expect_eq(weight_at(&expert->down, row, 7), weight_at(&layer->down, e * 160 + row, 7));
        }
    cr_expect(layer->experts[7].down.rows == 160 && layer->experts[7].up.rows == 64);
}

Test(model_families, every_odd_model_binds_whole)
{
    static const char *const names[] = {
        "lfm2moe-all-attention", "lfm2moe-all-dense",        "lfm2moe-every-expert",      "lfm2moe-group1-top1",
        "lfm2moe-group3-taps4-bias", "lfm2moe-group8-untied", "lfm2moe-mixed-sharded",    "lfm2moe-one-attention",
        "qwen35-all-attention",  "qwen35-group1-taps2",      "qwen35-group3-taps3-bias",  "qwen35-group8-values4",
        "qwen35-head-only",      "qwen35-mixed-sharded",     "qwen35-one-attention",      "qwen35moe-all-attention",
        "qwen35moe-every-expert", "qwen35moe-group1-fused",  "qwen35moe-group3-top1-split", "qwen35moe-group8-top4",
        "qwen35moe-mixed-sharded",
    };
    uint32_t left_out = 0, biases = 0, split = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct model model = open_fixture(arena_print(&arena, "odd-%s", names[i]));
        const uint32_t elsewhere = model.left_out.vision + model.left_out.prediction;
        cr_expect_eq(model.n_weights + elsewhere, checkpoint->table.n, "%s: %u weights, %u left out, %zu tensors", names[i],
                     model.n_weights, elsewhere, checkpoint->table.n);
        cr_expect_eq(elsewhere > 0, model.left_out.bytes > 0, "%s", names[i]);
        left_out += elsewhere > 0;
        for (uint32_t j = 0; j < model.config.layers; j++) {
            biases += model.layers[j].q_bias.format != WEIGHT_NONE;
            split += model.config.family == FAMILY_QWEN35_MOE && model.layers[j].gate_up.format == WEIGHT_NONE;
        }
    }
    cr_expect(left_out >= 2 && biases > 0 && split > 0); // else the list proves less than it says
}

// --- tables without data

struct table {
    struct config config;
    struct tensor *tensors;
    size_t n;
    const struct tensor **list;
};

static int by_name(const void *left, const void *right)
{
    return strcmp((*(const struct tensor *const *)left)->name, (*(const struct tensor *const *)right)->name);
}

// The tensors of a fixture's config with room for `more`.
static struct table declare(const char *fixture, size_t more)
{
    struct table table = {0};
    struct tensor_declaration *declared;
    struct error error = {0};
    const char *path = arena_print(&arena, ASSAY_FIXTURES "/models/%s/config.json", fixture);
    cr_assert_eq(config_open(&arena, path, &table.config, &error), 0, "%s", error.text);
    cr_assert_eq(model_declare(&arena, &table.config, DTYPE_BF16, &declared, &table.n, &error), 0, "%s", error.text);
    table.tensors = arena_alloc(&arena, table.n + more, sizeof *table.tensors);
    table.list = arena_alloc(&arena, table.n + more, sizeof *table.list);
    for (size_t i = 0; i < table.n; i++) {
        table.tensors[i] = (struct tensor){.name = declared[i].name, .dtype = DTYPE_BF16, .rank = declared[i].rank, .file = "f"};
        memcpy(table.tensors[i].shape, declared[i].shape, sizeof table.tensors[i].shape);
    }
    return table;
}

static struct tensor *find(struct table *table, const char *name)
{
    for (size_t i = 0; i < table->n; i++)
        if (!strcmp(table->tensors[i].name, name))
            return &table->tensors[i];
    cr_assert_fail("no %s", name);
    return NULL;
}

static void add(struct table *table, const char *name, enum dtype dtype, uint32_t rank, const uint64_t *shape)
{
    struct tensor *tensor = &table->tensors[table->n++];
    *tensor = (struct tensor){.name = name, .dtype = dtype, .rank = rank, .file = "f"};
    memcpy(tensor->shape, shape, rank * sizeof *shape);
}

static void drop(struct table *table, const char *name)
{
    struct tensor *tensor = find(table, name);
    *tensor = table->tensors[--table->n];
}

static int bind(struct table *table, bool quantized, struct model *model, struct error *error)
{
    for (size_t i = 0; i < table->n; i++)
        table->list[i] = &table->tensors[i];
    qsort(table->list, table->n, sizeof *table->list, by_name);
    const struct tensor_table sorted = {table->n, table->list};
    return model_bind(&arena, &table->config, &sorted, quantized, model, NULL, error);
}

static void refuse(struct table *table, bool quantized, const char *expected)
{
    struct model model;
    struct error error = {0};
    cr_expect_eq(bind(table, quantized, &model, &error), ERROR_INPUT, "accepted, expected '%s'", expected);
    cr_expect(strstr(error.text, expected), "found '%s', expected it to say '%s'", error.text, expected);
}

Test(model_families, what_is_declared_binds_for_every_family)
{
    static const char *const fixtures[] = {"lfm2-mini", "lfm2moe-mini", "qwen35-mini", "qwen35moe-mini"};
    for (size_t i = 0; i < 4; i++) {
        struct table table = declare(fixtures[i], 0);
        struct model model;
        struct error error = {0};
        cr_expect_eq(bind(&table, false, &model, &error), 0, "%s", error.text);
    }
}

Test(model_families, each_wrong_tensor_is_refused_by_name)
{
    static const struct {
        const char *fixture, *tensor;
        uint32_t dimension; // grown by one; 9: the tensor is dropped, 10: of another dtype
        const char *expected;
    } rows[] = {
        {"qwen35-mini", "model.language_model.layers.0.linear_attn.A_log", 9, "linear_attn.A_log [Hv] = [6] is missing"},
        {"qwen35-mini", "model.language_model.layers.0.linear_attn.A_log", 0, "shape [7], expected [Hv] = [6]"},
        {"qwen35-mini", "model.language_model.layers.0.linear_attn.in_proj_qkv.weight", 0, "expected [C, d] = [384, 192]"},
        {"qwen35-mini", "model.language_model.layers.0.linear_attn.conv1d.weight", 2, "expected [C, 1, K] = [384, 1, 4]"},
        {"qwen35-mini", "model.language_model.layers.0.linear_attn.norm.weight", 0, "expected [dv] = [32]"},
        {"qwen35-mini", "model.language_model.layers.3.self_attn.q_proj.weight", 0, "expected [2 Hq dh, d] = [512, 192]"},
        {"qwen35-mini", "model.language_model.layers.3.self_attn.o_proj.weight", 9, "self_attn.o_proj.weight [d, Hq dh]"},
        {"qwen35-mini", "model.language_model.norm.weight", 9, "norm.weight"},
        {"qwen35-mini", "model.language_model.layers.1.linear_attn.dt_bias", 10, "dtype I8"},
        {"lfm2moe-mini", "model.layers.2.feed_forward.expert_bias", 9, "feed_forward.expert_bias [E] = [8] is missing"},
        {"lfm2moe-mini", "model.layers.2.feed_forward.experts.7.w2.weight", 9, "experts.7.w2.weight [d, Fm]"},
        {"lfm2moe-mini", "model.layers.2.feed_forward.experts.0.w1.weight", 0, "expected [Fm, d] = [128, 192]"},
        {"lfm2moe-mini", "model.layers.2.feed_forward.gate.weight", 0, "expected [E, d] = [8, 192]"},
        {"qwen35moe-mini", "model.language_model.layers.2.mlp.experts.gate_up_proj", 1, "expected [E, 2 Fm, d] = [8, 128, 160]"},
        {"qwen35moe-mini", "model.language_model.layers.2.mlp.experts.down_proj", 9, "mlp.experts.down_proj [E, d, Fm]"},
        {"qwen35moe-mini", "model.language_model.layers.2.mlp.shared_expert_gate.weight", 0, "expected [1, d] = [1, 160]"},
        {"qwen35moe-mini", "lm_head.weight", 9, "lm_head.weight"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct table table = declare(rows[i].fixture, 0);
        if (rows[i].dimension == 9)
            drop(&table, rows[i].tensor);
        else if (rows[i].dimension == 10)
            find(&table, rows[i].tensor)->dtype = DTYPE_I8;
        else
            find(&table, rows[i].tensor)->shape[rows[i].dimension]++;
        refuse(&table, false, rows[i].expected);
    }
}

Test(model_families, only_named_parts_of_qwen35_are_left_out)
{
    const uint64_t shape[] = {3, 5};
    struct model model;
    struct error error = {0};
    struct table table = declare("qwen35-mini", 3);
    add(&table, "model.visual.blocks.0.attn.qkv.weight", DTYPE_I64, 2, shape); // whatever it is
    add(&table, "mtp.layers.0.mlp.gate_proj.weight", DTYPE_BF16, 2, shape);
    cr_assert_eq(bind(&table, false, &model, &error), 0, "%s", error.text);
    cr_expect(model.left_out.vision == 1 && model.left_out.prediction == 1);
    refuse(&table, true, "belongs to no part"); // a bundle has what its engine runs and nothing else
    add(&table, "model.language_model.layers.0.linear_attn.dt_bias.weight", DTYPE_BF16, 1, shape);
    refuse(&table, false, "dt_bias.weight");
    table = declare("lfm2-mini", 1);
    add(&table, "mtp.layers.0.mlp.gate_proj.weight", DTYPE_BF16, 2, shape);
    refuse(&table, false, "mtp.layers.0");
}

Test(model_families, a_text_model_may_be_named_either_way)
{
    struct table table = declare("qwen35-mini", 0);
    struct model model;
    struct error error = {0};
    for (size_t i = 0; i < table.n; i++)
        table.tensors[i].name = arena_print(&arena, "model.%s", table.tensors[i].name + strlen("model.language_model."));
    cr_assert_eq(bind(&table, false, &model, &error), 0, "%s", error.text);
    cr_expect_str_eq(model.prefix, "model.");
    cr_expect_str_eq(model.layers[0].a_log.name, "model.layers.0.linear_attn.A_log");
    find(&table, "model.layers.0.linear_attn.A_log")->name = "model.language_model.layers.0.linear_attn.A_log";
    refuse(&table, false, "model.layers.0.linear_attn.A_log"); // but not both at once
}

// --- experts as bundles store them

static void store(struct table *table, const char *name, bool nibbles, const char *beside, uint64_t rows_per, uint64_t cols)
{
    const struct tensor source = *find(table, name);
    uint64_t codes[3], part[3];
    const uint32_t rank = source.rank;
    memcpy(codes, source.shape, sizeof codes);
    memcpy(part, source.shape, sizeof part);
    codes[rank - 1] = nibbles ? (codes[rank - 1] + 1) / 2 : codes[rank - 1];
    part[rank - 2] /= rows_per;
    part[rank - 1] = cols;
    drop(table, name);
    add(table, arena_print(&arena, "%s.%s", name, nibbles ? "q4" : "q8"), nibbles ? DTYPE_U8 : DTYPE_I8, rank, codes);
    add(table, arena_print(&arena, "%s.%s", name, beside), DTYPE_F16, rank, part);
}

#define GATE_UP "model.language_model.layers.2.mlp.experts.gate_up_proj"
#define W1 "model.layers.2.feed_forward.experts.3.w1.weight"

Test(model_families, experts_bind_in_every_stored_form)
{
    static const struct {
        const char *fixture, *name;
        bool nibbles;
        const char *beside;
        uint64_t rows_per, cols;
        enum weight_format format;
        uint32_t block;
    } rows[] = {
        {"qwen35moe-mini", GATE_UP, false, "scale", 1, 160 / 32, WEIGHT_Q8, 32},
        {"qwen35moe-mini", GATE_UP, false, "scale", 1, 1, WEIGHT_Q8, 160},
        {"qwen35moe-mini", GATE_UP, true, "scale", 1, 160 / 32, WEIGHT_Q4, 32},
        {"qwen35moe-mini", GATE_UP, false, "lut", 32, 256, WEIGHT_K8, 0},
        {"qwen35moe-mini", GATE_UP, true, "lut", 32, 16, WEIGHT_K4, 0},
        {"lfm2moe-mini", W1, false, "scale", 1, 192 / 32, WEIGHT_Q8, 32},
        {"lfm2moe-mini", W1, true, "lut", 32, 16, WEIGHT_K4, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct table table = declare(rows[i].fixture, 3);
        struct model model;
        struct error error = {0};
        store(&table, rows[i].name, rows[i].nibbles, rows[i].beside, rows[i].rows_per, rows[i].cols);
        cr_assert_eq(bind(&table, true, &model, &error), 0, "row %zu: %s", i, error.text);
        const struct weight *weight = &model.layers[2].experts[3].gate;
        cr_expect_eq(weight->format, rows[i].format, "row %zu: %s", i, weight_format_name(weight->format));
        cr_expect_eq(weight->block, rows[i].block, "row %zu", i);
        refuse(&table, false, "it is there in quantized form"); // no checkpoint holds codes
    }
}

Test(model_families, codes_with_scale_and_bias_are_affine)
{
    struct table table = declare("qwen35moe-mini", 3);
    struct model model;
    struct error error = {0};
    store(&table, GATE_UP, true, "scale", 1, 160 / 32);
    const uint64_t good[] = {8, 128, 5}, bad[] = {8, 128, 4};
    add(&table, GATE_UP ".bias", DTYPE_F16, 3, good);
    cr_assert_eq(bind(&table, true, &model, &error), 0, "%s", error.text);
    cr_expect_eq(model.layers[2].experts[7].up.format, WEIGHT_A4);
    memcpy(find(&table, GATE_UP ".bias")->shape, bad, sizeof bad);
    refuse(&table, true, ".bias: F16 [8, 128, 4], expected F16 [8, 128, 5]");
}

Test(model_families, wrong_parts_of_stored_experts_are_refused)
{
    static const struct {
        bool nibbles;
        const char *beside;
        uint64_t rows_per, cols;
        const char *expected;
    } rows[] = {
        {false, "lut", 32, 16, ".lut: F16 [8, 4, 16], expected F16 [8, 4, 256]"},
        {true, "lut", 32, 256, ".lut: F16 [8, 4, 256], expected F16 [8, 4, 16]"},
        {false, "lut", 64, 256, ".lut: F16 [8, 2, 256], expected F16 [8, 4, 256]"},
        {false, "scale", 1, 4, ".scale: F16 [8, 128, 4], expected F16 [8, 128, 5]"},
        {false, "scales", 1, 5, ".scale is missing"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct table table = declare("qwen35moe-mini", 3);
        store(&table, GATE_UP, rows[i].nibbles, rows[i].beside, rows[i].rows_per, rows[i].cols);
        refuse(&table, true, rows[i].expected);
    }
    struct table table = declare("qwen35moe-mini", 3); // a dense projection has no codebook
    store(&table, "model.language_model.layers.2.mlp.shared_expert.up_proj.weight", false, "lut", 32, 256);
    refuse(&table, true, "up_proj.weight.scale is missing");
}

Test(model_families, a_codebook_never_spans_two_experts)
{
    struct table table = declare("qwen35moe-mini", 3);
    table.config.expert_width = 24; // 2 Fm = 48 rows: 8 x 48 divide by 32, 48 do not
    find(&table, GATE_UP)->shape[1] = 48;
    for (uint32_t i = 0; i < table.config.layers; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.language_model.layers.%u.mlp.experts.gate_up_proj", i);
        find(&table, name)->shape[1] = 48;
        snprintf(name, sizeof name, "model.language_model.layers.%u.mlp.experts.down_proj", i);
        find(&table, name)->shape[2] = 24;
    }
    store(&table, GATE_UP, false, "lut", 1, 256);
    refuse(&table, true, "48 rows do not divide");
}

// --- what a token reads

Test(model_families, a_token_reads_the_experts_it_visits)
{
    const struct model model = open_fixture("lfm2moe-mini");
    uint64_t all = 0;
    model_visit(&model, add_elements, &all);
    const uint64_t unvisited = 4 * (8 - 2) * 3 * (uint64_t)128 * 192; // 4 sparse layers, 6 of 8 experts
    const uint64_t bias = 4 * 8; // stored as F32
    const struct model_traffic traffic = model_step_traffic(&model);
    cr_expect_eq(traffic.bytes, 2 * (all - unvisited + 192) + 2 * bias); // the embedding's row once more
}
