// The gated delta rule: one step against longhand arithmetic to the bit, many steps against the whole recurrence in
// double within a derived bound, every kernel against the definition, NaN kept; and steps that are wrong on purpose.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/delta.h"
#include "reference/math.h"
#include "reference/ops.h"

#define EXPECT_BITS(value, expected) cr_expect_eq(float_to_bits(value), float_to_bits(expected), #value)

static float wave(uint32_t i) // in (-1, 1), no two alike
{
    return math_sin(0.7f * (float)i + 0.3f);
}

// --- the gates

Test(reference_delta, gates_round_every_operation_and_decay_is_the_exponential_of_a_log)
{
    const float a[3] = {0.7f, 25.0f, -60.0f}, b[3] = {0.3f, -2.0f, 100.0f};
    const float a_log[3] = {1.1f, -3.0f, 2.3f}, dt_bias[3] = {-5.3f, 0.6f, -8.0f};
    float g[3], beta[3];
    delta_gates(a, b, a_log, dt_bias, 3, g, beta);
    for (int h = 0; h < 3; h++) {
        const float dt = a[h] + dt_bias[h];
        const float softplus = dt > 20 ? dt : (float)log1p(exp((double)dt));
        EXPECT_BITS(g[h], -((float)exp((double)a_log[h]) * softplus));
        EXPECT_BITS(beta[h], (float)(1 / (1 + exp(-(double)b[h]))));
        cr_expect(g[h] <= 0);
        // the formula with three roundings, and the one of the sum that softplus's slope (<= e^x and <= 1) weakens
        const double sum = (double)a[h] + dt_bias[h], exact = -exp((double)a_log[h]) * log1p(exp(sum));
        cr_expect(fabs(g[h] - exact) <= 0x1p-24 * (3.01 + fabs(sum)) * fabs(exact), "%d: %g", h, g[h] - exact);
    }
    float wrong = -((float)exp(1.1f) * (float)log1p(exp((double)a[0])));
    cr_expect_neq(g[0], wrong, "control: without dt_bias");
    wrong = -(1.1f * (float)log1p(exp((double)(a[0] + dt_bias[0]))));
    cr_expect_neq(g[0], wrong, "control: A_log for its exponential");
}

Test(reference_delta, gates_keep_a_nan)
{
    for (int at = 0; at < 4; at++) {
        float in[4] = {0.1f, 0.2f, 0.3f, 0.4f}, g, beta;
        in[at] = NAN;
        delta_gates(&in[0], &in[1], &in[2], &in[3], 1, &g, &beta);
        cr_expect_eq(isnan(g), at != 1);
        cr_expect_eq(isnan(beta), at == 1);
    }
}

// --- the convolution

enum { CHANNELS = 37, MOST_TAPS = 5, TOKENS = 9 };

// How many outputs differ from the whole sequence's convolution, and whether the state is its last columns, before
// the activation.
static unsigned convolution_faults(delta_convolve_fn convolve, uint32_t taps)
{
    float m[TOKENS][CHANNELS], w[CHANNELS * MOST_TAPS], state[CHANNELS * (MOST_TAPS - 1) + 1] = {0}, c[CHANNELS + 1];
    const uint32_t kept = taps - 1;
    unsigned faults = 0;
    for (uint32_t i = 0; i < CHANNELS * taps; i++)
        w[i] = 2 * wave(i + 50);
    state[CHANNELS * kept] = c[CHANNELS] = 77; // guards
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (uint32_t i = 0; i < CHANNELS; i++)
            m[t][i] = i == 3 ? 1e6f * wave(t) : 3 * wave(t * CHANNELS + i); // e^1e6 too
        convolve(m[t], w, CHANNELS, taps, state, c);
        for (uint32_t i = 0; i < CHANNELS; i++) {
            float chain = 0;
            for (uint32_t j = 0; j < taps; j++) // columns before the first are 0
                chain = fmaf(w[i * taps + j], t + j >= kept ? m[t + j - kept][i] : 0, chain);
            faults += float_to_bits(c[i]) != float_to_bits(math_silu(chain));
            for (uint32_t j = 0; j < kept; j++)
                faults += state[i * kept + j] != (t + j + 1 >= kept ? m[t + j + 1 - kept][i] : 0);
        }
    }
    return faults + (state[CHANNELS * kept] != 77) + (c[CHANNELS] != 77);
}

