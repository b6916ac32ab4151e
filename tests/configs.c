// The released shapes in fixtures/configs, held against the published figures, all by way of config_open and
// model_bind: no weights are needed, since binding looks at names, shapes and dtypes only.
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "harness/model/model.h"
#include "harness/run/state.h"

struct release {
    const char *file;
    uint32_t feed_forward;      // F, after the adjustment
    uint64_t parameters;        // published, or by the formula that gives the published ones (architecture.md 2.3)
    size_t tensors;             // of the file
    uint64_t position_bytes;    // keys and values in fp32: 2 Hkv dh 4 for every attention layer
};

static const struct release releases[] = {
    {"lfm2.5-230m", 2560, 229693184, 132, 6 * 4096},
    {"lfm2.5-350m", 4608, 354483968, 148, 6 * 4096},
    {"lfm2-700m", 6912, 742489344, 148, 6 * 4096},
    {"lfm2.5-1.2b", 8192, 1170340608, 148, 6 * 4096},
    {"lfm2-2.6b", 10752, 2569272320, 266, 8 * 4096},
    {"lfm2.5-2.6b", 10752, 2697198592, 266, 8 * 4096},
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

Test(configs, releases_have_their_published_sizes)
{
    for (size_t i = 0; i < sizeof releases / sizeof *releases; i++) {
        const struct release *release = &releases[i];
        struct arena arena = {0};
        struct config config;
        struct model model;
        struct error error = {0};
        size_t n;
        const char *path = arena_print(&arena, ASSAY_FIXTURES "/configs/%s.json", release->file);
        cr_assert_eq(config_open(&arena, path, &config, &error), 0, "%s", error.text);
        cr_expect_eq(config.feed_forward, release->feed_forward, "%s: F %u", release->file, config.feed_forward);
        bind(&arena, &config, &model, &n);
        cr_expect_eq(n, release->tensors, "%s: %zu tensors", release->file, n);
        // a tied head is read whole by every token, the embedding's row once more
        const struct model_traffic traffic = model_step_traffic(&model);
        const uint64_t weights = traffic.bytes - 2 * (uint64_t)config.hidden;
        cr_expect_eq(weights, 2 * release->parameters, "%s: %llu bytes of bf16", release->file, (unsigned long long)weights);
        cr_expect_eq(state_bytes(&arena, &config, 11) - state_bytes(&arena, &config, 10), release->position_bytes,
                     "%s", release->file);
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
