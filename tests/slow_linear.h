// slow_linear: LIN (arithmetic.md 3), slow and obvious, for every weight format (arithmetic.md 4), in the arithmetic
// of slow_arithmetic.h.
#ifndef ASSAY_TESTS_SLOW_LINEAR_H
#define ASSAY_TESTS_SLOW_LINEAR_H

#include "harness/model/model.h"
#include "tests/slow_arithmetic.h"

static inline double slow_half(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double value = ldexp(exponent ? 1024 + fraction : fraction, (exponent ? exponent : 1) - 25);
    if (exponent == 31)
        value = fraction ? NAN : INFINITY;
    return bits >> 15 ? -value : value;
}

// The weight of an expert's code: A4 scale code + bias, K8 and K4 the entry of the codebook of its 32 rows.
static inline double slow_expert_weight(const struct weight *w, uint32_t row, uint32_t k)
{
    const unsigned char *codes = w->data;
    const size_t per_row = w->format == WEIGHT_K8 ? w->cols : ((size_t)w->cols + 1) / 2;
    const unsigned byte = codes[row * per_row + (w->format == WEIGHT_K8 ? k : k / 2)];
    const unsigned code = w->format == WEIGHT_K8 ? byte : k % 2 ? byte / 16 : byte % 16;
    if (w->format == WEIGHT_A4) {
        const size_t at = (size_t)row * (w->cols / w->block) + k / w->block;
        return fma_fl(slow_half(w->scale[at]), code, slow_half(w->bias[at]));
    }
    return slow_half(w->lut[row / 32 * (w->format == WEIGHT_K8 ? 256 : 16) + code]);
}

static inline double lin(const struct plan *plan, const struct weight *w, uint32_t row, const double *x)
{
    const enum precision sum = plan->rows[PLAN_LINEAR_SUM];
    const bool narrow = plan->rows[PLAN_DEQUANT] == PRECISION_F16;
    const bool quantized = w->format == WEIGHT_Q8 || w->format == WEIGHT_Q4;
    const bool made = w->format == WEIGHT_A4 || w->format == WEIGHT_K8 || w->format == WEIGHT_K4;
    double lane[32];
    for (uint32_t l = 0; l < 32; l++) {
        lane[l] = 0;
        for (uint32_t first = 8 * l; first < w->cols; first += 256) {
            double scale = 1, s = 0;
            if (quantized)
                scale = slow_half(w->scale[(size_t)row * (w->cols / w->block) + first / w->block]);
            for (uint32_t k = first; k < first + 8 && k < w->cols; k++) {
                double weight = made ? slow_expert_weight(w, row, k) : (double)weight_at(w, row, k); // exact
                if (made)
                    weight = narrow ? hf(weight) : weight;
                else if (quantized)
                    weight = narrow ? hf(weight) : weight / scale;
                s = to(k == first ? fl(x[k] * weight) : fma_fl(x[k], weight, s), sum);
            }
            if (narrow)
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

#endif