static void state_after_the_activation(const float *m, const float *w, uint32_t channels, uint32_t taps, float *state,
                                       float *c)
{
    delta_best(ISA_SCALAR)->convolve(m, w, channels, taps, state, c);
    for (uint32_t i = 0; i < channels && taps > 1; i++)
        state[(i + 1) * (taps - 1) - 1] = c[i];
}

static void no_activation(const float *m, const float *w, uint32_t channels, uint32_t taps, float *state, float *c)
{
    ops_short_conv(m, w, NULL, channels, taps, state, c);
}

Test(reference_delta, convolution_token_by_token_is_the_whole_one_and_its_state_is_before_the_activation)
{
    for (uint32_t taps = 1; taps <= MOST_TAPS; taps++)
        for (const struct delta_kernel *kernel = delta_kernels; kernel->name; kernel++)
            if (isa_available(kernel->isa))
                cr_expect_eq(convolution_faults(kernel->convolve, taps), 0, "%s, %u taps", kernel->name, taps);
    cr_expect_neq(convolution_faults(state_after_the_activation, 4), 0, "control");
    cr_expect_neq(convolution_faults(no_activation, 4), 0, "control");
}

Test(reference_delta, convolution_keeps_a_nan_until_it_leaves_the_window)
{
    float w[4] = {1, 2, 3, 4}, state[3] = {0}, c;
    for (uint32_t t = 0; t < 6; t++) {
        const float m = t == 1 ? NAN : 1;
        for (const struct delta_kernel *kernel = delta_kernels; kernel->name; kernel++)
            if (isa_available(kernel->isa)) {
                float copy[3];
                memcpy(copy, state, sizeof copy);
                kernel->convolve(&m, w, 1, 4, copy, &c);
                cr_expect_eq(isnan(c), t >= 1 && t <= 4, "%s, %u", kernel->name, t);
            }
        delta_best(ISA_SCALAR)->convolve(&m, w, 1, 4, state, &c);
    }
}

// --- one step, longhand

enum { DK = 7, DV = 5, STEPS = 400 };

struct head {
    float q[DK], k[DK], v[DV], S[DK * DV], out[DV];
    float g, beta;
    double sums[DV];
};

// The inputs of step t, as a model's are: unit keys, g near 0 in every other head.
static void head_input(struct head *head, uint32_t t, float g)
{
    for (uint32_t i = 0; i < DK; i++) {
        head->q[i] = wave(97 * t + i);
        head->k[i] = wave(89 * t + 3 * i + 11);
    }
    ops_l2_norm(head->q, DK, 0x1.83091ep-2f, head->q); // 7^-1/2
    ops_l2_norm(head->k, DK, 1, head->k);
    for (uint32_t j = 0; j < DV; j++)
        head->v[j] = 2 * wave(83 * t + 5 * j + 7);
    head->g = g * (1.5f + wave(t));
    head->beta = 0.5f + 0.5f * wave(79 * t + 1);
}

static void head_fill(struct head *head)
{
    memset(head, 0, sizeof *head);
    head_input(head, 5, -0.1f);
    for (uint32_t i = 0; i < DK * DV; i++)
        head->S[i] = wave(i + 500);
}

static void step_with(delta_step_fn step, struct head *head)
{
    const struct delta_input input = {head->q, head->k, head->v, head->g, head->beta, NULL};
    step(&input, DK, DV, head->S, head->sums, head->out);
}

static void step(struct head *head)
{
    step_with(delta_best(ISA_SCALAR)->step, head);
}

Test(reference_delta, a_step_rounds_where_the_header_says_so)
{
    struct head head, before;
    head_fill(&head);
    before = head;
    step(&head);
    const float decay = (float)exp((double)before.g);
    unsigned plain = 0;
    for (uint32_t j = 0; j < DV; j++) {
        double read = 0, o = 0;
        float column[DK];
        for (uint32_t i = 0; i < DK; i++) {
            column[i] = before.S[i * DV + j] * decay;
            read += (double)before.k[i] * column[i];
        }
        const float d = before.beta * (before.v[j] - (float)read);
        for (uint32_t i = 0; i < DK; i++) {
            const float written = fmaf(before.k[i], d, column[i]);
            plain += written != column[i] + before.k[i] * d; // control: a product and a sum
            EXPECT_BITS(head.S[i * DV + j], written);
            o += (double)before.q[i] * written;
        }
        EXPECT_BITS(head.out[j], (float)o);
    }
    cr_expect(plain > 0);
}

