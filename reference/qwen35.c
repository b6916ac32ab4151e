#include "reference/qwen35.h"

#include <string.h>

#include "harness/base/floating.h"
#include "reference/delta.h"
#include "reference/experts.h"
#include "reference/ops.h"

// Ranges that cost less than handing them to another thread: channels of the convolution, elements of head norms and
// gates, elements of the delta net's state.
enum { CHANNELS_PER_RANGE = 1024, ELEMENTS_PER_RANGE = 1024, STATES_PER_RANGE = 8192 };

// A layer's work on the rows of the pass at hand, split over channels or heads, never over what a sum runs over.
struct part {
    struct decoder *s;
    const struct decoder_layer *layer;
};

static void run_heads(struct part *part, uint32_t heads, uint32_t width, pool_fn run)
{
    pool_run(part->s->linear.pool, heads, 1 + ELEMENTS_PER_RANGE / ((size_t)width * part->s->n), run, part);
}

static void rms_norm(const struct decoder *s, const float *x, const float *w, float *y)
{
    const uint32_t d = s->model->config.hidden;
    for (size_t t = 0; t < s->n; t++)
        ops_rms_norm_centred(x + t * d, w, d, s->model->config.norm_eps, y + t * d);
}

// --- gated delta net

// silu(convolution) of the channels [first, end), token after token, since each moves the state on.
static void convolve(void *context, size_t first, size_t end)
{
    const struct part *part = context;
    const struct decoder *s = part->s;
    const uint32_t channels = config_delta_channels(&s->model->config), taps = s->model->config.conv_taps;
    for (size_t t = 0; t < s->n; t++)
        s->delta->convolve(s->mixed + t * channels + first, part->layer->conv + first * taps, (uint32_t)(end - first),
                           taps, part->layer->columns + first * (taps - 1), s->convolved + t * channels + first);
}

// q = L2(q) dk^-1/2 and k = L2(k) of the key heads [first, end), out of q | k | v.
static void normalise(void *context, size_t first, size_t end)
{
    const struct decoder *s = ((const struct part *)context)->s;
    const struct config *config = &s->model->config;
    const uint32_t dk = config->delta_key_width, channels = config_delta_channels(config);
    const size_t n_k = config->delta_key_heads;
    for (size_t t = 0; t < s->n; t++)
        for (size_t h = first; h < end; h++) {
            const float *q = s->convolved + t * channels + h * dk, *k = q + n_k * dk;
            ops_l2_norm(q, dk, s->delta_scale, s->q + (t * n_k + h) * dk);
            ops_l2_norm(k, dk, 1.0f, s->k + (t * n_k + h) * dk);
        }
}

// The delta rule of the value heads [first, end), each with its own state and token after token:
//   S = e^g S;  S = S + k (beta (v - S^T k))^T;  core = S^T q
static void delta_rule(void *context, size_t first, size_t end)
{
    const struct part *part = context;
    const struct decoder *s = part->s;
    const struct config *config = &s->model->config;
    const uint32_t dk = config->delta_key_width, dv = config->delta_value_width;
    const size_t n_k = config->delta_key_heads, n_v = config->delta_value_heads, group = n_v / n_k;
    for (size_t h = first; h < end; h++) {
        float *S = part->layer->delta + h * dk * dv;
        for (size_t t = 0; t < s->n; t++) {
            const size_t key = (t * n_k + h / group) * dk, value = t * n_v + h; // key head floor(h / (Hv / Hk))
            const bool is_last = t + 1 == s->n;
            const struct delta_input input = {.q = s->q + key,
                                              .k = s->k + key,
                                              .v = s->v + value * dv,
                                              .g = s->g[value],
                                              .beta = s->beta[value],
                                              .next = is_last && h + 1 < end ? S + (size_t)dk * dv : NULL};
            s->delta->step(&input, dk, dv, S, s->sums + h * dv, s->core + value * dv);
        }
    }
}

