// slow_qwen35: Qwen3.5 under the rounding points of arithmetic.md 3, once more, slow and obvious, as slow_runtime.h is
// for LFM2: columns of the whole sequence instead of a window, the delta rule element by element. What the families
// share (linear layers, rotation, the attention's walk over positions) is slow_runtime.h's; nothing is runtime/'s but
// the plan's rows.
#ifndef ASSAY_TESTS_SLOW_QWEN35_H
#define ASSAY_TESTS_SLOW_QWEN35_H

#include "tests/slow_runtime.h"

// Misreadings on purpose, for the negative control.
enum qwen35_slip {
    QWEN35_SLIP_NONE,
    QWEN35_SLIP_CENTRED,   // the centred norm rounds x r to half, as the plain one does
    QWEN35_SLIP_CONV,      // the convolution's sum goes to silu as fp32
    QWEN35_SLIP_SILU,      // the activated columns go on as fp32
    QWEN35_SLIP_QUERY,     // q is rounded to half after its factor
    QWEN35_SLIP_BETA,      // beta is rounded to half
    QWEN35_SLIP_DECAY,     // g is rounded to half
    QWEN35_SLIP_READ,      // o is read from the rounded state
    QWEN35_SLIP_CORE,      // the gated norm takes the unrounded o
    QWEN35_SLIP_GATED,     // the gated norm rounds its weighted row to half
    QWEN35_SLIP_GATE,      // the attention's gate goes on as fp32
    QWEN35_SLIP_HEAD,      // value head h takes key head h mod Hk
    QWEN35_SLIPS
};

enum { SLOW_CHANNELS = 512, SLOW_DELTA = 8192, SLOW_ROW = 640 };

struct slow_qwen35 {
    struct slow base; // model, plan, n, k, v
    enum qwen35_slip slip;
    double columns[SLOW_LAYERS][SLOW_TOKENS][SLOW_CHANNELS];
    double delta[SLOW_LAYERS][SLOW_DELTA];
};

static inline double slow_inverse(const double *x, uint32_t n, double divisor, double eps)
{
    double lane[32] = {0};
    for (uint32_t k = 0; k < n; k++)
        lane[k % 32] = fma_fl(x[k], x[k], lane[k % 32]);
    return fl(1 / fl(sqrt(fl(fl(tree32(lane, PRECISION_F32) / divisor) + eps))));
}

static inline void slow_centred(const struct slow_qwen35 *slow, const struct weight *w, const double *x, uint32_t n,
                                double *y)
{
    const double r = slow_inverse(x, n, n, (double)slow->base.model->config.norm_eps);
    for (uint32_t k = 0; k < n; k++) {
        const double turned = slow->slip == QWEN35_SLIP_CENTRED ? hf(fl(x[k] * r)) : fl(x[k] * r);
        y[k] = hf(fl(turned * fl(1 + hf((double)weight_at(w, 0, k)))));
    }
}

static inline double slow_silu(double x)
{
    return fl(x * sigmoid_fl(x));
}

// --- attention

static inline void slow_qwen35_attention(struct slow_qwen35 *slow, uint32_t layer, const double *u, double *m)
{
    struct slow *base = &slow->base;
    const struct config *config = &base->model->config;
    const struct layer *w = &base->model->layers[layer];
    const uint32_t dh = config->head_width;
    const enum precision state = base->plan.rows[PLAN_KV_STATE];
    static double rows[SLOW_ROW], q[64], o[SLOW_ROW];
    double *k = base->k[layer][base->n];
    slow_linear(&base->plan, &w->q_proj, &w->q_bias, u, PRECISION_F16, rows);
    slow_linear(&base->plan, &w->k_proj, &w->k_bias, u, PRECISION_F16, k);
    slow_linear(&base->plan, &w->v_proj, &w->v_bias, u, state, base->v[layer][base->n]);
    for (uint32_t head = 0; head < config->key_heads; head++) {
        slow_centred(slow, &w->k_norm, k + head * dh, dh, k + head * dh);
        slow_rope(&base->plan, config, base->n, k + head * dh, state);
    }
    for (uint32_t head = 0; head < config->query_heads; head++) {
        const double *query = rows + 2 * head * dh, *gate = query + dh;
        slow_centred(slow, &w->q_norm, query, dh, q);
        slow_rope(&base->plan, config, base->n, q, PRECISION_F16);
        slow_head(base, layer, head / (config->query_heads / config->key_heads), q, o + head * dh);
        for (uint32_t c = 0; c < dh; c++) {
            const double sigmoid = sigmoid_fl(gate[c]);
            o[head * dh + c] = hf(fl(o[head * dh + c] * (slow->slip == QWEN35_SLIP_GATE ? sigmoid : hf(sigmoid))));
        }
    }
    slow_linear(&base->plan, &w->attn_out, &w->attn_out_bias, o, PRECISION_F16, m);
}

