// slow_runtime: LFM2 under the rounding points of arithmetic.md 3, once more, slow and obvious: the arithmetic of
// slow_arithmetic.h, every rounding written where the page states it, whole histories instead of caches. Written from
// the page, not from runtime/; it uses nothing of it but the plan's rows.
#ifndef ASSAY_TESTS_SLOW_RUNTIME_H
#define ASSAY_TESTS_SLOW_RUNTIME_H

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "harness/model/model.h"
#include "runtime/plan.h"
#include "tests/slow_arithmetic.h"

// --- operators

static inline double lin(const struct plan *plan, const struct weight *w, uint32_t row, const double *x)
{
    const enum precision sum = plan->rows[PLAN_LINEAR_SUM];
    const bool quantized = w->format == WEIGHT_Q8 || w->format == WEIGHT_Q4;
    double lane[32];
    for (uint32_t l = 0; l < 32; l++) {
        lane[l] = 0;
        for (uint32_t first = 8 * l; first < w->cols; first += 256) {
            double scale = 1, s = 0;
            if (quantized) {
                const uint16_t bits = w->scale[(size_t)row * (w->cols / w->block) + first / w->block];
                scale = ldexp((bits & 0x7C00) ? 1024 + (bits & 1023) : (bits & 1023),
                              ((bits >> 10 & 31) ? (bits >> 10 & 31) : 1) - 25);
            }
            for (uint32_t k = first; k < first + 8 && k < w->cols; k++) {
                double weight = (double)weight_at(w, row, k); // code x scale, exact
                if (quantized)
                    weight = plan->rows[PLAN_DEQUANT] == PRECISION_F16 ? hf(weight) : weight / scale;
                s = to(k == first ? fl(x[k] * weight) : fma_fl(x[k], weight, s), sum);
            }
            if (quantized && plan->rows[PLAN_DEQUANT] == PRECISION_F16)
                scale = 1;
            lane[l] = to(fma_fl(scale, s, lane[l]), sum);
        }
    }
    return tree32(lane, sum);
}

// y = h(LIN(x) + b)
static inline void slow_linear(const struct plan *plan, const struct weight *w, const struct weight *bias,
                               const double *x, enum precision precision, double *y)
{
    for (uint32_t r = 0; r < w->rows; r++) {
        double v = lin(plan, w, r, x);
        if (bias && bias->format != WEIGHT_NONE)
            v = fl(v + hf((double)weight_at(bias, 0, r)));
        y[r] = to(v, precision);
    }
}

static inline void slow_norm(const struct weight *w, const double *x, uint32_t n, double eps, double *y)
{
    double lane[32] = {0};
    for (uint32_t l = 0; l < 32; l++)
        for (uint32_t k = l; k < n; k += 32)
            lane[l] = fma_fl(x[k], x[k], lane[l]);
    const double r = fl(1 / fl(sqrt(fl(fl(tree32(lane, PRECISION_F32) / n) + eps))));
    for (uint32_t k = 0; k < n; k++)
        y[k] = hf(fl(hf(fl(x[k] * r)) * hf((double)weight_at(w, 0, k))));
}

static inline void slow_rope(const struct plan *plan, const struct config *config, uint32_t position, double *x,
                             enum precision precision)
{
    const uint32_t n = config->rotary_width / 2;
    for (uint32_t j = 0; j < n; j++) {
        const float e = 2.0f * (float)j / (float)config->rotary_width;
        const double p = fl((double)powl((long double)config->rope_theta, (long double)e));
        const double f = to(fl(1 / p), plan->rows[PLAN_ROPE_FREQUENCY]);
        const long double angle = (long double)fl(f * position);
        const double c = to((double)(float)cosl(angle), plan->rows[PLAN_ROPE_TABLE]);
        const double s = to((double)(float)sinl(angle), plan->rows[PLAN_ROPE_TABLE]);
        const double x1 = x[j], x2 = x[j + n];
        x[j] = to(fma_fl(x1, c, -fl(x2 * s)), precision);
        x[j + n] = to(fma_fl(x2, c, fl(x1 * s)), precision);
    }
}