// z = norm(core) silu(z) of the value heads [first, end).
static void gated_norm(void *context, size_t first, size_t end)
{
    const struct part *part = context;
    const struct decoder *s = part->s;
    const struct config *config = &s->model->config;
    const uint32_t dv = config->delta_value_width;
    for (size_t t = 0; t < s->n; t++)
        for (size_t h = first; h < end; h++) {
            const size_t row = (t * config->delta_value_heads + h) * dv;
            ops_rms_norm_gated(s->core + row, part->layer->delta_norm, s->z + row, dv, config->norm_eps, s->z + row);
        }
}

static void delta_net(struct decoder *s, uint32_t i, const struct batch_sink *sink)
{
    const struct layer *w = &s->model->layers[i];
    const struct decoder_layer *layer = &s->layers[i];
    const struct config *config = &s->model->config;
    const uint32_t dk = config->delta_key_width, n_k = config->delta_key_heads;
    const uint32_t dv = config->delta_value_width, n_v = config->delta_value_heads;
    const uint32_t channels = config_delta_channels(config), keys = n_k * dk, values = n_v * dv;
    struct part part = {s, layer};

    decoder_input(s, s->u, config->hidden);
    decoder_linear(s, &w->qkv_proj, NULL, s->mixed); // [C] q | k | v
    decoder_linear(s, &w->z_proj, NULL, s->z);       // [Hv, dv]
    decoder_linear(s, &w->b_proj, NULL, s->b);       // [Hv]
    decoder_linear(s, &w->a_proj, NULL, s->a);       // [Hv]

    pool_run(s->linear.pool, channels, 1 + CHANNELS_PER_RANGE / s->n, convolve, &part);
    run_heads(&part, n_k, dk, normalise); // q, k [Hk, dk]
    for (size_t t = 0; t < s->n; t++)     // v [Hv, dv]
        memcpy(s->v + t * values, s->convolved + t * channels + 2 * keys, values * sizeof *s->v);
    decoder_put(s, sink, i, TAP_Q, s->q, keys);
    decoder_put(s, sink, i, TAP_K, s->k, keys);
    decoder_put(s, sink, i, TAP_V, s->v, values);

    for (size_t t = 0; t < s->n; t++) // beta = sigmoid(b), g = -e^A softplus(a + dt)
        delta_gates(s->a + t * n_v, s->b + t * n_v, layer->a_log, layer->dt_bias, n_v, s->g + t * n_v,
                    s->beta + t * n_v);
    decoder_put(s, sink, i, TAP_BETA, s->beta, n_v);
    decoder_put(s, sink, i, TAP_G, s->g, n_v);

    pool_run(s->linear.pool, n_v, 1 + STATES_PER_RANGE / ((size_t)dk * dv * s->n), delta_rule, &part);
    decoder_put(s, sink, i, TAP_CORE, s->core, values);
    run_heads(&part, n_v, dv, gated_norm);
    decoder_input(s, s->z, values);
    decoder_linear(s, &w->delta_out, NULL, s->m); // [d]
}

// --- attention with an output gate

// Norm, then RoPE over the first R of each head, of token t. x [heads, dh]
static void rotate(const struct decoder *s, size_t t, const float *norm, uint32_t heads, float *x)
{
    const uint32_t dh = s->model->config.head_width, half = s->model->config.rotary_width / 2;
    for (uint32_t h = 0; h < heads; h++, x += dh) {
        ops_rms_norm_centred(x, norm, dh, s->model->config.norm_eps, x);
        ops_rope(x, s->cosine + t * half, s->sine + t * half, half);
    }
}

// attn = attn sigmoid(gate) of the query heads [first, end); a head's gate stands behind its query.
static void gate_heads(void *context, size_t first, size_t end)
{
    const struct decoder *s = ((const struct part *)context)->s;
    const uint32_t dh = s->model->config.head_width, n_q = s->model->config.query_heads;
    for (size_t t = 0; t < s->n; t++)
        for (size_t h = first; h < end; h++) {
            float *attn = s->attn + (t * n_q + h) * dh;
            ops_sigmoid_gate(attn, s->query_gate + (t * n_q + h) * 2 * dh + dh, dh, attn);
        }
}

