// runtime_models: three models as a bundle would hold them, made in memory, and the runtime's engine over them.
#ifndef ASSAY_TESTS_RUNTIME_MODELS_H
#define ASSAY_TESTS_RUNTIME_MODELS_H

#include <criterion/criterion.h>
#include <string.h>

#include "harness/base/half.h"
#include "harness/model/checkpoint.h"
#include "runtime/engine.h"
#include "runtime/quant.h"

// Of the running test: Criterion gives each test its own process.
static struct arena arena;
static struct checkpoint *checkpoint;

// To be named as .fini.
static inline void release_models(void)
{
    checkpoint_close(&checkpoint);
    arena_close(&arena);
}

// --- models

// The same weight in another format; block: inputs a scale.
static inline void convert(struct weight *w, enum weight_format format, uint32_t block)
{
    if (w->format == WEIGHT_NONE)
        return;
    float *row = arena_alloc(&arena, w->cols, sizeof *row);
    int8_t *codes = arena_alloc(&arena, w->cols, 1);
    unsigned char *data = arena_alloc(&arena, w->rows, (size_t)w->cols * 4);
    uint16_t *scale = arena_alloc(&arena, w->rows, (size_t)w->cols * 2);
    struct quant_statistics statistics = {0};
    struct weight made = *w;
    made.format = format;
    made.data = data;
    made.block = format == WEIGHT_Q8 || format == WEIGHT_Q4 ? block : 0;
    made.scale = made.block ? scale : NULL;
    for (uint32_t r = 0; r < w->rows; r++) {
        unsigned char *out = data + r * weight_row_bytes(&made);
        weight_row(w, r, row);
        if (made.block)
            cr_assert_eq(quant_row(format == WEIGHT_Q8 ? QUANT_INT8_SYM : QUANT_INT4_CLIP, row, w->cols, block, codes,
                                   scale + (size_t)r * (w->cols / block), &statistics, NULL),
                         0);
        for (uint32_t k = 0; k < w->cols; k++)
            switch (format) {
            case WEIGHT_F32:
                ((float *)(void *)out)[k] = row[k];
                break;
            case WEIGHT_F16:
                ((uint16_t *)(void *)out)[k] = half_from_float(row[k]);
                break;
            case WEIGHT_BF16:
                ((uint16_t *)(void *)out)[k] = (uint16_t)(float_to_bits(row[k]) >> 16);
                break;
            case WEIGHT_Q8:
                out[k] = (uint8_t)codes[k];
                break;
            default:
                out[k / 2] = (unsigned char)(out[k / 2] | (codes[k] & 15) << (k % 2 ? 4 : 0));
            }
    }
    *w = made;
}

// The mini checkpoint with the body in `format` and everything else as a bundle stores it.
static inline const struct model *mini(enum weight_format format)
{
    static struct model model;
    static struct config config;
    struct error error = {0};
    checkpoint_close(&checkpoint);
    cr_assert_eq(checkpoint_open(&checkpoint, ASSAY_FIXTURES "/models/lfm2-mini", &error), 0, "%s", error.text);
    cr_assert_eq(config_open(&arena, checkpoint->config_path, &config, &error), 0, "%s", error.text);
    cr_assert_eq(model_bind(&arena, &config, &checkpoint->table, false, &model, NULL, &error), 0, "%s", error.text);
    convert(&model.embedding, WEIGHT_F16, 0);
    model.head = model.embedding;
    for (uint32_t i = 0; i < config.layers; i++) {
        struct layer *layer = &model.layers[i];
        struct weight *body[] = {&layer->in_proj, &layer->conv_out, &layer->w1, &layer->w3, &layer->w2};
        struct weight *projections[] = {&layer->q_proj, &layer->k_proj, &layer->v_proj, &layer->attn_out};
        for (int w = 0; w < 5; w++)
            convert(body[w], format, 32);
        for (int w = 0; w < 4; w++)
            convert(projections[w], WEIGHT_F32, 0);
    }
    return &model;
}

static uint64_t random_state = UINT64_C(0x123456789ABCDEF);

static inline struct weight random_weight(const char *name, uint32_t rows, uint32_t cols, float around, float spread)
{
    float *data = arena_alloc(&arena, rows, (size_t)cols * sizeof *data);
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        data[i] = around + spread * (float)(int32_t)(random_state >> 32) * 0x1p-31f;
    }
    return (struct weight){.name = name, .format = WEIGHT_F32, .rows = rows, .cols = cols, .data = data};
}

