// The router: weights against longhand arithmetic to the bit and against double within a derived bound, the order of
// the slots, ties, margins, NaN; and rules that are wrong on purpose.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/math.h"
#include "reference/router.h"

#define EXPECT_BITS(value, expected) cr_expect_eq(float_to_bits(value), float_to_bits(expected), #value)

enum { E = 13, K = 4, TOKENS = 200 };

static float wave(uint32_t i) // in (-1, 1), no two alike
{
    return math_sin(0.7f * (float)i + 0.3f);
}

struct token {
    float logits[E], bias[E], scores[E], weights[K + 1];
    uint32_t experts[K + 1];
    struct route route;
};

static void token_fill(struct token *token, uint32_t t)
{
    memset(token, 0, sizeof *token);
    for (uint32_t e = 0; e < E; e++) {
        token->logits[e] = 4 * wave(37 * t + e);
        token->bias[e] = 0.3f * wave(5 * e + 9);
    }
    token->experts[K] = 1234; // guards
    token->weights[K] = 77;
    token->route = (struct route){.scores = token->scores, .experts = token->experts, .weights = token->weights};
}

static void sigmoid(struct token *token, const float *bias, bool is_normalized, float scaling)
{
    const struct router_rule rule = {E, K, bias, is_normalized, scaling};
    router_sigmoid(&rule, token->logits, &token->route);
}

// --- sigmoid: LFM2-MoE

Test(reference_router, sigmoid_weights_round_every_operation_and_leave_the_bias_out)
{
    unsigned with_bias = 0, late_eps = 0;
    for (uint32_t t = 0; t < TOKENS; t++) {
        struct token token;
        token_fill(&token, t);
        sigmoid(&token, token.bias, true, 1.7f);
        double sum = 0, biased = 0, exact = 0;
        for (int slot = 0; slot < K; slot++) {
            const float s = (float)(1 / (1 + exp(-(double)token.logits[token.experts[slot]])));
            sum += s;
            biased += s + token.bias[token.experts[slot]];
            exact += 1 / (1 + exp(-(double)token.logits[token.experts[slot]]));
        }
        for (int slot = 0; slot < K; slot++) {
            const uint32_t e = token.experts[slot];
            const double truth = 1 / (1 + exp(-(double)token.logits[e]));
            const float s = (float)truth, total = (float)sum + 1e-6f;
            EXPECT_BITS(token.weights[slot], s / total * 1.7f);
            EXPECT_BITS(token.scores[e], s + token.bias[e]);
            // roundings: s, the mean of those in the sum, the sum, + eps, the quotient, the product
            const double expected = truth / (exact + 1e-6) * (double)1.7f;
            cr_expect(fabs(token.weights[slot] - expected) <= 6.01 * 0x1p-24 * expected, "%u", t);
            with_bias += fabs((s + token.bias[e]) / (biased + 1e-6) * 1.7 - expected) <= 6.01 * 0x1p-24 * expected;
            late_eps += fabs((truth / exact + 1e-6) * 1.7 - expected) <= 6.01 * 0x1p-24 * expected;
        }
        cr_expect_eq(token.weights[K], 77);
        cr_expect_eq(token.experts[K], 1234);
    }
    cr_expect_eq(with_bias, 0, "control: the bias in the weights is seen every time");
    cr_expect_eq(late_eps, 0, "control: 1e-6 added to the quotient");
}

Test(reference_router, sigmoid_without_normalization_or_bias_is_the_sigmoid_times_the_scaling)
{
    struct token token;
    token_fill(&token, 3);
    sigmoid(&token, NULL, false, 1.0f);
    for (int slot = 0; slot < K; slot++) {
        EXPECT_BITS(token.weights[slot], token.scores[token.experts[slot]]);
        EXPECT_BITS(token.weights[slot], (float)(1 / (1 + exp(-(double)token.logits[token.experts[slot]]))));
    }
    sigmoid(&token, NULL, false, 2.5f);
    EXPECT_BITS(token.weights[0], token.scores[token.experts[0]] * 2.5f);
}

