#include "reference/decoder.h"

#include <assert.h>
#include <string.h>

#include "harness/base/floating.h"
#include "reference/ops.h"

// A range of fewer elements (silu) or scores (attention) costs less than handing it to another thread.
enum { ACTIVATIONS_PER_RANGE = 1024, SCORES_PER_RANGE = 1024 };

void decoder_put(const struct decoder *s, const struct batch_sink *sink, uint32_t layer, enum tap_point point,
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

void decoder_input(struct decoder *s, const float *x, uint32_t width)
{
    if (s->n == 1)
        linear_input_set(&s->input, x, width);
    else
        linear_pack(&s->linear, &s->batch, x, width, s->n);
}

void decoder_linear(struct decoder *s, const struct weight *w, const float *bias, float *y)
{
    if (s->n == 1)
        linear_run(&s->linear, w, bias, &s->input, y);
    else
        linear_run_batch(&s->linear, w, bias, &s->batch, y);
}

void decoder_embed(struct decoder *s, const uint32_t *tokens, uint32_t n, uint32_t position)
{
    const struct config *config = &s->model->config;
    const size_t half = config->rotary_width / 2;
    assert(n >= 1 && n <= s->width && position <= s->capacity - n);
    s->n = n;
    s->position = position;
    for (uint32_t t = 0; t < n; t++) {
        ops_rope_table(s->frequencies, (uint32_t)half, position + t, s->cosine + t * half, s->sine + t * half);
        ops_embed(&s->model->embedding, tokens[t], s->h + (size_t)t * config->hidden); // h = E[token]
    }
}

void decoder_remember(const struct decoder *s, const struct decoder_layer *layer)
{
    const uint32_t dh = s->model->config.head_width, n_k = s->model->config.key_heads;
    for (uint32_t t = 0; t < s->n; t++)
        for (uint32_t h = 0; h < n_k; h++) {
            const size_t slot = ((size_t)h * s->capacity + s->position + t) * dh, from = ((size_t)t * n_k + h) * dh;
            memcpy(layer->keys + slot, s->k + from, dh * sizeof *s->k);
            memcpy(layer->values + slot, s->v + from, dh * sizeof *s->v);
        }
}

struct heads {
    struct decoder *s;
    const struct decoder_layer *layer;
};

static void attend_heads(void *context, size_t first, size_t end)
{
    const struct heads *job = context;
    struct decoder *s = job->s;
    const struct config *config = &s->model->config;
    const uint32_t dh = config->head_width, n_q = config->query_heads, group = n_q / config->key_heads;
    for (size_t h = first; h < end; h++) {
        const size_t cache = h / group * s->capacity * dh; // key head floor(h / (Hq / Hkv))
        for (uint32_t t = 0; t < s->n; t++) {
            const size_t row = ((size_t)t * n_q + h) * dh;
            ops_attention(s->linear.rows[WEIGHT_F32], s->q + row, job->layer->keys + cache,
                          job->layer->values + cache, s->position + t + 1, dh, s->scale, s->scores + h * s->capacity,
                          s->sums + h * dh, s->attn + row);
        }
    }
}

void decoder_attend(struct decoder *s, const struct decoder_layer *layer)
{
    struct heads job = {s, layer};
    pool_run(s->linear.pool, s->model->config.query_heads, 1 + SCORES_PER_RANGE / ((s->position + s->n) * s->n),
             attend_heads, &job);
}

static void activate(void *context, size_t first, size_t end)
{
    const struct decoder *s = context;
    s->swiglu(s->gate + first, s->up + first, (uint32_t)(end - first));
}

void decoder_swiglu(struct decoder *s, const struct weight *gate, const struct weight *up, const struct weight *down,
                    float *m)
{
    decoder_linear(s, gate, NULL, s->gate);
    decoder_linear(s, up, NULL, s->up);
    pool_run(s->linear.pool, (size_t)s->n * gate->rows, ACTIVATIONS_PER_RANGE, activate, s); // silu(gate) up
    decoder_input(s, s->gate, gate->rows);
    decoder_linear(s, down, NULL, m);
}

const float *decoder_head(struct decoder *s)
{
    decoder_linear(s, &s->model->head, NULL, s->logits);
    ops_canonical(s->logits, (size_t)s->n * s->model->config.vocabulary);
    return s->logits;
}
