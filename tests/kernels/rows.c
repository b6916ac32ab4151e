// The runtime's operators on rows: every length of tail, outputs that may be an input in its place too.
#include <string.h>

#include "harness/base/half.h"
#include "tests/kernels/check.h"

enum { FENCE_A, FENCE_B, FENCE_HISTORY, FENCE_TAPS, FENCE_COS, FENCE_SIN };
enum { TAPS_MOST = 4 };

// Halves, or the floats that a precision plan may put in their place: products of two halves are exact and do not
// tell fma from a product and a sum.
enum values { FLOATS, HALVES };

struct rows {
    float *a, *b; // [n]
};

static void fill(struct check *check, enum regime regime, enum values values, float *a, float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        check_pair(check, regime, values == HALVES, &a[i], &b[i]);
}

static struct rows make(struct check *check, enum regime regime, enum values values, uint32_t n)
{
    struct rows rows = {check_fenced(FENCE_A, n * sizeof(float)), check_fenced(FENCE_B, n * sizeof(float))};
    fill(check, regime, values, rows.a, rows.b, n);
    return rows;
}

// Runs `body` on every length and regime with `rows`, and with `kernels` and `y` of the definition and then of the
// candidate; `in_place`: y starts as a copy of a.
#define EVERY_ROW(check, candidate, values, in_place, what, body)                                                    \
    do {                                                                                                             \
        uint32_t n;                                                                                                  \
        for (size_t i = 0; (n = check_length(check, i, 70)); i++)                                                    \
            for (enum regime regime = 0; regime < REGIMES; regime++) {                                               \
                const struct rows rows = make(check, regime, values, n);                                             \
                float expected[CHECK_LONGEST], *found = check_output();                                              \
                for (int pass = 0; pass < 2; pass++) {                                                               \
                    const struct kernels *kernels = pass ? (candidate)->kernels : check_definitions();               \
                    float *y = pass ? found : expected;                                                              \
                    if (in_place)                                                                                    \
                        memcpy(y, rows.a, n * sizeof *y);                                                            \
                    body;                                                                                            \
                }                                                                                                    \
                check_compare(check, expected, found, 0, n, true, "%s, n = %u, %s:", what, n,                        \
                              check_regime_name(regime));                                                            \
            }                                                                                                        \
    } while (0)

// Every upper half of a float with eight lower halves: below, at and above the ties of all exponents, NaNs with
// payloads, Inf.
static void every_tie(struct check *check, const struct candidate *candidate)
{
    static const uint32_t lows[8] = {0, 1, 0x0FFF, 0x1000, 0x1001, 0x3000, 0x8000, 0xF000};
    enum { AT_ONCE = 64 };
    for (uint32_t first = 0; first < 0x10000; first += AT_ONCE) {
        float expected[8 * AT_ONCE], *y = check_output();
        for (uint32_t i = 0; i < 8 * AT_ONCE; i++)
            y[i] = expected[i] = float_from_bits((first + i / 8) << 16 | lows[i % 8]);
        check_definitions()->round(expected, 8 * AT_ONCE, PRECISION_F16);
        candidate->kernels->round(y, 8 * AT_ONCE, PRECISION_F16);
        check_compare(check, expected, y, 0, 8 * AT_ONCE, true, "floats from 0x%04x0000 on:", first);
    }
}

void check_round(struct check *check, const struct candidate *candidate)
{
    every_tie(check, candidate);
    EVERY_ROW(check, candidate, HALVES, true, "to half", kernels->round(y, n, PRECISION_F16));
    EVERY_ROW(check, candidate, HALVES, true, "to float", kernels->round(y, n, PRECISION_F32));
}

void check_rms_norm(struct check *check, const struct candidate *candidate)
{
    EVERY_ROW(check, candidate, HALVES, false, "apart", kernels->rms_norm(rows.a, rows.b, n, 1e-5f, y));
    EVERY_ROW(check, candidate, HALVES, true, "in place", kernels->rms_norm(y, rows.b, n, 1e-5f, y));
}

void check_rope(struct check *check, const struct candidate *candidate)
{
    for (enum precision to = PRECISION_F16; to <= PRECISION_F32; to++)
        EVERY_ROW(check, candidate, FLOATS, true, "rope", {
            float *cos = check_fenced(FENCE_COS, n / 2 * sizeof *cos);
            float *sin = check_fenced(FENCE_SIN, n / 2 * sizeof *sin);
            memcpy(cos, rows.b, n / 2 * sizeof *cos);
            memcpy(sin, rows.b + n / 2, n / 2 * sizeof *sin);
            kernels->rope(y, cos, sin, n / 2 * 2, to); // the odd one left over stays
        });
}

void check_short_conv(struct check *check, const struct candidate *candidate)
{
    for (uint32_t n_taps = 1; n_taps <= TAPS_MOST; n_taps++)
        for (int biased = 0; biased < 2; biased++)
            EVERY_ROW(check, candidate, FLOATS, false, biased ? "with bias" : "no bias", {
                float *history = check_fenced(FENCE_HISTORY, (n_taps - 1) * (size_t)n * sizeof *history);
                float *taps = check_fenced(FENCE_TAPS, n_taps * (size_t)n * sizeof *taps);
                if (!pass) {
                    fill(check, regime, HALVES, taps, taps, n_taps * (size_t)n);
                    fill(check, regime, FLOATS, history, history, (n_taps - 1) * (size_t)n);
                }
                kernels->short_conv(history, rows.a, taps, biased ? rows.b : NULL, n, n_taps, y);
            });
}

// All 65,536 gates: exp over its whole range.
static void every_gate(struct check *check, const struct candidate *candidate)
{
    enum { AT_ONCE = 512 };
    float gate[AT_ONCE], up[AT_ONCE], expected[AT_ONCE];
    for (uint32_t first = 0; first < 0x10000; first += AT_ONCE) {
        float *y = check_output();
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            gate[i] = half_to_float((uint16_t)(first + i));
            up[i] = 1;
        }
        check_definitions()->swiglu(gate, up, AT_ONCE, expected);
        candidate->kernels->swiglu(gate, up, AT_ONCE, y);
        check_compare(check, expected, y, 0, AT_ONCE, true, "gates from 0x%04x on:", first);
    }
}

void check_swiglu(struct check *check, const struct candidate *candidate)
{
    every_gate(check, candidate);
    EVERY_ROW(check, candidate, HALVES, false, "apart", kernels->swiglu(rows.a, rows.b, n, y));
    EVERY_ROW(check, candidate, HALVES, true, "in place", kernels->swiglu(y, rows.b, n, y));
}

void check_product(struct check *check, const struct candidate *candidate)
{
    for (enum precision to = PRECISION_F16; to <= PRECISION_F32; to++) {
        EVERY_ROW(check, candidate, HALVES, false, "apart", kernels->product(rows.a, rows.b, n, to, y));
        EVERY_ROW(check, candidate, HALVES, true, "in place", kernels->product(rows.b, y, n, to, y));
    }
}

void check_add(struct check *check, const struct candidate *candidate)
{
    EVERY_ROW(check, candidate, HALVES, false, "apart", kernels->add(rows.a, rows.b, n, y));
    EVERY_ROW(check, candidate, HALVES, true, "in place", kernels->add(y, rows.b, n, y));
}