// Misreadings on purpose, for the negative control.
enum slip {
    SLIP_NONE,
    SLIP_SILU,      // silu(g) u is rounded once
    SLIP_CONV,      // the convolution's result goes on as fp32
    SLIP_BX,        // B x goes on as fp32, and into the state
    SLIP_ATTENTION, // the attention's result goes on as fp32
    SLIP_RESIDUAL,  // the first residual sum goes on as fp32
    SLIP_EPSILON,   // eps is added to the sum of squares
    SLIPS
};

enum { SLOW_LAYERS = 8, SLOW_TOKENS = 80, SLOW_WIDTH = 4096 };

struct slow {
    const struct model *model;
    struct plan plan;
    enum slip slip;
    uint32_t n; // tokens so far
    // what the sequence was, per layer and token
    double bx[SLOW_LAYERS][SLOW_TOKENS][192], k[SLOW_LAYERS][SLOW_TOKENS][128], v[SLOW_LAYERS][SLOW_TOKENS][128];
    double logits[SLOW_WIDTH];
};

static inline void slow_conv(struct slow *slow, uint32_t layer, const double *u, double *m)
{
    const struct layer *w = &slow->model->layers[layer];
    const uint32_t d = slow->model->config.hidden, taps = slow->model->config.conv_taps;
    static double bcx[3 * 192], y[192];
    slow_linear(&slow->plan, &w->in_proj, &w->in_proj_bias, u, PRECISION_F16, bcx);
    for (uint32_t i = 0; i < d; i++) {
        const double bx = fl(bcx[i] * bcx[2 * d + i]);
        slow->bx[layer][slow->n][i] = slow->slip == SLIP_BX ? bx : to(bx, slow->plan.rows[PLAN_CONV_STATE]);
        double c = 0;
        for (uint32_t j = 0; j < taps; j++) {
            const uint32_t back = taps - 1 - j; // tokens ago
            const double column = back <= slow->n ? slow->bx[layer][slow->n - back][i] : 0;
            c = fma_fl(hf((double)weight_at(&w->conv, i, j)), column, c);
        }
        if (w->conv_bias.format != WEIGHT_NONE)
            c = fl(c + hf((double)weight_at(&w->conv_bias, 0, i)));
        y[i] = hf(fl(bcx[d + i] * (slow->slip == SLIP_CONV ? c : hf(c))));
    }
    slow_linear(&slow->plan, &w->conv_out, &w->conv_out_bias, y, PRECISION_F16, m);
}

// One query head over all positions so far.
static inline void slow_head(const struct slow *slow, uint32_t layer, uint32_t key_head, const double *q, double *out)
{
    const uint32_t dh = slow->model->config.head_width, length = slow->n + 1;
    const double scale = fl(1 / sqrt(dh));
    double m[8], l[8] = {0}, acc[8][64] = {{0}}, s[32], p[32], top = (double)-1e30f;
    for (uint32_t w = 0; w < 8; w++) {
        m[w] = (double)-1e30f;
        for (uint32_t first = 32 * w; first < length; first += 256) {
            double next = m[w], lanes[32] = {0};
            const uint32_t count = length - first < 32 ? length - first : 32;
            for (uint32_t t = 0; t < count; t++) {
                double dot = 0;
                for (uint32_t d = 0; d < dh; d++)
                    dot = fma_fl(q[d], slow->k[layer][first + t][key_head * dh + d], dot);
                s[t] = fl(scale * dot);
                next = s[t] > next ? s[t] : next;
            }
            const double c = exp_fl(fl(m[w] - next));
            for (uint32_t t = 0; t < count; t++)
                lanes[t] = p[t] = exp_fl(fl(s[t] - next));
            l[w] = fma_fl(l[w], c, tree32(lanes, PRECISION_F32));
            for (uint32_t d = 0; d < dh; d++) {
                acc[w][d] = fl(acc[w][d] * c);
                for (uint32_t t = 0; t < count; t++)
                    acc[w][d] = fma_fl(p[t], slow->v[layer][first + t][key_head * dh + d], acc[w][d]);
            }
            m[w] = next;
        }
        top = m[w] > top ? m[w] : top;
    }
    for (uint32_t d = 0; d < dh; d++) {
        double total = 0, o = 0;
        for (uint32_t w = 0; w < 8; w++) {
            total = fma_fl(l[w], exp_fl(fl(m[w] - top)), total);
            o = fma_fl(acc[w][d], exp_fl(fl(m[w] - top)), o);
        }
        out[d] = slow->slip == SLIP_ATTENTION ? fl(o / total) : hf(fl(o / total));
    }
}