Test(reference_delta, sums_over_dk_are_double)
{
    // 2^24 + 1 + ... + 1 - 2^24 is 5 in double and 0 in float; nothing is written
    struct head head = {.q = {0x1p24f, 1, 1, 1, 1, 1, -0x1p24f}};
    for (uint32_t i = 0; i < DK * DV; i++)
        head.S[i] = 1;
    step(&head);
    for (uint32_t j = 0; j < DV; j++)
        EXPECT_BITS(head.out[j], 5.0f);
}

// --- a sequence, against the recurrence in double

// What a step may get wrong, each a row of the pitfalls (architecture.md 14). FAITHFUL is the formula.
enum fault { FAITHFUL, DECAY_AFTER_READ, NO_EXP, READ_BEFORE_WRITE, TRANSPOSED, NO_BETA, BETA_ON_V_ONLY, FAULTS };
static const char *const FAULT_NAMES[FAULTS] = {
    "faithful",  "decay after the read", "decay without exp", "o of the old state",
    "S = d k^T", "beta left out",        "beta on v only"};

static void step_in_double(const struct head *in, enum fault fault, double S[DK][DV], double out[DV])
{
    const double decay = fault == NO_EXP ? 1 + (double)in->g : exp((double)in->g);
    const double beta = fault == NO_BETA ? 1 : in->beta;
    double old[DK][DV];
    memcpy(old, S, sizeof old);
    for (int j = 0; j < DV; j++) {
        double read = 0;
        for (int i = 0; i < DK; i++)
            read += in->k[i] * S[i][j] * (fault == DECAY_AFTER_READ ? 1 : decay);
        const double d = fault == BETA_ON_V_ONLY ? beta * in->v[j] - read : beta * (in->v[j] - read);
        for (int i = 0; i < DK; i++)
            S[i][j] = S[i][j] * decay + in->k[i] * d;
    }
    for (int j = 0; j < DV; j++) {
        out[j] = 0;
        for (int i = 0; i < DK; i++)
            out[j] += in->q[i] * (fault == READ_BEFORE_WRITE ? old[i][j] : S[i][j]);
    }
    if (fault == TRANSPOSED) // k and d change places wherever both have an index
        for (int i = 0; i < DV; i++)
            for (int j = 0; j < i; j++) {
                const double swap = S[i][j];
                S[i][j] = S[j][i];
                S[j][i] = swap;
            }
}

// Largest |out - out in double| over a sequence, in units of its bound. A NaN stays.
//
// The bound: a write with |k| = 1 and beta <= 1 does not lengthen a column of S's error (I - beta k k^T), so the
// errors of all steps so far add up, each decayed. A step rounds in each element: the decay (twice: e^g and the
// product) and the fma, together 3 u |S|, and through d, whose own error is at most 3 u (|v| + |S^T k|), times |k|.
// |v| <= 2; |S|, the length of the longest column, is measured. out adds its rounding; |q| = 7^-1/2.
static double worst_of_sequence(float g, enum fault fault)
{
    struct head head = {0};
    double S[DK][DV] = {{0}}, out[DV], bound = 0, worst = 0;
    for (uint32_t t = 0; t < STEPS; t++) {
        head_input(&head, t, g);
        step_in_double(&head, fault, S, out);
        step(&head);
        double longest = 0;
        for (int j = 0; j < DV; j++) {
            double square = 0;
            for (int i = 0; i < DK; i++)
                square += (double)head.S[i * DV + j] * head.S[i * DV + j];
            longest = fmax(longest, sqrt(square));
        }
        // the unit length of k is itself rounded: 1 + 3 u
        bound = exp((double)head.g) * bound * (1 + 8 * 0x1p-24) + 0x1p-24 * (3 * longest + 3 * (2 + 2 * longest) + 1);
        for (int j = 0; j < DV; j++) {
            const double error = fabs(head.out[j] - out[j]) / (bound + 0x1p-24 * fabs(out[j]));
            if (error > worst || isnan(error))
                worst = error;
        }
    }
    return worst;
}

Test(reference_delta, four_hundred_steps_stay_within_the_bound_of_their_roundings)
{
    static const float decays[] = {-1e-7f, -1e-4f, -0.02f, -0.5f, -6.0f}; // errors stay where g is near 0
    for (size_t i = 0; i < sizeof decays / sizeof *decays; i++) {
        const double worst = worst_of_sequence(decays[i], FAITHFUL);
        fprintf(stderr, "# g about %g: %.3f of the bound\n", (double)decays[i], worst);
        cr_expect(worst <= 1);
    }
}

