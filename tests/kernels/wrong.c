// Kernels that are wrong on purpose: the check of their subject must catch each, and let the definition pass.
#include <float.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/math.h"
#include "reference/ops.h"
#include "tests/kernels/wrong.h"

// --- the reference's linear kernel

static float tree(float acc[LINEAR_LANES])
{
    for (size_t half = LINEAR_LANES / 2; half; half /= 2)
        for (size_t lane = 0; lane < half; lane++)
            acc[lane] += acc[lane + half];
    return acc[0];
}

static float neighbours_tree(float acc[LINEAR_LANES])
{
    for (size_t step = 1; step < LINEAR_LANES; step *= 2)
        for (size_t lane = 0; lane < LINEAR_LANES; lane += 2 * step)
            acc[lane] += acc[lane + step];
    return acc[0];
}

// Adds fma(+0, +0, acc) to the lanes that the last block does not fill.
static float zero_filled_tree(float acc[LINEAR_LANES], uint32_t n)
{
    for (size_t lane = n % LINEAR_LANES; lane && lane < LINEAR_LANES; lane++)
        acc[lane] = fmaf(0.0f, 0.0f, acc[lane]);
    return tree(acc);
}

static float flushed(float value)
{
    return fabsf(value) < FLT_MIN ? 0.0f : value;
}

// Lanes 0 and 1 change places. (All lanes moved by the same step, or by an exclusive or, give the same sum.)
static size_t swapped(uint32_t k)
{
    return k % 32 < 2 ? 1 - k % 32 : k % 32;
}

#define WRONG_ROWS(name, step, finish)                                                                               \
    static void name(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,        \
                     float *y)                                                                                       \
    {                                                                                                                \
        const uint32_t n = weight->cols;                                                                             \
        for (size_t row = first; row < end; row++) {                                                                 \
            float acc[LINEAR_LANES] = {0};                                                                           \
            for (uint32_t k = 0; k < n; k++) {                                                                       \
                const float w = weight_at(weight, (uint32_t)row, k), x = input->x[k];                                \
                step;                                                                                                \
            }                                                                                                        \
            y[row] = finish;                                                                                         \
        }                                                                                                            \
    }
WRONG_ROWS(right_rows, acc[k % 32] = fmaf(w, x, acc[k % 32]), tree(acc))
WRONG_ROWS(sequential, acc[0] = fmaf(w, x, acc[0]), acc[0])
WRONG_ROWS(multiply_and_add, acc[k % 32] += w * x, tree(acc))
WRONG_ROWS(sixteen_lanes, acc[k % 16] = fmaf(w, x, acc[k % 16]), tree(acc))
WRONG_ROWS(swapped_lanes, acc[swapped(k)] = fmaf(w, x, acc[swapped(k)]), tree(acc))
WRONG_ROWS(neighbours_first, acc[k % 32] = fmaf(w, x, acc[k % 32]), neighbours_tree(acc))
WRONG_ROWS(zero_filled_tail, acc[k % 32] = fmaf(w, x, acc[k % 32]), zero_filled_tree(acc, n))
WRONG_ROWS(last_element_lost, acc[k % 32] = fmaf(k + 1 < n ? w : 0, x, acc[k % 32]), tree(acc))
WRONG_ROWS(subnormals_flushed, acc[k % 32] = flushed(fmaf(w, x, acc[k % 32])), tree(acc))
WRONG_ROWS(nan_dropped, acc[k % 32] = isnan(w * x) ? acc[k % 32] : fmaf(w, x, acc[k % 32]), tree(acc))

static void one_row_too_many(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                             float *y)
{
    right_rows(weight, input, first, end + 1, y);
}

static void one_row_too_few(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                            float *y)
{
    right_rows(weight, input, first, end - 1, y);
}

// --- the runtime's linear kernel, for any format

struct reading {
    uint32_t run;       // consecutive inputs of a lane: 8
    bool fused;         // fma; otherwise a product, then a sum
    bool scale_outside; // the scale multiplies the chain; otherwise every product
    bool zero_filled;   // the chain goes on past the row's end with +0 x +0
};

