// Wrong on purpose: the operators of the delta net, of the gates and of the experts.
#include <math.h>
#include <string.h>

#include "harness/base/half.h"
#include "tests/kernels/wrong.h"

static void centred_without_one(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    float less[CHECK_LONGEST];
    for (uint32_t k = 0; k < n; k++)
        less[k] = w[k] - 1;
    check_definitions()->rms_norm_centred(x, less, n, eps, y);
}

static void centred_rounds_twice(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    float factor[CHECK_LONGEST];
    for (uint32_t k = 0; k < n; k++)
        factor[k] = 1 + w[k];
    check_definitions()->rms_norm(x, factor, n, eps, y);
}

static void gated_rounds_between(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y)
{
    float gate[CHECK_LONGEST];
    for (uint32_t k = 0; k < n; k++)
        gate[k] = z[k] * kernels_sigmoid(z[k]);
    check_definitions()->rms_norm(o, w, n, eps, y);
    for (uint32_t k = 0; k < n; k++)
        y[k] = half_round(y[k] * gate[k]);
}

static void gate_not_rounded(const float *o, const float *gate, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = half_round(o[i] * kernels_sigmoid(gate[i]));
}

static void silu_of_a_quotient(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = half_round(x[i] / (1 + kernels_exp(-x[i])));
}

static void silu_leaves_the_tail(const float *x, size_t n, float *y)
{
    check_definitions()->silu(x, n / 8 * 8, y);
}

static void l2_rounds_after_the_scale(const float *x, uint32_t n, float scale, enum precision chain, float *y)
{
    check_definitions()->l2_norm(x, n, scale, chain, y);
    for (uint32_t k = 0; k < n; k++)
        y[k] = half_round(y[k]);
}

static void l2_ignores_the_plan(const float *x, uint32_t n, float scale, enum precision chain, float *y)
{
    (void)chain;
    check_definitions()->l2_norm(x, n, scale, PRECISION_F32, y);
}

static void step_forgets_the_decay(const struct delta_state *state, const float *q, const float *k, const float *v,
                                   float beta, float g, float *out)
{
    (void)g;
    check_definitions()->delta_step(state, q, k, v, beta, 0, out);
}

// out from the state as it is stored: for a state in floats that is right.
static void step_reads_the_stored(const struct delta_state *state, const float *q, const float *k, const float *v,
                                  float beta, float g, float *out)
{
    const uint32_t dv = state->value_width;
    check_definitions()->delta_step(state, q, k, v, beta, g, out);
    for (uint32_t j = 0; j < dv && state->precision == PRECISION_F16; j++) {
        float o = 0;
        for (uint32_t i = 0; i < state->key_width; i++)
            o = fmaf(q[i], half_to_float(((const uint16_t *)state->s)[(size_t)i * dv + j]), o);
        out[j] = half_round(o);
    }
}

static void step_leaves_the_last_column(const struct delta_state *state, const float *q, const float *k,
                                        const float *v, float beta, float g, float *out)
{
    const size_t last = (size_t)state->key_width * state->value_width - 1, size = state->precision ? 4 : 2;
    unsigned char *element = (unsigned char *)state->s + last * size, before[4];
    memcpy(before, element, size);
    check_definitions()->delta_step(state, q, k, v, beta, g, out);
    memcpy(element, before, size);
}

static void step_keeps_payloads(const struct delta_state *state, const float *q, const float *k, const float *v,
                                float beta, float g, float *out)
{
    check_definitions()->delta_step(state, q, k, v, beta, g, out);
    for (size_t i = 0; i < (size_t)state->key_width * state->value_width && state->precision == PRECISION_F16; i++) {
        uint16_t *half = (uint16_t *)state->s + i;
        *half = *half == HALF_NAN ? HALF_NAN | 0x8000 : *half;
    }
}

static void experts_not_fused(const float *outputs, const float *weights, uint32_t slots, uint32_t d, float *y)
{
    for (uint32_t i = 0; i < d; i++) {
        float sum = 0;
        for (uint32_t slot = 0; slot < slots; slot++)
            sum += weights[slot] * outputs[(size_t)slot * d + i];
        y[i] = half_round(sum);
    }
}

static void experts_forget_the_last(const float *outputs, const float *weights, uint32_t slots, uint32_t d, float *y)
{
    check_definitions()->expert_sum(outputs, weights, slots - 1, d, y);
}

static void experts_one_too_many(const float *outputs, const float *weights, uint32_t slots, uint32_t d, float *y)
{
    check_definitions()->expert_sum(outputs, weights, slots, d, y);
    y[d] = 0;
}

// --- LIN of the experts' formats

typedef float (*element_fn)(const struct weight *weight, uint32_t row, uint32_t col);

// LIN of rows whose elements `element` makes; right under any other rule than the standard one.
static void lin_of(const struct weight *w, const float *x, struct linear_rule rule, size_t first, size_t end,
                   float *y, element_fn element)
{
    float row[CHECK_LONGEST];
    const struct weight plain = {.name = w->name, .format = WEIGHT_F32, .rows = 1, .cols = w->cols, .data = row};
    const bool is_standard = rule.sum == PRECISION_F32 && rule.dequant == PRECISION_F32;
    for (size_t r = first; r < end; r++) {
        for (uint32_t k = 0; k < w->cols; k++)
            row[k] = element(w, (uint32_t)r, k);
        check_definitions()->linear(is_standard ? &plain : w, x, rule, is_standard ? 0 : r, is_standard ? 1 : r + 1,
                                    is_standard ? y + r : y);
    }
}

