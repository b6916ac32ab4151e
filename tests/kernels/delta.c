// The runtime's operators of the delta net, of the gates and of the experts: every length of tail, outputs that may
// be an input in its place too, states that end at the fence.
#include <string.h>

#include "harness/base/half.h"
#include "tests/kernels/check.h"

enum { FENCE_STATE, FENCE_A, FENCE_B, FENCE_C, FENCE_OUTPUTS, FENCE_WEIGHTS };

struct rows {
    float *a, *b, *c; // [n]; c is no half
};

static struct rows make(struct check *check, enum regime regime, uint32_t n)
{
    struct rows rows = {check_fenced(FENCE_A, n * sizeof(float)), check_fenced(FENCE_B, n * sizeof(float)),
                        check_fenced(FENCE_C, n * sizeof(float))};
    for (uint32_t i = 0; i < n; i++) {
        float unused;
        check_pair(check, regime, true, &rows.a[i], &rows.b[i]);
        check_pair(check, regime, false, &rows.c[i], &unused);
    }
    return rows;
}

typedef void (*row_fn)(const struct kernels *kernels, const struct rows *rows, uint32_t n, float *y);

// Every length and regime; `in_place`: y starts as a copy of a, and run reads it there.
static void every_row(struct check *check, const struct candidate *candidate, row_fn run, bool in_place,
                      const char *what)
{
    uint32_t n;
    for (size_t i = 0; (n = check_length(check, i, 70)); i++)
        for (enum regime regime = 0; regime < REGIMES; regime++) {
            struct rows rows = make(check, regime, n);
            float expected[CHECK_LONGEST], *found = check_output();
            for (int pass = 0; pass < 2; pass++) {
                float *y = pass ? found : expected;
                if (in_place)
                    memcpy(y, check_fenced(FENCE_A, n * sizeof *y), n * sizeof *y);
                rows.a = in_place ? y : rows.a;
                run(pass ? candidate->kernels : check_definitions(), &rows, n, y);
            }
            check_compare(check, expected, found, 0, n, true, "%s, n = %u, %s:", what, n, check_regime_name(regime));
        }
}

