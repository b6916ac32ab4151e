#include "reference/double/lfm2.h"

#include <assert.h>
#include <blis.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness/base/arena.h"
#include "harness/base/floating.h"
#include "harness/run/tap.h"

enum { TILE_ROWS = 256 }; // of a weight matrix, widened at a time

struct oracle {
    const struct model *model;
    const struct double_taps *taps;
    uint32_t n;            // T
    rntm_t runtime;        // of BLIS: one thread
    double eps;            // of the norms
    float *row;            // [widest weight row] as stored
    double *tile;          // [TILE_ROWS, widest weight row]
    double *h, *u;         // [T, d] residual stream; normed
    double *m;             // [T, d] result of a mixer or feed-forward
    double *wide[3];       // [T, widest projection] each
    double *scores;        // [T, T] of one head
    double *cosine, *sine; // [T, dh / 2]
};

static void put(const struct oracle *o, uint32_t layer, enum tap_point point, const double *rows, uint32_t width)
{
    if (o->taps)
        o->taps->put(o->taps->context, layer, point, rows, o->n, width);
}

// The number that config.json states: the shortest decimal that rounds to this float. Rounding eps to float is the
// first error of an fp32 engine (3e-10 in the logits of lfm2-mini), not part of the model.
static double stated(float value)
{
    char text[32];
    double decimal = (double)value;
    for (int digits = 0; digits < FLT_DECIMAL_DIG; digits++) {
        snprintf(text, sizeof text, "%.*e", digits, (double)value);
        decimal = strtod(text, NULL);
        if ((float)decimal == value)
            break;
    }
    return decimal;
}

// --- operators on the whole sequence

// out [T, rows] = x [T, cols] weight^T + bias, as out^T = weight x^T: the shape that BLIS is fast at.
static void linear(struct oracle *o, const double *x, const struct weight *weight, const struct weight *bias,
                   double *out)
{
    const uint32_t rows = weight->rows, cols = weight->cols;
    double one = 1, beta = 0;
    if (bias && bias->format != WEIGHT_NONE) {
        beta = 1;
        weight_row(bias, 0, o->row);
        for (uint32_t t = 0; t < o->n; t++)
            for (uint32_t r = 0; r < rows; r++)
                out[(size_t)t * rows + r] = (double)o->row[r];
    }
    for (uint32_t first = 0; first < rows; first += TILE_ROWS) {
        const uint32_t count = rows - first < TILE_ROWS ? rows - first : TILE_ROWS;
        for (uint32_t r = 0; r < count; r++) {
            weight_row(weight, first + r, o->row);
            for (uint32_t k = 0; k < cols; k++)
                o->tile[(size_t)r * cols + k] = (double)o->row[k];
        }
        bli_dgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, count, o->n, cols, &one, o->tile, cols, 1, (double *)x, 1,
                     cols, &beta, out + first, 1, rows, NULL, &o->runtime);
    }
}

// y[t] = x[t] / sqrt(mean x[t]^2 + eps) * w over `width` columns; x == y is allowed. Rows of heads are rows too.
static void norm(struct oracle *o, const double *x, uint64_t rows, uint32_t width, const struct weight *weight,
                 double *y)
{
    weight_row(weight, 0, o->row);
    for (uint64_t t = 0; t < rows; t++, x += width, y += width) {
        double squares = 0;
        for (uint32_t i = 0; i < width; i++)
            squares += x[i] * x[i];
        const double root = sqrt(squares / width + o->eps);
        for (uint32_t i = 0; i < width; i++)
            y[i] = x[i] / root * (double)o->row[i];
    }
}

static void add(double *h, const double *m, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        h[i] += m[i];
}

// Halves rotated against each other: (a, b) -> (a cos - b sin, b cos + a sin) (architecture.md 1.2).
static void rotate(const struct oracle *o, double *x, uint32_t heads)
{
    const uint32_t width = o->model->config.head_width, half = width / 2;
    for (uint32_t t = 0; t < o->n; t++)
        for (uint32_t head = 0; head < heads; head++, x += width)
            for (uint32_t j = 0; j < half; j++) {
                const double c = o->cosine[(size_t)t * half + j], s = o->sine[(size_t)t * half + j];
                const double a = x[j], b = x[j + half];
                x[j] = a * c - b * s;
                x[j + half] = b * c + a * s;
            }
}

// Frequency and angle are rounded to float step by step, as the model's definition has it (arithmetic.md 2).
static void rotary_table(struct oracle *o)
{
    const uint32_t width = o->model->config.head_width, half = width / 2;
    for (uint32_t j = 0; j < half; j++) {
        const float exponent = (float)(2 * j) / (float)width;
        const float power = (float)pow(o->model->config.rope_theta, (double)exponent);
        const float frequency = 1.0f / power;
        for (uint32_t t = 0; t < o->n; t++) {
            const float angle = frequency * (float)t;
            o->cosine[(size_t)t * half + j] = cos((double)angle);
            o->sine[(size_t)t * half + j] = sin((double)angle);
        }
    }
}