static float element_signed(const struct weight *w, uint32_t row, uint32_t col)
{
    const size_t at = (size_t)row * (w->cols / w->block) + col / w->block;
    struct weight codes = *w;
    codes.format = WEIGHT_Q4;
    return weight_at(&codes, row, col) + half_to_float(w->bias[at]);
}

static float element_of_the_first_book(const struct weight *w, uint32_t row, uint32_t col)
{
    const struct weight alone = {.format = w->format, .rows = 1, .cols = w->cols, .lut = w->lut,
                                 .data = (const uint8_t *)w->data + row * weight_row_bytes(w)};
    return weight_at(&alone, 0, col);
}

static float element_high_nibble_first(const struct weight *w, uint32_t row, uint32_t col)
{
    return weight_at(w, row, (col ^ 1) < w->cols ? col ^ 1 : col);
}

#define WRONG_ELEMENT(name, element)                                                                                 \
    static void name(const struct weight *w, const float *x, struct linear_rule rule, size_t first, size_t end,      \
                     float *y)                                                                                       \
    {                                                                                                                \
        lin_of(w, x, rule, first, end, y, element);                                                                  \
    }
WRONG_ELEMENT(lin_signed_codes, element_signed)
WRONG_ELEMENT(lin_first_book, element_of_the_first_book)
WRONG_ELEMENT(lin_high_nibble_first, element_high_nibble_first)

static void lin_not_rounded(const struct weight *w, const float *x, struct linear_rule rule, size_t first, size_t end,
                            float *y)
{
    rule.dequant = PRECISION_F32;
    check_definitions()->linear(w, x, rule, first, end, y);
}

static void lin_rounded(const struct weight *w, const float *x, struct linear_rule rule, size_t first, size_t end,
                        float *y)
{
    rule.dequant = PRECISION_F16;
    check_definitions()->linear(w, x, rule, first, end, y);
}

// --- the reference's activation

static void swiglu_right(float *gate, const float *up, uint32_t n)
{
    swiglu_best(ISA_SCALAR)(gate, up, n);
}

static void activation_one_too_many(float *gate, const float *up, uint32_t n)
{
    swiglu_right(gate, up, n);
    gate[n] = 0;
}

static void activation_leaves_the_tail(float *gate, const float *up, uint32_t n)
{
    swiglu_right(gate, up, n / 8 * 8);
}

static void activation_in_float(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void activation_rounds_once(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

const struct wrong wrong_delta[] = {
    {"reference.swiglu", NULL, .swiglu = swiglu_right},
    {"reference.swiglu", "one element too many", .swiglu = activation_one_too_many},
    {"reference.swiglu", "the tail left alone", .swiglu = activation_leaves_the_tail},
    {"reference.swiglu", "in single precision", .swiglu = activation_in_float},
    {"reference.swiglu", "silu not rounded before the product", .swiglu = activation_rounds_once},
    {"runtime.linear.a4", "codes of two's complement", .kernels.linear = lin_signed_codes},
    {"runtime.linear.[qa]*", "fp32 weights whatever the plan says", .kernels.linear = lin_not_rounded},
    {"runtime.linear.[qa]*", "weights rounded to half whatever the plan says", .kernels.linear = lin_rounded},
    {"runtime.linear.k*", "one codebook for all rows", .kernels.linear = lin_first_book},
    {"runtime.linear.[ak]4", "the high nibble first", .kernels.linear = lin_high_nibble_first},
    {"runtime.rms_norm_centred", "the 1 dropped", .kernels.rms_norm_centred = centred_without_one},
    {"runtime.rms_norm_centred", "one h() too many", .kernels.rms_norm_centred = centred_rounds_twice},
    {"runtime.rms_norm_gated", "one h() too many", .kernels.rms_norm_gated = gated_rounds_between},
    {"runtime.attention_gate", "the sigmoid not rounded", .kernels.attention_gate = gate_not_rounded},
    {"runtime.silu", "a quotient", .kernels.silu = silu_of_a_quotient},
    {"runtime.silu", "the tail left alone", .kernels.silu = silu_leaves_the_tail},
    {"runtime.l2_norm", "rounded after the scale", .kernels.l2_norm = l2_rounds_after_the_scale},
    {"runtime.l2_norm", "fp32 whatever the plan says", .kernels.l2_norm = l2_ignores_the_plan},
    {"runtime.delta_step", "no decay", .kernels.delta_step = step_forgets_the_decay},
    {"runtime.delta_step", "out from the rounded state", .kernels.delta_step = step_reads_the_stored},
    {"runtime.delta_step", "one element not stored", .kernels.delta_step = step_leaves_the_last_column},
    {"runtime.delta_step", "NaN signs kept", .kernels.delta_step = step_keeps_payloads},
    {"runtime.expert_sum", "products and sums for fma", .kernels.expert_sum = experts_not_fused},
    {"runtime.expert_sum", "the last slot forgotten", .kernels.expert_sum = experts_forget_the_last},
    {"runtime.expert_sum", "one element too many", .kernels.expert_sum = experts_one_too_many},
    {.subject = NULL},
};