static float lin(const struct weight *w, size_t row, const float *x, struct reading read)
{
    const bool quantized = w->format == WEIGHT_Q8 || w->format == WEIGHT_Q4;
    float lane[LINEAR_LANES] = {0};
    for (uint32_t k = 0; k < (read.zero_filled ? (w->cols + 255) / 256 * 256 : w->cols); k += read.run) {
        const uint32_t group = k < w->cols ? k : w->cols - 1;
        const float scale = quantized ? half_to_float(w->scale[row * (w->cols / w->block) + group / w->block]) : 1.0f;
        struct weight codes = *w; // with a scale of 1
        const uint16_t one = 0x3C00;
        float s = 0;
        for (uint32_t j = k; j < k + read.run && (j < w->cols || read.zero_filled); j++) {
            float element = 0;
            if (j < w->cols && quantized && read.scale_outside) {
                codes = (struct weight){.format = w->format, .rows = 1, .cols = w->cols, .scale = &one};
                codes.data = (const uint8_t *)w->data + row * weight_row_bytes(w);
                codes.block = w->cols;
                element = weight_at(&codes, 0, j);
            } else if (j < w->cols) {
                element = weight_at(w, (uint32_t)row, j);
            }
            const float input = j < w->cols ? x[j] : 0;
            s = j == k ? input * element : read.fused ? fmaf(input, element, s) : s + input * element;
        }
        float *acc = &lane[k / read.run % LINEAR_LANES];
        const float factor = read.scale_outside ? scale : 1;
        *acc = read.fused ? fmaf(factor, s, *acc) : *acc + factor * s;
    }
    return tree(lane);
}

static bool is_standard(struct linear_rule rule)
{
    return rule.sum == PRECISION_F32 && rule.dequant == PRECISION_F32;
}

// Under another rule than the standard one these are right.
#define WRONG_LIN(name, ...)                                                                                         \
    static void name(const struct weight *w, const float *x, struct linear_rule rule, size_t first, size_t end,      \
                     float *y)                                                                                       \
    {                                                                                                                \
        if (!is_standard(rule))                                                                                      \
            check_definitions()->linear(w, x, rule, first, end, y);                                                  \
        for (size_t row = first; row < end && is_standard(rule); row++)                                              \
            y[row] = lin(w, row, x, (struct reading){__VA_ARGS__});                                                  \
    }
WRONG_LIN(lin_right, 8, true, true, false)
WRONG_LIN(lin_lanes_of_four, 4, true, true, false)
WRONG_LIN(lin_multiply_and_add, 8, false, true, false)
WRONG_LIN(lin_scale_inside, 8, true, false, false)
WRONG_LIN(lin_zero_filled, 8, true, true, true)

static void lin_ignores_the_plan(const struct weight *w, const float *x, struct linear_rule rule, size_t first,
                                 size_t end, float *y)
{
    rule.sum = PRECISION_F32;
    check_definitions()->linear(w, x, rule, first, end, y);
}

static void lin_one_row_too_many(const struct weight *w, const float *x, struct linear_rule rule, size_t first,
                                 size_t end, float *y)
{
    check_definitions()->linear(w, x, rule, first, end + 1, y);
}

// --- the runtime's other operators

static void round_ties_up(float *x, size_t n, enum precision to)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = float_to_bits(x[i]);
        if (to == PRECISION_F16 && (bits & 0x3FFF) == 0x1000 && fabsf(x[i]) < 60000 && fabsf(x[i]) > 0x1p-14f)
            x[i] = float_from_bits(bits + 1);
    }
    check_definitions()->round(x, n, to);
}

static void round_keeps_payloads(float *x, size_t n, enum precision to)
{
    for (size_t i = 0; i < n; i++)
        x[i] = isnan(x[i]) ? x[i] : to == PRECISION_F16 ? half_round(x[i]) : x[i];
}

static void norm_in_sequence(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    float sum = 0;
    for (uint32_t k = 0; k < n; k++)
        sum = fmaf(x[k], x[k], sum);
    const float r = 1.0f / sqrtf(sum / (float)n + eps);
    for (uint32_t k = 0; k < n; k++)
        y[k] = half_round(half_round(x[k] * r) * w[k]);
}

static void norm_rounds_once(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    float ones[CHECK_LONGEST], unit[CHECK_LONGEST];
    for (uint32_t k = 0; k < n; k++)
        ones[k] = 1;
    check_definitions()->rms_norm(x, ones, n, eps, unit);
    for (uint32_t k = 0; k < n; k++)
        y[k] = unit[k] * w[k];
}