Test(reference_delta, steps_wrong_on_purpose_leave_the_bound)
{
    for (enum fault fault = FAITHFUL + 1; fault < FAULTS; fault++)
        cr_expect_not(worst_of_sequence(-0.5f, fault) <= 1, "%s", FAULT_NAMES[fault]);
    cr_expect_not(worst_of_sequence(-0.02f, NO_EXP) <= 1, "1 + g for e^g where they differ by 2e-4");
}

// --- identities

Test(reference_delta, a_state_that_knows_the_value_is_left_alone_and_one_that_does_not_learns_it)
{
    const float value[DV] = {1, -2, 3, -4, 5};
    struct head head = {.k = {0, 1}, .q = {0, 1}, .g = -0.0f, .beta = 1};
    memcpy(head.v, value, sizeof value);
    for (int repeat = 0; repeat < 2; repeat++) {
        step(&head);
        for (int j = 0; j < DV; j++) {
            EXPECT_BITS(head.out[j], value[j]);
            EXPECT_BITS(head.S[DV + j], value[j]);
            EXPECT_BITS(head.S[j], 0.0f);
        }
    }
    head.beta = 0;
    head.g = -0.693147181f; // e^g rounds to 1/2
    step(&head);
    for (int j = 0; j < DV; j++) // only decay
        EXPECT_BITS(head.out[j], 0.5f * value[j]);
}

Test(reference_delta, a_nan_in_any_input_or_in_the_state_reaches_the_output)
{
    for (uint32_t at = 0; at < DK; at++)
        for (int which = 0; which < 6; which++) {
            struct head head;
            head_fill(&head);
            float *const inputs[] = {&head.q[at], &head.k[at], &head.v[at % DV],
                                     &head.g,     &head.beta,  &head.S[at * DV + at % DV]};
            *inputs[which] = NAN;
            step(&head);
            cr_expect(isnan(head.out[at % DV]), "input %d", which);
            const bool is_of_one_column = which == 2 || which == 5;
            cr_expect_eq(isnan(head.out[(at + 1) % DV]), !is_of_one_column, "input %d", which);
        }
}

// --- the kernels

static bool every_width_agrees(delta_step_fn candidate)
{
    enum { MOST = 21, GUARDED = MOST * MOST + 1 };
    for (uint32_t dk = 1; dk <= MOST; dk++)
        for (uint32_t dv = 1; dv <= MOST; dv++) {
            float q[MOST], k[MOST], v[MOST], S[2][GUARDED], out[2][MOST + 1];
            double sums[MOST];
            for (uint32_t i = 0; i < MOST; i++) {
                q[i] = wave(i + dk);
                k[i] = wave(3 * i + dv);
                v[i] = wave(7 * i);
            }
            for (uint32_t i = 0; i < GUARDED; i++)
                S[0][i] = S[1][i] = wave(i);
            out[0][dv] = out[1][dv] = 77;
            const struct delta_input input = {q, k, v, -0.3f, 0.7f, dk % 2 ? S[1] : NULL};
            delta_best(ISA_SCALAR)->step(&input, dk, dv, S[0], sums, out[0]);
            candidate(&input, dk, dv, S[1], sums, out[1]);
            if (memcmp(S[0], S[1], sizeof S[0]) || memcmp(out[0], out[1], (dv + 1) * sizeof out[0][0]) ||
                float_to_bits(S[1][dk * dv]) != float_to_bits(wave(dk * dv)))
                return false;
        }
    return true;
}

static void one_chain_of_floats(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S, double *sums,
                                float *out)
{
    delta_best(ISA_SCALAR)->step(input, dk, dv, S, sums, out);
    for (uint32_t j = 0; j < dv; j++) {
        float sum = 0;
        for (uint32_t i = 0; i < dk; i++)
            sum = fmaf(input->q[i], S[i * dv + j], sum);
        out[j] = sum;
    }
}

Test(reference_delta, every_kernel_gives_the_bits_of_the_definition_at_every_width)
{
    for (const struct delta_kernel *kernel = delta_kernels; kernel->name; kernel++)
        if (isa_available(kernel->isa))
            cr_expect(every_width_agrees(kernel->step), "%s", kernel->name);
    cr_expect_not(every_width_agrees(one_chain_of_floats), "control");
    cr_expect_eq(delta_best(ISA_SCALAR), &delta_kernels[0]);
}
