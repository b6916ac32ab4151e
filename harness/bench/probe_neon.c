#include <arm_neon.h>

#include "harness/bench/probe.h"

enum { STREAMS = 8, ACCUMULATORS = 16 }; // four pipes of latency four on the widest cores

static uint64_t read_neon(const unsigned char *bytes, size_t size, size_t streams)
{
    (void)streams;
    uint64x2_t sum[STREAMS];
    size_t at = 0;
    for (int i = 0; i < STREAMS; i++)
        sum[i] = vdupq_n_u64(0);
    for (; at + STREAMS * 16 <= size; at += STREAMS * 16)
        for (int i = 0; i < STREAMS; i++)
            sum[i] = veorq_u64(sum[i], vreinterpretq_u64_u8(vld1q_u8(bytes + at + 16 * i)));
    for (int i = 1; i < STREAMS; i++)
        sum[0] = veorq_u64(sum[0], sum[i]);
    return probe_plain.read(bytes + at, size - at, 1) ^ vgetq_lane_u64(sum[0], 0) ^ vgetq_lane_u64(sum[0], 1);
}

static float multiply_add_neon(uint64_t rounds)
{
    const float32x4_t factor = vdupq_n_f32(0.999f), term = vdupq_n_f32(0.5f);
    float32x4_t sum[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++)
        sum[i] = vdupq_n_f32(0);
    for (uint64_t round = 0; round < rounds; round++)
        for (int i = 0; i < ACCUMULATORS; i++)
            sum[i] = vfmaq_f32(term, sum[i], factor);
    for (int i = 1; i < ACCUMULATORS; i++)
        sum[0] = vaddq_f32(sum[0], sum[i]);
    return vaddvq_f32(sum[0]);
}

const struct probe probe_neon = {"neon", read_neon, multiply_add_neon, 2 * 4 * ACCUMULATORS};
