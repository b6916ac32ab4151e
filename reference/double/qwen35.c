#include "reference/double/qwen35.h"

#include <math.h>
#include <string.h>

#include "harness/base/floating.h"
#include "reference/double/delta.h"
#include "reference/double/experts.h"

// to [n, width] = columns [first, first + width) of from [n, stride]
static void take(const double *from, uint32_t n, size_t stride, uint32_t first, uint32_t width, double *to)
{
    for (uint32_t t = 0; t < n; t++)
        memcpy(to + (size_t)t * width, from + t * stride + first, width * sizeof *to);
}

// --- attention with an output gate

static void attention(struct oracle *o, uint32_t layer)
{
    const struct config *config = &o->model->config;
    const struct layer *weights = &o->model->layers[layer];
    const uint32_t dh = config->head_width, all_q = config->query_heads * dh, all_k = config->key_heads * dh;
    double *query_gate = o->wide[0], *q = o->wide[1], *gate = o->wide[2], *k = o->wide[3], *v = o->wide[4],
           *mixed = o->wide[5];
    oracle_linear(o, o->u, o->n, &weights->q_proj, &weights->q_bias, query_gate); // per head query, then gate
    take(query_gate, o->n * config->query_heads, 2 * (size_t)dh, 0, dh, q);
    take(query_gate, o->n * config->query_heads, 2 * (size_t)dh, dh, dh, gate);
    oracle_linear(o, o->u, o->n, &weights->k_proj, &weights->k_bias, k);
    oracle_linear(o, o->u, o->n, &weights->v_proj, &weights->v_bias, v);
    oracle_norm_centred(o, q, (uint64_t)o->n * config->query_heads, dh, &weights->q_norm, q);
    oracle_norm_centred(o, k, (uint64_t)o->n * config->key_heads, dh, &weights->k_norm, k);
    oracle_rotate(o, q, config->query_heads);
    oracle_rotate(o, k, config->key_heads);
    oracle_put(o, layer, TAP_Q, q, all_q);
    oracle_put(o, layer, TAP_K, k, all_k);
    oracle_put(o, layer, TAP_V, v, all_k);
    oracle_attention(o, q, k, v, mixed);
    for (uint64_t i = 0; i < (uint64_t)o->n * all_q; i++)
        mixed[i] *= oracle_sigmoid(gate[i]);
    oracle_put(o, layer, TAP_ATTN, mixed, all_q);
    oracle_linear(o, mixed, o->n, &weights->attn_out, &weights->attn_out_bias, o->m);
}

// --- gated delta net

// log(1 + e^x); the model's definition has x itself beyond 20, where they differ by 2e-9 at most.
static double softplus(double x)
{
    return x > 20 ? x : log1p(exp(x));
}

// beta = sigmoid(b), g = -e^A_log softplus(a + dt_bias); a, b are projections of u [T, Hv]
static void gates(struct oracle *o, const struct layer *weights)
{
    const uint32_t heads = o->model->config.delta_value_heads;
    oracle_linear(o, o->u, o->n, &weights->b_proj, NULL, o->beta);
    oracle_linear(o, o->u, o->n, &weights->a_proj, NULL, o->g);
    for (uint32_t h = 0; h < heads; h++) {
        const double rate = exp((double)weight_at(&weights->a_log, 0, h));
        const double shift = (double)weight_at(&weights->dt_bias, 0, h);
        for (uint32_t t = 0; t < o->n; t++) {
            double *g = o->g + (size_t)t * heads + h, *beta = o->beta + (size_t)t * heads + h;
            *g = -rate * softplus(*g + shift);
            *beta = oracle_sigmoid(*beta);
        }
    }
}

// x = x / sqrt(sum x^2 + 1e-6) scale, row by row: the sum, not the mean (architecture.md 1.1)
static void l2_norm(double *x, uint64_t rows, uint32_t width, double scale)
{
    for (uint64_t t = 0; t < rows; t++, x += width) {
        double squares = 0;
        for (uint32_t i = 0; i < width; i++)
            squares += x[i] * x[i];
        const double factor = scale / sqrt(squares + 1e-6);
        for (uint32_t i = 0; i < width; i++)
            x[i] *= factor;
    }
}

