#include "reference/ops.h"

#include <math.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "reference/math.h"
#include "reference/math_inline.h"

void ops_embed(const struct weight *embedding, uint32_t token, float *h)
{
    weight_row(embedding, token, h);
}

static double sum_of_squares(const float *x, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i]; // the product of two floats is exact
    return sum;
}

static float reciprocal_rms(const float *x, uint32_t n, float eps)
{
    const float mean = (float)(sum_of_squares(x, n) / n);
    return math_reciprocal_sqrt((double)mean + eps);
}

void ops_rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    const float r = reciprocal_rms(x, n, eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = w[i] * (x[i] * r);
}

void ops_rms_norm_centred(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    const float r = reciprocal_rms(x, n, eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = (x[i] * r) * (1.0f + w[i]);
}

void ops_rms_norm_gated(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y)
{
    const float r = reciprocal_rms(o, n, eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = (w[i] * (o[i] * r)) * (float)math_inline_silu(z[i]);
}

void ops_l2_norm(const float *x, uint32_t n, float scale, float *y)
{
    const float square = (float)sum_of_squares(x, n);
    const float r = math_reciprocal_sqrt((double)square + 1e-6f);
    for (uint32_t i = 0; i < n; i++)
        y[i] = (x[i] * r) * scale;
}

void ops_rope_frequencies(double theta, uint32_t width, float *f)
{
    for (uint32_t j = 0; j < width / 2; j++) {
        const float exponent = (float)(2 * j) / (float)width;
        f[j] = 1.0f / math_pow(theta, exponent);
    }
}

void ops_rope_table(const float *f, uint32_t n, uint32_t position, float *cosine, float *sine)
{
    for (uint32_t j = 0; j < n; j++) {
        const float angle = f[j] * (float)position;
        cosine[j] = math_cos(angle);
        sine[j] = math_sin(angle);
    }
}

void ops_rope(float *x, const float *cosine, const float *sine, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const float a = x[i], b = x[i + n];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + n] = b * cosine[i] + a * sine[i];
    }
}

void ops_softmax(float *s, uint32_t n)
{
    float max = s[0];
    for (uint32_t t = 1; t < n; t++)
        if (s[t] > max)
            max = s[t]; // a NaN need not become the maximum: its own exp makes the sum, and so every p, NaN
    for (uint32_t t = 0; t < n; t++)
        s[t] = (float)math_inline_exp(s[t] - max);
    double sum = 0.0;
    for (uint32_t t = 0; t < n; t++)
        sum += s[t];
    const float total = (float)sum;
    for (uint32_t t = 0; t < n; t++)
        s[t] /= total;
}

void ops_attention(linear_fn dot, const float *q, const float *k, const float *v, uint32_t positions, uint32_t dh,
                   float scale, float *s, double *sums, float *out)
{
    const struct weight keys = {.name = "keys", .format = WEIGHT_F32, .rows = positions, .cols = dh, .data = k};
    struct linear_input query = {.split = NULL};
    linear_input_set(&query, q, dh);
    dot(&keys, &query, 0, positions, s);
    for (uint32_t t = 0; t < positions; t++)
        s[t] *= scale;
    ops_softmax(s, positions);
    for (uint32_t c = 0; c < dh; c++)
        sums[c] = 0.0;
    for (uint32_t t = 0; t < positions; t++) {
        const double p = s[t];
        const float *row = v + (size_t)t * dh;
        for (uint32_t c = 0; c < dh; c++)
            sums[c] += p * row[c]; // exact product
    }
    for (uint32_t c = 0; c < dh; c++)
        out[c] = (float)sums[c];
}

void ops_multiply(const float *a, const float *b, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = a[i] * b[i];
}

void ops_short_conv(const float *bx, const float *w, const float *bias, uint32_t d, uint32_t taps, float *state,
                    float *c)
{
    const uint32_t kept = taps - 1;
    for (uint32_t i = 0; i < d; i++) {
        float *column = state + (size_t)i * kept;
        const float *tap = w + (size_t)i * taps;
        float sum = 0.0f;
        for (uint32_t j = 0; j < kept; j++)
            sum = fmaf(tap[j], column[j], sum);
        sum = fmaf(tap[kept], bx[i], sum);
        c[i] = bias ? sum + bias[i] : sum;
        for (uint32_t j = 0; j + 1 < kept; j++)
            column[j] = column[j + 1];
        if (kept)
            column[kept - 1] = bx[i];
    }
}

void ops_sigmoid_gate(const float *x, const float *gate, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * (float)math_inline_sigmoid(gate[i]);
}

void ops_residual(const float *m, uint32_t n, float *h)
{
    for (uint32_t i = 0; i < n; i++)
        h[i] = m[i] + h[i];
}

void ops_add_weighted(float weight, const float *y, uint32_t n, float *sum)
{
    for (uint32_t i = 0; i < n; i++)
        sum[i] = fmaf(weight, y[i], sum[i]);
}

void ops_canonical(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (isnan(x[i]))
            x[i] = float_from_bits(FLOAT_NAN_BITS);
}
