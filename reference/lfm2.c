#include "reference/lfm2.h"

#include <assert.h>
#include <string.h>

#include "harness/base/floating.h"
#include "reference/ops.h"

// A range of fewer elements (silu) or scores (attention) costs less than handing it to another thread.
enum { ACTIVATIONS_PER_RANGE = 1024, SCORES_PER_RANGE = 1024 };

// Hands the rows [n, width] of one point to the sink, as they leave the engine. Which NaN a NaN is decides nothing
// later on.
static void put(const struct lfm2 *s, const struct batch_sink *sink, uint32_t layer, enum tap_point point,
                float *rows, uint32_t width)
{
    if (!sink->taps || sink->taps->level == TAPS_NONE)
        return;
    ops_canonical(rows, (size_t)s->n * width);
    for (uint32_t t = 0; t < s->n; t++) {
        if (sink->tap_row)
            sink->tap_row(sink->context, t);
        tap(sink->taps, layer, point, rows + (size_t)t * width, width);
    }
}

// The x [n, width] of the linear layers that follow.
static void set_input(struct lfm2 *s, const float *x, uint32_t width)
{
    if (s->n == 1)
        linear_input_set(&s->input, x, width);
    else
        linear_batch_set(&s->batch, s->linear.tile, x, width, s->n);
}

// y = W x + bias, for the x that was set last. y [n, rows]
static void linear(struct lfm2 *s, const struct weight *w, const float *bias, float *y)
{
    if (s->n == 1)
        linear_run(&s->linear, w, bias, &s->input, y);
    else
        linear_run_batch(&s->linear, w, bias, &s->batch, y);
}

static void rms_norm(const struct lfm2 *s, const float *x, const float *w, float *y)
{
    const uint32_t d = s->model->config.hidden;
    for (size_t t = 0; t < s->n; t++)
        ops_rms_norm(x + t * d, w, d, s->model->config.norm_eps, y + t * d);
}

struct channels {
    struct lfm2 *s;
    const struct lfm2_memory *memory;
};

// B x and its convolution for the channels [first, end), token after token, since each moves the state on.
static void convolve(void *context, size_t first, size_t end)
{
    const struct channels *job = context;
    const struct lfm2_memory *memory = job->memory;
    const uint32_t d = job->s->model->config.hidden, taps = job->s->model->config.conv_taps;
    const uint32_t count = (uint32_t)(end - first);
    for (size_t t = 0; t < job->s->n; t++) {
        const float *b = job->s->bcx + t * 3 * d + first, *x = b + 2 * d;
        float *bx = job->s->bx + t * d + first;
        ops_multiply(b, x, count, bx); // b_t = B x
        ops_short_conv(bx, memory->conv + first * taps, memory->conv_bias ? memory->conv_bias + first : NULL, count,
                       taps, memory->columns + first * (taps - 1), job->s->c + t * d + first);
    }
}

static void short_conv(struct lfm2 *s, uint32_t i, const struct batch_sink *sink)
{
    const struct layer *w = &s->model->layers[i];
    const struct lfm2_memory *memory = &s->layers[i];
    const uint32_t d = s->model->config.hidden;

    set_input(s, s->u, d);
    linear(s, &w->in_proj, memory->in_proj_bias, s->bcx); // B | C | x = W_in u
    struct channels job = {s, memory};
    pool_run(s->linear.pool, d, 1 + ACTIVATIONS_PER_RANGE / s->n, convolve, &job);
    put(s, sink, i, TAP_BX, s->bx, d);
    put(s, sink, i, TAP_CONV, s->c, d);
    for (size_t t = 0; t < s->n; t++)
        ops_multiply(s->bcx + (3 * t + 1) * d, s->c + t * d, d, s->c + t * d); // C c_t
    set_input(s, s->c, d);
    linear(s, &w->conv_out, memory->conv_out_bias, s->m); // W_out (C c_t)
}

// Norm, then RoPE, of the heads of token t. x [heads, dh]
static void rotate(const struct lfm2 *s, size_t t, const float *norm, uint32_t heads, float *x)
{
    const uint32_t dh = s->model->config.head_width;
    for (uint32_t h = 0; h < heads; h++, x += dh) {
        ops_rms_norm(x, norm, dh, s->model->config.norm_eps, x);
        ops_rope(x, s->cosine + t * (dh / 2), s->sine + t * (dh / 2), dh / 2);
    }
}

// The keys and values of all tokens of the pass; each of its queries sees those up to its own position.
static void remember(const struct lfm2 *s, const struct lfm2_memory *memory)
{
    const uint32_t dh = s->model->config.head_width, n_k = s->model->config.key_heads;
    for (uint32_t t = 0; t < s->n; t++)
        for (uint32_t h = 0; h < n_k; h++) {
            const size_t slot = ((size_t)h * s->capacity + s->position + t) * dh, from = ((size_t)t * n_k + h) * dh;
            memcpy(memory->keys + slot, s->k + from, dh * sizeof *s->k);
            memcpy(memory->values + slot, s->v + from, dh * sizeof *s->v);
        }
}

struct heads {
    struct lfm2 *s;
    const struct lfm2_memory *memory;
};

