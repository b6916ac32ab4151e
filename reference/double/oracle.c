#include "reference/double/oracle.h"

#include <math.h>

#include "harness/base/floating.h"
#include "reference/double/matrix.h"

void oracle_put(const struct oracle *o, uint32_t layer, enum tap_point point, const double *rows, uint32_t width)
{
    if (o->taps && o->taps->put)
        o->taps->put(o->taps->context, layer, point, rows, o->n, width);
}

void oracle_put_state(const struct oracle *o, uint32_t layer, enum state_kind kind, const double *values,
                      uint64_t elements)
{
    if (o->taps && o->taps->put_state)
        o->taps->put_state(o->taps->context, layer, kind, values, elements);
}

void oracle_embed(struct oracle *o, const uint32_t *tokens)
{
    const uint32_t d = o->model->config.hidden;
    for (uint32_t t = 0; t < o->n; t++) {
        weight_row(&o->model->embedding, tokens[t], o->row);
        for (uint32_t i = 0; i < d; i++)
            o->h[(size_t)t * d + i] = (double)o->row[i];
    }
}

void oracle_residual(struct oracle *o, uint32_t layer, enum tap_point added, enum tap_point sum)
{
    const uint32_t d = o->model->config.hidden;
    oracle_put(o, layer, added, o->m, d);
    for (uint64_t i = 0; i < (uint64_t)o->n * d; i++)
        o->h[i] += o->m[i];
    oracle_put(o, layer, sum, o->h, d);
}

// As out^T = weight x^T: the shape that BLIS is fast at.
void oracle_linear(struct oracle *o, const double *x, uint32_t rows, const struct weight *weight,
                   const struct weight *bias, double *out)
{
    const uint32_t cols = weight->cols;
    const int has_bias = bias && bias->format != WEIGHT_NONE;
    if (has_bias) {
        weight_row(bias, 0, o->row);
        for (uint32_t t = 0; t < rows; t++)
            for (uint32_t r = 0; r < weight->rows; r++)
                out[(size_t)t * weight->rows + r] = (double)o->row[r];
    }
    for (uint32_t first = 0; first < weight->rows; first += ORACLE_TILE_ROWS) {
        const uint32_t left = weight->rows - first, count = left < ORACLE_TILE_ROWS ? left : ORACLE_TILE_ROWS;
        for (uint32_t r = 0; r < count; r++) {
            weight_row(weight, first + r, o->row);
            for (uint32_t k = 0; k < cols; k++)
                o->tile[(size_t)r * cols + k] = (double)o->row[k];
        }
        matrix_multiply(1, matrix_of(o->tile, count, cols, cols), matrix_transposed(matrix_of(x, rows, cols, cols)),
                        has_bias, matrix_transposed(matrix_of(out + first, rows, count, weight->rows)));
    }
}

static void norm(struct oracle *o, const double *x, uint64_t rows, uint32_t width, const struct weight *weight,
                 double centre, double *y)
{
    weight_row(weight, 0, o->row);
    for (uint64_t t = 0; t < rows; t++, x += width, y += width) {
        double squares = 0;
        for (uint32_t i = 0; i < width; i++)
            squares += x[i] * x[i];
        const double root = sqrt(squares / width + o->eps);
        for (uint32_t i = 0; i < width; i++)
            y[i] = x[i] / root * (centre + (double)o->row[i]);
    }
}

void oracle_norm(struct oracle *o, const double *x, uint64_t rows, uint32_t width, const struct weight *weight,
                 double *y)
{
    norm(o, x, rows, width, weight, 0, y);
}

void oracle_norm_centred(struct oracle *o, const double *x, uint64_t rows, uint32_t width,
                         const struct weight *weight, double *y)
{
    norm(o, x, rows, width, weight, 1, y);
}

