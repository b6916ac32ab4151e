// kernels_router: the definition of the router and of the sum of experts.
#include "runtime/kernels_scalar.h"

#include <assert.h>
#include <math.h>

static void softmax(const float *logits, uint32_t n, float *scores)
{
    float top = -INFINITY, sum = 0;
    for (uint32_t e = 0; e < n; e++)
        top = logits[e] > top ? logits[e] : top; // a NaN is passed over here, and reaches every score through the sum
    for (uint32_t e = 0; e < n; e++) {
        scores[e] = kernels_exp(logits[e] - top);
        sum += scores[e];
    }
    for (uint32_t e = 0; e < n; e++)
        scores[e] = canonical(scores[e] / sum);
}

static bool precedes(float a, float b)
{
    return isnan(a) ? !isnan(b) : a > b; // false for a number against a NaN
}

void kernels_route(const struct router *router, const float *logits, const float *bias, float *scores, uint32_t *ids,
                   float *weights)
{
    if (router->score == ROUTER_SOFTMAX)
        softmax(logits, router->experts, scores);
    else
        for (uint32_t e = 0; e < router->experts; e++)
            scores[e] = kernels_sigmoid(logits[e]);
    kernels_select(router, scores, bias, ids, weights);
}

void kernels_select(const struct router *router, const float *scores, const float *bias, uint32_t *ids, float *weights)
{
    const uint32_t k = router->slots;
    assert(k && k <= router->experts);
    float *selection = weights; // of the slots so far, in descending order
    for (uint32_t e = 0; e < router->experts; e++) {
        const float found = bias ? scores[e] + bias[e] : scores[e];
        uint32_t slot = e < k ? e : k; // an equal one that came earlier stays before it
        for (; slot && precedes(found, selection[slot - 1]); slot--)
            if (slot < k) {
                selection[slot] = selection[slot - 1];
                ids[slot] = ids[slot - 1];
            }
        if (slot < k) {
            selection[slot] = found;
            ids[slot] = e;
        }
    }

    float sum = 0;
    for (uint32_t slot = 0; slot < k; slot++) {
        weights[slot] = isnan(selection[slot]) ? float_from_bits(FLOAT_NAN_BITS) : scores[ids[slot]];
        sum += weights[slot];
    }
    for (uint32_t slot = 0; slot < k; slot++) {
        const float share = router->normalised ? weights[slot] / (sum + router->epsilon) : weights[slot];
        weights[slot] = canonical(share * router->scaling);
    }
}

void kernels_scalar_expert_sum(const float *outputs, const float *weights, uint32_t slots, uint32_t d, float *y)
{
    for (uint32_t i = 0; i < d; i++) {
        float acc = 0;
        for (uint32_t slot = 0; slot < slots; slot++)
            acc = fmaf(weights[slot], outputs[(size_t)slot * d + i], acc);
        y[i] = half_round(acc);
    }
}