// --- the delta net

// exp and softplus as runtime/kernels.h states them: fp32, each operation rounded.
static inline double softplus_fl(double x)
{
    const double terms[] = {-0x1.af49cep-9, 0x1.4917cep-6,  -0x1.d6b08cp-5, 0x1.b4ae08p-4, -0x1.3a435ep-3,
                            0x1.934b54p-3,  -0x1.ff23e6p-3, 0x1.554ddp-2,   -0x1.ffffd2p-2};
    if (isnan(x) || x > 20)
        return x;
    const double e = exp_fl(-fabs(x));
    double q = terms[0];
    for (int i = 1; i < 9; i++)
        q = fma_fl(q, e, terms[i]);
    const double log1p_e = fma_fl(fl(e * e), q, e);
    return x > 0 ? fl(x + log1p_e) : log1p_e;
}

// x [dk] -> h(x r) scale, r from a sum in fp32, or with each of its steps in half.
static inline void slow_length(enum precision chain, double *x, uint32_t dk, double scale)
{
    double lane[32] = {0}, r;
    for (uint32_t k = 0; k < dk; k++)
        lane[k % 32] = chain == PRECISION_F32 ? fma_fl(x[k], x[k], lane[k % 32])
                                              : hf(fl(lane[k % 32] + hf(fl(x[k] * x[k]))));
    const double ss = tree32(lane, chain);
    if (chain == PRECISION_F32)
        r = fl(1 / fl(sqrt(fl(ss + (double)1e-6f))));
    else
        r = hf(fl(1 / fl(sqrt(hf(fl(ss + hf((double)1e-6f)))))));
    for (uint32_t k = 0; k < dk; k++)
        x[k] = fl(hf(fl(x[k] * r)) * scale);
}

// q, k, v | the activated columns of this token [C].
static inline void slow_columns(struct slow_qwen35 *slow, uint32_t layer, const double *u, double *qkv)
{
    const struct slow *base = &slow->base;
    const struct layer *w = &base->model->layers[layer];
    const struct config *config = &base->model->config;
    const uint32_t taps = config->conv_taps, dk = config->delta_key_width;
    slow_linear(&base->plan, &w->qkv_proj, NULL, u, base->plan.rows[PLAN_CONV_STATE], slow->columns[layer][base->n]);
    for (uint32_t i = 0; i < w->qkv_proj.rows; i++) {
        double c = 0;
        for (uint32_t back = taps; back-- > 0;) // tokens ago
            c = fma_fl(hf((double)weight_at(&w->delta_conv, i, taps - 1 - back)),
                       back <= base->n ? slow->columns[layer][base->n - back][i] : 0, c);
        c = slow_silu(slow->slip == QWEN35_SLIP_CONV ? c : hf(c));
        qkv[i] = slow->slip == QWEN35_SLIP_SILU ? c : hf(c);
    }
    for (uint32_t head = 0; head < 2 * config->delta_key_heads; head++) {
        const bool is_query = head < config->delta_key_heads;
        slow_length(base->plan.rows[PLAN_DELTA_NORM], qkv + head * dk, dk, is_query ? fl(1 / sqrt(dk)) : 1);
        for (uint32_t c = 0; is_query && slow->slip == QWEN35_SLIP_QUERY && c < dk; c++)
            qkv[head * dk + c] = hf(qkv[head * dk + c]);
    }
}

// One value head: its state [dk, dv] moves on, o [dv] is read from it before the state is rounded.
static inline void slow_rule(const struct slow_qwen35 *slow, double *s, const double *q, const double *k,
                             const double *v, double beta, double g, double *o)
{
    const struct config *config = &slow->base.model->config;
    const uint32_t dk = config->delta_key_width, dv = config->delta_value_width;
    const enum precision state = slow->base.plan.rows[PLAN_DELTA_STATE];
    const double keep = exp_fl(g);
    for (uint32_t j = 0; j < dv; j++) {
        double memory = 0;
        for (uint32_t i = 0; i < dk; i++)
            memory = fma_fl(k[i], fl(s[i * dv + j] * keep), memory);
        const double d = fl(fl(v[j] - memory) * beta);
        o[j] = 0;
        for (uint32_t i = 0; i < dk; i++) {
            const double updated = fma_fl(k[i], d, fl(s[i * dv + j] * keep));
            s[i * dv + j] = to(updated, state);
            o[j] = fma_fl(q[i], slow->slip == QWEN35_SLIP_READ ? hf(updated) : updated, o[j]);
        }
        o[j] = slow->slip == QWEN35_SLIP_CORE ? o[j] : hf(o[j]);
    }
}