static void attend(void *context, size_t first, size_t end)
{
    const struct heads *job = context;
    struct lfm2 *s = job->s;
    const struct config *config = &s->model->config;
    const uint32_t dh = config->head_width, n_q = config->query_heads, group = n_q / config->key_heads;
    for (size_t h = first; h < end; h++) {
        const size_t cache = h / group * s->capacity * dh; // key head floor(h / (Hq / Hkv))
        for (uint32_t t = 0; t < s->n; t++) {
            const size_t row = ((size_t)t * n_q + h) * dh;
            ops_attention(s->linear.rows[WEIGHT_F32], s->q + row, job->memory->keys + cache,
                          job->memory->values + cache, s->position + t + 1, dh, s->scale, s->scores + h * s->capacity,
                          s->sums + h * dh, s->attn + row);
        }
    }
}

static void attention(struct lfm2 *s, uint32_t i, const struct batch_sink *sink)
{
    const struct layer *w = &s->model->layers[i];
    const struct lfm2_memory *memory = &s->layers[i];
    const struct config *config = &s->model->config;
    const uint32_t dh = config->head_width, n_q = config->query_heads, n_k = config->key_heads;

    set_input(s, s->u, config->hidden);
    linear(s, &w->q_proj, NULL, s->q); // [Hq, dh]
    linear(s, &w->k_proj, NULL, s->k); // [Hkv, dh]
    linear(s, &w->v_proj, NULL, s->v); // [Hkv, dh]
    for (size_t t = 0; t < s->n; t++) {
        rotate(s, t, memory->q_norm, n_q, s->q + t * n_q * dh);
        rotate(s, t, memory->k_norm, n_k, s->k + t * n_k * dh);
    }
    remember(s, memory);
    put(s, sink, i, TAP_Q, s->q, n_q * dh);
    put(s, sink, i, TAP_K, s->k, n_k * dh);
    put(s, sink, i, TAP_V, s->v, n_k * dh);
    struct heads job = {s, memory};
    pool_run(s->linear.pool, n_q, 1 + SCORES_PER_RANGE / ((s->position + s->n) * s->n), attend, &job);
    put(s, sink, i, TAP_ATTN, s->attn, n_q * dh);
    set_input(s, s->attn, n_q * dh);
    linear(s, &w->attn_out, NULL, s->m); // [d]
}

static void swiglu(void *context, size_t first, size_t end)
{
    const struct lfm2 *s = context;
    ops_swiglu(s->gate + first, s->up + first, (uint32_t)(end - first), s->gate + first);
}

static void feed_forward(struct lfm2 *s, uint32_t i)
{
    const struct layer *w = &s->model->layers[i];
    const uint32_t f = s->model->config.feed_forward;

    set_input(s, s->u, s->model->config.hidden);
    linear(s, &w->w1, NULL, s->gate);                                            // [F]
    linear(s, &w->w3, NULL, s->up);                                              // [F]
    pool_run(s->linear.pool, (size_t)s->n * f, ACTIVATIONS_PER_RANGE, swiglu, s); // silu(gate) up
    set_input(s, s->gate, f);
    linear(s, &w->w2, NULL, s->m); // [d]
}

static void embed(struct lfm2 *s, const uint32_t *tokens)
{
    const struct config *config = &s->model->config;
    const size_t half = config->head_width / 2;
    for (uint32_t t = 0; t < s->n; t++) {
        ops_rope_table(s->frequencies, (uint32_t)half, s->position + t, s->cosine + t * half, s->sine + t * half);
        ops_embed(&s->model->embedding, tokens[t], s->h + (size_t)t * config->hidden); // h = E[token]
    }
}

const float *lfm2_forward(struct lfm2 *s, const uint32_t *tokens, uint32_t n, uint32_t position,
                          const struct batch_sink *sink)
{
    const struct model *model = s->model;
    const struct config *config = &model->config;
    const uint32_t d = config->hidden;

    assert(n >= 1 && n <= s->width && position <= s->capacity - n);
    s->n = n;
    s->position = position;
    embed(s, tokens);
    put(s, sink, 0, TAP_EMBED, s->h, d);
    for (uint32_t i = 0; i < config->layers; i++) {
        put(s, sink, i, TAP_IN, s->h, d);
        rms_norm(s, s->h, s->layers[i].mixer_norm, s->u); // u = norm(h)
        put(s, sink, i, TAP_NORM, s->u, d);
        if (model->layers[i].mixer == MIXER_CONV) // m = mixer(u)
            short_conv(s, i, sink);
        else
            attention(s, i, sink);
        put(s, sink, i, TAP_MIXER, s->m, d);
        ops_residual(s->m, n * d, s->h); // h = m + h
        put(s, sink, i, TAP_RESID, s->h, d);
        rms_norm(s, s->h, s->layers[i].ffn_norm, s->u);
        put(s, sink, i, TAP_FFN_NORM, s->u, d);
        feed_forward(s, i); // m = W2 (silu(W1 u) * W3 u)
        put(s, sink, i, TAP_FFN, s->m, d);
        ops_residual(s->m, n * d, s->h);
        put(s, sink, i, TAP_OUT, s->h, d);
    }
    rms_norm(s, s->h, s->final_norm, s->u);
    put(s, sink, 0, TAP_FINAL_NORM, s->u, d);
    set_input(s, s->u, d);
    linear(s, &model->head, NULL, s->logits); // logits = E norm(h)
    ops_canonical(s->logits, (size_t)n * config->vocabulary);
    return s->logits;
}