Test(reference_router, bias_selects_and_nothing_else)
{
    struct token token;
    float bias[E] = {0};
    token_fill(&token, 8);
    sigmoid(&token, NULL, true, 1);
    const uint32_t first = token.experts[0];
    uint32_t last = 0;
    for (uint32_t e = 1; e < E; e++)
        last = token.scores[e] < token.scores[last] ? e : last;
    bias[last] = 5; // now first, with its own small weight
    sigmoid(&token, bias, true, 1);
    cr_expect_eq(token.experts[0], last);
    cr_expect_eq(token.experts[1], first);
    cr_expect(token.weights[0] < token.weights[1], "control: a biased weight would be the largest");
}

// --- softmax: Qwen3.5-MoE

Test(reference_router, softmax_weights_are_shares_of_the_chosen)
{
    unsigned sigmoids = 0;
    for (uint32_t t = 0; t < TOKENS; t++) {
        struct token token;
        token_fill(&token, t);
        router_softmax(E, K, token.logits, &token.route);
        double all = 0, total = 0, max = -INFINITY, sigmoid_total = 0, sum = 0;
        for (int e = 0; e < E; e++)
            max = fmax(max, token.logits[e]);
        for (int e = 0; e < E; e++)
            all += exp(token.logits[e] - max);
        for (int slot = 0; slot < K; slot++) {
            total += exp(token.logits[token.experts[slot]] - max);
            sigmoid_total += 1 / (1 + exp(-(double)token.logits[token.experts[slot]]));
            sum += token.scores[token.experts[slot]];
        }
        for (int slot = 0; slot < K; slot++) {
            const uint32_t e = token.experts[slot];
            const double expected = exp(token.logits[e] - max) / total;
            EXPECT_BITS(token.weights[slot], token.scores[e] / (float)sum);
            // logit - max (|x| <= 8, its rounding an error of e^x), exp, and their means in the two sums; the two
            // divisions, the two sums
            cr_expect(fabs(token.weights[slot] - expected) <= (2 * 9 + 4) * 0x1p-24 * expected, "%u", t);
            cr_expect(fabs(token.scores[e] - expected * total / all) <= (2 * 9 + 2) * 0x1p-24 * token.scores[e]);
            sigmoids += fabs(1 / (1 + exp(-(double)token.logits[e])) / sigmoid_total - expected) <= 1e-3 * expected;
        }
    }
    cr_expect(sigmoids < 2, "control: sigmoid in place of softmax");
}

// --- order, ties, margins

static void expect_order(const struct token *token)
{
    unsigned chosen = 0, better = 0;
    const float last = token->scores[token->experts[K - 1]];
    float next = -INFINITY;
    for (int slot = 0; slot + 1 < K; slot++) {
        const float a = token->scores[token->experts[slot]], b = token->scores[token->experts[slot + 1]];
        cr_expect(a > b || (a == b && token->experts[slot] < token->experts[slot + 1]));
    }
    for (uint32_t e = 0; e < E; e++) {
        bool is_chosen = false;
        for (int slot = 0; slot < K; slot++)
            is_chosen = is_chosen || token->experts[slot] == e;
        chosen += is_chosen;
        better += !is_chosen && token->scores[e] > last;
        if (!is_chosen && token->scores[e] > next)
            next = token->scores[e];
    }
    cr_expect_eq(chosen, K, "all different");
    cr_expect_eq(better, 0);
    EXPECT_BITS(token->route.margin, last - next);
}

Test(reference_router, slots_descend_by_selection_score_and_the_margin_is_to_the_first_loser)
{
    for (uint32_t t = 0; t < TOKENS; t++) {
        struct token token;
        token_fill(&token, t);
        sigmoid(&token, token.bias, true, 1);
        expect_order(&token);
        router_softmax(E, K, token.logits, &token.route);
        expect_order(&token);
    }
}

// What torch.topk or a loop with >= would do.
static uint32_t highest_index_of_the_largest(const float *scores)
{
    uint32_t best = 0;
    for (uint32_t e = 1; e < E; e++)
        best = scores[e] >= scores[best] ? e : best;
    return best;
}