// Nothing is a multiple of 8: d 42, F 50, 6 query heads of 6 on 2 key heads (Hq dh = 36 is not d), 4 taps, biases, an
// untied head, every weight format, a scale a row.
static inline const struct model *odd(void)
{
    enum { D = 42, F = 50, HQ = 6, HKV = 2, DH = 6, K = 4, V = 67, L = 4 };
    static enum mixer mixers[L] = {MIXER_CONV, MIXER_ATTENTION, MIXER_CONV, MIXER_ATTENTION};
    static struct layer layers[L];
    static struct model model;
    model = (struct model){
        .config = {.model_type = "lfm2",
                   .vocabulary = V,
                   .hidden = D,
                   .layers = L,
                   .query_heads = HQ,
                   .key_heads = HKV,
                   .head_width = DH,
                   .rotary_width = DH,
                   .feed_forward = F,
                   .conv_taps = K,
                   .conv_bias = true,
                   .norm_eps = 1e-5f,
                   .rope_theta = 1e6,
                   .max_positions = 128,
                   .mixers = mixers},
        .embedding = random_weight("embedding", V, D, 0, 1),
        .final_norm = random_weight("final_norm", 1, D, 1, 0.3f),
        .head = random_weight("head", V, D, 0, 1),
        .layers = layers,
    };
    for (uint32_t i = 0; i < L; i++) {
        struct layer *layer = &layers[i];
        *layer = (struct layer){.mixer = mixers[i]};
        layer->mixer_norm = random_weight("operator_norm", 1, D, 1, 0.3f);
        layer->ffn_norm = random_weight("ffn_norm", 1, D, 1, 0.3f);
        layer->w1 = random_weight("w1", F, D, 0, 0.4f);
        layer->w3 = random_weight("w3", F, D, 0, 0.4f);
        layer->w2 = random_weight("w2", D, F, 0, 0.4f);
        layer->in_proj = random_weight("in_proj", 3 * D, D, 0, 0.4f);
        layer->in_proj_bias = random_weight("in_proj_bias", 1, 3 * D, 0, 0.4f);
        layer->conv = random_weight("conv", D, K, 0, 0.8f);
        layer->conv_bias = random_weight("conv_bias", 1, D, 0, 0.4f);
        layer->conv_out = random_weight("conv_out", D, D, 0, 0.4f);
        layer->conv_out_bias = random_weight("conv_out_bias", 1, D, 0, 0.4f);
        layer->q_proj = random_weight("q_proj", HQ * DH, D, 0, 0.4f);
        layer->k_proj = random_weight("k_proj", HKV * DH, D, 0, 0.4f);
        layer->v_proj = random_weight("v_proj", HKV * DH, D, 0, 0.4f);
        layer->attn_out = random_weight("attn_out", D, HQ * DH, 0, 0.4f);
        layer->q_norm = random_weight("q_norm", 1, DH, 1.5f, 1);
        layer->k_norm = random_weight("k_norm", 1, DH, 1.5f, 1);
        convert(&layer->in_proj, WEIGHT_Q8, D);
        convert(&layer->conv_out, WEIGHT_BF16, 0);
        convert(&layer->w1, WEIGHT_F16, 0);
        convert(&layer->w2, WEIGHT_Q4, F);
    }
    convert(&model.head, WEIGHT_F16, 0);
    return &model;
}

