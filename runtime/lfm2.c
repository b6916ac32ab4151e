#include "runtime/lfm2.h"

#include "runtime/experts.h"

// --- the short convolution: u [d] -> m [d]

static void short_conv(struct step *run, uint32_t i, const float *u, float *m, const struct tap_sink *taps)
{
    const struct layer *layer = &run->model->layers[i];
    const struct step_layer *own = &run->layers[i];
    const struct kernels *kernels = &run->kernels;
    const uint32_t d = run->model->config.hidden, n_taps = run->model->config.conv_taps;
    const float *b = run->bcx, *c = run->bcx + d, *x = run->bcx + 2 * (size_t)d; // [d] each

    step_linear(run, &layer->in_proj, own->in_bias, u, PRECISION_F16, run->bcx);
    kernels->product(b, x, d, run->plan.rows[PLAN_CONV_STATE], run->bx);
    tap(taps, i, TAP_BX, run->bx, d);
    kernels->short_conv(own->history, run->bx, own->taps, own->conv_bias, d, n_taps, run->c);
    tap(taps, i, TAP_CONV, run->c, d);
    if (run->fault != FAULT_CONV_STATE_LOST)
        step_remember_column(run, i, run->fault == FAULT_CONV_STATE_RAW ? x : run->bx);
    kernels->product(c, run->c, d, PRECISION_F16, run->c);
    step_linear(run, &layer->conv_out, own->out_bias, run->c, PRECISION_F16, m);
}

// --- attention: u [d] -> m [d]

// x [heads, dh]: each head normed, then rotated to the current position.
static void norm_and_rotate(struct step *run, float *x, uint32_t heads, const float *norm, enum precision to)
{
    const uint32_t dh = run->model->config.head_width;
    const float eps = run->model->config.norm_eps;
    for (float *head = x; head < x + (size_t)heads * dh; head += dh) {
        if (run->fault == FAULT_NORM_AFTER_ROPE) {
            run->kernels.rope(head, run->cos, run->sin, dh, to);
            run->kernels.rms_norm(head, norm, dh, eps, head);
        } else {
            run->kernels.rms_norm(head, norm, dh, eps, head);
            run->kernels.rope(head, run->cos, run->sin, dh, to);
        }
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

    step_linear(run, &layer->q_proj, NULL, u, PRECISION_F16, run->q);
    step_linear(run, &layer->k_proj, NULL, u, PRECISION_F16, run->k);
    step_linear(run, &layer->v_proj, NULL, u, state, run->v);
    norm_and_rotate(run, run->q, config->query_heads, own->q_norm, PRECISION_F16);
    norm_and_rotate(run, run->k, config->key_heads, own->k_norm, state);
    tap(taps, i, TAP_Q, run->q, q_width);
    tap(taps, i, TAP_K, run->k, k_width);
    tap(taps, i, TAP_V, run->v, k_width);

    step_attend(run, i, position);
    tap(taps, i, TAP_ATTN, run->o, q_width);
    step_linear(run, &layer->attn_out, NULL, run->o, PRECISION_F16, m);
}

// --- the step

const float *runtime_lfm2_step(struct step *run, uint32_t position, uint32_t token, const struct tap_sink *taps)
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
        kernels->rms_norm(h, own->mixer_norm, d, eps, u);
        tap(taps, i, TAP_NORM, u, d);
        if (model->layers[i].mixer == MIXER_CONV)
            short_conv(run, i, u, m, taps);
        else
            attention(run, i, position, u, m, taps);
        tap(taps, i, TAP_MIXER, m, d);
        kernels->add(h, m, d, h);
        tap(taps, i, TAP_RESID, h, d);
        kernels->rms_norm(h, own->ffn_norm, d, eps, u);
        tap(taps, i, TAP_FFN_NORM, u, d);
        if (model->layers[i].sparse)
            runtime_experts(run, i, u, m, taps);
        else
            step_swiglu(run, &model->layers[i].w1, &model->layers[i].w3, &model->layers[i].w2, u, m);
        tap(taps, i, TAP_FFN, m, d);
        kernels->add(h, m, d, h);
        tap(taps, i, TAP_OUT, h, d);
    }
    kernels->rms_norm(h, run->final_norm, d, eps, u);
    tap(taps, 0, TAP_FINAL_NORM, u, d);
    return step_head(run, u);
}
