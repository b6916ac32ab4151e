#include "runtime/qwen35.h"

#include <math.h>
#include <string.h>

#include "runtime/experts.h"
#include "runtime/fault_delta.h"

// Less work than this, in multiplications, is sooner done than shared (as step.c's).
enum { DELTA_SHARED = 1 << 17 };

// --- attention: u [d] -> m [d]

// x [heads, dh]: each head normed, then its first R dimensions rotated to the current position. Those past R stay as
// the norm rounded them, whatever `to` is.
static void norm_and_rotate(struct step *run, float *x, uint32_t heads, const float *norm, enum precision to)
{
    const uint32_t dh = run->model->config.head_width;
    const float eps = run->model->config.norm_eps;
    for (float *head = x; head < x + (size_t)heads * dh; head += dh) {
        if (run->fault == FAULT_NORM_AFTER_ROPE) {
            run->kernels.rope(head, run->cos, run->sin, run->rotary_width, to);
            run->kernels.rms_norm_centred(head, norm, dh, eps, head);
        } else {
            run->kernels.rms_norm_centred(head, norm, dh, eps, head);
            run->kernels.rope(head, run->cos, run->sin, run->rotary_width, to);
        }
    }
}

// q_proj's rows are, head by head, the query and then its gate.
static void split_query_and_gate(struct step *run)
{
    const size_t dh = run->model->config.head_width;
    const int swapped = run->fault == FAULT_QUERY_GATE_SWAPPED;
    for (size_t head = 0; head < run->model->config.query_heads; head++) {
        const float *rows = run->query_gate + 2 * head * dh;
        memcpy(run->q + head * dh, rows + (swapped ? dh : 0), dh * sizeof *rows);
        memcpy(run->attn_gate + head * dh, rows + (swapped ? 0 : dh), dh * sizeof *rows);
    }
}

static void attention(struct step *run, uint32_t i, uint32_t position, const float *u, float *m,
                      const struct tap_sink *taps)
{
    const struct config *config = &run->model->config;
    const struct layer *layer = &run->model->layers[i];
    const struct step_layer *own = &run->layers[i];
    const uint32_t q_width = config->query_heads * config->head_width;
    const uint32_t k_width = config->key_heads * config->head_width;
    const enum precision state = run->plan.rows[PLAN_KV_STATE];

    step_linear(run, &layer->q_proj, own->q_bias, u, PRECISION_F16, run->query_gate);
    step_linear(run, &layer->k_proj, own->k_bias, u, PRECISION_F16, run->k);
    step_linear(run, &layer->v_proj, own->v_bias, u, state, run->v);
    split_query_and_gate(run);
    norm_and_rotate(run, run->q, config->query_heads, own->q_norm, PRECISION_F16);
    norm_and_rotate(run, run->k, config->key_heads, own->k_norm, state);
    tap(taps, i, TAP_Q, run->q, q_width);
    tap(taps, i, TAP_K, run->k, k_width);
    tap(taps, i, TAP_V, run->v, k_width);

    step_attend(run, i, position);
    run->kernels.attention_gate(run->o, run->attn_gate, q_width, run->o);
    tap(taps, i, TAP_ATTN, run->o, q_width);
    step_linear(run, &layer->attn_out, own->attn_out_bias, run->o, PRECISION_F16, m);
}

// --- the gated delta net: u [d] -> m [d]

// x [Hk, dk], in place: each head divided by its length, then multiplied by `scale`, which stays in fp32.
static void normalise(struct step *run, float *x, float scale)
{
    const size_t dk = run->model->config.delta_key_width;
    for (size_t head = 0; head < run->model->config.delta_key_heads; head++) {
        if (run->fault == FAULT_L2_NORM_MISSING)
            for (size_t c = 0; c < dk; c++)
                x[head * dk + c] *= scale;
        else
            run->kernels.l2_norm(x + head * dk, (uint32_t)dk, scale, run->plan.rows[PLAN_DELTA_NORM], x + head * dk);
    }
}

struct delta_job {
    struct step *run;
    uint32_t layer;
};

// The value heads `first` .. `end` - 1: one step of each one's state, then the gated norm's input.
static void delta_heads(void *context, size_t first, size_t end)
{
    const struct delta_job *job = context;
    const struct step *run = job->run;
    const struct config *config = &run->model->config;
    const size_t dk = config->delta_key_width, dv = config->delta_value_width;
    const size_t share = config->delta_value_heads / config->delta_key_heads; // value heads of a key head
    const enum precision precision = run->plan.rows[PLAN_DELTA_STATE];
    const size_t state_bytes = dk * dv * (precision == PRECISION_F16 ? sizeof(uint16_t) : sizeof(float));
    const float *q = run->qkv, *k = q + config->delta_key_heads * dk, *v = k + config->delta_key_heads * dk;
    for (size_t head = first; head < end; head++) {
        const struct delta_state state = {
            .s = (unsigned char *)run->layers[job->layer].delta + head * state_bytes,
            .precision = precision,
            .key_width = config->delta_key_width,
            .value_width = config->delta_value_width,
        };
        const float *own_q = q + head / share * dk, *own_k = k + head / share * dk, *own_v = v + head * dv;
        float *o = run->core + head * dv;
        if (run->fault == FAULT_NONE)
            run->kernels.delta_step(&state, own_q, own_k, own_v, run->beta[head], run->g[head], o);
        else
            fault_delta_step(&run->kernels, run->fault, &state, own_q, own_k, own_v, run->beta[head], run->g[head],
                             run->spare + head * dk * dv, o);
    }
}