void oracle_rotary_table(struct oracle *o)
{
    const uint32_t width = o->model->config.rotary_width, half = width / 2;
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

void oracle_rotate(const struct oracle *o, double *x, uint32_t heads)
{
    const uint32_t dh = o->model->config.head_width, half = o->model->config.rotary_width / 2;
    for (uint32_t t = 0; t < o->n; t++)
        for (uint32_t head = 0; head < heads; head++, x += dh)
            for (uint32_t j = 0; j < half; j++) {
                const double c = o->cosine[(size_t)t * half + j], s = o->sine[(size_t)t * half + j];
                const double a = x[j], b = x[j + half];
                x[j] = a * c - b * s;
                x[j + half] = b * c + a * s;
            }
}

// All scores of a head at once; then each row's causal part. The mixture takes exactly that part too: a product of a
// masked zero with a NaN further on would be one.
static void head_attention(struct oracle *o, const double *q, const double *k, const double *v, double *out)
{
    const struct config *config = &o->model->config;
    const uint32_t dh = config->head_width, all_q = config->query_heads * dh, all_k = config->key_heads * dh;
    const uint32_t n = o->n;
    matrix_multiply(1 / sqrt((double)dh), matrix_of(q, n, dh, all_q), matrix_transposed(matrix_of(k, n, dh, all_k)),
                    0, matrix_of(o->scores, n, n, n));
    for (uint32_t t = 0; t < n; t++) {
        double *row = o->scores + (size_t)t * n;
        oracle_softmax(row, t + 1);
        matrix_multiply(1, matrix_of(row, 1, t + 1, n), matrix_of(v, t + 1, dh, all_k), 0,
                        matrix_of(out + (size_t)t * all_q, 1, dh, all_q));
    }
}

void oracle_attention(struct oracle *o, const double *q, const double *k, const double *v, double *out)
{
    const struct config *config = &o->model->config;
    const uint32_t group = config->query_heads / config->key_heads, dh = config->head_width;
    for (uint32_t head = 0; head < config->query_heads; head++) {
        const size_t query = (size_t)head * dh, key = (size_t)(head / group) * dh;
        head_attention(o, q + query, k + key, v + key, out + query);
    }
}

static void put_columns(const struct oracle *o, uint32_t layer, const double *x, uint32_t channels)
{
    const uint32_t kept = o->model->config.conv_taps - 1;
    for (uint32_t c = 0; c < channels; c++)
        for (uint32_t j = 0; j < kept; j++) {
            const uint32_t back = kept - j; // tokens before the end
            o->columns[(size_t)c * kept + j] = back <= o->n ? x[(size_t)(o->n - back) * channels + c] : 0;
        }
    oracle_put_state(o, layer, STATE_CONV, o->columns, (uint64_t)channels * kept);
}

// Columns: every tap of the kernel goes over the whole sequence before the next one.
void oracle_convolve(struct oracle *o, uint32_t layer, const double *x, const struct weight *taps,
                     const struct weight *bias, double *out)
{
    const uint32_t channels = taps->rows, K = taps->cols;
    for (uint32_t c = 0; c < channels; c++) {
        const double start = bias && bias->format != WEIGHT_NONE ? (double)weight_at(bias, 0, c) : 0;
        for (uint32_t t = 0; t < o->n; t++)
            out[(size_t)t * channels + c] = start;
        for (uint32_t back = 0; back < K && back < o->n; back++) {
            const double w = (double)weight_at(taps, c, K - 1 - back);
            for (uint32_t t = back; t < o->n; t++)
                out[(size_t)t * channels + c] += w * x[(size_t)(t - back) * channels + c];
        }
    }
    put_columns(o, layer, x, channels);
}

void oracle_swiglu(struct oracle *o, const double *x, uint32_t rows, const struct expert *weights, double *out)
{
    double *gate = o->wide[0], *up = o->wide[1];
    oracle_linear(o, x, rows, &weights->gate, NULL, gate);
    oracle_linear(o, x, rows, &weights->up, NULL, up);
    for (uint64_t i = 0; i < (uint64_t)rows * weights->gate.rows; i++)
        gate[i] = oracle_silu(gate[i]) * up[i];
    oracle_linear(o, gate, rows, &weights->down, NULL, out);
}

void oracle_softmax(double *row, uint32_t n)
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

double oracle_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

double oracle_silu(double x)
{
    return x / (1 + exp(-x));
}