#define CHECK_ROWS(name, call)                                                                                       \
    static void run_##name(const struct kernels *kernels, const struct rows *rows, uint32_t n, float *y)             \
    {                                                                                                                \
        call;                                                                                                        \
    }                                                                                                                \
    void check_##name(struct check *check, const struct candidate *candidate)                                        \
    {                                                                                                                \
        every_row(check, candidate, run_##name, false, "apart");                                                     \
        every_row(check, candidate, run_##name, true, "in place");                                                   \
    }
CHECK_ROWS(rms_norm_centred, kernels->rms_norm_centred(rows->a, rows->c, n, 1e-6f, y))
CHECK_ROWS(rms_norm_gated, kernels->rms_norm_gated(rows->a, rows->c, rows->b, n, 1e-6f, y))
CHECK_ROWS(attention_gate, kernels->attention_gate(rows->a, rows->b, n, y))
CHECK_ROWS(silu, kernels->silu(rows->a, n, y))

static void run_l2_norm(const struct kernels *kernels, const struct rows *rows, uint32_t n, float *y)
{
    kernels->l2_norm(rows->a, n, 0x1.6a09e6p-4f, PRECISION_F32, y);
}

static void run_l2_norm_in_halves(const struct kernels *kernels, const struct rows *rows, uint32_t n, float *y)
{
    kernels->l2_norm(rows->a, n, 0x1.6a09e6p-4f, PRECISION_F16, y);
}

void check_l2_norm(struct check *check, const struct candidate *candidate)
{
    for (int in_place = 0; in_place < 2; in_place++) {
        every_row(check, candidate, run_l2_norm, in_place, "fp32");
        every_row(check, candidate, run_l2_norm_in_halves, in_place, "halves");
    }
}

// --- the step

struct heads {
    float q[CHECK_LONGEST], k[CHECK_LONGEST], v[CHECK_LONGEST], beta, g;
    unsigned char start[CHECK_FENCED]; // the state before
};

static struct heads heads; // too large for the stack

static void fill_heads(struct check *check, enum regime regime, const struct delta_state *state)
{
    const size_t n = (size_t)state->key_width * state->value_width;
    float unused;
    for (size_t i = 0; i < n; i++) {
        float s;
        check_pair(check, regime, state->precision == PRECISION_F16, &s, &unused);
        if (state->precision == PRECISION_F16)
            ((uint16_t *)heads.start)[i] = half_from_float(s);
        else
            memcpy(heads.start + i * sizeof s, &s, sizeof s);
    }
    for (uint32_t i = 0; i < state->key_width; i++) {
        check_pair(check, regime, true, &heads.k[i], &heads.q[i]);
        heads.q[i] *= 0x1.6a09e6p-4f;
    }
    for (uint32_t j = 0; j < state->value_width; j++)
        check_pair(check, regime, true, &unused, &heads.v[j]);
    heads.beta = (1 + check_unit(check)) / 2;
    heads.g = -8 * (1 + check_unit(check));
}

// The outputs, then the state [dk, dv] as floats: a NaN half that is not the canonical one shows as Inf.
static void step(const struct kernels *kernels, const struct delta_state *state, float *out, float *after)
{
    const size_t n = (size_t)state->key_width * state->value_width;
    memcpy(state->s, heads.start, n * (state->precision == PRECISION_F16 ? sizeof(uint16_t) : sizeof(float)));
    kernels->delta_step(state, heads.q, heads.k, heads.v, heads.beta, heads.g, out);
    for (size_t i = 0; i < n; i++) {
        const uint16_t half = ((const uint16_t *)state->s)[i];
        const bool odd_nan = (half & 0x7FFF) > 0x7C00 && half != HALF_NAN;
        if (state->precision == PRECISION_F16)
            after[i] = odd_nan ? half_to_float(0x7C00) : half_to_float(half);
        else
            memcpy(&after[i], (const float *)state->s + i, sizeof *after);
    }
}

void check_delta_step(struct check *check, const struct candidate *candidate)
{
    static const uint32_t key_widths[] = {1, 2, 31, 64};
    static float expected_state[64 * 200], state_after[64 * 200];
    for (size_t i = 0; i < sizeof key_widths / sizeof *key_widths; i++)
        for (uint32_t dv = 1; dv <= 200 && !check_settled(check); dv += dv < 70 ? 1 : 13)
            for (enum regime regime = 0; regime < REGIMES; regime++) {
                const uint32_t dk = key_widths[i];
                const enum precision precision = (dv + regime) % 2 ? PRECISION_F16 : PRECISION_F32;
                const size_t bytes = (size_t)dk * dv * (precision == PRECISION_F16 ? 2 : 4);
                const struct delta_state state = {check_fenced(FENCE_STATE, bytes), precision, dk, dv};
                float expected[CHECK_LONGEST], *y = check_output();
                fill_heads(check, regime, &state);
                step(check_definitions(), &state, expected, expected_state);
                step(candidate->kernels, &state, y, state_after);
                check_compare(check, expected, y, 0, dv, true, "out, dk %u, dv %u, %s:", dk, dv,
                              check_regime_name(regime));
                for (uint32_t row = 0; row < dk; row++) {
                    memcpy(check_output(), state_after + (size_t)row * dv, dv * sizeof *y);
                    check_compare(check, expected_state + (size_t)row * dv, y, 0, dv, true,
                                  "row %u of S, dk %u, dv %u, %s:", row, dk, dv, check_regime_name(regime));
                }
            }
}

// --- experts

void check_expert_sum(struct check *check, const struct candidate *candidate)
{
    uint32_t n;
    for (size_t i = 0; (n = check_length(check, i, 40)); i++)
        for (uint32_t slots = 1; slots <= 11; slots += slots < 5 ? 1 : 3)
            for (enum regime regime = 0; regime < REGIMES; regime++) {
                float *outputs = check_fenced(FENCE_OUTPUTS, (size_t)slots * n * sizeof *outputs);
                float *weights = check_fenced(FENCE_WEIGHTS, slots * sizeof *weights), unused;
                float expected[CHECK_LONGEST], *y = check_output();
                for (size_t k = 0; k < (size_t)slots * n; k++)
                    check_pair(check, regime, true, &unused, &outputs[k]);
                for (uint32_t slot = 0; slot < slots; slot++)
                    check_pair(check, regime, false, &weights[slot], &unused);
                check_definitions()->expert_sum(outputs, weights, slots, n, expected);
                candidate->kernels->expert_sum(outputs, weights, slots, n, y);
                check_compare(check, expected, y, 0, n, true, "n = %u, %u slots, %s:", n, slots,
                              check_regime_name(regime));
            }
}
