// slow_sparse: the sparse feed-forward under the rounding points of arithmetic.md 3 (router, sum of experts), once
// more, slow and obvious. Written from the page, not from runtime/.
#ifndef ASSAY_TESTS_SLOW_SPARSE_H
#define ASSAY_TESTS_SLOW_SPARSE_H

#include "tests/slow_linear.h"

// Misreadings on purpose, for the negative control.
enum experts_slip {
    EXPERTS_RIGHT,
    EXPERTS_BIAS_WEIGHS,      // the bias is in the weights, too
    EXPERTS_OTHER_SCORE,      // softmax for sigmoid, sigmoid for softmax
    EXPERTS_NOT_NORMALISED,   // no division by the sum
    EXPERTS_SCORES_HALF,      // scores are rounded to half
    EXPERTS_WEIGHTS_HALF,     // weights are
    EXPERTS_EACH_HALF,        // the sum is, after every slot
    EXPERTS_BY_ID,            // summed in ascending order of the experts
    EXPERTS_LAST_OF_EQUALS,   // the highest index among equal scores
    EXPERTS_WEIGHED_FIRST,    // the weight comes before the down projection
    EXPERTS_ONE_ROW,          // every down projection is given the first slot's row
    EXPERTS_NEXT_DOWN,        // that of the next expert
    EXPERTS_SHARED_FIRST,     // the shared expert opens the sum
    EXPERTS_SHARED_UNGATED,   // its weight is 1
    EXPERTS_SHARED_GATE_HALF, // its weight is rounded to half
    EXPERTS_SLIPS
};

enum { SLOW_EXPERTS = 64, SLOW_EXPERT_WIDTH = 2304 }; // E and k at most; d, Fm and Fs at most

struct slow_route {
    double logits[SLOW_EXPERTS], weights[SLOW_EXPERTS + 1];
    uint32_t chosen[SLOW_EXPERTS];
};

static inline void slow_scores(const double *logits, uint32_t n, bool softmax, double *scores)
{
    double top = -INFINITY, sum = 0;
    for (uint32_t e = 0; e < n; e++)
        top = logits[e] > top ? logits[e] : top;
    for (uint32_t e = 0; e < n; e++) {
        scores[e] = softmax ? exp_fl(fl(logits[e] - top)) : sigmoid_fl(logits[e]);
        sum = fl(sum + scores[e]);
    }
    for (uint32_t e = 0; softmax && e < n; e++)
        scores[e] = fl(scores[e] / sum);
}

// Slot after slot the best of those that are left: a NaN before any number, the lowest index of equal ones.
static inline void slow_choose(const double *selection, uint32_t n, uint32_t k, bool last_of_equals, uint32_t *chosen)
{
    bool taken[SLOW_EXPERTS] = {false};
    for (uint32_t slot = 0; slot < k; slot++) {
        uint32_t best = n;
        for (uint32_t e = 0; e < n; e++) {
            if (taken[e])
                continue;
            if (best == n || (isnan(selection[e]) && !isnan(selection[best])) || selection[e] > selection[best] ||
                (last_of_equals && selection[e] == selection[best]))
                best = e;
        }
        taken[best] = true;
        chosen[slot] = best;
    }
}

static inline void slow_router(const struct config *config, const struct weight *bias, enum experts_slip slip,
                               struct slow_route *route)
{
    const bool lfm2 = config->family == FAMILY_LFM2_MOE;
    const uint32_t k = config->experts_per_token;
    double scores[SLOW_EXPERTS], selection[SLOW_EXPERTS], sum = 0;
    slow_scores(route->logits, config->experts, lfm2 == (slip == EXPERTS_OTHER_SCORE), scores);
    for (uint32_t e = 0; e < config->experts; e++) {
        if (slip == EXPERTS_SCORES_HALF)
            scores[e] = hf(scores[e]);
        selection[e] = bias->format == WEIGHT_NONE ? scores[e] : fl(scores[e] + (double)weight_at(bias, 0, e));
    }
    slow_choose(selection, config->experts, k, slip == EXPERTS_LAST_OF_EQUALS, route->chosen);
    for (uint32_t slot = 0; slot < k; slot++) {
        const uint32_t e = route->chosen[slot];
        route->weights[slot] = isnan(selection[e]) ? NAN : slip == EXPERTS_BIAS_WEIGHS ? selection[e] : scores[e];
        sum = fl(sum + route->weights[slot]);
    }
    for (uint32_t slot = 0; slot < k; slot++) {
        double *weight = &route->weights[slot];
        if (config->expert_normalise && slip != EXPERTS_NOT_NORMALISED)
            *weight = fl(*weight / fl(sum + (lfm2 ? (double)1e-6f : 0)));
        *weight = fl(*weight * (double)config->expert_scale);
        *weight = slip == EXPERTS_WEIGHTS_HALF ? hf(*weight) : *weight;
    }
}

