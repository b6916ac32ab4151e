#include "reference/double/lfm2.h"

#include "harness/base/floating.h"
#include "reference/double/experts.h"

static void short_conv(struct oracle *o, uint32_t layer)
{
    const struct layer *weights = &o->model->layers[layer];
    const uint32_t d = o->model->config.hidden;
    double *projected = o->wide[0], *bx = o->wide[1], *conv = o->wide[2];
    oracle_linear(o, o->u, o->n, &weights->in_proj, &weights->in_proj_bias, projected); // B | C | x
    for (uint32_t t = 0; t < o->n; t++)
        for (uint32_t c = 0; c < d; c++)
            bx[(size_t)t * d + c] = projected[(size_t)t * 3 * d + c] * projected[(size_t)t * 3 * d + 2 * d + c];
    oracle_put(o, layer, TAP_BX, bx, d);
    oracle_convolve(o, layer, bx, &weights->conv, &weights->conv_bias, conv);
    oracle_put(o, layer, TAP_CONV, conv, d);
    for (uint32_t t = 0; t < o->n; t++)
        for (uint32_t c = 0; c < d; c++)
            conv[(size_t)t * d + c] *= projected[(size_t)t * 3 * d + d + c];
    oracle_linear(o, conv, o->n, &weights->conv_out, &weights->conv_out_bias, o->m);
}

static void attention(struct oracle *o, uint32_t layer)
{
    const struct config *config = &o->model->config;
    const struct layer *weights = &o->model->layers[layer];
    const uint32_t dh = config->head_width, all_q = config->query_heads * dh, all_k = config->key_heads * dh;
    double *q = o->wide[0], *k = o->wide[1], *v = o->wide[2], *mixed = o->wide[3];
    oracle_linear(o, o->u, o->n, &weights->q_proj, NULL, q);
    oracle_linear(o, o->u, o->n, &weights->k_proj, NULL, k);
    oracle_linear(o, o->u, o->n, &weights->v_proj, NULL, v);
    oracle_norm(o, q, (uint64_t)o->n * config->query_heads, dh, &weights->q_norm, q);
    oracle_norm(o, k, (uint64_t)o->n * config->key_heads, dh, &weights->k_norm, k);
    oracle_rotate(o, q, config->query_heads);
    oracle_rotate(o, k, config->key_heads);
    oracle_put(o, layer, TAP_Q, q, all_q);
    oracle_put(o, layer, TAP_K, k, all_k);
    oracle_put(o, layer, TAP_V, v, all_k);
    oracle_attention(o, q, k, v, mixed);
    oracle_put(o, layer, TAP_ATTN, mixed, all_q);
    oracle_linear(o, mixed, o->n, &weights->attn_out, NULL, o->m);
}

void double_lfm2_forward(struct oracle *o, const uint32_t *tokens, double *logits)
{
    const struct model *model = o->model;
    const uint32_t d = model->config.hidden;
    oracle_embed(o, tokens);
    oracle_put(o, 0, TAP_EMBED, o->h, d);
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        const struct layer *weights = &model->layers[layer];
        oracle_put(o, layer, TAP_IN, o->h, d);
        oracle_norm(o, o->h, o->n, d, &weights->mixer_norm, o->u);
        oracle_put(o, layer, TAP_NORM, o->u, d);
        if (weights->mixer == MIXER_ATTENTION)
            attention(o, layer);
        else
            short_conv(o, layer);
        oracle_residual(o, layer, TAP_MIXER, TAP_RESID);

        oracle_norm(o, o->h, o->n, d, &weights->ffn_norm, o->u);
        oracle_put(o, layer, TAP_FFN_NORM, o->u, d);
        if (weights->sparse)
            double_experts_forward(o, layer);
        else
            oracle_swiglu(o, o->u, o->n, &(struct expert){weights->w1, weights->w3, weights->w2}, o->m);
        oracle_residual(o, layer, TAP_FFN, TAP_OUT);
    }
    oracle_norm(o, o->h, o->n, d, &model->final_norm, o->u);
    oracle_put(o, 0, TAP_FINAL_NORM, o->u, d);
    oracle_linear(o, o->u, o->n, &model->head, NULL, logits);
}
