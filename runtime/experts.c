#include "runtime/experts.h"

static struct router router_of(const struct step *step)
{
    const struct config *config = &step->model->config;
    const bool sigmoid = config_is_lfm2(config) != (step->fault == FAULT_ROUTER_SCORE);
    return (struct router){
        .experts = config->experts,
        .slots = config->experts_per_token,
        .score = sigmoid ? ROUTER_SIGMOID : ROUTER_SOFTMAX,
        .normalised = config->expert_normalise && step->fault != FAULT_ROUTER_NOT_NORMALISED,
        .epsilon = config_is_lfm2(config) ? 1e-6f : 0,
        .scaling = config->expert_scale,
    };
}

// FAULT_EXPERT_BIAS_WEIGHS: the weights of the selection scores.
static void weigh_with_bias(struct step *step, const struct router *router, const float *bias)
{
    float sum = 0;
    for (uint32_t slot = 0; slot < router->slots; slot++) {
        step->weights[slot] = step->scores[step->chosen[slot]] + bias[step->chosen[slot]];
        sum += step->weights[slot];
    }
    for (uint32_t slot = 0; slot < router->slots; slot++) {
        const float share = router->normalised ? step->weights[slot] / (sum + router->epsilon) : step->weights[slot];
        step->weights[slot] = share * router->scaling;
    }
    step->kernels.round(step->weights, router->slots, PRECISION_F32);
}

// u [d] -> chosen, weights [k].
static void route(struct step *step, uint32_t i, const float *u, const struct tap_sink *taps)
{
    const struct router router = router_of(step);
    const float *bias = step->layers[i].expert_bias;
    step_linear(step, &step->model->layers[i].router, NULL, u, PRECISION_F16, step->router);
    kernels_route(&router, step->router, bias, step->scores, step->chosen, step->weights);
    if (step->fault == FAULT_EXPERT_BIAS_WEIGHS && bias)
        weigh_with_bias(step, &router, bias);
    if (step->fault == FAULT_ROUTER_SCORES_F16) {
        step->kernels.round(step->scores, router.experts, PRECISION_F16);
        kernels_select(&router, step->scores, bias, step->chosen, step->weights);
    }
    for (uint32_t slot = 0; slot < router.slots; slot++)
        step->ids[slot] = (float)step->chosen[slot];
    tap(taps, i, TAP_ROUTER, step->router, router.experts);
    tap(taps, i, TAP_EXPERTS, step->ids, router.slots);
    tap(taps, i, TAP_WEIGHTS, step->weights, router.slots);
}

void runtime_experts(struct step *step, uint32_t i, const float *u, float *m, const struct tap_sink *taps)
{
    const struct layer *layer = &step->model->layers[i];
    const struct config *config = &step->model->config;
    const uint32_t d = config->hidden;
    uint32_t slots = config->experts_per_token;

    route(step, i, u, taps);
    for (uint32_t slot = 0; slot < slots; slot++) {
        const uint32_t e = step->chosen[slot];
        const uint32_t inner = step->fault == FAULT_EXPERT_ROW_SHARED ? step->chosen[0] : e;
        const uint32_t outer = step->fault == FAULT_EXPERT_DOWN ? (e + 1) % config->experts : e;
        step_swiglu(step, &layer->experts[inner].gate, &layer->experts[inner].up, &layer->experts[outer].down, u,
                    step->outputs + (size_t)slot * d);
    }
    if (config->shared_width) {
        step_linear(step, &layer->shared_gate, NULL, u, PRECISION_F16, &step->weights[slots]);
        step->weights[slots] =
            step->fault == FAULT_SHARED_GATE_MISSING ? 1 : kernels_sigmoid(step->weights[slots]);
        step_swiglu(step, &layer->shared.gate, &layer->shared.up, &layer->shared.down, u,
                    step->outputs + (size_t)slots * d);
        slots++;
    }
    step->kernels.expert_sum(step->outputs, step->weights, slots, d, m);
}