static inline void slow_attention(struct slow *slow, uint32_t layer, const double *u, double *m)
{
    const struct config *config = &slow->model->config;
    const struct layer *w = &slow->model->layers[layer];
    const uint32_t dh = config->head_width;
    const enum precision state = slow->plan.rows[PLAN_KV_STATE];
    static double q[192], o[192];
    double *k = slow->k[layer][slow->n], *v = slow->v[layer][slow->n];
    slow_linear(&slow->plan, &w->q_proj, NULL, u, PRECISION_F16, q);
    slow_linear(&slow->plan, &w->k_proj, NULL, u, PRECISION_F16, k);
    slow_linear(&slow->plan, &w->v_proj, NULL, u, state, v);
    for (uint32_t head = 0; head < config->key_heads; head++) {
        slow_norm(&w->k_norm, k + head * dh, dh, (double)config->norm_eps, k + head * dh);
        slow_rope(&slow->plan, config, slow->n, k + head * dh, state);
    }
    for (uint32_t head = 0; head < config->query_heads; head++) {
        slow_norm(&w->q_norm, q + head * dh, dh, (double)config->norm_eps, q + head * dh);
        slow_rope(&slow->plan, config, slow->n, q + head * dh, PRECISION_F16);
        slow_head(slow, layer, head / (config->query_heads / config->key_heads), q + head * dh, o + head * dh);
    }
    slow_linear(&slow->plan, &w->attn_out, NULL, o, PRECISION_F16, m);
}

static inline const double *slow_step(struct slow *slow, uint32_t token)
{
    const struct model *model = slow->model;
    const struct config *config = &model->config;
    const uint32_t d = config->hidden;
    static double h[192], u[192], m[192], gate[640], up[640];
    for (uint32_t k = 0; k < d; k++)
        h[k] = hf((double)weight_at(&model->embedding, token, k));
    for (uint32_t i = 0; i < config->layers; i++) {
        const struct layer *w = &model->layers[i];
        slow_norm(&w->mixer_norm, h, d, (double)config->norm_eps * (slow->slip == SLIP_EPSILON ? 1.0 / d : 1), u);
        if (w->mixer == MIXER_CONV)
            slow_conv(slow, i, u, m);
        else
            slow_attention(slow, i, u, m);
        for (uint32_t k = 0; k < d; k++)
            h[k] = slow->slip == SLIP_RESIDUAL ? fl(h[k] + m[k]) : hf(fl(h[k] + m[k]));
        slow_norm(&w->ffn_norm, h, d, (double)config->norm_eps, u);
        slow_linear(&slow->plan, &w->w1, NULL, u, PRECISION_F16, gate);
        slow_linear(&slow->plan, &w->w3, NULL, u, PRECISION_F16, up);
        for (uint32_t k = 0; k < config->feed_forward; k++) {
            const double sigmoid = fl(1 / fl(1 + exp_fl(-gate[k])));
            const double silu = fl(gate[k] * sigmoid);
            gate[k] = hf(fl((slow->slip == SLIP_SILU ? silu : hf(silu)) * up[k]));
        }
        slow_linear(&slow->plan, &w->w2, NULL, gate, PRECISION_F16, m);
        for (uint32_t k = 0; k < d; k++)
            h[k] = hf(fl(h[k] + m[k]));
    }
    slow_norm(&model->final_norm, h, d, (double)config->norm_eps, u);
    slow_linear(&slow->plan, &model->head, NULL, u, slow->plan.rows[PLAN_LOGITS], slow->logits);
    slow->n++;
    return slow->logits;
}

#endif
