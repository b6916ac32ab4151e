// The sparse feed-forward alone, on weights of this file's own: longhand arithmetic to the bit in both families,
// formulas that are wrong on purpose, grouping, ties, NaN.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/experts.h"
#include "reference/math.h"

// Widths that are no multiples of 32; the input of a down projection is shorter than the lanes.
enum { D = 40, E = 7, K = 3, FM = 19, FS = 11, TOKENS = DECODER_WIDTH };

static float wave(uint64_t seed, uint64_t i) // in [-1, 1), 24 bits
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

static struct weight random_weight(struct sparse *sparse, uint32_t rows, uint32_t cols, uint64_t seed)
{
    float *data = arena_alloc(&sparse->arena, (size_t)rows * cols, sizeof *data);
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        data[i] = wave(seed, i);
    return (struct weight){.name = "", .format = WEIGHT_F32, .rows = rows, .cols = cols, .data = data};
}

static struct expert random_expert(struct sparse *sparse, uint32_t width, uint64_t seed)
{
    return (struct expert){random_weight(sparse, width, D, seed), random_weight(sparse, width, D, seed + 1),
                           random_weight(sparse, D, width, seed + 2)};
}

static void sparse_make(struct sparse *sparse, enum family family, uint32_t k)
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
    layer->router = random_weight(sparse, E, D, 1);
    sparse->router = (float *)(uintptr_t)layer->router.data;
    if (family == FAMILY_LFM2_MOE) {
        config->expert_bias = true;
        layer->expert_bias = random_weight(sparse, 1, E, 2);
        sparse->bias = (float *)(uintptr_t)layer->expert_bias.data;
    } else {
        config->shared_width = FS;
        layer->shared_gate = random_weight(sparse, 1, D, 3);
        layer->shared = random_expert(sparse, FS, 4);
    }
    for (uint32_t e = 0; e < E; e++)
        sparse->experts[e] = random_expert(sparse, FM, 10 + 3 * e);
    sparse->model.layers = layer;
    sparse->u = arena_alloc(&sparse->arena, TOKENS * D, sizeof *sparse->u);
    for (uint32_t i = 0; i < TOKENS * D; i++)
        sparse->u[i] = wave(9, i);
}

static void sparse_open(struct sparse *sparse, enum isa isa)
{
    struct error error = {0};
    struct linear linear;
    linear_open(&linear, isa, NULL);
    cr_assert_eq(decoder_open(&sparse->decoder, &sparse->model, &linear, isa, TOKENS, &error), 0, "%s", error.text);
    cr_assert_eq(decoder_make_room(sparse->decoder, TOKENS, &error), 0, "%s", error.text);
}

static void sparse_close(struct sparse *sparse)
{
    decoder_close(&sparse->decoder);
    arena_close(&sparse->arena);
}

// Rows first ... first + n - 1 of u in one pass -> m [n, D], valid until the next one.
static const float *run(struct sparse *sparse, uint32_t first, uint32_t n)
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

static float dot(const struct weight *w, uint32_t row, const float *x)
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

static void swiglu(const struct expert *expert, const struct weight *down, const float *u, float factor,
                   enum wrong wrong, float y[D])
{
    float a[FM];
    for (uint32_t f = 0; f < expert->gate.rows; f++) {
        const float gate = dot(&expert->gate, f, u), up = dot(&expert->up, f, u);
        a[f] = wrong == GATE_AND_UP_SWAPPED ? math_silu(up) * gate : math_silu(gate) * up;
        a[f] *= factor;
    }
    for (uint32_t c = 0; c < D; c++)
        y[c] = dot(down, c, a);
}

static void activate(bool is_softmax, const float logits[E], float p[E])
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

static uint32_t best_of(const float scores[E], const bool taken[E], bool last_of_equals)
{
    uint32_t best = E;
    for (uint32_t e = 0; e < E; e++)
        if (!taken[e] && (best == E || scores[e] > scores[best] || (last_of_equals && scores[e] == scores[best])))
            best = e;
    return best;
}

