#include <immintrin.h>

#include "harness/bench/probe.h"

enum { LOADS = 8, ACCUMULATORS = 12 }; // enough to hide the latency of a load and of an fma

static uint64_t read_avx512(const unsigned char *bytes, size_t size, size_t streams)
{
    const size_t stream = size / streams / (LOADS * 64) * (LOADS * 64);
    __m512i sum[LOADS];
    uint64_t lanes[8], all;
    for (int i = 0; i < LOADS; i++)
        sum[i] = _mm512_setzero_si512();
    for (size_t at = 0; at < stream; at += LOADS * 64)
        for (size_t from = at; from < streams * stream; from += stream)
            for (int i = 0; i < LOADS; i++) {
                _mm_prefetch((const char *)bytes + from + 64 * i + PROBE_AHEAD, _MM_HINT_T1);
                sum[i] = _mm512_xor_si512(sum[i], _mm512_loadu_si512(bytes + from + 64 * i));
            }
    for (int i = 1; i < LOADS; i++)
        sum[0] = _mm512_xor_si512(sum[0], sum[i]);
    _mm512_storeu_si512(lanes, sum[0]);
    all = probe_plain.read(bytes + streams * stream, size - streams * stream, 1);
    for (int i = 0; i < 8; i++)
        all ^= lanes[i];
    return all;
}

static float multiply_add_avx512(uint64_t rounds)
{
    const __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.5f);
    __m512 sum[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++)
        sum[i] = _mm512_setzero_ps();
    for (uint64_t round = 0; round < rounds; round++)
        for (int i = 0; i < ACCUMULATORS; i++)
            sum[i] = _mm512_fmadd_ps(sum[i], factor, term);
    for (int i = 1; i < ACCUMULATORS; i++)
        sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return _mm512_reduce_add_ps(sum[0]);
}

const struct probe probe_avx512 = {"avx512", read_avx512, multiply_add_avx512, 2 * 16 * ACCUMULATORS};
