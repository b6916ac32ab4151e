#include "runtime/step.h"

#include <assert.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/angle.h"

// Less work than this, in multiplications, is sooner done than shared: under 0.1 ms, the price of waking a thread on
// a busy machine. A model of 200 M parameters is over it in every large layer.
enum { LINEAR_SHARED = 1 << 20, ATTENTION_SHARED = 1 << 17, ROWS_GRAIN = 16 };

// --- linear layers, rows split over the threads

struct linear_job {
    const struct step *run;
    const struct weight *weight;
    const float *bias; // or NULL
    enum precision to;
    float *y;
};

static void linear_rows(void *context, size_t first, size_t end)
{
    const struct linear_job *job = context;
    const struct step *run = job->run;
    const struct linear_rule rule = {run->plan.rows[PLAN_LINEAR_SUM], run->plan.rows[PLAN_DEQUANT]};
    run->kernels.linear(job->weight, run->arranged, rule, first, end, job->y);
    for (size_t r = first; job->bias && r < end; r++)
        job->y[r] += job->bias[r];
    run->kernels.round(job->y + first, end - first, job->to);
}

void step_linear(struct step *run, const struct weight *weight, const float *bias, const float *x, enum precision to,
                 float *y)
{
    struct linear_job job = {run, weight, bias, to, y};
    profile_begin(run->profile);
    run->kernels.arrange(x, weight->cols, run->arranged);
    const bool shared = (size_t)weight->rows * weight->cols >= LINEAR_SHARED;
    pool_run(run->pool, weight->rows, shared ? ROWS_GRAIN : weight->rows, linear_rows, &job);
    profile_end(run->profile, weight);
}

// --- attention

struct attention_job {
    struct step *run;
    uint32_t layer, length;
};

static void attend_heads(void *context, size_t first, size_t end)
{
    const struct attention_job *job = context;
    struct step *run = job->run;
    const uint32_t dh = run->model->config.head_width;
    const uint32_t share = run->model->config.query_heads / run->model->config.key_heads; // query heads of a key head
    for (size_t head = first; head < end; head++) {
        const struct attention_view view = step_view(run, job->layer, (uint32_t)head / share, job->length);
        run->kernels.attention(&view, run->q + head * dh, run->scratch + head * ATTENTION_SIMDGROUPS * dh,
                               run->o + head * dh);
    }
}

void step_attend(struct step *run, uint32_t i, uint32_t position)
{
    const struct config *config = &run->model->config;
    const uint32_t q_width = config->query_heads * config->head_width;
    const uint32_t slot = run->fault == FAULT_KV_SLOT && position ? position - 1 : position;
    step_remember_position(run, i, slot, run->k, run->v);
    struct attention_job job = {run, i, position + 1};
    const bool shared = (size_t)q_width * job.length * 2 >= ATTENTION_SHARED;
    pool_run(run->pool, config->query_heads, shared ? 1 : config->query_heads, attend_heads, &job);
}

// --- the dense feed-forward

void step_swiglu(struct step *run, const struct weight *gate, const struct weight *up, const struct weight *down,
                 const float *x, float *m)
{
    const int swapped = run->fault == FAULT_GATE_UP_SWAPPED;
    step_linear(run, gate, NULL, x, PRECISION_F16, swapped ? run->up : run->gate);
    step_linear(run, up, NULL, x, PRECISION_F16, swapped ? run->gate : run->up);
    run->kernels.swiglu(run->gate, run->up, gate->rows, run->gate);
    step_linear(run, down, NULL, run->gate, PRECISION_F16, m);
}

// --- the ends

// cos and sin of the current position [R/2]: the angle in fp32 (arithmetic.md 2), cos and sin in double, rounded to
// float, then h() as the plan says.
static void rope_row(struct step *run, uint32_t position)
{
    const uint32_t half = run->rotary_width / 2;
    const uint32_t turns = run->fault == FAULT_ROPE_OFF_BY_ONE       ? position + 1
                           : run->fault == FAULT_POSITION_RESTARTED ? position - run->loaded
                                                                    : position;
    for (uint32_t j = 0; j < half; j++) {
        const float angle = run->frequencies[j] * (float)turns;
        run->cos[j] = (float)angle_cos(angle);
        run->sin[j] = (float)angle_sin(angle);
    }
    run->kernels.round(run->cos, half, run->plan.rows[PLAN_ROPE_TABLE]);
    run->kernels.round(run->sin, half, run->plan.rows[PLAN_ROPE_TABLE]);
}

void step_embed(struct step *run, uint32_t position, uint32_t token)
{
    assert(position < run->capacity && token < run->model->config.vocabulary);
    rope_row(run, position);
    weight_row(&run->model->embedding, token, run->h);
    run->kernels.round(run->h, run->model->config.hidden, PRECISION_F16);
}