// Experts and weights of the k slots.
static void route(const struct sparse *sparse, const float *u, enum wrong wrong, uint32_t chosen[E], float weights[E])
{
    const struct config *config = &sparse->model.config;
    const bool is_lfm2 = config->family == FAMILY_LFM2_MOE;
    float logits[E], p[E], scores[E];
    bool taken[E] = {false};
    double sum = 0;
    for (uint32_t e = 0; e < E; e++)
        logits[e] = dot(&sparse->layer.router, e, u);
    activate((wrong == OTHER_ACTIVATION) == is_lfm2, logits, p);
    for (uint32_t e = 0; e < E; e++)
        scores[e] = is_lfm2 ? p[e] + sparse->bias[e] : p[e];
    for (uint32_t slot = 0; slot < config->experts_per_token; slot++) {
        chosen[slot] = best_of(scores, taken, wrong == LAST_OF_EQUALS);
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

static void sort_by_number(uint32_t *chosen, float *weights, uint32_t k)
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

static void add_shared(const struct sparse *sparse, const float *u, enum wrong wrong, float m[D])
{
    float y[D];
    const float gate = math_sigmoid(dot(&sparse->layer.shared_gate, 0, u));
    swiglu(&sparse->layer.shared, &sparse->layer.shared.down, u, 1, RIGHT, y);
    for (uint32_t c = 0; c < D; c++)
        m[c] = fmaf(wrong == NO_SHARED_GATE ? 1 : gate, y[c], m[c]);
}

// u [D] -> m [D]
static void longhand(const struct sparse *sparse, const float *u, enum wrong wrong, float m[D])
{
    const uint32_t k = sparse->model.config.experts_per_token;
    const bool has_shared = sparse->model.config.shared_width > 0;
    uint32_t chosen[E];
    float weights[E], y[D];
    route(sparse, u, wrong, chosen, weights);
    if (wrong == SLOTS_BY_NUMBER)
        sort_by_number(chosen, weights, k);
    memset(m, 0, D * sizeof *m);
    if (has_shared && wrong == SHARED_FIRST)
        add_shared(sparse, u, wrong, m);
    for (uint32_t slot = 0; slot < k; slot++) {
        const struct expert *expert = &sparse->experts[chosen[slot]];
        const struct expert *other = &sparse->experts[(chosen[slot] + (wrong == DOWN_OF_ANOTHER)) % E];
        const bool early = wrong == WEIGHT_BEFORE_DOWN;
        swiglu(expert, &other->down, u, early ? weights[slot] : 1, wrong, y);
        for (uint32_t c = 0; c < D; c++)
            m[c] = fmaf(early ? 1 : weights[slot], y[c], m[c]);
    }
    if (has_shared && wrong != SHARED_FIRST)
        add_shared(sparse, u, wrong, m);
}

// How many of the first n rows are other bits than the layer's.
static uint32_t count_other(struct sparse *sparse, uint32_t n, enum wrong wrong)
{
    const float *m = run(sparse, 0, n);
    uint32_t other = 0;
    for (uint32_t t = 0; t < n; t++) {
        float expected[D];
        longhand(sparse, sparse->u + (size_t)t * D, wrong, expected);
        other += memcmp(m + (size_t)t * D, expected, sizeof expected) != 0;
    }
    return other;
}

static const enum family FAMILIES[] = {FAMILY_LFM2_MOE, FAMILY_QWEN35_MOE};

Test(reference_experts, the_layer_is_longhand_arithmetic_to_the_bit)
{
    struct sparse sparse;
    for (int i = 0; i < 2; i++)
        for (uint32_t k = 1; k <= E; k++)
            for (int isa = 0; isa < ISA_COUNT; isa++) {
                if (!isa_available((enum isa)isa))
                    continue;
                sparse_make(&sparse, FAMILIES[i], k);
                sparse_open(&sparse, (enum isa)isa);
                cr_expect_eq(count_other(&sparse, 1, RIGHT), 0u, "%s, k %u, one token", family_name(FAMILIES[i]), k);
                cr_expect_eq(count_other(&sparse, TOKENS, RIGHT), 0u, "%s, k %u", family_name(FAMILIES[i]), k);
                sparse_close(&sparse);
            }
}

Test(reference_experts, a_wrong_formula_gives_other_bits)
{
    static const struct {
        enum family family;
        enum wrong wrong;
        const char *name;
    } cases[] = {
        {FAMILY_LFM2_MOE, BIAS_IN_WEIGHTS, "expert bias added to the weights"},
        {FAMILY_LFM2_MOE, OTHER_ACTIVATION, "softmax instead of sigmoid"},
        {FAMILY_LFM2_MOE, NO_RENORMALISATION, "no renormalisation"},
        {FAMILY_LFM2_MOE, NO_SCALING, "scaling ignored"},
        {FAMILY_LFM2_MOE, DOWN_OF_ANOTHER, "down projection of another expert"},
        {FAMILY_LFM2_MOE, GATE_AND_UP_SWAPPED, "gate and up swapped"},
        {FAMILY_LFM2_MOE, SLOTS_BY_NUMBER, "slots in another order"},
        {FAMILY_LFM2_MOE, WEIGHT_BEFORE_DOWN, "weight applied before the down projection"},
        {FAMILY_QWEN35_MOE, OTHER_ACTIVATION, "sigmoid instead of softmax"},
        {FAMILY_QWEN35_MOE, NO_RENORMALISATION, "no renormalisation"},
        {FAMILY_QWEN35_MOE, DOWN_OF_ANOTHER, "down projection of another expert"},
        {FAMILY_QWEN35_MOE, GATE_AND_UP_SWAPPED, "gate and up swapped"},
        {FAMILY_QWEN35_MOE, SLOTS_BY_NUMBER, "slots in another order"},
        {FAMILY_QWEN35_MOE, NO_SHARED_GATE, "shared gate missing"},
        {FAMILY_QWEN35_MOE, SHARED_FIRST, "shared expert first"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sparse sparse;
        sparse_make(&sparse, cases[i].family, K);
        sparse_open(&sparse, isa_best());
        cr_assert_eq(count_other(&sparse, TOKENS, RIGHT), 0u, "control");
        // a token whose slots happen to stand in the order of the numbers keeps its bits
        cr_expect_gt(count_other(&sparse, TOKENS, cases[i].wrong), TOKENS / 2u, "%s: %s",
                     family_name(cases[i].family), cases[i].name);
        sparse_close(&sparse);
    }
}

// --- grouping

// The rows of any pass are those of one token at a time.
static void expect_same_bits(struct sparse *sparse, const char *name)
{
    static float alone[TOKENS * D];
    for (uint32_t t = 0; t < TOKENS; t++)
        memcpy(alone + (size_t)t * D, run(sparse, t, 1), D * sizeof *alone);
    for (uint32_t width = 1; width <= TOKENS; width++)
        for (uint32_t first = 0; first < TOKENS; first += width) {
            const uint32_t n = TOKENS - first < width ? TOKENS - first : width;
            cr_expect_eq(memcmp(run(sparse, first, n), alone + (size_t)first * D, (size_t)n * D * sizeof *alone), 0,
                         "%s: %u tokens from %u on", name, n, first);
        }
}

Test(reference_experts, tokens_grouped_by_expert_keep_the_bits_of_one_token_at_a_time)
{
    for (int i = 0; i < 2; i++) {
        struct sparse sparse;
        sparse_make(&sparse, FAMILIES[i], K);
        sparse_open(&sparse, isa_best());
        expect_same_bits(&sparse, family_name(FAMILIES[i]));
        sparse_close(&sparse);
    }
}

Test(reference_experts, all_tokens_may_choose_the_same_experts)
{
    struct sparse sparse;
    sparse_make(&sparse, FAMILY_LFM2_MOE, 2);
    sparse.bias[5] = 90;
    sparse.bias[1] = 80;
    sparse_open(&sparse, isa_best());
    run(&sparse, 0, TOKENS);
    for (uint32_t t = 0; t < TOKENS; t++)
        cr_expect(sparse.decoder->chosen[2 * t] == 5 && sparse.decoder->chosen[2 * t + 1] == 1, "token %u", t);
    expect_same_bits(&sparse, "all to one group");
    cr_expect_eq(count_other(&sparse, TOKENS, RIGHT), 0u);
    sparse_close(&sparse);
}

Test(reference_experts, every_token_may_choose_an_expert_of_its_own)
{
    struct sparse sparse;
    sparse_make(&sparse, FAMILY_QWEN35_MOE, 1);
    for (uint32_t i = 0; i < E * D; i++)
        sparse.router[i] = i % D == i / D; // expert e looks at u[e] alone
    for (uint32_t t = 0; t < TOKENS; t++)
        sparse.u[t * D + t % E] = 3;
    sparse_open(&sparse, isa_best());
    run(&sparse, 0, E);
    for (uint32_t t = 0; t < E; t++)
        cr_expect_eq(sparse.decoder->chosen[t], t);
    cr_expect_eq(count_other(&sparse, E, RIGHT), 0u);
    expect_same_bits(&sparse, "each to another");
    sparse_close(&sparse);
}

// --- ties

Test(reference_experts, of_equal_scores_the_lowest_index_is_chosen_through_the_whole_layer)
{
    for (int i = 0; i < 2; i++) {
        struct sparse sparse;
        sparse_make(&sparse, FAMILIES[i], 2);
        for (uint32_t e = 0; e < E; e++) // 2, 4 and 5 are the best, and equal
            for (uint32_t c = 0; c < D; c++)
                sparse.router[e * D + c] = e == 2 || e == 4 || e == 5 ? 0.5f * wave(77, c) : wave(77, c) - 1;
        for (uint32_t e = 0; sparse.bias && e < E; e++)
            sparse.bias[e] = 0.25f;
        for (uint32_t t = 0; t < TOKENS; t++) // u >= 0: the logits of the others are less
            for (uint32_t c = 0; c < D; c++)
                sparse.u[t * D + c] = fabsf(sparse.u[t * D + c]);
        sparse_open(&sparse, isa_best());
        run(&sparse, 0, TOKENS);
        for (uint32_t t = 0; t < TOKENS; t++)
            cr_expect(sparse.decoder->chosen[2 * t] == 2 && sparse.decoder->chosen[2 * t + 1] == 4,
                      "%s, token %u: experts %u and %u", family_name(FAMILIES[i]), t, sparse.decoder->chosen[2 * t],
                      sparse.decoder->chosen[2 * t + 1]);
        cr_expect_eq(count_other(&sparse, TOKENS, RIGHT), 0u);
        cr_expect_eq(count_other(&sparse, TOKENS, LAST_OF_EQUALS), (uint32_t)TOKENS, "control: the order of a tie shows");
        sparse_close(&sparse);
    }
}

// --- NaN

static uint32_t count_nan(const float *x, uint32_t n)
{
    uint32_t nans = 0;
    for (uint32_t i = 0; i < n; i++)
        nans += isnan(x[i]) ? 1 : 0;
    return nans;
}

Test(reference_experts, a_nan_in_the_router_reaches_every_output_of_its_token_and_of_no_other)
{
    for (int i = 0; i < 2; i++) {
        struct sparse sparse;
        sparse_make(&sparse, FAMILIES[i], K);
        sparse.u[5 * D + 7] = NAN;
        sparse_open(&sparse, isa_best());
        const float *m = run(&sparse, 0, TOKENS);
        for (uint32_t t = 0; t < TOKENS; t++)
            cr_expect_eq(count_nan(m + (size_t)t * D, D), t == 5 ? (uint32_t)D : 0u, "token %u", t);
        sparse_close(&sparse);

        sparse_make(&sparse, FAMILIES[i], K); // u is finite, the logit of one expert never is
        sparse.router[6 * D + 3] = NAN;
        sparse_open(&sparse, isa_best());
        cr_expect_eq(count_nan(run(&sparse, 0, TOKENS), TOKENS * D), (uint32_t)TOKENS * D);
        cr_expect_eq(count_nan(run(&sparse, 0, 1), D), (uint32_t)D);
        sparse_close(&sparse);
    }
}

Test(reference_experts, a_nan_in_an_expert_reaches_only_the_tokens_that_chose_it)
{
    struct sparse sparse;
    sparse_make(&sparse, FAMILY_LFM2_MOE, K);
    memset(sparse.bias, 0, E * sizeof *sparse.bias); // every expert is chosen now and then
    ((float *)(uintptr_t)sparse.experts[4].down.data)[0] = NAN; // row 0: output 0 alone
    sparse_open(&sparse, isa_best());
    const float *m = run(&sparse, 0, TOKENS);
    uint32_t reached = 0;
    for (uint32_t t = 0; t < TOKENS; t++) {
        uint32_t chose = 0;
        for (uint32_t slot = 0; slot < K; slot++)
            chose += sparse.decoder->chosen[t * K + slot] == 4;
        reached += chose;
        cr_expect_eq(count_nan(m + (size_t)t * D, D), chose, "token %u", t);
    }
    cr_expect(reached > 0 && reached < TOKENS, "both kinds of token must occur: %u", reached);
    sparse_close(&sparse);
}
