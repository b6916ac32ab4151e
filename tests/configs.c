// The released shapes in fixtures/configs, held against the published figures, all by way of config_open and
// model_bind: no weights are needed, since binding looks at names, shapes and dtypes only.
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "harness/model/model.h"
#include "harness/run/state.h"

struct release {
    const char *file;
    uint32_t feed_forward;      // F, after the adjustment; 0: every layer has experts
    uint64_t parameters;        // published, or by the formula that gives the published ones (architecture.md 2.3, 3,
                                // 4.2, 5), the experts' biases included
    uint64_t read;              // of them by one token; a tied head counts once (3)
    size_t tensors;             // of the text part of the file
    uint64_t position_bytes;    // keys and values in fp32: 2 Hkv dh 4 for every attention layer
    uint64_t fixed_bytes;       // convolution and delta states in fp32, whatever the position
};

// An LFM2 layer keeps 2 columns of d; a delta net layer 3 columns of C and Hv dk dv.
#define CONV(layers, d) ((uint64_t)(layers) * 2 * (d) * 4)
#define DELTA(layers, Hv) ((uint64_t)(layers) * (3 * (4096 + (Hv) * 128) + (Hv) * 128 * 128) * 4)
#define QWEN(layers, Hkv) ((uint64_t)(layers) * 2 * (Hkv) * 256 * 4)

static const struct release releases[] = {
    {"lfm2.5-230m", 2560, 229693184, 229693184, 132, 6 * 4096, CONV(8, 1024)},
    {"lfm2.5-350m", 4608, 354483968, 354483968, 148, 6 * 4096, CONV(10, 1024)},
    {"lfm2-700m", 6912, 742489344, 742489344, 148, 6 * 4096, CONV(10, 1536)},
    {"lfm2.5-1.2b", 8192, 1170340608, 1170340608, 148, 6 * 4096, CONV(10, 2048)},
    {"lfm2-2.6b", 10752, 2569272320, 2569272320, 266, 8 * 4096, CONV(22, 2048)},
    {"lfm2.5-2.6b", 10752, 2697198592, 2697198592, 266, 8 * 4096, CONV(22, 2048)},
    {"lfm2-8b-a1b", 7168, 8339929856 + 704, 1557740288 + 704, 2302, 6 * 4096, CONV(18, 2048)},
    {"lfm2.5-8b-a1b", 7168, 8467856128 + 704, 1685666560 + 704, 2302, 6 * 4096, CONV(18, 2048)},
    {"qwen3.5-0.8b", 3584, 752393024, 752393024, 320, QWEN(6, 2), DELTA(18, 16)},
    {"qwen3.5-2b", 6144, 1881825088, 1881825088, 320, QWEN(6, 2), DELTA(18, 16)},
    {"qwen3.5-4b", 9216, 4205751296, 4205751296, 24 * 14 + 8 * 11 + 2, QWEN(8, 4), DELTA(24, 32)},
    {"qwen3.5-9b", 12288, 8953803264, 8953803264, 24 * 14 + 8 * 11 + 3, QWEN(8, 4), DELTA(24, 32)},
    {"qwen3.5-27b", 17408, 26895998464, 26895998464, 48 * 14 + 16 * 11 + 3, QWEN(16, 4), DELTA(48, 48)},
    // experts: two tensors for all of a layer, and router, shared expert (3) and its gate in place of gate, up, down
    {"qwen3.5-35b-a3b", 0, 34660610688, 0, 30 * 18 + 10 * 15 + 3, QWEN(10, 2), DELTA(30, 32)},
    {"qwen3.5-122b-a10b", 0, 122111526912, 0, 36 * 18 + 12 * 15 + 3, QWEN(12, 2), DELTA(36, 64)},
    {"qwen3.5-397b-a17b", 0, 396346350336, 0, 45 * 18 + 15 * 15 + 3, QWEN(15, 2), DELTA(45, 64)},
};

static int by_name(const void *left, const void *right)
{
    return strcmp((*(const struct tensor *const *)left)->name, (*(const struct tensor *const *)right)->name);
}

// Binds the declared tensors as if a file had them, BF16 and without data.
static void bind(struct arena *arena, const struct config *config, struct model *model, size_t *n)
{
    struct tensor_declaration *declared;
    struct error error = {0};
    cr_assert_eq(model_declare(arena, config, DTYPE_BF16, &declared, n, &error), 0, "%s", error.text);
    struct tensor *tensors = arena_alloc(arena, *n, sizeof *tensors);
    const struct tensor **list = arena_alloc(arena, *n, sizeof *list);
    for (size_t i = 0; i < *n; i++) {
        tensors[i] = (struct tensor){.name = declared[i].name, .dtype = DTYPE_BF16, .rank = declared[i].rank, .file = "none"};
        memcpy(tensors[i].shape, declared[i].shape, sizeof tensors[i].shape);
        list[i] = &tensors[i];
    }
    qsort(list, *n, sizeof *list, by_name);
    const struct tensor_table table = {*n, list};
    cr_assert_eq(model_bind(arena, config, &table, false, model, NULL, &error), 0, "%s", error.text);
}

static uint64_t state_bytes(struct arena *arena, const struct config *config, uint32_t position)
{
    struct state state;
    struct error error = {0};
    uint64_t bytes = 0;
    cr_assert_eq(state_make(arena, config, position, &state, &error), 0, "%s", error.text);
    for (size_t i = 0; i < state.n; i++)
        bytes += state.tensors[i].elements * sizeof(float);
    return bytes;
}

static void add_elements(void *context, const struct weight *weight)
{
    *(uint64_t *)context += (uint64_t)weight->rows * weight->cols;
}