static void rope_not_fused(float *x, const float *cos, const float *sin, uint32_t dh, enum precision to)
{
    for (uint32_t j = 0; j < dh / 2; j++) {
        const float x1 = x[j], x2 = x[j + dh / 2];
        x[j] = x1 * cos[j] - x2 * sin[j];
        x[j + dh / 2] = x2 * cos[j] + x1 * sin[j];
    }
    check_definitions()->round(x, dh / 2 * 2, to);
}

static void conv_not_fused(const float *history, const float *newest, const float *taps, const float *bias,
                           uint32_t d, uint32_t n_taps, float *c)
{
    for (uint32_t i = 0; i < d; i++) {
        float sum = 0;
        for (uint32_t j = 0; j < n_taps; j++)
            sum += taps[(size_t)j * d + i] * (j + 1 < n_taps ? history[(size_t)j * d + i] : newest[i]);
        c[i] = half_round(bias ? sum + bias[i] : sum);
    }
}

static void conv_bias_first(const float *history, const float *newest, const float *taps, const float *bias,
                            uint32_t d, uint32_t n_taps, float *c)
{
    for (uint32_t i = 0; i < d; i++) {
        float sum = bias ? bias[i] : 0;
        for (uint32_t j = 0; j < n_taps; j++)
            sum = fmaf(taps[(size_t)j * d + i], j + 1 < n_taps ? history[(size_t)j * d + i] : newest[i], sum);
        c[i] = half_round(sum);
    }
}

static void swiglu_leaves_the_tail(const float *gate, const float *up, size_t n, float *y)
{
    check_definitions()->swiglu(gate, up, n / 8 * 8, y);
}

static void swiglu_one_too_many(const float *gate, const float *up, size_t n, float *y)
{
    check_definitions()->swiglu(gate, up, n, y);
    y[n] = 0;
}

static void swiglu_of_libm(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = half_round(half_round(gate[i] / (1.0f + expf(-gate[i]))) * up[i]);
}

static void product_flushes(const float *a, const float *b, size_t n, enum precision to, float *y)
{
    float flat[CHECK_LONGEST];
    for (size_t i = 0; i < n; i++)
        flat[i] = fabsf(a[i]) < 0x1p-14f ? copysignf(0, a[i]) : a[i];
    check_definitions()->product(flat, b, n, to, y);
}

static void add_writes_before(const float *a, const float *b, size_t n, float *y)
{
    check_definitions()->add(a, b, n, y);
    y[-1] = 0;
}

static void add_loses_the_sign_of_zero(const float *a, const float *b, size_t n, float *y)
{
    check_definitions()->add(a, b, n, y);
    for (size_t i = 0; i < n; i++)
        y[i] += 0.0f;
}

static void attention_forgets_the_last(const struct attention_view *view, const float *q, float *scratch, float *out)
{
    struct attention_view shorter = *view;
    shorter.length -= shorter.length > 1;
    check_definitions()->attention(&shorter, q, scratch, out);
}

static void attention_scales_the_query(const struct attention_view *view, const float *q, float *scratch, float *out)
{
    struct attention_view plain = *view;
    float scaled[CHECK_LONGEST];
    for (uint32_t d = 0; d < view->head_width; d++)
        scaled[d] = q[d] * view->scale;
    plain.scale = 1;
    check_definitions()->attention(&plain, scaled, scratch, out);
}

static void attention_drops_nan(const struct attention_view *view, const float *q, float *scratch, float *out)
{
    check_definitions()->attention(view, q, scratch, out);
    for (uint32_t d = 0; d < view->head_width; d++)
        out[d] = isnan(out[d]) ? 0 : out[d];
}

// --- the reference's delta rule

// Right for `sum` double, `write` an fma and all columns.
#define WRONG_DELTA(name, sum_type, columns, write)                                                                  \
    static void name(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S, double *sums, float *out)  \
    {                                                                                                                \
        const float decay = math_exp(input->g);                                                                      \
        (void)sums;                                                                                                  \
        for (uint32_t j = 0; j < (columns); j++) {                                                                   \
            sum_type read = 0, o = 0;                                                                                \
            for (uint32_t i = 0; i < dk; i++)                                                                        \
                read += (sum_type)input->k[i] * (S[i * dv + j] *= decay);                                            \
            const float d = input->beta * (input->v[j] - (float)read);                                               \
            for (uint32_t i = 0; i < dk; i++) {                                                                      \
                float *s = &S[i * dv + j];                                                                           \
                *s = write;                                                                                          \
                o += (sum_type)input->q[i] * *s;                                                                     \
            }                                                                                                        \
            out[j] = (float)o;                                                                                       \
        }                                                                                                            \
    }