// core [Hv, dv], in place.
static void gated_norm(struct step *run, uint32_t i)
{
    const uint32_t dv = run->model->config.delta_value_width;
    const float *norm = run->layers[i].delta_norm, eps = run->model->config.norm_eps;
    for (size_t head = 0; head < run->model->config.delta_value_heads; head++) {
        float *o = run->core + head * dv;
        if (run->fault == FAULT_Z_GATE_MISSING)
            run->kernels.rms_norm(o, norm, dv, eps, o);
        else
            run->kernels.rms_norm_gated(o, norm, run->z + head * dv, dv, eps, o);
    }
}

static void delta_net(struct step *run, uint32_t i, const float *u, float *m, const struct tap_sink *taps)
{
    const struct config *config = &run->model->config;
    const struct layer *layer = &run->model->layers[i];
    const struct step_layer *own = &run->layers[i];
    const struct kernels *kernels = &run->kernels;
    const uint32_t heads = config->delta_value_heads, channels = config_delta_channels(config);
    const uint32_t k_width = config->delta_key_heads * config->delta_key_width;
    const uint32_t v_width = heads * config->delta_value_width;
    float *q = run->qkv, *k = q + k_width, *v = k + k_width;

    step_linear(run, &layer->qkv_proj, NULL, u, run->plan.rows[PLAN_CONV_STATE], run->column);
    step_linear(run, &layer->z_proj, NULL, u, PRECISION_F16, run->z);
    step_linear(run, &layer->b_proj, NULL, u, PRECISION_F16, run->b);
    step_linear(run, &layer->a_proj, NULL, u, PRECISION_F16, run->a);

    kernels->short_conv(own->history, run->column, own->taps, NULL, channels, config->conv_taps, run->qkv);
    kernels->silu(run->qkv, channels, run->qkv);
    if (run->fault != FAULT_CONV_STATE_LOST)
        step_remember_column(run, i, run->fault == FAULT_CONV_STATE_ACTIVATED ? run->qkv : run->column);

    normalise(run, q, (float)(1.0 / sqrt((double)config->delta_key_width)));
    normalise(run, k, 1);
    kernels_delta_gates(run->a, run->b, own->a_log, own->dt_bias, heads, run->beta, run->g);
    if (run->fault == FAULT_BETA_WITHOUT_SIGMOID)
        memcpy(run->beta, run->b, heads * sizeof *run->beta);
    tap(taps, i, TAP_Q, q, k_width);
    tap(taps, i, TAP_K, k, k_width);
    tap(taps, i, TAP_V, v, v_width);
    tap(taps, i, TAP_BETA, run->beta, heads);
    tap(taps, i, TAP_G, run->g, heads);

    struct delta_job job = {run, i};
    const bool shared = (size_t)v_width * config->delta_key_width * 4 >= DELTA_SHARED;
    pool_run(run->pool, heads, shared ? 1 : heads, delta_heads, &job);
    tap(taps, i, TAP_CORE, run->core, v_width);
    gated_norm(run, i);
    step_linear(run, &layer->delta_out, NULL, run->core, PRECISION_F16, m);
}

// --- the step

static void feed_forward(struct step *run, uint32_t i, const float *u, float *m, const struct tap_sink *taps)
{
    const struct layer *layer = &run->model->layers[i];
    if (layer->sparse)
        runtime_experts(run, i, u, m, taps);
    else
        step_swiglu(run, &layer->w1, &layer->w3, &layer->w2, u, m);
}

const float *runtime_qwen35_step(struct step *run, uint32_t position, uint32_t token, const struct tap_sink *taps)
{
    const struct model *model = run->model;
    const struct kernels *kernels = &run->kernels;
    const uint32_t d = model->config.hidden;
    const float eps = model->config.norm_eps;
    float *h = run->h, *u = run->u, *m = run->m; // [d]

    step_embed(run, position, token);
    tap(taps, 0, TAP_EMBED, h, d);
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct step_layer *own = &run->layers[i];
        tap(taps, i, TAP_IN, h, d);
        kernels->rms_norm_centred(h, own->mixer_norm, d, eps, u);
        tap(taps, i, TAP_NORM, u, d);
        if (model->layers[i].mixer == MIXER_DELTA)
            delta_net(run, i, u, m, taps);
        else
            attention(run, i, position, u, m, taps);
        tap(taps, i, TAP_MIXER, m, d);
        kernels->add(h, m, d, h);
        tap(taps, i, TAP_RESID, h, d);
        (run->fault == FAULT_NORM_WITHOUT_ONE ? kernels->rms_norm : kernels->rms_norm_centred)(h, own->ffn_norm, d,
                                                                                               eps, u);
        tap(taps, i, TAP_FFN_NORM, u, d);
        feed_forward(run, i, u, m, taps);
        tap(taps, i, TAP_FFN, m, d);
        kernels->add(h, m, d, h);
        tap(taps, i, TAP_OUT, h, d);
    }
    kernels->rms_norm_centred(h, run->final_norm, d, eps, u);
    tap(taps, 0, TAP_FINAL_NORM, u, d);
    return step_head(run, u);
}