Test(reference_router, equal_scores_go_to_the_lower_index_first)
{
    for (int softmax = 0; softmax < 2; softmax++) {
        struct token token;
        token_fill(&token, 0);
        for (uint32_t e = 0; e < E; e++)
            token.logits[e] = e % 3 == 1 ? 2.0f : 1.0f; // 1, 4, 7, 10 and then 0
        token.logits[4] = 1.0f;
        if (softmax)
            router_softmax(E, K, token.logits, &token.route);
        else
            sigmoid(&token, NULL, true, 1);
        const uint32_t expected[K] = {1, 7, 10, 0};
        cr_expect_arr_eq(token.experts, expected, sizeof expected);
        EXPECT_BITS(token.route.margin, 0.0f); // 0 and 2 are equal
        cr_expect_neq(highest_index_of_the_largest(token.scores), token.experts[0], "control: the other tie order");
    }
}

Test(reference_router, zeros_of_either_sign_are_equal_and_so_are_infinities)
{
    struct token token;
    token_fill(&token, 0);
    float bias[E];
    for (uint32_t e = 0; e < E; e++) {
        token.logits[e] = -200; // sigmoid 0
        bias[e] = e % 2 ? 0.0f : -0.0f;
    }
    sigmoid(&token, bias, true, 1);
    const uint32_t zeros[K] = {0, 1, 2, 3};
    cr_expect_arr_eq(token.experts, zeros, sizeof zeros);
    EXPECT_BITS(token.weights[0], 0.0f); // 0 / (0 + 1e-6)
    for (uint32_t e = 0; e < E; e++)
        bias[e] = e == 6 ? -INFINITY : INFINITY;
    sigmoid(&token, bias, true, 1);
    cr_expect_arr_eq(token.experts, zeros, sizeof zeros);
    EXPECT_BITS(token.route.margin, 0.0f);
}

Test(reference_router, one_expert_of_many_and_all_of_them_work)
{
    float logits[5] = {0.1f, 0.9f, -3.0f, 0.9f, 2.0f}, scores[5], weights[5];
    uint32_t experts[5];
    struct route route = {.scores = scores, .experts = experts, .weights = weights};
    router_softmax(5, 1, logits, &route);
    cr_expect_eq(experts[0], 4);
    EXPECT_BITS(weights[0], 1.0f);
    EXPECT_BITS(route.margin, scores[4] - scores[1]);
    router_softmax(5, 5, logits, &route);
    const uint32_t order[5] = {4, 1, 3, 0, 2};
    cr_expect_arr_eq(experts, order, sizeof order);
    EXPECT_BITS(route.margin, INFINITY);
    router_softmax(1, 1, logits, &route);
    cr_expect_eq(experts[0], 0);
    EXPECT_BITS(weights[0], 1.0f);
}

// --- NaN

static void expect_all_nan(const struct token *token, uint32_t first)
{
    cr_expect_eq(token->experts[0], first);
    cr_expect(isnan(token->route.margin));
    for (int slot = 0; slot < K; slot++) {
        cr_expect(isnan(token->weights[slot]));
        cr_expect(token->experts[slot] < E);
        for (int other = 0; other < slot; other++)
            cr_expect_neq(token->experts[slot], token->experts[other]);
    }
}

Test(reference_router, a_nan_anywhere_makes_every_weight_and_the_margin_nan)
{
    for (uint32_t at = 0; at < E; at++) {
        struct token token;
        token_fill(&token, at);
        token.logits[at] = at % 2 ? NAN : -NAN;
        sigmoid(&token, token.bias, true, 1);
        expect_all_nan(&token, at);
        sigmoid(&token, NULL, false, 1);
        expect_all_nan(&token, at);
        router_softmax(E, K, token.logits, &token.route);
        expect_all_nan(&token, 0);
        token_fill(&token, at);
        token.bias[at] = NAN; // the weights themselves would be finite
        sigmoid(&token, token.bias, false, 1);
        expect_all_nan(&token, at);
        for (uint32_t e = 0; e < E; e++)
            token.bias[e] = e == 2 ? 1 : NAN;
        sigmoid(&token, token.bias, true, 1);
        expect_all_nan(&token, 0);
    }
}
