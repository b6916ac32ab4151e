// kernels_neon_expert: LIN of the experts' formats with the bits of kernels.c, on inputs as kernels_neon_linear.c
// arranges them: 4 lanes of 8 inputs in a group of 32, element j of every lane side by side. A plain loop.
#include "runtime/kernels_neon.h"

enum { GROUP = 32, CHAIN = 8, LANES = 32 };

static float step_of(float v, enum precision sum)
{
    return sum == PRECISION_F16 ? half_round(v) : v;
}

// acc + chain of lane i of a group, whose n inputs are arranged at x, in inputs 8 i .. 8 i + 7; what is not there is
// skipped.
static float add_chain(const float w[GROUP], const float *x, uint32_t i, uint32_t n, enum precision sum, float acc)
{
    if (CHAIN * i >= n)
        return acc;
    float s = step_of(x[i] * w[CHAIN * i], sum);
    for (uint32_t j = 1; j < CHAIN && CHAIN * i + j < n; j++)
        s = step_of(fmaf(x[4 * j + i], w[CHAIN * i + j], s), sum);
    return step_of(s + acc, sum);
}

void kernels_neon_linear_expert(const struct weight *weight, struct linear_rule rule, const float *x, size_t first,
                                size_t end, float *y)
{
    for (size_t r = first; r < end; r++) {
        float acc[LANES] = {0}, w[GROUP] = {0};
        for (uint32_t k = 0; k < weight->cols; k += GROUP) {
            const uint32_t n = weight->cols - k < GROUP ? weight->cols - k : GROUP;
            weight_part(weight, (uint32_t)r, k, n, w);
            for (uint32_t j = 0; j < n && rule.dequant == PRECISION_F16; j++)
                w[j] = half_round(w[j]);
            for (uint32_t i = 0; i < GROUP / CHAIN; i++) {
                float *lane = &acc[k / CHAIN % LANES + i];
                *lane = add_chain(w, x + k, i, n, rule.sum, *lane);
            }
        }
        float32x4_t lanes[LANES / 4];
        for (int i = 0; i < LANES / 4; i++)
            lanes[i] = vld1q_f32(acc + 4 * i);
        y[r] = tree(lanes, rule.sum);
    }
}
