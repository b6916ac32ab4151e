#include "runtime/lfm2.h"

#include <assert.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/angle.h"

// Less work than this, in multiplications, is sooner done than shared: under 0.1 ms, the price of waking a thread on
// a busy machine. A model of 200 M parameters is over it in every large layer.
enum { LINEAR_SHARED = 1 << 20, ATTENTION_SHARED = 1 << 17, ROWS_GRAIN = 16 };

// --- linear layers, rows split over the threads

struct linear_job {
    const struct runtime_lfm2 *run;
    const struct weight *weight;
    const float *bias; // or NULL
    enum precision to;
    float *y;
};

static void linear_rows(void *context, size_t first, size_t end)
{
    const struct linear_job *job = context;
    const struct runtime_lfm2 *run = job->run;
    const struct linear_rule rule = {run->plan.rows[PLAN_LINEAR_SUM], run->plan.rows[PLAN_DEQUANT]};
    run->kernels.linear(job->weight, run->arranged, rule, first, end, job->y);
    for (size_t r = first; job->bias && r < end; r++)
        job->y[r] += job->bias[r];
    run->kernels.round(job->y + first, end - first, job->to);
}

// y [rows] = h(LIN(W, x) + bias), x [cols]; not rounded where `to` is F32.
static void linear(struct runtime_lfm2 *run, const struct weight *weight, const float *bias, const float *x,
                   enum precision to, float *y)
{
    struct linear_job job = {run, weight, bias, to, y};
    profile_begin(run->profile);
    run->kernels.arrange(x, weight->cols, run->arranged);
    const bool shared = (size_t)weight->rows * weight->cols >= LINEAR_SHARED;
    pool_run(run->pool, weight->rows, shared ? ROWS_GRAIN : weight->rows, linear_rows, &job);
    profile_end(run->profile, weight);
}

// --- the short convolution: u [d] -> m [d]

static void short_conv(struct runtime_lfm2 *run, uint32_t i, const float *u, float *m, const struct tap_sink *taps)
{
    const struct layer *layer = &run->model->layers[i];
    const struct runtime_layer *own = &run->layers[i];
    const struct kernels *kernels = &run->kernels;
    const uint32_t d = run->model->config.hidden, n_taps = run->model->config.conv_taps;
    const float *b = run->bcx, *c = run->bcx + d, *x = run->bcx + 2 * (size_t)d; // [d] each

    linear(run, &layer->in_proj, own->in_bias, u, PRECISION_F16, run->bcx);
    kernels->product(b, x, d, run->plan.rows[PLAN_CONV_STATE], run->bx);
    tap(taps, i, TAP_BX, run->bx, d);
    kernels->short_conv(own->history, run->bx, own->taps, own->conv_bias, d, n_taps, run->c);
    tap(taps, i, TAP_CONV, run->c, d);
    if (run->fault != FAULT_CONV_STATE_LOST)
        runtime_lfm2_remember_column(run, i, run->fault == FAULT_CONV_STATE_RAW ? x : run->bx);
    kernels->product(c, run->c, d, PRECISION_F16, run->c);
    linear(run, &layer->conv_out, own->out_bias, run->c, PRECISION_F16, m);
}

// --- attention: u [d] -> m [d]

struct attention_job {
    struct runtime_lfm2 *run;
    uint32_t layer, length;
};

static void attend_heads(void *context, size_t first, size_t end)
{
    const struct attention_job *job = context;
    struct runtime_lfm2 *run = job->run;
    const uint32_t dh = run->model->config.head_width;
    const uint32_t share = run->model->config.query_heads / run->model->config.key_heads; // query heads of a key head
    for (size_t head = first; head < end; head++) {
        const struct attention_view view = runtime_lfm2_view(run, job->layer, (uint32_t)head / share, job->length);
        run->kernels.attention(&view, run->q + head * dh, run->scratch + head * ATTENTION_SIMDGROUPS * dh,
                               run->o + head * dh);
    }
}

// x [heads, dh]: each head normed, then rotated to the current position.
static void norm_and_rotate(struct runtime_lfm2 *run, float *x, uint32_t heads, const float *norm, enum precision to)
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

