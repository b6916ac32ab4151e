// longhand_experts: one sparse layer of random weights with a decoder around it, and the same layer written out by
// hand from arithmetic.md 2, also as it could be written wrongly.
#ifndef ASSAY_TESTS_LONGHAND_EXPERTS_H
#define ASSAY_TESTS_LONGHAND_EXPERTS_H

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "reference/experts.h"
#include "reference/math.h"

// Widths that are no multiples of 32; the input of a down projection is shorter than the lanes.
enum { D = 40, E = 7, K = 3, FM = 19, FS = 11, TOKENS = DECODER_WIDTH };

static inline float sparse_wave(uint64_t seed, uint64_t i) // in [-1, 1), 24 bits
{
    uint64_t z = (seed << 32 ^ i) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 29) * 0xBF58476D1CE4E5B9u;
    return (float)(int32_t)(z >> 40) * 0x1p-23f - 1;
}

// One layer, and a decoder that has no other.
struct sparse {
    struct arena arena;
    enum mixer mixer;
    struct layer layer;
    struct expert experts[E];
    struct model model;
    float *router, *bias; // [E, D], [E]: what a test may change before sparse_open
    float *u;             // [TOKENS, D]
    struct decoder *decoder;
};

static inline struct weight sparse_weight(struct sparse *sparse, uint32_t rows, uint32_t cols, uint64_t seed)
{
    float *data = arena_alloc(&sparse->arena, (size_t)rows * cols, sizeof *data);
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        data[i] = sparse_wave(seed, i);
    return (struct weight){.name = "", .format = WEIGHT_F32, .rows = rows, .cols = cols, .data = data};
}

static inline struct expert sparse_expert(struct sparse *sparse, uint32_t width, uint64_t seed)
{
    return (struct expert){sparse_weight(sparse, width, D, seed), sparse_weight(sparse, width, D, seed + 1),
                           sparse_weight(sparse, D, width, seed + 2)};
}

static inline void sparse_make(struct sparse *sparse, enum family family, uint32_t k)
{
    memset(sparse, 0, sizeof *sparse);
    sparse->mixer = MIXER_CONV;
    struct config *config = &sparse->model.config;
    *config = (struct config){.family = family,
                              .vocabulary = 8,
                              .hidden = D,
                              .layers = 1,
                              .mixers = &sparse->mixer,
                              .query_heads = 1,
                              .key_heads = 1,
                              .head_width = 8,
                              .rotary_width = 8,
                              .rope_theta = 1e4,
                              .conv_taps = 3,
                              .experts = E,
                              .experts_per_token = k,
                              .expert_width = FM,
                              .expert_normalise = true,
                              .expert_scale = 1.7f};
    struct layer *layer = &sparse->layer;
    *layer = (struct layer){.mixer = MIXER_CONV, .sparse = true, .experts = sparse->experts};
    layer->router = sparse_weight(sparse, E, D, 1);
    sparse->router = (float *)(uintptr_t)layer->router.data;
    if (family == FAMILY_LFM2_MOE) {
        config->expert_bias = true;
        layer->expert_bias = sparse_weight(sparse, 1, E, 2);
        sparse->bias = (float *)(uintptr_t)layer->expert_bias.data;
    } else {
        config->shared_width = FS;
        layer->shared_gate = sparse_weight(sparse, 1, D, 3);
        layer->shared = sparse_expert(sparse, FS, 4);
    }
    for (uint32_t e = 0; e < E; e++)
        sparse->experts[e] = sparse_expert(sparse, FM, 10 + 3 * e);
    sparse->model.layers = layer;
    sparse->u = arena_alloc(&sparse->arena, TOKENS * D, sizeof *sparse->u);
    for (uint32_t i = 0; i < TOKENS * D; i++)
        sparse->u[i] = sparse_wave(9, i);
}

static inline void sparse_open(struct sparse *sparse, enum isa isa)
{
    struct error error = {0};
    struct linear linear;
    linear_open(&linear, isa, NULL);
    cr_assert_eq(decoder_open(&sparse->decoder, &sparse->model, &linear, isa, TOKENS, &error), 0, "%s", error.text);
    cr_assert_eq(decoder_make_room(sparse->decoder, TOKENS, &error), 0, "%s", error.text);
}

static inline void sparse_close(struct sparse *sparse)
{
    decoder_close(&sparse->decoder);
    arena_close(&sparse->arena);
}

// Rows first ... first + n - 1 of u in one pass -> m [n, D], valid until the next one.
static inline const float *sparse_run(struct sparse *sparse, uint32_t first, uint32_t n)
{
    struct decoder *s = sparse->decoder;
    const struct batch_sink sink = {.taps = NULL};
    s->n = n;
    memcpy(s->u, sparse->u + (size_t)first * D, (size_t)n * D * sizeof *s->u);
    experts_forward(s, 0, &sink);
    return s->m;
}

// --- longhand (arithmetic.md 2), and what could be written instead of it

enum wrong {
    RIGHT,
    BIAS_IN_WEIGHTS,
    OTHER_ACTIVATION, // softmax for sigmoid, sigmoid for softmax
    NO_RENORMALISATION,
    NO_SCALING,
    DOWN_OF_ANOTHER,
    GATE_AND_UP_SWAPPED,
    SLOTS_BY_NUMBER, // the same terms, added in the order of the experts' numbers
    WEIGHT_BEFORE_DOWN,
    NO_SHARED_GATE,
    SHARED_FIRST,
    LAST_OF_EQUALS,
    WRONGS
};

