// The sparse feed-forward alone (tests/longhand_experts.h): longhand arithmetic to the bit in both families, formulas
// that are wrong on purpose, grouping, ties, NaN.
#include "tests/longhand_experts.h"

// How many of the first n rows are other bits than the layer's.
static uint32_t count_other(struct sparse *sparse, uint32_t n, enum wrong wrong)
{
    const float *m = sparse_run(sparse, 0, n);
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
        memcpy(alone + (size_t)t * D, sparse_run(sparse, t, 1), D * sizeof *alone);
    for (uint32_t width = 1; width <= TOKENS; width++)
        for (uint32_t first = 0; first < TOKENS; first += width) {
            const uint32_t n = TOKENS - first < width ? TOKENS - first : width;
            const float *m = sparse_run(sparse, first, n);
            cr_expect_eq(memcmp(m, alone + (size_t)first * D, (size_t)n * D * sizeof *alone), 0,
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
    sparse_run(&sparse, 0, TOKENS);
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
    sparse_run(&sparse, 0, E);
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
                sparse.router[e * D + c] =
                    e == 2 || e == 4 || e == 5 ? 0.5f * sparse_wave(77, c) : sparse_wave(77, c) - 1;
        for (uint32_t e = 0; sparse.bias && e < E; e++)
            sparse.bias[e] = 0.25f;
        for (uint32_t t = 0; t < TOKENS; t++) // u >= 0: the logits of the others are less
            for (uint32_t c = 0; c < D; c++)
                sparse.u[t * D + c] = fabsf(sparse.u[t * D + c]);
        sparse_open(&sparse, isa_best());
        sparse_run(&sparse, 0, TOKENS);
        for (uint32_t t = 0; t < TOKENS; t++)
            cr_expect(sparse.decoder->chosen[2 * t] == 2 && sparse.decoder->chosen[2 * t + 1] == 4,
                      "%s, token %u: experts %u and %u", family_name(FAMILIES[i]), t, sparse.decoder->chosen[2 * t],
                      sparse.decoder->chosen[2 * t + 1]);
        cr_expect_eq(count_other(&sparse, TOKENS, RIGHT), 0u);
        cr_expect_eq(count_other(&sparse, TOKENS, LAST_OF_EQUALS), (uint32_t)TOKENS, "control: another order shows");
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
        const float *m = sparse_run(&sparse, 0, TOKENS);
        for (uint32_t t = 0; t < TOKENS; t++)
            cr_expect_eq(count_nan(m + (size_t)t * D, D), t == 5 ? (uint32_t)D : 0u, "token %u", t);
        sparse_close(&sparse);

        sparse_make(&sparse, FAMILIES[i], K); // u is finite, the logit of one expert never is
        sparse.router[6 * D + 3] = NAN;
        sparse_open(&sparse, isa_best());
        cr_expect_eq(count_nan(sparse_run(&sparse, 0, TOKENS), TOKENS * D), (uint32_t)TOKENS * D);
        cr_expect_eq(count_nan(sparse_run(&sparse, 0, 1), D), (uint32_t)D);
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
    const float *m = sparse_run(&sparse, 0, TOKENS);
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