// q, k [T, Hk dk], v [T, Hv dv] from the zero state -> out [T, Hv dv]. A value head reads with the key head h / r.
static void delta_rule(struct oracle *o, uint32_t layer, const double *q, const double *k, const double *v,
                       double *out)
{
    const struct config *config = &o->model->config;
    const uint32_t dk = config->delta_key_width, dv = config->delta_value_width, heads = config->delta_value_heads;
    const size_t size = (size_t)dk * dv;
    struct double_delta head = {.n = o->n, .dk = dk, .dv = dv};
    head.key_stride = (size_t)config->delta_key_heads * dk;
    head.value_stride = (size_t)heads * dv;
    head.gate_stride = heads;
    memset(o->delta, 0, heads * size * sizeof *o->delta);
    for (uint32_t h = 0; h < heads; h++) {
        const size_t key_head = h / (heads / config->delta_key_heads);
        head.q = q + key_head * dk;
        head.k = k + key_head * dk;
        head.v = v + (size_t)h * dv;
        head.g = o->g + h;
        head.beta = o->beta + h;
        double_delta_run(&head, o->delta + h * size, o->chunk, out + (size_t)h * dv);
    }
    oracle_put_state(o, layer, STATE_DELTA, o->delta, heads * size);
}

static void delta_net(struct oracle *o, uint32_t layer)
{
    const struct config *config = &o->model->config;
    const struct layer *weights = &o->model->layers[layer];
    const uint32_t channels = config_delta_channels(config), dk = config->delta_key_width;
    const uint32_t keys = config->delta_key_heads * dk,
                   values = config->delta_value_heads * config->delta_value_width;
    double *projected = o->wide[0], *c = o->wide[1], *q = o->wide[2], *k = o->wide[3], *v = o->wide[4],
           *core = o->wide[5];
    oracle_linear(o, o->u, o->n, &weights->qkv_proj, NULL, projected);
    oracle_convolve(o, layer, projected, &weights->delta_conv, NULL, c);
    for (uint64_t i = 0; i < (uint64_t)o->n * channels; i++)
        c[i] = oracle_silu(c[i]);
    take(c, o->n, channels, 0, keys, q);
    take(c, o->n, channels, keys, keys, k);
    take(c, o->n, channels, 2 * keys, values, v);
    l2_norm(q, (uint64_t)o->n * config->delta_key_heads, dk, 1 / sqrt((double)dk));
    l2_norm(k, (uint64_t)o->n * config->delta_key_heads, dk, 1);
    gates(o, weights);
    oracle_put(o, layer, TAP_Q, q, keys);
    oracle_put(o, layer, TAP_K, k, keys);
    oracle_put(o, layer, TAP_V, v, values);
    oracle_put(o, layer, TAP_BETA, o->beta, config->delta_value_heads);
    oracle_put(o, layer, TAP_G, o->g, config->delta_value_heads);
    delta_rule(o, layer, q, k, v, core);
    oracle_put(o, layer, TAP_CORE, core, values);

    double *z = o->wide[0]; // the projection is used up
    oracle_linear(o, o->u, o->n, &weights->z_proj, NULL, z);
    oracle_norm(o, core, (uint64_t)o->n * config->delta_value_heads, config->delta_value_width, &weights->delta_norm,
                core);
    for (uint64_t i = 0; i < (uint64_t)o->n * values; i++)
        core[i] *= oracle_silu(z[i]);
    oracle_linear(o, core, o->n, &weights->delta_out, NULL, o->m);
}

void double_qwen35_forward(struct oracle *o, const uint32_t *tokens, double *logits)
{
    const struct model *model = o->model;
    const uint32_t d = model->config.hidden;
    oracle_embed(o, tokens);
    oracle_put(o, 0, TAP_EMBED, o->h, d);
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        const struct layer *weights = &model->layers[layer];
        oracle_put(o, layer, TAP_IN, o->h, d);
        oracle_norm_centred(o, o->h, o->n, d, &weights->mixer_norm, o->u);
        oracle_put(o, layer, TAP_NORM, o->u, d);
        if (weights->mixer == MIXER_ATTENTION)
            attention(o, layer);
        else
            delta_net(o, layer);
        oracle_residual(o, layer, TAP_MIXER, TAP_RESID);

        oracle_norm_centred(o, o->h, o->n, d, &weights->ffn_norm, o->u);
        oracle_put(o, layer, TAP_FFN_NORM, o->u, d);
        if (weights->sparse)
            double_experts_forward(o, layer);
        else
            oracle_swiglu(o, o->u, o->n, &(struct expert){weights->w1, weights->w3, weights->w2}, o->m);
        oracle_residual(o, layer, TAP_FFN, TAP_OUT);
    }
    oracle_norm_centred(o, o->h, o->n, d, &model->final_norm, o->u);
    oracle_put(o, 0, TAP_FINAL_NORM, o->u, d);
    oracle_linear(o, o->u, o->n, &model->head, NULL, logits);
}