static void attention(struct runtime_lfm2 *run, uint32_t i, uint32_t position, const float *u, float *m,
                      const struct tap_sink *taps)
{
    const struct config *config = &run->model->config;
    const struct layer *layer = &run->model->layers[i];
    const struct runtime_layer *own = &run->layers[i];
    const uint32_t q_width = config->query_heads * config->head_width;
    const uint32_t k_width = config->key_heads * config->head_width;
    const enum precision state = run->plan.rows[PLAN_KV_STATE];

    linear(run, &layer->q_proj, NULL, u, PRECISION_F16, run->q);
    linear(run, &layer->k_proj, NULL, u, PRECISION_F16, run->k);
    linear(run, &layer->v_proj, NULL, u, state, run->v);
    norm_and_rotate(run, run->q, config->query_heads, own->q_norm, PRECISION_F16);
    norm_and_rotate(run, run->k, config->key_heads, own->k_norm, state);
    tap(taps, i, TAP_Q, run->q, q_width);
    tap(taps, i, TAP_K, run->k, k_width);
    tap(taps, i, TAP_V, run->v, k_width);

    const uint32_t slot = run->fault == FAULT_KV_SLOT && position ? position - 1 : position;
    runtime_lfm2_remember_position(run, i, slot, run->k, run->v);
    struct attention_job job = {run, i, position + 1};
    const bool shared = (size_t)q_width * job.length * 2 >= ATTENTION_SHARED;
    pool_run(run->pool, config->query_heads, shared ? 1 : config->query_heads, attend_heads, &job);
    tap(taps, i, TAP_ATTN, run->o, q_width);
    linear(run, &layer->attn_out, NULL, run->o, PRECISION_F16, m);
}

// --- the feed-forward: u [d] -> m [d]

static void feed_forward(struct runtime_lfm2 *run, uint32_t i, const float *u, float *m)
{
    const struct layer *layer = &run->model->layers[i];
    const int swapped = run->fault == FAULT_GATE_UP_SWAPPED;

    linear(run, &layer->w1, NULL, u, PRECISION_F16, swapped ? run->up : run->gate);
    linear(run, &layer->w3, NULL, u, PRECISION_F16, swapped ? run->gate : run->up);
    run->kernels.swiglu(run->gate, run->up, run->model->config.feed_forward, run->gate);
    linear(run, &layer->w2, NULL, run->gate, PRECISION_F16, m);
}

// --- the step

// cos and sin of the current position [dh/2]: the angle in fp32 (arithmetic.md 2), cos and sin in double, rounded to
// float, then h() as the plan says.
static void rope_row(struct runtime_lfm2 *run, uint32_t position)
{
    const uint32_t half = run->model->config.head_width / 2;
    const uint32_t turns = run->fault == FAULT_ROPE_OFF_BY_ONE ? position + 1 : position;
    for (uint32_t j = 0; j < half; j++) {
        const float angle = run->frequencies[j] * (float)turns;
        run->cos[j] = (float)angle_cos(angle);
        run->sin[j] = (float)angle_sin(angle);
    }
    run->kernels.round(run->cos, half, run->plan.rows[PLAN_ROPE_TABLE]);
    run->kernels.round(run->sin, half, run->plan.rows[PLAN_ROPE_TABLE]);
}

const float *runtime_lfm2_step(struct runtime_lfm2 *run, uint32_t position, uint32_t token,
                               const struct tap_sink *taps)
{
    const struct model *model = run->model;
    const struct kernels *kernels = &run->kernels;
    const uint32_t d = model->config.hidden, vocabulary = model->config.vocabulary;
    const float eps = model->config.norm_eps;
    float *h = run->h, *u = run->u, *m = run->m; // [d]
    assert(position < run->capacity && token < vocabulary);

    rope_row(run, position);
    weight_row(&model->embedding, token, h);
    kernels->round(h, d, PRECISION_F16);
    tap(taps, 0, TAP_EMBED, h, d);
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct runtime_layer *own = &run->layers[i];
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
        feed_forward(run, i, u, m);
        tap(taps, i, TAP_FFN, m, d);
        kernels->add(h, m, d, h);
        tap(taps, i, TAP_OUT, h, d);
    }
    kernels->rms_norm(h, run->final_norm, d, eps, u);
    tap(taps, 0, TAP_FINAL_NORM, u, d);
    linear(run, &model->head, NULL, u, run->plan.rows[PLAN_LOGITS], run->logits);
    if (run->fault == FAULT_LOGIT_NAN)
        run->logits[vocabulary / 2] = float_from_bits(FLOAT_NAN_BITS);
    if (run->fault == FAULT_LOGITS_ZERO)
        for (uint32_t id = 0; id < vocabulary; id++)
            run->logits[id] = 0;
    return run->logits;
}

// --- open

// h(w) of a whole small tensor, or NULL for one that is not there. false: memory is exhausted.
static bool vector_open(struct arena *arena, const struct weight *weight, const float **out)
{
    *out = NULL;
    if (weight->format == WEIGHT_NONE)
        return true;
    float *values = arena_alloc(arena, (size_t)weight->rows * weight->cols, sizeof *values);
    if (!values)
        return false;
    for (uint32_t row = 0; row < weight->rows; row++)
        weight_row(weight, row, values + (size_t)row * weight->cols);
    for (size_t k = 0; k < (size_t)weight->rows * weight->cols; k++)
        values[k] = half_round(values[k]);
    *out = values;
    return true;
}