static void attention(struct decoder *s, uint32_t i, const struct batch_sink *sink)
{
    const struct layer *w = &s->model->layers[i];
    const struct decoder_layer *layer = &s->layers[i];
    const struct config *config = &s->model->config;
    const uint32_t dh = config->head_width, n_q = config->query_heads, n_k = config->key_heads;
    struct part part = {s, layer};

    decoder_input(s, s->u, config->hidden);
    decoder_linear(s, &w->q_proj, layer->q_bias, s->query_gate); // [Hq, 2, dh]: query, gate
    decoder_linear(s, &w->k_proj, layer->k_bias, s->k);          // [Hkv, dh]
    decoder_linear(s, &w->v_proj, layer->v_bias, s->v);          // [Hkv, dh]
    for (size_t head = 0; head < (size_t)s->n * n_q; head++)     // [Hq, dh]
        memcpy(s->q + head * dh, s->query_gate + head * 2 * dh, dh * sizeof *s->q);
    for (size_t t = 0; t < s->n; t++) {
        rotate(s, t, layer->q_norm, n_q, s->q + t * n_q * dh);
        rotate(s, t, layer->k_norm, n_k, s->k + t * n_k * dh);
    }
    decoder_remember(s, layer);
    decoder_put(s, sink, i, TAP_Q, s->q, n_q * dh);
    decoder_put(s, sink, i, TAP_K, s->k, n_k * dh);
    decoder_put(s, sink, i, TAP_V, s->v, n_k * dh);
    decoder_attend(s, layer);
    run_heads(&part, n_q, dh, gate_heads);
    decoder_put(s, sink, i, TAP_ATTN, s->attn, n_q * dh);
    decoder_input(s, s->attn, n_q * dh);
    decoder_linear(s, &w->attn_out, layer->attn_out_bias, s->m); // [d]
}

// --- the whole

// m = feed_forward(u): W_down (silu(W_gate u) * W_up u), or the experts'.
static void feed_forward(struct decoder *s, uint32_t i, const struct batch_sink *sink)
{
    const struct layer *w = &s->model->layers[i];
    if (config_is_sparse(&s->model->config, i)) {
        experts_forward(s, i, sink);
        return;
    }
    decoder_input(s, s->u, s->model->config.hidden);
    decoder_swiglu(s, &w->w1, &w->w3, &w->w2, s->m);
}

const float *qwen35_forward(struct decoder *s, const uint32_t *tokens, uint32_t n, uint32_t position,
                            const struct batch_sink *sink)
{
    const struct model *model = s->model;
    const uint32_t d = model->config.hidden;

    decoder_embed(s, tokens, n, position); // h = E[token]
    decoder_put(s, sink, 0, TAP_EMBED, s->h, d);
    for (uint32_t i = 0; i < model->config.layers; i++) {
        decoder_put(s, sink, i, TAP_IN, s->h, d);
        rms_norm(s, s->h, s->layers[i].mixer_norm, s->u); // u = norm(h)
        decoder_put(s, sink, i, TAP_NORM, s->u, d);
        if (model->layers[i].mixer == MIXER_DELTA) // m = mixer(u)
            delta_net(s, i, sink);
        else
            attention(s, i, sink);
        decoder_put(s, sink, i, TAP_MIXER, s->m, d);
        ops_residual(s->m, n * d, s->h); // h = m + h
        decoder_put(s, sink, i, TAP_RESID, s->h, d);
        rms_norm(s, s->h, s->layers[i].ffn_norm, s->u);
        decoder_put(s, sink, i, TAP_FFN_NORM, s->u, d);
        feed_forward(s, i, sink); // m = feed_forward(norm(h))
        decoder_put(s, sink, i, TAP_FFN, s->m, d);
        ops_residual(s->m, n * d, s->h);
        decoder_put(s, sink, i, TAP_OUT, s->h, d);
    }
    rms_norm(s, s->h, s->final_norm, s->u);
    decoder_put(s, sink, 0, TAP_FINAL_NORM, s->u, d);
    decoder_input(s, s->u, d);
    return decoder_head(s); // logits = W_head norm(h)
}
