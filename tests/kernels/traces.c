// Whole traces through the reference or the int8 runtime, every logit, tap and state hashed. One model has one hash,
// whatever the instruction set, the number of threads, the compiler and its level.
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "reference/engine.h"
#include "runtime/lfm2.h"
#include "runtime/qwen35.h"
#include "tests/kernels/check.h"
#include "tests/kernels/model_file.h"

struct hashes {
    uint64_t logits, taps, states;
};

// After a change that is meant to change numbers: `check_kernels --kernel 'trace*' --model FILE` prints what it
// found.
// The small models go past a block of 32 positions.
static const struct committed {
    const char *name;
    uint32_t tokens;
    struct hashes hashes;
} committed[] = {
    {"lfm2-mini.reference", 16, {0x5f20115b73605eb0, 0x4dc6af74d0d62743, 0xce1ed818947d10ad}},
    {"lfm2-mini.int8", 16, {0xa3523b3db3b15262, 0x44202f57fab59bf9, 0x6b21a49fd031c754}},
    {"odd-group3-taps4-bias.reference", 40, {0xf47643cc33f81a0e, 0xb5b1f48869c8f4e7, 0xb057a3d83ea2eee3}},
    {"odd-group3-taps4-bias.int8", 40, {0x3484cc4601ac8d07, 0xf00117c0343490b5, 0xf974f89b4470a041}},
    {"odd-mixed-sharded.reference", 40, {0x40fe843ecd11b7aa, 0xe0ceb03583ef5f66, 0x4d46a50e27c9b1cd}},
    {"odd-mixed-sharded.int8", 40, {0x83718b5e34036eb9, 0xab3bb43abecbd632, 0x7fe1f6259e014df7}},
    {"qwen35-mini.reference", 16, {0x3afe1467c9b23386, 0xe32e71a52c3e5480, 0x824465572141af3d}},
    {"odd-qwen35-group3-taps3-bias.reference", 40, {0x37c3729c92542c75, 0x3bebce5e8a0f4651, 0xc5a01a7e66e919d4}},
    {"lfm2moe-mini.reference", 16, {0xfd9c72e5c2f34246, 0x00940ec482722b4e, 0xf4c5c1a168d19f27}},
    {"odd-lfm2moe-group8-untied.reference", 40, {0xc8214f8bb2bde3b2, 0xee4957adf15cf386, 0x91e11b2740b21e08}},
    {"qwen35moe-mini.reference", 16, {0x8ebf058775a68b84, 0x5b7880d9bd4fc4c4, 0xa6d3dcf3a6a1889b}},
    {"odd-qwen35moe-group1-fused.reference", 40, {0x333d76fc6ff8d48c, 0x0e330b7c33632558, 0x571dcc9b11eca624}},
};

// --- the model

struct trace {
    struct arena arena;
    struct model_head head;
    struct model model;
    struct plan plan;
    const struct committed *expected;
    FILE *file;
};

static const struct committed *find_committed(const char *name)
{
    for (size_t i = 0; i < sizeof committed / sizeof *committed; i++)
        if (!strcmp(name, committed[i].name))
            return &committed[i];
    fprintf(stderr, "check_kernels: no hash is committed for %s\n", name);
    exit(99);
}

static void read_bytes(struct trace *trace, void *to, size_t n)
{
    if (n && (!to || fread(to, 1, n, trace->file) != n)) {
        fprintf(stderr, "check_kernels: the model file is shorter than it says\n");
        exit(99);
    }
}

// NULL for no bytes.
static const void *read_array(struct trace *trace, uint64_t bytes)
{
    void *memory = bytes ? arena_alloc(&trace->arena, (size_t)bytes, 1) : NULL;
    read_bytes(trace, memory, (size_t)bytes);
    return memory;
}

static void read_weight(void *context, struct weight *weight)
{
    struct trace *trace = context;
    uint32_t words[4];
    read_bytes(trace, words, sizeof words);
    *weight = (struct weight){.name = "", .rows = words[1], .cols = words[2], .block = words[3]};
    weight->format = (enum weight_format)words[0];
    weight->data = read_array(trace, weight->rows * weight_row_bytes(weight));
    weight->scale = read_array(trace, model_file_scales(weight));
    weight->bias = read_array(trace, model_file_biases(weight));
    weight->lut = read_array(trace, model_file_books(weight));
}