// The convolution's taps [d, K] as [K, d]: tap j of all channels side by side.
static bool taps_open(struct arena *arena, const struct weight *conv, const float **out)
{
    const float *stored;
    float *taps = arena_alloc(arena, (size_t)conv->rows * conv->cols, sizeof *taps);
    if (!taps || !vector_open(arena, conv, &stored))
        return false;
    for (uint32_t i = 0; i < conv->rows; i++)
        for (uint32_t j = 0; j < conv->cols; j++)
            taps[(size_t)j * conv->rows + i] = stored[(size_t)i * conv->cols + j];
    *out = taps;
    return true;
}

static bool layer_open(struct arena *arena, const struct layer *layer, struct runtime_layer *own)
{
    const struct {
        const struct weight *weight;
        const float **vector;
    } vectors[] = {
        {&layer->mixer_norm, &own->mixer_norm},
        {&layer->ffn_norm, &own->ffn_norm},
        {&layer->q_norm, &own->q_norm},
        {&layer->k_norm, &own->k_norm},
        {&layer->in_proj_bias, &own->in_bias},
        {&layer->conv_bias, &own->conv_bias},
        {&layer->conv_out_bias, &own->out_bias},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        if (!vector_open(arena, vectors[i].weight, vectors[i].vector))
            return false;
    return layer->mixer == MIXER_ATTENTION || taps_open(arena, &layer->conv, &own->taps);
}

// f = fl32(1 / p), p = fl32(theta^e), e = fl32(2 j / dh): transformers' float32 steps (arithmetic.md 2,
// oracles/README.md).
static void frequencies_open(struct runtime_lfm2 *run)
{
    const uint32_t dh = run->model->config.head_width;
    const double theta = run->fault == FAULT_ROPE_THETA ? 10000.0 : run->model->config.rope_theta;
    const bool narrow =
        run->fault == FAULT_ROPE_FREQUENCY_F16 || run->plan.rows[PLAN_ROPE_FREQUENCY] == PRECISION_F16;
    for (uint32_t j = 0; j < dh / 2; j++) {
        const float exponent = (float)(2 * j) / (float)dh;
        const float frequency = 1.0f / (float)angle_power(theta, exponent);
        run->frequencies[j] = narrow ? half_round(frequency) : frequency;
    }
}

static bool rows_open(struct arena *arena, struct runtime_lfm2 *run)
{
    const struct config *config = &run->model->config;
    const size_t d = config->hidden, feed_forward = config->feed_forward, dh = config->head_width;
    const size_t q_width = config->query_heads * dh, k_width = config->key_heads * dh;
    const size_t widest_block = d > feed_forward ? d : feed_forward;
    const size_t widest = widest_block > q_width ? widest_block : q_width; // input of a linear layer
    const struct {
        float **row;
        size_t width;
    } rows[] = {
        {&run->frequencies, dh / 2},
        {&run->cos, dh / 2},
        {&run->sin, dh / 2},
        {&run->h, d},
        {&run->u, d},
        {&run->m, d},
        {&run->bcx, 3 * d},
        {&run->bx, d},
        {&run->c, d},
        {&run->q, q_width},
        {&run->k, k_width},
        {&run->v, k_width},
        {&run->o, q_width},
        {&run->scratch, q_width * ATTENTION_SIMDGROUPS},
        {&run->gate, feed_forward},
        {&run->up, feed_forward},
        {&run->arranged, kernels_arranged(widest)},
        {&run->logits, config->vocabulary},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!(*rows[i].row = arena_alloc(arena, rows[i].width, sizeof(float))))
            return false;
    return true;
}

int runtime_lfm2_open(struct arena *arena, const struct model *model, const struct plan *plan, enum fault fault,
                      enum isa isa, struct pool *pool, uint32_t capacity, struct runtime_lfm2 **out,
                      struct error *error)
{
    const uint32_t n_layers = model->config.layers;
    struct runtime_lfm2 *run = arena_alloc(arena, 1, sizeof *run);
    if (!run)
        return error_set(error, ERROR_RUNTIME, "memory is exhausted: the runtime needs %zu bytes", sizeof *run);
    *run = (struct runtime_lfm2){.model = model, .plan = *plan, .fault = fault, .pool = pool, .capacity = capacity};
    kernels_init(&run->kernels, isa);
    run->layers = arena_alloc(arena, n_layers, sizeof *run->layers);
    bool ok = run->layers && rows_open(arena, run) && vector_open(arena, &model->final_norm, &run->final_norm);
    for (uint32_t i = 0; ok && i < n_layers; i++)
        ok = layer_open(arena, &model->layers[i], &run->layers[i]);
    if (!ok)
        return error_set(error, ERROR_RUNTIME, "memory is exhausted after %zu bytes of the runtime's rows",
                         arena->bytes);
    frequencies_open(run);
    *out = run;
    return runtime_lfm2_state_open(run, arena, error);
}