// By the formula of architecture.md 3 and 5: all but the experts that a token does not visit.
static uint64_t read_by_formula(const struct config *config, uint64_t parameters)
{
    const uint64_t expert = 3 * (uint64_t)config->hidden * config->expert_width;
    const uint64_t sparse = config->layers - config->dense_layers;
    return parameters - sparse * (config->experts - config->experts_per_token) * expert;
}

Test(configs, releases_have_their_published_sizes)
{
    for (size_t i = 0; i < sizeof releases / sizeof *releases; i++) {
        const struct release *release = &releases[i];
        struct arena arena = {0};
        struct config config;
        struct model model;
        struct error error = {0};
        uint64_t parameters = 0;
        size_t n;
        const char *path = arena_print(&arena, ASSAY_FIXTURES "/configs/%s.json", release->file);
        cr_assert_eq(config_open(&arena, path, &config, &error), 0, "%s", error.text);
        cr_expect_eq(config.feed_forward, release->feed_forward, "%s: F %u", release->file, config.feed_forward);
        bind(&arena, &config, &model, &n);
        cr_expect_eq(n, release->tensors, "%s: %zu tensors", release->file, n);
        if (!config.tied)
            model.head.data = &model; // another place than the embedding's, which is nowhere
        model_visit(&model, add_elements, &parameters);
        cr_expect_eq(parameters, release->parameters, "%s: %llu parameters", release->file,
                     (unsigned long long)parameters);
        const uint64_t read = release->read ? release->read : read_by_formula(&config, release->parameters);
        cr_expect_eq(read, read_by_formula(&config, release->parameters), "%s", release->file);
        // a token reads one row of the embedding, which costs nothing more where the head is the embedding itself
        const uint64_t table = (uint64_t)config.vocabulary * config.hidden;
        const uint64_t elements = read + config.hidden - (config.tied ? 0 : table);
        const struct model_traffic traffic = model_step_traffic(&model);
        cr_expect_eq(traffic.bytes, 2 * elements, "%s: %llu bytes of bf16, expected %llu", release->file,
                     (unsigned long long)traffic.bytes, (unsigned long long)(2 * elements));
        const uint64_t ten = state_bytes(&arena, &config, 10), eleven = state_bytes(&arena, &config, 11);
        cr_expect_eq(eleven - ten, release->position_bytes, "%s", release->file);
        cr_expect_eq(ten - 10 * release->position_bytes, release->fixed_bytes, "%s: %llu bytes of fixed state",
                     release->file, (unsigned long long)(ten - 10 * release->position_bytes));
        arena_close(&arena);
    }
}

Test(configs, every_release_names_its_family)
{
    static const struct {
        const char *file;
        enum family family;
        uint32_t rotary;
        double theta;
        bool tied, nested;
    } rows[] = {
        {"lfm2-8b-a1b", FAMILY_LFM2_MOE, 64, 1e6, true, false},
        {"lfm2.5-8b-a1b", FAMILY_LFM2_MOE, 64, 5e6, true, false},
        {"qwen3.5-0.8b", FAMILY_QWEN35, 64, 1e7, true, true},
        {"qwen3.5-9b", FAMILY_QWEN35, 64, 1e7, false, true},
        {"qwen3.5-35b-a3b", FAMILY_QWEN35_MOE, 64, 1e7, false, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct arena arena = {0};
        struct config config;
        struct error error = {0};
        const char *path = arena_print(&arena, ASSAY_FIXTURES "/configs/%s.json", rows[i].file);
        cr_assert_eq(config_open(&arena, path, &config, &error), 0, "%s", error.text);
        cr_expect_eq(config.family, rows[i].family, "%s", rows[i].file);
        cr_expect_eq(config.rotary_width, rows[i].rotary, "%s", rows[i].file);
        cr_expect_eq(config.rope_theta, rows[i].theta, "%s", rows[i].file);
        cr_expect_eq(config.tied, rows[i].tied, "%s", rows[i].file);
        cr_expect_eq(config.nested, rows[i].nested, "%s", rows[i].file);
        arena_close(&arena);
    }
}

Test(configs, multiplications_are_those_of_the_linear_layers)
{
    struct arena arena = {0};
    struct config config;
    struct model model;
    size_t n;
    cr_assert_eq(config_open(&arena, ASSAY_FIXTURES "/configs/lfm2.5-1.2b.json", &config, NULL), 0);
    bind(&arena, &config, &model, &n);
    // all parameters but 33 norms of 2048, 12 of 64 and 10 convolutions of 2048 x 3
    const uint64_t rest = 33 * 2048 + 12 * 64 + 10 * 2048 * 3;
    cr_expect_eq(model_step_traffic(&model).multiplications, 1170340608 - rest);
    arena_close(&arena);
}

Test(configs, an_untied_model_reads_one_row_of_its_embedding)
{
    struct arena arena = {0};
    struct config config;
    struct model tied, untied;
    size_t n_tied, n_untied;
    cr_assert_eq(config_open(&arena, ASSAY_FIXTURES "/configs/lfm2.5-350m.json", &config, NULL), 0);
    bind(&arena, &config, &tied, &n_tied);
    config.tied = false;
    bind(&arena, &config, &untied, &n_untied);
    cr_expect_eq(n_untied, n_tied + 1);
    untied.head.data = &untied; // another place than the embedding's, which is nowhere
    const struct model_traffic one = model_step_traffic(&tied), other = model_step_traffic(&untied);
    cr_expect_eq(one.bytes, other.bytes);
    cr_expect_eq(one.multiplications, other.multiplications);
    arena_close(&arena);
}