static struct config config_of(const struct trace *trace)
{
    const struct model_head *head = &trace->head;
    return (struct config){
        .family = (enum family)head->family,
        .vocabulary = head->vocabulary,
        .hidden = head->hidden,
        .layers = head->layers,
        .query_heads = head->query_heads,
        .key_heads = head->key_heads,
        .head_width = head->head_width,
        .rotary_width = head->rotary_width,
        .conv_taps = head->conv_taps,
        .delta_key_heads = head->delta_key_heads,
        .delta_value_heads = head->delta_value_heads,
        .delta_key_width = head->delta_key_width,
        .delta_value_width = head->delta_value_width,
        .feed_forward = head->feed_forward,
        .dense_layers = head->dense_layers,
        .experts = head->experts,
        .experts_per_token = head->experts_per_token,
        .expert_width = head->expert_width,
        .shared_width = head->shared_width,
        .expert_normalise = head->expert_normalise,
        .expert_scale = head->expert_scale,
        .norm_eps = head->norm_eps,
        .rope_theta = head->rope_theta,
        .max_positions = trace->expected->tokens,
    };
}

// The layers, experts that are stored in one as views of it.
static void read_weights(struct trace *trace)
{
    const struct config *config = &trace->model.config;
    const uint32_t experts = config->experts, width = config->expert_width;
    for (uint32_t i = 0; i < config->layers; i++)
        trace->model.layers[i].experts = arena_alloc(&trace->arena, experts, sizeof(struct expert));
    model_file_weights(&trace->model, read_weight, trace);
    for (uint32_t i = 0; i < config->layers; i++) {
        struct layer *w = &trace->model.layers[i];
        w->sparse = config_is_sparse(config, i);
        for (uint32_t e = 0; w->gate_up.format != WEIGHT_NONE && e < experts; e++) {
            w->experts[e].gate = weight_rows(&w->gate_up, 2 * e * width, width);
            w->experts[e].up = weight_rows(&w->gate_up, (2 * e + 1) * width, width);
            w->experts[e].down = weight_rows(&w->down, e * config->hidden, config->hidden);
        }
    }
}

static void read_model(struct trace *trace, const char *path)
{
    uint32_t magic = 0;
    struct config *config = &trace->model.config;
    *trace = (struct trace){.file = fopen(path, "rb")};
    if (!trace->file || fread(&magic, sizeof magic, 1, trace->file) != 1 || magic != MODEL_FILE_MAGIC) {
        fprintf(stderr, "check_kernels: %s is not there or not written by write_model\n", path);
        exit(99);
    }
    read_bytes(trace, &trace->head, sizeof trace->head);
    trace->expected = find_committed(trace->head.name);
    *config = config_of(trace);
    for (int row = 0; row < PLAN_ROWS; row++)
        trace->plan.rows[row] = (enum precision)trace->head.plan[row];
    config->mixers = arena_alloc(&trace->arena, config->layers, sizeof *config->mixers);
    trace->model.layers = arena_alloc(&trace->arena, config->layers, sizeof *trace->model.layers);
    for (uint32_t i = 0; i < config->layers; i++) {
        uint32_t mixer;
        read_bytes(trace, &mixer, sizeof mixer);
        trace->model.layers[i].mixer = config->mixers[i] = (enum mixer)mixer;
    }
    read_weights(trace);
    fclose(trace->file);
    trace->file = NULL;
}

// --- the hash

static void hash_tap(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    const float place = (float)layer; // a row in another's place is another trace
    check_hash(context, &place, 1);
    for (const char *name = tap_point_name(point); *name; name++) {
        const float letter = (float)*name;
        check_hash(context, &letter, 1);
    }
    check_hash(context, row, width);
}

static void hash_state(uint64_t *hash, const struct state *state)
{
    for (size_t i = 0; i < state->n; i++)
        check_hash(hash, state->tensors[i].data, state->tensors[i].elements);
}

// --- the runs

static uint32_t token_at(const struct model *model, uint32_t t)
{
    return (1 + t * 1237) % model->config.vocabulary;
}

static int run_reference(const struct trace *trace, enum isa isa, struct pool *pool, const struct tap_sink *taps,
                         struct hashes *hashes, struct state *state, struct error *error)
{
    const struct reference_options options = {
        .pool = pool, .isa = isa, .capacity = trace->expected->tokens, .name = "reference"};
    struct engine *engine;
    int failed = reference_open(&engine, &trace->model, &options, error);
    for (uint32_t t = 0; !failed && t < trace->expected->tokens; t++) {
        const float *logits;
        failed = engine->class->step(engine, token_at(&trace->model, t), taps, &logits, error);
        if (!failed)
            check_hash(&hashes->logits, logits, trace->model.config.vocabulary);
    }
    if (!failed)
        engine->class->save(engine, state);
    engine_close(&engine);
    return failed;
}