const float *step_head(struct step *run, const float *x)
{
    const uint32_t vocabulary = run->model->config.vocabulary;
    step_linear(run, &run->model->head, NULL, x, run->plan.rows[PLAN_LOGITS], run->logits);
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

// w of a whole small tensor, exactly.
static bool exact_open(struct arena *arena, const struct weight *weight, const float **out)
{
    *out = NULL;
    if (weight->format == WEIGHT_NONE)
        return true;
    float *values = arena_alloc(arena, weight->cols, sizeof *values);
    if (values)
        weight_row(weight, 0, values);
    *out = values;
    return values != NULL;
}

static bool layer_open(struct arena *arena, const struct layer *layer, struct step_layer *own)
{
    const struct {
        const struct weight *weight;
        const float **vector;
    } vectors[] = {
        {&layer->mixer_norm, &own->mixer_norm},   {&layer->ffn_norm, &own->ffn_norm},
        {&layer->q_norm, &own->q_norm},           {&layer->k_norm, &own->k_norm},
        {&layer->q_bias, &own->q_bias},           {&layer->k_bias, &own->k_bias},
        {&layer->v_bias, &own->v_bias},           {&layer->attn_out_bias, &own->attn_out_bias},
        {&layer->in_proj_bias, &own->in_bias},    {&layer->conv_bias, &own->conv_bias},
        {&layer->conv_out_bias, &own->out_bias},  {&layer->delta_norm, &own->delta_norm},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        if (!vector_open(arena, vectors[i].weight, vectors[i].vector))
            return false;
    if (!exact_open(arena, &layer->a_log, &own->a_log) || !exact_open(arena, &layer->dt_bias, &own->dt_bias) ||
        !exact_open(arena, &layer->expert_bias, &own->expert_bias))
        return false;
    return layer->mixer == MIXER_ATTENTION ||
           taps_open(arena, layer->mixer == MIXER_CONV ? &layer->conv : &layer->delta_conv, &own->taps);
}

// f = fl32(1 / p), p = fl32(theta^e), e = fl32(2 j / R): transformers' float32 steps (arithmetic.md 2,
// oracles/README.md).
static void frequencies_open(struct step *run)
{
    const uint32_t width = run->rotary_width;
    const double theta = run->fault == FAULT_ROPE_THETA ? FAULT_THETA : run->model->config.rope_theta;
    const bool narrow =
        run->fault == FAULT_ROPE_FREQUENCY_F16 || run->plan.rows[PLAN_ROPE_FREQUENCY] == PRECISION_F16;
    for (uint32_t j = 0; j < width / 2; j++) {
        const float exponent = (float)(2 * j) / (float)width;
        const float frequency = 1.0f / (float)angle_power(theta, exponent);
        run->frequencies[j] = narrow ? half_round(frequency) : frequency;
    }
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static bool rows_open(struct arena *arena, struct step *run)
{
    const struct config *config = &run->model->config;
    const size_t d = config->hidden, dh = config->head_width, half = run->rotary_width / 2;
    const size_t feed_forward = larger(config->feed_forward, larger(config->expert_width, config->shared_width));
    const size_t q_width = config->query_heads * dh, k_width = config->key_heads * dh;
    const size_t values = (size_t)config->delta_value_heads * config->delta_value_width;
    const size_t widest = larger(larger(d, feed_forward), larger(q_width, values)); // input of a linear layer
    const size_t conv = config_is_lfm2(config) ? d : 0, gates = config_is_lfm2(config) ? 0 : q_width;
    const size_t channels = config_delta_channels(config), value_heads = config->delta_value_heads;
    const size_t spare = run->fault == FAULT_NONE ? 0 : values * config->delta_key_width;
    const size_t slots = config->experts ? config->experts_per_token + 1 : 0;
    const struct {
        float **row;
        size_t width;
    } rows[] = {
        {&run->frequencies, half},
        {&run->cos, half},
        {&run->sin, half},
        {&run->h, d},
        {&run->u, d},
        {&run->m, d},
        {&run->bcx, 3 * conv},
        {&run->bx, conv},
        {&run->c, conv},
        {&run->query_gate, 2 * gates},
        {&run->attn_gate, gates},
        {&run->column, channels},
        {&run->qkv, channels},
        {&run->z, values},
        {&run->core, values},
        {&run->a, value_heads},
        {&run->b, value_heads},
        {&run->beta, value_heads},
        {&run->g, value_heads},
        {&run->spare, spare},
        {&run->q, q_width},
        {&run->k, k_width},
        {&run->v, k_width},
        {&run->o, q_width},
        {&run->scratch, q_width * ATTENTION_SIMDGROUPS},
        {&run->gate, feed_forward},
        {&run->up, feed_forward},
        {&run->arranged, kernels_arranged(widest)},
        {&run->logits, config->vocabulary},
        {&run->router, config->experts},
        {&run->scores, config->experts},
        {&run->ids, config->experts_per_token},
        {&run->weights, slots},
        {&run->outputs, slots * d},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!(*rows[i].row = arena_alloc(arena, rows[i].width, sizeof(float))))
            return false;
    run->chosen = arena_alloc(arena, config->experts_per_token, sizeof *run->chosen);
    return run->chosen != NULL;
}

int step_open(struct arena *arena, const struct model *model, const struct plan *plan, enum fault fault,
                      enum isa isa, struct pool *pool, uint32_t capacity, struct step **out,
                      struct error *error)
{
    const struct config *config = &model->config;
    struct step *run = arena_alloc(arena, 1, sizeof *run);
    if (!run)
        return error_set(error, ERROR_RUNTIME, "memory is exhausted: the runtime needs %zu bytes", sizeof *run);
    *run = (struct step){.model = model, .plan = *plan, .fault = fault, .pool = pool, .capacity = capacity};
    kernels_init(&run->kernels, isa);
    run->rotary_width = fault == FAULT_ROTARY_ALL ? config->head_width / 2 * 2 : config->rotary_width;
    run->layers = arena_alloc(arena, config->layers, sizeof *run->layers);
    bool ok = run->layers && rows_open(arena, run) && vector_open(arena, &model->final_norm, &run->final_norm);
    for (uint32_t i = 0; ok && i < config->layers; i++)
        ok = layer_open(arena, &model->layers[i], &run->layers[i]);
    if (!ok)
        return error_set(error, ERROR_RUNTIME, "memory is exhausted after %zu bytes of the runtime's rows",
                         arena->bytes);
    frequencies_open(run);
    *out = run;
    return step_state_open(run, arena, error);
}