WRONG_DELTA(delta_right, double, dv, fmaf(input->k[i], d, *s))
WRONG_DELTA(delta_multiply_and_add, double, dv, *s + input->k[i] * d)
WRONG_DELTA(delta_sums_floats, float, dv, fmaf(input->k[i], d, *s))
WRONG_DELTA(delta_one_column_too_few, double, dv - 1, fmaf(input->k[i], d, *s))
WRONG_DELTA(delta_drops_nan, double, dv, isnan(d) ? *s : fmaf(input->k[i], d, *s))

static void delta_one_element_too_many(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S,
                                       double *sums, float *out)
{
    delta_right(input, dk, dv, S, sums, out);
    S[dk * dv] = 0;
}

static void convolve_of_libm(const float *m, const float *w, uint32_t channels, uint32_t taps, float *state, float *c)
{
    ops_short_conv(m, w, NULL, channels, taps, state, c);
    for (uint32_t i = 0; i < channels; i++)
        c[i] = c[i] / (1 + expf(-c[i]));
}

// --- the table

static const struct wrong wrongs[] = {
    {"reference.linear.*", NULL, .rows = right_rows},
    {"reference.linear.*", "one chain", .rows = sequential},
    {"reference.linear.*", "a product and a sum for fma", .rows = multiply_and_add},
    {"reference.linear.*", "16 lanes", .rows = sixteen_lanes},
    {"reference.linear.*", "two lanes swapped", .rows = swapped_lanes},
    {"reference.linear.*", "the tree from neighbours on", .rows = neighbours_first},
    {"reference.linear.[fb]*", "a tail filled with zeros", .rows = zero_filled_tail}, // no code x scale is that small
    {"reference.linear.*", "the last element lost", .rows = last_element_lost},
    {"reference.linear.*", "subnormals flushed", .rows = subnormals_flushed},
    {"reference.linear.*", "NaN dropped", .rows = nan_dropped},
    {"reference.linear.*", "one row too many", .rows = one_row_too_many},
    {"reference.linear.*", "one row too few", .rows = one_row_too_few},
    {"reference.delta", NULL, .delta.step = delta_right},
    {"reference.delta", "a product and a sum for fma", .delta.step = delta_multiply_and_add},
    {"reference.delta", "sums of floats", .delta.step = delta_sums_floats},
    {"reference.delta", "one element of the state too many", .delta.step = delta_one_element_too_many},
    {"reference.delta", "the last column left alone", .delta.step = delta_one_column_too_few},
    {"reference.delta", "NaN dropped", .delta.step = delta_drops_nan},
    {"reference.delta", "another exp in the convolution", .delta.convolve = convolve_of_libm},
    {"runtime.linear.*", NULL, .kernels.linear = lin_right},
    {"runtime.linear.*", "lanes of 4 inputs", .kernels.linear = lin_lanes_of_four},
    // products of halves and codes are exact: it shows in fp32 weights and where the scale comes in
    {"runtime.linear.[fq][348]*", "a product and a sum for fma", .kernels.linear = lin_multiply_and_add},
    {"runtime.linear.q*", "the scale inside the chain", .kernels.linear = lin_scale_inside},
    {"runtime.linear.q*", "a tail filled with zeros", .kernels.linear = lin_zero_filled}, // 0 x an infinite scale
    {"runtime.linear.*", "sums stay fp32 whatever the plan says", .kernels.linear = lin_ignores_the_plan},
    {"runtime.linear.*", "one row too many", .kernels.linear = lin_one_row_too_many},
    {"runtime.round", "ties away from zero", .kernels.round = round_ties_up},
    {"runtime.round", "NaN payloads kept", .kernels.round = round_keeps_payloads},
    {"runtime.rms_norm", "one chain of squares", .kernels.rms_norm = norm_in_sequence},
    {"runtime.rms_norm", "one h() too few", .kernels.rms_norm = norm_rounds_once},
    {"runtime.rope", "products and sums for fma", .kernels.rope = rope_not_fused},
    {"runtime.short_conv", "products and sums for fma", .kernels.short_conv = conv_not_fused},
    {"runtime.short_conv", "the bias before the chain", .kernels.short_conv = conv_bias_first},
    {"runtime.swiglu", "the tail left alone", .kernels.swiglu = swiglu_leaves_the_tail},
    {"runtime.swiglu", "one element too many", .kernels.swiglu = swiglu_one_too_many},
    {"runtime.swiglu", "another exp", .kernels.swiglu = swiglu_of_libm},
    {"runtime.product", "subnormal halves flushed", .kernels.product = product_flushes},
    {"runtime.add", "the element before the row", .kernels.add = add_writes_before},
    {"runtime.add", "-0 becomes +0", .kernels.add = add_loses_the_sign_of_zero},
    {"runtime.attention", "the last position forgotten", .kernels.attention = attention_forgets_the_last},
    {"runtime.attention", "the scale on the query", .kernels.attention = attention_scales_the_query},
    {"runtime.attention", "NaN dropped", .kernels.attention = attention_drops_nan},
};

