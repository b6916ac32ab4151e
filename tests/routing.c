// What is said of one choice of a router: its margin, its noise, its weights, and what its logits select.
#include "harness/judge/routing.h"

#include <criterion/criterion.h>
#include <math.h>

enum { E = 4, K = 2 };
static const float logits[E] = {0.0f, 1.0f, -1.0f, 0.5f};
static const int32_t experts[K] = {1, 3};
static const float weights[K] = {0.6f, 0.4f};
static const struct routing_row plain = {logits, experts, weights};
static double scratch[4 * E];

static struct routing_difference difference(const struct routing_rule *rule, const struct routing_row *candidate)
{
    struct routing_difference out;
    routing_compare(rule, &plain, candidate, scratch, &out);
    return out;
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static const struct routing_rule softmax = {ROUTING_SOFTMAX, E, K, NULL};

Test(routing, control_an_equal_row_differs_in_nothing)
{
    const struct routing_difference d = difference(&softmax, &plain);
    cr_assert(d.sound && !d.changed && !d.misrouted);
    cr_assert_eq(d.noise, 0.0);
    cr_assert_eq(d.weight_error, 0.0);
    const double sum = exp(0.0) + exp(1.0) + exp(-1.0) + exp(0.5);
    cr_assert_float_eq(d.margin, (exp(0.5) - exp(0.0)) / sum, 1e-15); // expert 3 over expert 0
    cr_assert_float_eq(d.steepness, hypot(exp(0.5), exp(0.0)) / sum, 1e-15);
}

Test(routing, the_bias_moves_the_margin_and_not_the_slopes)
{
    const double bias[E] = {0.25, 0.0, 0.0, 0.125};
    const struct routing_rule rule = {ROUTING_SIGMOID, E, K, bias};
    // scores: 0.75, 0.731, 0.269, 0.747: experts 0 and 3, expert 1 is next
    const struct routing_difference d = difference(&rule, &plain);
    const double a = sigmoid(0.5), b = sigmoid(1.0);
    cr_assert_float_eq(d.margin, a + 0.125 - b, 1e-15);
    cr_assert_float_eq(d.steepness, hypot(a * (1 - a), b * (1 - b)), 1e-15);
    cr_assert(d.misrouted); // its experts are those without the bias: a margin of the wrong rule does not hide it
    const int32_t right[K] = {3, 0};
    const struct routing_row candidate = {logits, right, weights};
    cr_assert_not(difference(&rule, &candidate).misrouted);
    cr_assert(difference(&rule, &candidate).changed);
}

Test(routing, order_of_the_experts_is_no_change)
{
    const int32_t turned[K] = {3, 1};
    const float of_them[K] = {0.4f, 0.6f};
    const struct routing_row candidate = {logits, turned, of_them};
    const struct routing_difference d = difference(&softmax, &candidate);
    cr_assert(!d.changed && !d.misrouted);
    cr_assert_eq(d.weight_error, 0.0);
}

Test(routing, another_set_that_the_logits_select_is_a_change_and_no_misrouting)
{
    const float moved[E] = {0.6f, 1.0f, -1.0f, 0.5f};
    const int32_t others[K] = {1, 0};
    const struct routing_row candidate = {moved, others, weights};
    const struct routing_difference d = difference(&softmax, &candidate);
    cr_assert(d.changed && !d.misrouted);
    cr_assert_float_eq(d.weight_error, 2 * 0.4, 1e-7); // 0.4 left expert 3 and came to expert 0
}

Test(routing, experts_that_the_own_logits_reject_are_misrouted_however_near)
{
    const float near[E] = {0.49f, 1.0f, -1.0f, 0.5f}, tied[E] = {0.5f, 1.0f, -1.0f, 0.5f};
    const int32_t others[K] = {1, 0};
    const struct routing_row wrong = {near, others, weights}, tie = {tied, others, weights};
    cr_assert(difference(&softmax, &wrong).misrouted);
    cr_assert_not(difference(&softmax, &tie).misrouted); // equal scores: the order of a tie is not seen in a distance
}

Test(routing, what_is_no_number_or_no_set_is_unsound)
{
    const float bad_logits[3][E] = {{0, NAN, 0, 0}, {0, 0, INFINITY, 0}, {-INFINITY, 0, 0, 0}};
    for (int i = 0; i < 3; i++) {
        const struct routing_row candidate = {bad_logits[i], experts, weights};
        const struct routing_difference d = difference(&softmax, &candidate);
        cr_assert(!d.sound && isnan(d.noise) && isnan(d.margin) && isnan(d.weight_error));
    }
    const float bad_weights[K] = {NAN, 0.5f};
    const int32_t bad_experts[3][K] = {{1, 4}, {-1, 0}, {2, 2}};
    const struct routing_row weighted = {logits, experts, bad_weights};
    cr_assert_not(difference(&softmax, &weighted).sound);
    for (int i = 0; i < 3; i++) {
        const struct routing_row candidate = {logits, bad_experts[i], weights};
        cr_assert_not(difference(&softmax, &candidate).sound);
    }
}

Test(routing, every_expert_chosen_leaves_no_margin_and_an_unknown_rule_none_known)
{
    const struct routing_rule all = {ROUTING_SOFTMAX, K, K, NULL}, unknown = {ROUTING_UNKNOWN, E, K, NULL};
    const int32_t both[K] = {1, 0};
    const struct routing_row row = {logits, both, weights};
    struct routing_difference d;
    routing_compare(&all, &row, &row, scratch, &d);
    cr_assert(d.sound && !d.changed && !d.misrouted && isinf(d.margin));
    d = difference(&unknown, &plain);
    cr_assert(d.sound && !d.misrouted && isnan(d.margin));
    cr_assert_eq(d.noise, 0.0);
    cr_assert(isnan(routing_depth(&d, 0.1)));
}

Test(routing, depth_is_the_margin_over_the_larger_noise)
{
    struct routing_difference d = {.margin = 0.3, .steepness = 0.5, .noise = 0.1};
    cr_assert_float_eq(routing_depth(&d, 0.05), 6.0, 1e-12);
    cr_assert_float_eq(routing_depth(&d, 0.2), 3.0, 1e-12);
    d.noise = 0.0;
    cr_assert(isinf(routing_depth(&d, 0.0))); // no noise explains it
    d.margin = 0.0;
    cr_assert_eq(routing_depth(&d, 0.0), 0.0);
}
