#include <immintrin.h>

#include "harness/bench/probe.h"

enum { LOADS = 8, ACCUMULATORS = 12 }; // enough to hide the latency of a load and of an fma

static uint64_t read_avx2(const unsigned char *bytes, size_t size, size_t streams)
{
    const size_t stream = size / streams / (LOADS * 32) * (LOADS * 32);
    __m256i sum[LOADS];
    uint64_t lanes[4];
    for (int i = 0; i < LOADS; i++)
        sum[i] = _mm256_setzero_si256();
    for (size_t at = 0; at < stream; at += LOADS * 32)
        for (size_t from = at; from < streams * stream; from += stream)
            for (int i = 0; i < LOADS; i++) {
                if (i % 2 == 0) // a cache line is two of them
                    _mm_prefetch((const char *)bytes + from + 32 * i + PROBE_AHEAD, _MM_HINT_T1);
                sum[i] = _mm256_xor_si256(sum[i], _mm256_loadu_si256((const void *)(bytes + from + 32 * i)));
            }
    for (int i = 1; i < LOADS; i++)
        sum[0] = _mm256_xor_si256(sum[0], sum[i]);
    _mm256_storeu_si256((void *)lanes, sum[0]);
    const uint64_t rest = probe_plain.read(bytes + streams * stream, size - streams * stream, 1);
    return rest ^ lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3];
}

static float multiply_add_avx2(uint64_t rounds)
{
    const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.5f);
    __m256 sum[ACCUMULATORS];
    float lanes[8], all = 0;
    for (int i = 0; i < ACCUMULATORS; i++)
        sum[i] = _mm256_setzero_ps();
    for (uint64_t round = 0; round < rounds; round++)
        for (int i = 0; i < ACCUMULATORS; i++)
            sum[i] = _mm256_fmadd_ps(sum[i], factor, term);
    for (int i = 1; i < ACCUMULATORS; i++)
        sum[0] = _mm256_add_ps(sum[0], sum[i]);
    _mm256_storeu_ps(lanes, sum[0]);
    for (int i = 0; i < 8; i++)
        all += lanes[i];
    return all;
}

const struct probe probe_avx2 = {"avx2", read_avx2, multiply_add_avx2, 2 * 8 * ACCUMULATORS};