// Wide enough for every kind of work to be split over threads: feed-forward and head of over 2^20 weights, and 16
// heads that are split from 64 positions on.
static inline const struct model *wide(void)
{
    enum { D = 512, F = 2300, HQ = 16, HKV = 4, DH = 64, K = 3, V = 2100, L = 2 };
    static enum mixer mixers[L] = {MIXER_CONV, MIXER_ATTENTION};
    static struct layer layers[L];
    static struct model model;
    model = (struct model){
        .config = {.model_type = "lfm2",
                   .vocabulary = V,
                   .hidden = D,
                   .layers = L,
                   .query_heads = HQ,
                   .key_heads = HKV,
                   .head_width = DH,
                   .rotary_width = DH,
                   .feed_forward = F,
                   .conv_taps = K,
                   .norm_eps = 1e-5f,
                   .rope_theta = 1e6,
                   .max_positions = 128,
                   .mixers = mixers},
        .embedding = random_weight("embedding", V, D, 0, 1),
        .final_norm = random_weight("final_norm", 1, D, 1, 0.3f),
        .head = random_weight("head", V, D, 0, 0.2f),
        .layers = layers,
    };
    for (uint32_t i = 0; i < L; i++) {
        layers[i] = (struct layer){
            .mixer = mixers[i],
            .mixer_norm = random_weight("operator_norm", 1, D, 1, 0.3f),
            .ffn_norm = random_weight("ffn_norm", 1, D, 1, 0.3f),
            .w1 = random_weight("w1", F, D, 0, 0.1f),
            .w3 = random_weight("w3", F, D, 0, 0.1f),
            .w2 = random_weight("w2", D, F, 0, 0.1f),
            .in_proj = random_weight("in_proj", 3 * D, D, 0, 0.1f),
            .conv = random_weight("conv", D, K, 0, 0.8f),
            .conv_out = random_weight("conv_out", D, D, 0, 0.1f),
            .q_proj = random_weight("q_proj", HQ * DH, D, 0, 0.1f),
            .k_proj = random_weight("k_proj", HKV * DH, D, 0, 0.1f),
            .v_proj = random_weight("v_proj", HKV * DH, D, 0, 0.1f),
            .attn_out = random_weight("attn_out", D, HQ * DH, 0, 0.1f),
            .q_norm = random_weight("q_norm", 1, DH, 1.5f, 1),
            .k_norm = random_weight("k_norm", 1, DH, 1.5f, 1),
        };
        convert(&layers[i].in_proj, WEIGHT_Q8, 32);
        convert(&layers[i].w1, WEIGHT_Q4, 32);
        convert(&layers[i].w2, WEIGHT_F16, 0);
    }
    return &model;
}

// --- engines

enum { CAPACITY = 72 };

static inline struct runtime_options options(const struct plan *plan)
{
    return (struct runtime_options){.isa = isa_best(), .capacity = CAPACITY, .name = "int8", .plan = plan};
}

static inline struct engine *open_engine(const struct model *model, const struct runtime_options *chosen)
{
    struct engine *engine;
    struct error error = {0};
    cr_assert_eq(runtime_open(&engine, model, chosen, &error), 0, "%s", error.text);
    return engine;
}

static inline struct engine *open_default(const struct model *model)
{
    struct plan plan;
    plan_default(&plan);
    const struct runtime_options chosen = options(&plan);
    return open_engine(model, &chosen);
}

static inline struct engine *open_faulty(const struct model *model, enum fault fault)
{
    struct plan plan;
    plan_default(&plan);
    struct runtime_options chosen = options(&plan);
    chosen.fault = fault;
    return open_engine(model, &chosen);
}

static inline const float *step(struct engine *engine, uint32_t token)
{
    const float *logits;
    struct error error = {0};
    cr_assert_eq(engine->class->step(engine, token, NULL, &logits, &error), 0, "%s", error.text);
    return logits;
}

static inline struct state save(const struct engine *engine)
{
    struct state state;
    cr_assert_eq(state_make(&arena, engine->config, engine->position, &state, NULL), 0);
    engine->class->save(engine, &state);
    return state;
}

static inline bool same(const float *a, const float *b, size_t n)
{
    return memcmp(a, b, n * sizeof *a) == 0;
}

static inline bool same_state(const struct state *a, const struct state *b)
{
    bool equal = a->n == b->n && a->position == b->position;
    for (size_t i = 0; equal && i < a->n; i++)
        equal = a->tensors[i].elements == b->tensors[i].elements &&
                same(a->tensors[i].data, b->tensors[i].data, a->tensors[i].elements);
    return equal;
}

// A BOS and ordinary ids; any will do.
static inline uint32_t token_at(const struct model *model, uint32_t t)
{
    return t ? (t * 977 + 31) % model->config.vocabulary : 1;
}

// Logits [n, V] of a run from the zero state.
static inline float *run(struct engine *engine, const struct model *model, uint32_t n)
{
    const uint32_t vocabulary = model->config.vocabulary;
    float *rows = arena_alloc(&arena, n, vocabulary * sizeof *rows);
    for (uint32_t t = 0; t < n; t++)
        memcpy(rows + (size_t)t * vocabulary, step(engine, token_at(model, t)), vocabulary * sizeof *rows);
    return rows;
}

#endif
