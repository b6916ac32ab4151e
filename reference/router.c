#include "reference/router.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/base/floating.h"
#include "reference/math.h"
#include "reference/ops.h"

// Does expert a stand before expert b? An order without equals: NaN, then the larger score, then the lower index.
static bool is_before(const float *scores, uint32_t a, uint32_t b)
{
    if (isnan(scores[a]) != isnan(scores[b]))
        return isnan(scores[a]);
    if (scores[a] > scores[b])
        return true;
    return !(scores[a] < scores[b]) && a < b;
}

// The expert that comes next after `last`; n for `last`: the first of all. n: there is none.
static uint32_t next_expert(const float *scores, uint32_t n, uint32_t last)
{
    uint32_t best = n;
    for (uint32_t e = 0; e < n; e++)
        if ((last == n || is_before(scores, last, e)) && (best == n || is_before(scores, e, best)))
            best = e;
    return best;
}

static bool has_nan(const float *scores, uint32_t n)
{
    for (uint32_t e = 0; e < n; e++)
        if (isnan(scores[e]))
            return true;
    return false;
}

// Experts and margin from the scores [E].
static void choose(uint32_t n, uint32_t chosen, struct route *route)
{
    const float *scores = route->scores;
    uint32_t last = n;
    for (uint32_t slot = 0; slot < chosen; slot++)
        last = route->experts[slot] = next_expert(scores, n, last);
    const uint32_t loser = chosen < n ? next_expert(scores, n, last) : n;
    if (has_nan(scores, n))
        route->margin = NAN;
    else if (loser == n)
        route->margin = INFINITY;
    else
        route->margin = scores[last] == scores[loser] ? 0.0f : scores[last] - scores[loser]; // not Inf - Inf
}

static float sum_of_slots(const float *weights, uint32_t chosen)
{
    double sum = 0.0;
    for (uint32_t slot = 0; slot < chosen; slot++)
        sum += weights[slot];
    return (float)sum;
}

// With a margin that is NaN every weight is.
static void finish(uint32_t chosen, float divisor, float scaling, const struct route *route)
{
    for (uint32_t slot = 0; slot < chosen; slot++)
        route->weights[slot] = isnan(route->margin) ? NAN : route->weights[slot] / divisor * scaling;
}

void router_sigmoid(const struct router_rule *rule, const float *logits, struct route *route)
{
    assert(rule->chosen >= 1 && rule->chosen <= rule->experts);
    for (uint32_t e = 0; e < rule->experts; e++) {
        const float s = math_sigmoid(logits[e]);
        route->scores[e] = rule->bias ? s + rule->bias[e] : s;
    }
    choose(rule->experts, rule->chosen, route);
    for (uint32_t slot = 0; slot < rule->chosen; slot++)
        route->weights[slot] = math_sigmoid(logits[route->experts[slot]]); // without the bias
    const float divisor = rule->is_normalized ? sum_of_slots(route->weights, rule->chosen) + 1e-6f : 1.0f;
    finish(rule->chosen, divisor, rule->scaling, route);
}

void router_softmax(uint32_t experts, uint32_t chosen, const float *logits, struct route *route)
{
    assert(chosen >= 1 && chosen <= experts);
    memcpy(route->scores, logits, experts * sizeof *logits);
    ops_softmax(route->scores, experts);
    choose(experts, chosen, route);
    for (uint32_t slot = 0; slot < chosen; slot++)
        route->weights[slot] = route->scores[route->experts[slot]];
    finish(chosen, sum_of_slots(route->weights, chosen), 1.0f, route);
}