static struct linear_tile with_tile_fault(const struct linear_tile *wrong)
{
    struct linear_tile made = linear_tiles[0];
    made.multiply = wrong->multiply ? wrong->multiply : made.multiply;
    made.sum = wrong->sum ? wrong->sum : made.sum;
    return made;
}

static struct delta_kernel with_delta_fault(const struct delta_kernel *wrong)
{
    struct delta_kernel made = *delta_best(ISA_SCALAR);
    made.convolve = wrong->convolve ? wrong->convolve : made.convolve;
    made.step = wrong->step ? wrong->step : made.step;
    return made;
}

// The definitions with the functions that `wrong` sets.
static struct kernels with_fault(const struct kernels *wrong)
{
    struct kernels made = *check_definitions();
#define TAKE(operator) made.operator= wrong->operator? wrong->operator: made.operator
    TAKE(round);
    TAKE(linear);
    TAKE(rms_norm);
    TAKE(rope);
    TAKE(attention);
    TAKE(short_conv);
    TAKE(swiglu);
    TAKE(product);
    TAKE(add);
    TAKE(rms_norm_centred);
    TAKE(rms_norm_gated);
    TAKE(attention_gate);
    TAKE(silu);
    TAKE(l2_norm);
    TAKE(delta_step);
    TAKE(expert_sum);
#undef TAKE
    return made;
}

static void check_wrong(const struct wrong *wrong, const char *pattern, uint64_t seed, check_result_fn result)
{
    for (const struct subject *subject = check_subjects; subject->name; subject++) {
        char name[128];
        snprintf(name, sizeof name, "control %s: %s", subject->name, wrong->fault ? wrong->fault : "no fault");
        if (fnmatch(wrong->subject, subject->name, 0) || fnmatch(pattern, name, 0))
            continue;
        if (!result) {
            printf("%s\n", name);
            continue;
        }
        const struct kernels kernels = with_fault(&wrong->kernels);
        const struct linear_tile tile = with_tile_fault(&wrong->tile);
        const struct delta_kernel delta = with_delta_fault(&wrong->delta);
        const swiglu_fn swiglu = wrong->swiglu ? wrong->swiglu : swiglu_best(ISA_SCALAR);
        const struct candidate candidate = {subject->format, wrong->rows, &tile, &delta, swiglu, &kernels};
        struct check check = {.random = seed, .is_control = true};
        char detail[400];
        subject->check(&check, &candidate);
        snprintf(detail, sizeof detail, "%lu of %lu outputs; %s", check.wrong, check.compared,
                 check.wrong ? check.first : "no difference");
        result(wrong->fault ? check.wrong > 0 : check.wrong == 0, name, detail);
    }
}

void check_wrong_kernels(const char *pattern, uint64_t seed, check_result_fn result)
{
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++)
        check_wrong(&wrongs[i], pattern, seed, result);
    for (const struct wrong *wrong = wrong_tile; wrong->subject; wrong++)
        check_wrong(wrong, pattern, seed, result);
    for (const struct wrong *wrong = wrong_delta; wrong->subject; wrong++)
        check_wrong(wrong, pattern, seed, result);
}