static const float *runtime_step(struct step *run, uint32_t position, uint32_t token, const struct tap_sink *taps)
{
    const bool lfm2 = config_is_lfm2(&run->model->config);
    return (lfm2 ? runtime_lfm2_step : runtime_qwen35_step)(run, position, token, taps);
}

static int run_runtime(const struct trace *trace, enum isa isa, struct pool *pool, const struct tap_sink *taps,
                       struct hashes *hashes, struct state *state, struct error *error)
{
    struct arena arena = {0};
    struct step *run;
    const int failed = step_open(&arena, &trace->model, &trace->plan, FAULT_NONE, isa, pool,
                                         trace->expected->tokens, &run, error);
    for (uint32_t t = 0; !failed && t < trace->expected->tokens; t++)
        check_hash(&hashes->logits, runtime_step(run, t, token_at(&trace->model, t), taps),
                    trace->model.config.vocabulary);
    if (!failed)
        step_save(run, state);
    arena_close(&arena);
    return failed;
}

static struct hashes run(const struct trace *trace, enum isa isa, unsigned threads)
{
    struct hashes hashes = {CHECK_HASH_START, CHECK_HASH_START, CHECK_HASH_START};
    const struct tap_sink taps = {TAPS_ALL, &hashes.taps, hash_tap};
    struct error error = {0};
    struct arena arena = {0};
    struct state state;
    struct pool *pool = NULL;
    int failed = pool_open(&pool, threads, &error);
    if (!failed)
        failed = state_make(&arena, &trace->model.config, trace->expected->tokens, &state, &error);
    if (!failed)
        failed =
            (trace->head.is_runtime ? run_runtime : run_reference)(trace, isa, pool, &taps, &hashes, &state, &error);
    if (failed) {
        fprintf(stderr, "check_kernels: %s\n", error.text);
        exit(99);
    }
    hash_state(&hashes.states, &state);
    pool_close(&pool);
    arena_close(&arena);
    return hashes;
}

// --- the comparison

static bool is_expected(const struct trace *trace, struct hashes found, char detail[200])
{
    const struct hashes *expected = &trace->expected->hashes;
    const bool logits = found.logits == expected->logits, taps = found.taps == expected->taps,
               states = found.states == expected->states;
    snprintf(detail, 200, "%s%s%sfound {0x%016llx, 0x%016llx, 0x%016llx}", logits ? "" : "other logits, ",
             taps ? "" : "other taps, ", states ? "" : "other states, ", (unsigned long long)found.logits,
             (unsigned long long)found.taps, (unsigned long long)found.states);
    return logits && taps && states;
}

// One bit of one weight of the last layer must change the hash.
static void control(struct trace *trace, const char *pattern, check_result_fn result)
{
    char name[160], detail[200];
    const struct layer *last = &trace->model.layers[trace->model.config.layers - 1];
    const struct weight *weight = last->sparse ? &last->router : &last->w2;
    snprintf(name, sizeof name, "trace %s: control, one bit of one weight", trace->head.name);
    if (fnmatch(pattern, name, 0))
        return;
    if (!result) {
        printf("%s\n", name);
        return;
    }
    uint8_t *data = (uint8_t *)(uintptr_t)weight->data; // of the arena: read_weight put it there
    data[weight_row_bytes(weight) * weight->rows / 2] ^= 1;
    const bool unnoticed = is_expected(trace, run(trace, isa_best(), 1), detail);
    data[weight_row_bytes(weight) * weight->rows / 2] ^= 1;
    result(!unnoticed, name, detail);
}

void check_traces(const char *path, const char *pattern, check_result_fn result)
{
    static const unsigned threads[] = {1, 2, 3, 7};
    struct trace trace;
    read_model(&trace, path);
    for (enum isa isa = ISA_SCALAR; isa < ISA_COUNT; isa++)
        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
            char name[160], detail[200];
            snprintf(name, sizeof name, "trace %s %s, threads %u", trace.head.name, isa_name(isa), threads[i]);
            if (!isa_available(isa) || fnmatch(pattern, name, 0))
                continue;
            if (!result) {
                printf("%s\n", name);
                continue;
            }
            const bool ok = is_expected(&trace, run(&trace, isa, threads[i]), detail);
            result(ok, name, detail);
        }
    control(&trace, pattern, result);
    arena_close(&trace.arena);
}
