#include "reference/lfm2.h"

#include "harness/base/floating.h"
#include "reference/experts.h"
#include "reference/ops.h"

// A range of fewer channels costs less than handing it to another thread.
enum { CHANNELS_PER_RANGE = 1024 };

static void rms_norm(const struct decoder *s, const float *x, const float *w, float *y)
{
    const uint32_t d = s->model->config.hidden;
    for (size_t t = 0; t < s->n; t++)
        ops_rms_norm(x + t * d, w, d, s->model->config.norm_eps, y + t * d);
}

struct channels {
    struct decoder *s;
    const struct decoder_layer *layer;
};

// B x and its convolution for the channels [first, end), token after token, since each moves the state on.
static void convolve(void *context, size_t first, size_t end)
{
    const struct channels *job = context;
    const struct decoder_layer *layer = job->layer;
    const uint32_t d = job->s->model->config.hidden, taps = job->s->model->config.conv_taps;
    const uint32_t count = (uint32_t)(end - first);
    for (size_t t = 0; t < job->s->n; t++) {
        const float *b = job->s->bcx + t * 3 * d + first, *x = b + 2 * d;
        float *bx = job->s->bx + t * d + first;
        ops_multiply(b, x, count, bx); // b_t = B x
        ops_short_conv(bx, layer->conv + first * taps, layer->conv_bias ? layer->conv_bias + first : NULL, count,
                       taps, layer->columns + first * (taps - 1), job->s->c + t * d + first);
    }
}

static void short_conv(struct decoder *s, uint32_t i, const struct batch_sink *sink)
{
    const struct layer *w = &s->model->layers[i];
    const struct decoder_layer *layer = &s->layers[i];
    const uint32_t d = s->model->config.hidden;

    decoder_input(s, s->u, d);
    decoder_linear(s, &w->in_proj, layer->in_proj_bias, s->bcx); // B | C | x = W_in u
    struct channels job = {s, layer};
    pool_run(s->linear.pool, d, 1 + CHANNELS_PER_RANGE / s->n, convolve, &job);
    decoder_put(s, sink, i, TAP_BX, s->bx, d);
    decoder_put(s, sink, i, TAP_CONV, s->c, d);
    for (size_t t = 0; t < s->n; t++)
        ops_multiply(s->bcx + (3 * t + 1) * d, s->c + t * d, d, s->c + t * d); // C c_t
    decoder_input(s, s->c, d);
    decoder_linear(s, &w->conv_out, layer->conv_out_bias, s->m); // W_out (C c_t)
}

// Norm, then RoPE, of the heads of token t. x [heads, dh]
static void rotate(const struct decoder *s, size_t t, const float *norm, uint32_t heads, float *x)
{
    const uint32_t dh = s->model->config.head_width;
    for (uint32_t h = 0; h < heads; h++, x += dh) {
        ops_rms_norm(x, norm, dh, s->model->config.norm_eps, x);
        ops_rope(x, s->cosine + t * (dh / 2), s->sine + t * (dh / 2), dh / 2);
    }
}

static void attention(struct decoder *s, uint32_t i, const struct batch_sink *sink)
{
    const struct layer *w = &s->model->layers[i];
    const struct decoder_layer *layer = &s->layers[i];
    const struct config *config = &s->model->config;
    const uint32_t dh = config->head_width, n_q = config->query_heads, n_k = config->key_heads;

    decoder_input(s, s->u, config->hidden);
    decoder_linear(s, &w->q_proj, NULL, s->q); // [Hq, dh]
    decoder_linear(s, &w->k_proj, NULL, s->k); // [Hkv, dh]
    decoder_linear(s, &w->v_proj, NULL, s->v); // [Hkv, dh]
    for (size_t t = 0; t < s->n; t++) {
        rotate(s, t, layer->q_norm, n_q, s->q + t * n_q * dh);
        rotate(s, t, layer->k_norm, n_k, s->k + t * n_k * dh);
    }
    decoder_remember(s, layer);
    decoder_put(s, sink, i, TAP_Q, s->q, n_q * dh);
    decoder_put(s, sink, i, TAP_K, s->k, n_k * dh);
    decoder_put(s, sink, i, TAP_V, s->v, n_k * dh);
    decoder_attend(s, layer);
    decoder_put(s, sink, i, TAP_ATTN, s->attn, n_q * dh);
    decoder_input(s, s->attn, n_q * dh);
    decoder_linear(s, &w->attn_out, NULL, s->m); // [d]
}

// m = feed_forward(u)
static void feed_forward(struct decoder *s, uint32_t i, const struct batch_sink *sink)
{
    const struct layer *w = &s->model->layers[i];
    if (config_is_sparse(&s->model->config, i)) {
        experts_forward(s, i, sink);
        return;
    }
    decoder_input(s, s->u, s->model->config.hidden);
    decoder_swiglu(s, &w->w1, &w->w3, &w->w2, s->m); // W2 (silu(W1 u) * W3 u)
}

const float *lfm2_forward(struct decoder *s, const uint32_t *tokens, uint32_t n, uint32_t position,
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
        if (model->layers[i].mixer == MIXER_CONV) // m = mixer(u)
            short_conv(s, i, sink);
        else
            attention(s, i, sink);
        decoder_put(s, sink, i, TAP_MIXER, s->m, d);
        ops_residual(s->m, n * d, s->h); // h = m + h
        decoder_put(s, sink, i, TAP_RESID, s->h, d);
        rms_norm(s, s->h, s->layers[i].ffn_norm, s->u);
        decoder_put(s, sink, i, TAP_FFN_NORM, s->u, d);
        feed_forward(s, i, sink); // m = W2 (silu(W1 u) * W3 u), or of k experts
        decoder_put(s, sink, i, TAP_FFN, s->m, d);
        ops_residual(s->m, n * d, s->h);
        decoder_put(s, sink, i, TAP_OUT, s->h, d);
    }
    rms_norm(s, s->h, s->final_norm, s->u);
    decoder_put(s, sink, 0, TAP_FINAL_NORM, s->u, d);
    decoder_input(s, s->u, d);
    return decoder_head(s); // logits = E norm(h)
}