static inline void slow_delta_net(struct slow_qwen35 *slow, uint32_t layer, const double *u, double *m)
{
    const struct slow *base = &slow->base;
    const struct config *config = &base->model->config;
    const struct layer *w = &base->model->layers[layer];
    const uint32_t dk = config->delta_key_width, dv = config->delta_value_width;
    const uint32_t key_heads = config->delta_key_heads, heads = config->delta_value_heads;
    static double qkv[SLOW_CHANNELS], z[SLOW_ROW], a[SLOW_ROW], b[SLOW_ROW], core[SLOW_ROW];
    slow_columns(slow, layer, u, qkv);
    slow_linear(&base->plan, &w->z_proj, NULL, u, PRECISION_F16, z);
    slow_linear(&base->plan, &w->a_proj, NULL, u, PRECISION_F16, a);
    slow_linear(&base->plan, &w->b_proj, NULL, u, PRECISION_F16, b);
    for (uint32_t head = 0; head < heads; head++) {
        const uint32_t key = slow->slip == QWEN35_SLIP_HEAD ? head % key_heads : head / (heads / key_heads);
        const double rate = exp_fl((double)weight_at(&w->a_log, 0, head));
        double beta = sigmoid_fl(b[head]), *o = core + head * dv;
        double g = -fl(rate * softplus_fl(fl(a[head] + (double)weight_at(&w->dt_bias, 0, head))));
        beta = slow->slip == QWEN35_SLIP_BETA ? hf(beta) : beta;
        g = slow->slip == QWEN35_SLIP_DECAY ? hf(g) : g;
        slow_rule(slow, slow->delta[layer] + head * dk * dv, qkv + key * dk, qkv + (key_heads + key) * dk,
                  qkv + 2 * key_heads * dk + head * dv, beta, g, o);
        const double r = slow_inverse(o, dv, dv, (double)config->norm_eps);
        for (uint32_t j = 0; j < dv; j++) {
            const double weighted = fl(hf(fl(o[j] * r)) * hf((double)weight_at(&w->delta_norm, 0, j)));
            o[j] = hf(fl((slow->slip == QWEN35_SLIP_GATED ? hf(weighted) : weighted) * slow_silu(z[head * dv + j])));
        }
    }
    slow_linear(&base->plan, &w->delta_out, NULL, core, PRECISION_F16, m);
}

// --- the step

static inline const double *slow_qwen35_step(struct slow_qwen35 *slow, uint32_t token)
{
    struct slow *base = &slow->base;
    const struct model *model = base->model;
    const uint32_t d = model->config.hidden;
    static double h[SLOW_ROW], u[SLOW_ROW], m[SLOW_ROW], gate[SLOW_ROW], up[SLOW_ROW];
    for (uint32_t k = 0; k < d; k++)
        h[k] = hf((double)weight_at(&model->embedding, token, k));
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct layer *w = &model->layers[i];
        slow_centred(slow, &w->mixer_norm, h, d, u);
        if (w->mixer == MIXER_DELTA)
            slow_delta_net(slow, i, u, m);
        else
            slow_qwen35_attention(slow, i, u, m);
        for (uint32_t k = 0; k < d; k++)
            h[k] = hf(fl(h[k] + m[k]));
        slow_centred(slow, &w->ffn_norm, h, d, u);
        slow_linear(&base->plan, &w->w1, NULL, u, PRECISION_F16, gate);
        slow_linear(&base->plan, &w->w3, NULL, u, PRECISION_F16, up);
        for (uint32_t k = 0; k < model->config.feed_forward; k++)
            gate[k] = hf(fl(hf(slow_silu(gate[k])) * up[k]));
        slow_linear(&base->plan, &w->w2, NULL, gate, PRECISION_F16, m);
        for (uint32_t k = 0; k < d; k++)
            h[k] = hf(fl(h[k] + m[k]));
    }
    slow_centred(slow, &model->final_norm, h, d, u);
    slow_linear(&base->plan, &model->head, NULL, u, base->plan.rows[PLAN_LOGITS], base->logits);
    base->n++;
    return base->logits;
}

#endif