// --- layers

// Columns: every tap of the kernel goes over the whole sequence before the next one (architecture.md 2.5).
static void short_conv(struct oracle *o, uint32_t layer)
{
    const struct config *config = &o->model->config;
    const struct layer *weights = &o->model->layers[layer];
    const uint32_t d = config->hidden, K = config->conv_taps;
    double *projected = o->wide[0], *bx = o->wide[1], *conv = o->wide[2];
    linear(o, o->u, &weights->in_proj, &weights->in_proj_bias, projected); // B | C | x
    for (uint32_t t = 0; t < o->n; t++)
        for (uint32_t c = 0; c < d; c++)
            bx[(size_t)t * d + c] = projected[(size_t)t * 3 * d + c] * projected[(size_t)t * 3 * d + 2 * d + c];
    put(o, layer, TAP_BX, bx, d);

    for (uint32_t c = 0; c < d; c++) {
        const double bias =
            weights->conv_bias.format == WEIGHT_NONE ? 0 : (double)weight_at(&weights->conv_bias, 0, c);
        for (uint32_t t = 0; t < o->n; t++)
            conv[(size_t)t * d + c] = bias;
        for (uint32_t back = 0; back < K && back < o->n; back++) {
            const double w = (double)weight_at(&weights->conv, c, K - 1 - back);
            for (uint32_t t = back; t < o->n; t++)
                conv[(size_t)t * d + c] += w * bx[(size_t)(t - back) * d + c];
        }
    }
    put(o, layer, TAP_CONV, conv, d);

    for (uint32_t t = 0; t < o->n; t++)
        for (uint32_t c = 0; c < d; c++)
            conv[(size_t)t * d + c] *= projected[(size_t)t * 3 * d + d + c];
    linear(o, conv, &weights->conv_out, &weights->conv_out_bias, o->m);
}

static void softmax(double *row, uint32_t n)
{
    double max = row[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        if (row[i] > max)
            max = row[i];
    for (uint32_t i = 0; i < n; i++)
        sum += row[i] = exp(row[i] - max);
    for (uint32_t i = 0; i < n; i++)
        row[i] /= sum;
}

// All scores of a head at once; then each row's causal part. The mixture takes exactly that part too: a product of a
// masked zero with a NaN further on would be one.
static void head_attention(struct oracle *o, uint32_t head, double *q, double *k, double *v, double *out)
{
    const struct config *config = &o->model->config;
    const uint32_t dh = config->head_width, all_q = config->query_heads * dh, all_k = config->key_heads * dh;
    const uint32_t key_head = head / (config->query_heads / config->key_heads), n = o->n;
    double scale = 1 / sqrt((double)dh), one = 1, zero = 0;
    q += (size_t)head * dh;
    out += (size_t)head * dh;
    k += (size_t)key_head * dh;
    v += (size_t)key_head * dh;
    bli_dgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, n, n, dh, &scale, q, all_q, 1, k, 1, all_k, &zero, o->scores,
                 n, 1, NULL, &o->runtime);
    for (uint32_t t = 0; t < n; t++) {
        double *row = o->scores + (size_t)t * n;
        softmax(row, t + 1);
        bli_dgemv_ex(BLIS_TRANSPOSE, BLIS_NO_CONJUGATE, t + 1, dh, &one, v, all_k, 1, row, 1, &zero,
                     out + (size_t)t * all_q, 1, NULL, &o->runtime);
    }
}

static void attention(struct oracle *o, uint32_t layer)
{
    const struct config *config = &o->model->config;
    const struct layer *weights = &o->model->layers[layer];
    const uint32_t dh = config->head_width, all_q = config->query_heads * dh, all_k = config->key_heads * dh;
    double *q = o->wide[0], *k = o->wide[1], *v = o->wide[2], *mixed = o->u; // u [T, d] is free once projected
    linear(o, o->u, &weights->q_proj, NULL, q);
    linear(o, o->u, &weights->k_proj, NULL, k);
    linear(o, o->u, &weights->v_proj, NULL, v);
    norm(o, q, (uint64_t)o->n * config->query_heads, dh, &weights->q_norm, q);
    norm(o, k, (uint64_t)o->n * config->key_heads, dh, &weights->k_norm, k);
    rotate(o, q, config->query_heads);
    rotate(o, k, config->key_heads);
    put(o, layer, TAP_Q, q, all_q);
    put(o, layer, TAP_K, k, all_k);
    put(o, layer, TAP_V, v, all_k);
    for (uint32_t head = 0; head < config->query_heads; head++)
        head_attention(o, head, q, k, v, mixed);
    put(o, layer, TAP_ATTN, mixed, all_q);
    linear(o, mixed, &weights->attn_out, NULL, o->m);
}

