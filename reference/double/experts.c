#include "reference/double/experts.h"

#include <math.h>
#include <string.h>

#include "harness/base/floating.h"

// The k largest of scores [E] in descending order, the lower number first among equals; NaN counts as the largest.
// What was taken is marked by -Inf, which no sigmoid or softmax is.
static void take_largest(double *scores, uint32_t n, uint32_t k, double *experts)
{
    for (uint32_t slot = 0; slot < k; slot++) {
        uint32_t best = 0;
        for (uint32_t e = 1; e < n; e++)
            if (!isnan(scores[best]) && (isnan(scores[e]) || scores[e] > scores[best]))
                best = e;
        experts[slot] = best;
        scores[best] = -INFINITY;
    }
}

// LFM2-MoE: sigmoid, the bias to select only. Qwen3.5-MoE: softmax. probability [E] is overwritten.
static void route(const struct oracle *o, const struct layer *weights, double *probability, double *experts,
                  double *chosen)
{
    const struct config *config = &o->model->config;
    const uint32_t n = config->experts, k = config->experts_per_token;
    const int is_lfm2 = config_is_lfm2(config);
    double sum = 0, poison = 0;
    if (is_lfm2)
        for (uint32_t e = 0; e < n; e++)
            probability[e] = oracle_sigmoid(probability[e]);
    else
        oracle_softmax(probability, n);
    for (uint32_t e = 0; e < n; e++) {
        const int has_bias = weights->expert_bias.format != WEIGHT_NONE;
        o->selection[e] = probability[e] + (has_bias ? (double)weight_at(&weights->expert_bias, 0, e) : 0);
        if (isnan(o->selection[e]))
            poison = NAN;
    }
    take_largest(o->selection, n, k, experts);
    for (uint32_t slot = 0; slot < k; slot++)
        sum += chosen[slot] = probability[(uint32_t)experts[slot]] + poison;
    if (config->expert_normalise)
        for (uint32_t slot = 0; slot < k; slot++)
            chosen[slot] /= sum + (is_lfm2 ? 1e-6 : 0);
    for (uint32_t slot = 0; slot < k; slot++)
        chosen[slot] *= o->expert_scale;
}

// The tokens that chose expert e go through it together: m += weight SwiGLU_e(u).
static void add_expert(struct oracle *o, const struct layer *weights, uint32_t e)
{
    const uint32_t d = o->model->config.hidden, k = o->model->config.experts_per_token;
    double *x = o->wide[2], *y = o->wide[3];
    uint32_t rows = 0;
    for (size_t i = 0; i < (size_t)o->n * k; i++)
        if ((uint32_t)o->experts[i] == e)
            memcpy(x + (size_t)rows++ * d, o->u + i / k * d, d * sizeof *x);
    if (rows)
        oracle_swiglu(o, x, rows, &weights->experts[e], y);
    for (size_t i = 0; i < (size_t)o->n * k; i++)
        if ((uint32_t)o->experts[i] == e)
            for (uint32_t c = 0; c < d; c++)
                o->m[i / k * d + c] += o->weights[i] * *y++;
}

// m += sigmoid(gate u) SwiGLU(u)
static void add_shared(struct oracle *o, const struct layer *weights)
{
    const uint32_t d = o->model->config.hidden;
    double *y = o->wide[2], *gate = o->wide[3];
    oracle_swiglu(o, o->u, o->n, &weights->shared, y);
    oracle_linear(o, o->u, o->n, &weights->shared_gate, NULL, gate);
    for (uint32_t t = 0; t < o->n; t++)
        for (uint32_t c = 0; c < d; c++)
            o->m[(size_t)t * d + c] += oracle_sigmoid(gate[t]) * y[(size_t)t * d + c];
}

void double_experts_forward(struct oracle *o, uint32_t layer)
{
    const struct config *config = &o->model->config;
    const struct layer *weights = &o->model->layers[layer];
    const uint32_t k = config->experts_per_token;
    oracle_linear(o, o->u, o->n, &weights->router, NULL, o->router);
    oracle_put(o, layer, TAP_ROUTER, o->router, config->experts);
    for (uint32_t t = 0; t < o->n; t++)
        route(o, weights, o->router + (size_t)t * config->experts, o->experts + (size_t)t * k,
              o->weights + (size_t)t * k);
    oracle_put(o, layer, TAP_EXPERTS, o->experts, k);
    oracle_put(o, layer, TAP_WEIGHTS, o->weights, k);
    memset(o->m, 0, (size_t)o->n * config->hidden * sizeof *o->m);
    for (uint32_t e = 0; e < config->experts; e++)
        add_expert(o, weights, e);
    if (config->shared_width)
        add_shared(o, weights);
}
