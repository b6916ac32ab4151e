#include "reference/lfm2.h"

#include <string.h>

#include "harness/base/floating.h"
#include "reference/ops.h"

// A range of fewer elements (silu) or scores (attention) costs less than handing it to another thread.
enum { ACTIVATIONS_PER_RANGE = 1024, SCORES_PER_RANGE = 1024 };

// Hands a row to the sink, as it leaves the engine. Which NaN a NaN is decides nothing later on.
static void put(const struct tap_sink *taps, uint32_t layer, enum tap_point point, float *row, uint32_t width)
{
    if (!taps || taps->level == TAPS_NONE)
        return;
    ops_canonical(row, width);
    tap(taps, layer, point, row, width);
}

// y = W x + bias, for the x that was set last.
static void linear(struct lfm2 *s, const struct weight *w, const float *bias, float *y)
{
    linear_run(&s->linear, w, bias, &s->input, y);
}

static void short_conv(struct lfm2 *s, uint32_t i, const struct tap_sink *taps)
{
    const struct lfm2_layer *w = &s->model->layers[i];
    const struct lfm2_memory *memory = &s->layers[i];
    const uint32_t d = s->model->config.hidden;
    const float *b = s->bcx, *c = b + d, *x = c + d; // [d] each

    linear_input_set(&s->input, s->u, d);
    linear(s, &w->in_proj, memory->in_proj_bias, s->bcx); // B | C | x = W_in u
    ops_multiply(b, x, d, s->bx);                         // b_t = B x
    put(taps, i, TAP_BX, s->bx, d);
    ops_short_conv(s->bx, memory->conv, memory->conv_bias, d, s->model->config.conv_taps, memory->columns, s->c);
    put(taps, i, TAP_CONV, s->c, d);
    ops_multiply(c, s->c, d, s->c); // C c_t
    linear_input_set(&s->input, s->c, d);
    linear(s, &w->conv_out, memory->conv_out_bias, s->m); // W_out (C c_t)
}

struct heads {
    struct lfm2 *s;
    const struct lfm2_memory *memory;
    uint32_t positions;
};

static void attend(void *context, size_t first, size_t end)
{
    const struct heads *job = context;
    struct lfm2 *s = job->s;
    const struct config *config = &s->model->config;
    const uint32_t dh = config->head_width, group = config->query_heads / config->key_heads;
    for (size_t h = first; h < end; h++) {
        const size_t cache = h / group * s->capacity * dh; // key head floor(h / (Hq / Hkv))
        ops_attention(s->linear.rows[WEIGHT_F32], s->q + h * dh, job->memory->keys + cache,
                      job->memory->values + cache, job->positions, dh, s->scale, s->scores + h * s->capacity,
                      s->sums + h * dh, s->attn + h * dh);
    }
}

static void attention(struct lfm2 *s, uint32_t i, uint32_t position, const struct tap_sink *taps)
{
    const struct lfm2_layer *w = &s->model->layers[i];
    const struct lfm2_memory *memory = &s->layers[i];
    const struct config *config = &s->model->config;
    const uint32_t dh = config->head_width, n_q = config->query_heads, n_k = config->key_heads;

    linear_input_set(&s->input, s->u, config->hidden);
    linear(s, &w->q_proj, NULL, s->q);   // [Hq, dh]
    linear(s, &w->k_proj, NULL, s->k);   // [Hkv, dh]
    linear(s, &w->v_proj, NULL, s->v);   // [Hkv, dh]
    for (uint32_t h = 0; h < n_q; h++) { // norm, then RoPE
        ops_rms_norm(s->q + h * dh, memory->q_norm, dh, config->norm_eps, s->q + h * dh);
        ops_rope(s->q + h * dh, s->cosine, s->sine, dh / 2);
    }
    for (uint32_t h = 0; h < n_k; h++) {
        ops_rms_norm(s->k + h * dh, memory->k_norm, dh, config->norm_eps, s->k + h * dh);
        ops_rope(s->k + h * dh, s->cosine, s->sine, dh / 2);
        const size_t slot = ((size_t)h * s->capacity + position) * dh;
        memcpy(memory->keys + slot, s->k + h * dh, dh * sizeof *s->k);
        memcpy(memory->values + slot, s->v + h * dh, dh * sizeof *s->v);
    }
    put(taps, i, TAP_Q, s->q, n_q * dh);
    put(taps, i, TAP_K, s->k, n_k * dh);
    put(taps, i, TAP_V, s->v, n_k * dh);
    struct heads job = {s, memory, position + 1};
    pool_run(s->linear.pool, n_q, 1 + SCORES_PER_RANGE / (position + 1), attend, &job);
    put(taps, i, TAP_ATTN, s->attn, n_q * dh);
    linear_input_set(&s->input, s->attn, n_q * dh);
    linear(s, &w->attn_out, NULL, s->m); // [d]
}

static void swiglu(void *context, size_t first, size_t end)
{
    const struct lfm2 *s = context;
    ops_swiglu(s->gate + first, s->up + first, (uint32_t)(end - first), s->gate + first);
}

static void feed_forward(struct lfm2 *s, uint32_t i)
{
    const struct lfm2_layer *w = &s->model->layers[i];
    const struct config *config = &s->model->config;

    linear_input_set(&s->input, s->u, config->hidden);
    linear(s, &w->w1, NULL, s->gate);                                                 // [F]
    linear(s, &w->w3, NULL, s->up);                                                   // [F]
    pool_run(s->linear.pool, config->feed_forward, ACTIVATIONS_PER_RANGE, swiglu, s); // silu(gate) up
    linear_input_set(&s->input, s->gate, config->feed_forward);
    linear(s, &w->w2, NULL, s->m); // [d]
}

const float *lfm2_step(struct lfm2 *s, uint32_t token, uint32_t position, const struct tap_sink *taps)
{
    const struct model *model = s->model;
    const struct config *config = &model->config;
    const uint32_t d = config->hidden;
    const float eps = config->norm_eps;

    ops_rope_table(s->frequencies, config->head_width / 2, position, s->cosine, s->sine);
    ops_embed(&model->embedding, token, s->h); // h = E[token]
    put(taps, 0, TAP_EMBED, s->h, d);
    for (uint32_t i = 0; i < config->layers; i++) {
        put(taps, i, TAP_IN, s->h, d);
        ops_rms_norm(s->h, s->layers[i].operator_norm, d, eps, s->u); // u = norm(h)
        put(taps, i, TAP_NORM, s->u, d);
        if (model->layers[i].mixer == MIXER_CONV) // m = mixer(u)
            short_conv(s, i, taps);
        else
            attention(s, i, position, taps);
        put(taps, i, TAP_MIXER, s->m, d);
        ops_residual(s->m, d, s->h); // h = m + h
        put(taps, i, TAP_RESID, s->h, d);
        ops_rms_norm(s->h, s->layers[i].ffn_norm, d, eps, s->u);
        put(taps, i, TAP_FFN_NORM, s->u, d);
        feed_forward(s, i); // m = W2 (silu(W1 u) * W3 u)
        put(taps, i, TAP_FFN, s->m, d);
        ops_residual(s->m, d, s->h);
        put(taps, i, TAP_OUT, s->h, d);
    }
    ops_rms_norm(s->h, s->final_norm, d, eps, s->u);
    put(taps, 0, TAP_FINAL_NORM, s->u, d);
    linear_input_set(&s->input, s->u, d);
    linear(s, &model->head, NULL, s->logits); // logits = E norm(h)
    ops_canonical(s->logits, config->vocabulary);
    return s->logits;
}