static void feed_forward(struct oracle *o, uint32_t layer)
{
    const struct layer *weights = &o->model->layers[layer];
    const uint64_t n = (uint64_t)o->n * o->model->config.feed_forward;
    double *gate = o->wide[0], *up = o->wide[1];
    linear(o, o->u, &weights->w1, NULL, gate);
    linear(o, o->u, &weights->w3, NULL, up);
    for (uint64_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    linear(o, gate, &weights->w2, NULL, o->m);
}

static void forward(struct oracle *o, const uint32_t *tokens, double *logits)
{
    const struct model *model = o->model;
    const struct config *config = &model->config;
    const uint32_t d = config->hidden;
    const uint64_t all = (uint64_t)o->n * d;
    for (uint32_t t = 0; t < o->n; t++) {
        weight_row(&model->embedding, tokens[t], o->row);
        for (uint32_t i = 0; i < d; i++)
            o->h[(size_t)t * d + i] = (double)o->row[i];
    }
    put(o, 0, TAP_EMBED, o->h, d);
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        put(o, layer, TAP_IN, o->h, d);
        norm(o, o->h, o->n, d, &model->layers[layer].mixer_norm, o->u);
        put(o, layer, TAP_NORM, o->u, d);
        if (config->mixers[layer] == MIXER_ATTENTION)
            attention(o, layer);
        else
            short_conv(o, layer);
        put(o, layer, TAP_MIXER, o->m, d);
        add(o->h, o->m, all);
        put(o, layer, TAP_RESID, o->h, d);
        norm(o, o->h, o->n, d, &model->layers[layer].ffn_norm, o->u);
        put(o, layer, TAP_FFN_NORM, o->u, d);
        feed_forward(o, layer);
        put(o, layer, TAP_FFN, o->m, d);
        add(o->h, o->m, all);
        put(o, layer, TAP_OUT, o->h, d);
    }
    norm(o, o->h, o->n, d, &model->final_norm, o->u);
    put(o, 0, TAP_FINAL_NORM, o->u, d);
    linear(o, o->u, &model->head, NULL, logits);
}

// --- memory

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void widest_row(void *context, const struct weight *weight)
{
    uint32_t *widest = context;
    *widest = larger(*widest, weight->cols);
}

static double *doubles(struct arena *arena, uint64_t rows, uint64_t width)
{
    return arena_alloc(arena, (size_t)rows, (size_t)width * sizeof(double)); // width < 2^34: no overflow
}

static int memory_open(struct arena *arena, struct oracle *o, struct error *error)
{
    const struct config *config = &o->model->config;
    const uint32_t d = config->hidden, queries = config->query_heads * config->head_width;
    const uint32_t projection = larger(3 * d, larger(queries, config->feed_forward));
    uint32_t cols = 0;
    model_visit(o->model, widest_row, &cols);
    o->row = arena_alloc(arena, cols, sizeof *o->row);
    o->tile = doubles(arena, TILE_ROWS, cols);
    o->h = doubles(arena, o->n, d);
    o->u = doubles(arena, o->n, larger(d, queries));
    o->m = doubles(arena, o->n, d);
    for (size_t i = 0; i < 3; i++)
        o->wide[i] = doubles(arena, o->n, projection);
    o->scores = doubles(arena, o->n, o->n);
    o->cosine = doubles(arena, o->n, config->head_width / 2);
    o->sine = doubles(arena, o->n, config->head_width / 2);
    if (o->row && o->tile && o->h && o->u && o->m && o->wide[0] && o->wide[1] && o->wide[2] && o->scores &&
        o->cosine && o->sine)
        return 0;
    return error_set(error, ERROR_RUNTIME, "out of memory for %u positions in double at once; use a shorter text",
                     o->n);
}

int double_lfm2_run(const struct model *model, const uint32_t *tokens, uint32_t n, double *logits,
                    const struct double_taps *taps, struct error *error)
{
    assert(n > 0);
    for (uint32_t t = 0; t < n; t++)
        if (tokens[t] >= model->config.vocabulary)
            return error_set(error, ERROR_INPUT, "token %u is %u, outside the vocabulary; expected 0 to %u", t,
                             tokens[t], model->config.vocabulary - 1);
    struct arena arena = {0};
    struct oracle oracle = {.model = model,
                            .taps = taps,
                            .n = n,
                            .runtime = BLIS_RNTM_INITIALIZER,
                            .eps = stated(model->config.norm_eps)};
    bli_rntm_set_num_threads(1, &oracle.runtime);
    bli_rntm_disable_l3_sup(&oracle.runtime); // its kernel for few rows is the slower one here
    const int status = memory_open(&arena, &oracle, error);
    if (!status) {
        struct floating saved;
        floating_enter(&saved);
        rotary_table(&oracle);
        forward(&oracle, tokens, logits);
        floating_leave(&saved);
    }
    arena_close(&arena);
    return status;
}

const char *double_blis_name(void)
{
    return bli_arch_string(bli_arch_query_id());
}