// y = down h(h(silu(gate u)) h(up u)), the row before `down` times `factor`.
static inline void slow_swiglu(const struct plan *plan, const struct weight *gate, const struct weight *up,
                               const struct weight *down, const double *u, double factor, double *y)
{
    static double g[SLOW_EXPERT_WIDTH], v[SLOW_EXPERT_WIDTH];
    slow_linear(plan, gate, NULL, u, PRECISION_F16, g);
    slow_linear(plan, up, NULL, u, PRECISION_F16, v);
    for (uint32_t i = 0; i < gate->rows; i++) {
        g[i] = hf(fl(hf(fl(g[i] * sigmoid_fl(g[i]))) * v[i]));
        g[i] = factor == 1 ? g[i] : hf(fl(g[i] * factor));
    }
    slow_linear(plan, down, NULL, g, PRECISION_F16, y);
}

// acc += weight y, or what a misreading makes of it.
static inline void slow_add(double *acc, double weight, const double *y, uint32_t d, enum experts_slip slip)
{
    for (uint32_t i = 0; i < d; i++) {
        acc[i] = fma_fl(weight, y[i], acc[i]);
        acc[i] = slip == EXPERTS_EACH_HALF ? hf(acc[i]) : acc[i];
    }
}

// The slot that is summed as number `turn`.
static inline uint32_t slow_turn(const struct slow_route *route, uint32_t k, uint32_t turn, enum experts_slip slip)
{
    for (uint32_t slot = 0; slip == EXPERTS_BY_ID && slot < k; slot++) {
        uint32_t before = 0;
        for (uint32_t other = 0; other < k; other++)
            before += route->chosen[other] < route->chosen[slot];
        if (before == turn)
            return slot;
    }
    return turn;
}

// u [d] -> m [d] of layer i; what it was routed by.
static inline struct slow_route slow_experts(const struct plan *plan, const struct model *model, uint32_t i,
                                             const double *u, enum experts_slip slip, double *m)
{
    const struct config *config = &model->config;
    const struct layer *layer = &model->layers[i];
    const uint32_t d = config->hidden, k = config->experts_per_token;
    struct slow_route route;
    static double y[SLOW_EXPERT_WIDTH], acc[SLOW_EXPERT_WIDTH], shared[SLOW_EXPERT_WIDTH];
    double shared_weight = 0;
    slow_linear(plan, &layer->router, NULL, u, PRECISION_F16, route.logits);
    slow_router(config, &layer->expert_bias, slip, &route);
    if (config->shared_width) {
        slow_linear(plan, &layer->shared_gate, NULL, u, PRECISION_F16, &shared_weight);
        shared_weight = slip == EXPERTS_SHARED_UNGATED ? 1 : sigmoid_fl(shared_weight);
        shared_weight = slip == EXPERTS_SHARED_GATE_HALF ? hf(shared_weight) : shared_weight;
        slow_swiglu(plan, &layer->shared.gate, &layer->shared.up, &layer->shared.down, u, 1, shared);
    }
    memset(acc, 0, sizeof acc);
    if (config->shared_width && slip == EXPERTS_SHARED_FIRST)
        slow_add(acc, shared_weight, shared, d, slip);
    for (uint32_t turn = 0; turn < k; turn++) {
        const uint32_t slot = slow_turn(&route, k, turn, slip), e = route.chosen[slot];
        const struct expert *inner = &layer->experts[slip == EXPERTS_ONE_ROW ? route.chosen[0] : e];
        const struct expert *outer = &layer->experts[slip == EXPERTS_NEXT_DOWN ? (e + 1) % config->experts : e];
        const bool before = slip == EXPERTS_WEIGHED_FIRST;
        slow_swiglu(plan, &inner->gate, &inner->up, &outer->down, u, before ? route.weights[slot] : 1, y);
        slow_add(acc, before ? 1 : route.weights[slot], y, d, slip);
    }
    if (config->shared_width && slip != EXPERTS_SHARED_FIRST)
        slow_add(acc, shared_weight, shared, d, slip);
    for (uint32_t j = 0; j < d; j++)
        m[j] = hf(acc[j]);
    return route;
}

#endif
