// The runtime's attention: one position, around a block, around one round of the 8 simdgroups, and more than two.
#include <math.h>

#include "harness/base/half.h"
#include "tests/kernels/check.h"

enum { FENCE_KEYS, FENCE_VALUES, FENCE_Q, FENCE_SCRATCH };

static void put(void *cache, enum precision state, size_t at, float value)
{
    if (state == PRECISION_F16)
        ((uint16_t *)cache)[at] = half_from_float(value);
    else
        ((float *)cache)[at] = value * (1 + 0x1p-18f); // bits that a half does not have
}

// Past `length` the keys' last block holds NaN: whoever reads there shows it. The values end at the fence.
static struct attention_view make(struct check *check, uint32_t dh, uint32_t length, enum precision state,
                                  enum regime regime)
{
    const size_t size = state == PRECISION_F16 ? sizeof(uint16_t) : sizeof(float);
    const uint32_t whole = (length + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK * ATTENTION_BLOCK;
    void *keys = check_fenced(FENCE_KEYS, (size_t)whole * dh * size);
    void *values = check_fenced(FENCE_VALUES, (size_t)length * dh * size);
    for (uint32_t t = 0; t < whole; t++)
        for (uint32_t d = 0; d < dh; d++) {
            float k, v;
            check_pair(check, regime, true, &k, &v);
            put(keys, state, ((size_t)(t / ATTENTION_BLOCK) * dh + d) * ATTENTION_BLOCK + t % ATTENTION_BLOCK,
                t < length ? k : NAN);
            if (t < length)
                put(values, state, (size_t)t * dh + d, v);
        }
    return (struct attention_view){
        .keys = keys,
        .values = values,
        .state = state,
        .head_width = dh,
        .length = length,
        .scale = 1 / sqrtf((float)dh),
    };
}

void check_attention(struct check *check, const struct candidate *candidate)
{
    static const uint32_t lengths[] = {1, 2, 31, 32, 33, 64, 250, 255, 256, 257, 289, 530};
    static const uint32_t head_widths[] = {2, 6, 8, 32, 40, 64, 70};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths && !check_settled(check); i++)
        for (size_t j = 0; j < sizeof head_widths / sizeof *head_widths; j++)
            for (enum regime regime = 0; regime < REGIMES; regime++) {
                const uint32_t dh = head_widths[j];
                const enum precision state = (i + j) % 3 ? PRECISION_F16 : PRECISION_F32;
                const struct attention_view view = make(check, dh, lengths[i], state, regime);
                float *q = check_fenced(FENCE_Q, dh * sizeof *q), unused;
                float *scratch = check_fenced(FENCE_SCRATCH, (size_t)ATTENTION_SIMDGROUPS * dh * sizeof *scratch);
                float expected[CHECK_LONGEST], *y = check_output();
                for (uint32_t d = 0; d < dh; d++)
                    check_pair(check, regime == REGIME_WIDE ? REGIME_ORDINARY : regime, true, &unused, &q[d]);
                check_definitions()->attention(&view, q, scratch, expected);
                candidate->kernels->attention(&view, q, scratch, y);
                check_compare(check, expected, y, 0, dh, true, "dh %u, length %u, %s:", dh, lengths[i],
                              check_regime_name(regime));
            }
}