static inline float longhand_dot(const struct weight *w, uint32_t row, const float *x)
{
    const float *at = (const float *)w->data + (size_t)row * w->cols;
    float lanes[32] = {0};
    for (uint32_t k = 0; k < w->cols; k++)
        lanes[k % 32] = fmaf(at[k], x[k], lanes[k % 32]);
    for (int half = 16; half; half /= 2)
        for (int l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

static inline void longhand_swiglu(const struct expert *expert, const struct weight *down, const float *u,
                                   float factor, enum wrong wrong, float y[D])
{
    float a[FM];
    for (uint32_t f = 0; f < expert->gate.rows; f++) {
        const float gate = longhand_dot(&expert->gate, f, u), up = longhand_dot(&expert->up, f, u);
        a[f] = wrong == GATE_AND_UP_SWAPPED ? math_silu(up) * gate : math_silu(gate) * up;
        a[f] *= factor;
    }
    for (uint32_t c = 0; c < D; c++)
        y[c] = longhand_dot(down, c, a);
}

static inline void longhand_activate(bool is_softmax, const float logits[E], float p[E])
{
    float max = -INFINITY;
    double sum = 0;
    for (int e = 0; e < E; e++)
        max = fmaxf(max, logits[e]);
    for (int e = 0; e < E; e++) {
        p[e] = is_softmax ? math_exp(logits[e] - max) : math_sigmoid(logits[e]);
        sum += p[e];
    }
    for (int e = 0; is_softmax && e < E; e++)
        p[e] /= (float)sum;
}

static inline uint32_t longhand_best(const float scores[E], const bool taken[E], bool last_of_equals)
{
    uint32_t best = E;
    for (uint32_t e = 0; e < E; e++)
        if (!taken[e] && (best == E || scores[e] > scores[best] || (last_of_equals && scores[e] == scores[best])))
            best = e;
    return best;
}

// Experts and weights of the k slots.
static inline void longhand_route(const struct sparse *sparse, const float *u, enum wrong wrong, uint32_t chosen[E],
                                  float weights[E])
{
    const struct config *config = &sparse->model.config;
    const bool is_lfm2 = config->family == FAMILY_LFM2_MOE;
    float logits[E], p[E], scores[E];
    bool taken[E] = {false};
    double sum = 0;
    for (uint32_t e = 0; e < E; e++)
        logits[e] = longhand_dot(&sparse->layer.router, e, u);
    longhand_activate((wrong == OTHER_ACTIVATION) == is_lfm2, logits, p);
    for (uint32_t e = 0; e < E; e++)
        scores[e] = is_lfm2 ? p[e] + sparse->bias[e] : p[e];
    for (uint32_t slot = 0; slot < config->experts_per_token; slot++) {
        chosen[slot] = longhand_best(scores, taken, wrong == LAST_OF_EQUALS);
        taken[chosen[slot]] = true;
        weights[slot] = wrong == BIAS_IN_WEIGHTS ? scores[chosen[slot]] : p[chosen[slot]];
        sum += weights[slot];
    }
    for (uint32_t slot = 0; slot < config->experts_per_token; slot++) {
        if (wrong != NO_RENORMALISATION)
            weights[slot] /= is_lfm2 ? (float)sum + 1e-6f : (float)sum;
        if (is_lfm2 && wrong != NO_SCALING)
            weights[slot] *= config->expert_scale;
    }
}

static inline void longhand_sort(uint32_t *chosen, float *weights, uint32_t k)
{
    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = i + 1; j < k; j++)
            if (chosen[j] < chosen[i]) {
                const uint32_t expert = chosen[i];
                const float weight = weights[i];
                chosen[i] = chosen[j];
                weights[i] = weights[j];
                chosen[j] = expert;
                weights[j] = weight;
            }
}

static inline void longhand_shared(const struct sparse *sparse, const float *u, enum wrong wrong, float m[D])
{
    float y[D];
    const float gate = math_sigmoid(longhand_dot(&sparse->layer.shared_gate, 0, u));
    longhand_swiglu(&sparse->layer.shared, &sparse->layer.shared.down, u, 1, RIGHT, y);
    for (uint32_t c = 0; c < D; c++)
        m[c] = fmaf(wrong == NO_SHARED_GATE ? 1 : gate, y[c], m[c]);
}

// u [D] -> m [D]
static inline void longhand(const struct sparse *sparse, const float *u, enum wrong wrong, float m[D])
{
    const uint32_t k = sparse->model.config.experts_per_token;
    const bool has_shared = sparse->model.config.shared_width > 0;
    uint32_t chosen[E];
    float weights[E], y[D];
    longhand_route(sparse, u, wrong, chosen, weights);
    if (wrong == SLOTS_BY_NUMBER)
        longhand_sort(chosen, weights, k);
    memset(m, 0, D * sizeof *m);
    if (has_shared && wrong == SHARED_FIRST)
        longhand_shared(sparse, u, wrong, m);
    for (uint32_t slot = 0; slot < k; slot++) {
        const struct expert *expert = &sparse->experts[chosen[slot]];
        const struct expert *other = &sparse->experts[(chosen[slot] + (wrong == DOWN_OF_ANOTHER)) % E];
        const bool early = wrong == WEIGHT_BEFORE_DOWN;
        longhand_swiglu(expert, &other->down, u, early ? weights[slot] : 1, wrong, y);
        for (uint32_t c = 0; c < D; c++)
            m[c] = fmaf(early ? 1 : weights[slot], y[c], m[c]);
    }
    if (has_shared && wrong != SHARED_FIRST)
        longhand_shared(sparse, u, wrong, m);
}

#endif
