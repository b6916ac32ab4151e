#include "reference/experts.h"

#include <string.h>

#include "harness/base/floating.h"
#include "reference/math.h"
#include "reference/ops.h"
#include "reference/router.h"

// Experts and weights of every token from its logits.
static void route(struct decoder *s, uint32_t i)
{
    const struct config *config = &s->model->config;
    const uint32_t e = config->experts, k = config->experts_per_token;
    const struct router_rule rule = {e, k, s->layers[i].expert_bias, config->expert_normalise, config->expert_scale};
    for (size_t t = 0; t < s->n; t++) {
        struct route route = {s->selection + t * e, s->chosen + t * k, s->weights + t * k, 0};
        if (config_is_lfm2(config))
            router_sigmoid(&rule, s->router + t * e, &route);
        else
            router_softmax(e, k, s->router + t * e, &route);
    }
    for (size_t j = 0; j < (size_t)s->n * k; j++)
        s->ids[j] = (float)s->chosen[j];
}

// One expert, for those tokens of the pass that chose it: their u gathered, its y put into the slot of each.
static void run_expert(struct decoder *s, const struct layer *w, uint32_t expert)
{
    const uint32_t d = s->model->config.hidden, k = s->model->config.experts_per_token, n = s->n;
    const struct expert *weights = &w->experts[expert];
    uint32_t slots[DECODER_WIDTH], count = 0; // a token has an expert in one slot at most
    for (uint32_t slot = 0; slot < n * k; slot++)
        if (s->chosen[slot] == expert) {
            memcpy(s->gathered + (size_t)count * d, s->u + (size_t)(slot / k) * d, d * sizeof *s->u);
            slots[count++] = slot;
        }
    if (!count)
        return;
    s->n = count; // to the linear layers of an expert these are all tokens
    decoder_input(s, s->gathered, d);
    decoder_swiglu(s, &weights->gate, &weights->up, &weights->down, s->m); // W2 (silu(W1 u) * W3 u)
    s->n = n;
    for (uint32_t j = 0; j < count; j++)
        memcpy(s->routed + (size_t)slots[j] * d, s->m + (size_t)j * d, d * sizeof *s->m);
}

// m = sum over the slots of weight y
static void add_slots(struct decoder *s)
{
    const uint32_t d = s->model->config.hidden, k = s->model->config.experts_per_token;
    memset(s->m, 0, (size_t)s->n * d * sizeof *s->m);
    for (size_t slot = 0; slot < (size_t)s->n * k; slot++)
        ops_add_weighted(s->weights[slot], s->routed + slot * d, d, s->m + slot / k * d);
}

// m = m + sigmoid(W_sg u) shared(u)
static void add_shared(struct decoder *s, const struct layer *w)
{
    const uint32_t d = s->model->config.hidden;
    decoder_input(s, s->u, d);
    decoder_linear(s, &w->shared_gate, NULL, s->shared_gate);
    decoder_swiglu(s, &w->shared.gate, &w->shared.up, &w->shared.down, s->gathered);
    for (size_t t = 0; t < s->n; t++)
        ops_add_weighted(math_sigmoid(s->shared_gate[t]), s->gathered + t * d, d, s->m + t * d);
}

void experts_forward(struct decoder *s, uint32_t i, const struct batch_sink *sink)
{
    const struct layer *w = &s->model->layers[i];
    const struct config *config = &s->model->config;

    decoder_input(s, s->u, config->hidden);
    decoder_linear(s, &w->router, NULL, s->router); // W_g u
    decoder_put(s, sink, i, TAP_ROUTER, s->router, config->experts);
    route(s, i);
    decoder_put(s, sink, i, TAP_EXPERTS, s->ids, config->experts_per_token);
    decoder_put(s, sink, i, TAP_WEIGHTS, s->weights, config->experts_per_token);
    for (uint32_t e = 0; e < config->experts; e++)
        run_expert(s, w, e);
    add_slots(s);
    if (config->shared_width)
        add_shared(s, w);
}
