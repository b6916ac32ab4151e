#include "harness/bench/probe.h"

#include <string.h>

#include "harness/base/floating.h"

enum { STREAMS = 8, LANES = 64 };

static uint64_t read_plain(const unsigned char *bytes, size_t size, size_t streams)
{
    (void)streams;
    uint64_t sum[STREAMS] = {0}, word[STREAMS], all = 0;
    size_t at = 0;
    for (; at + sizeof word <= size; at += sizeof word) {
        memcpy(word, bytes + at, sizeof word);
        for (int i = 0; i < STREAMS; i++)
            sum[i] ^= word[i];
    }
    for (; at + sizeof *word <= size; at += sizeof *word) {
        memcpy(word, bytes + at, sizeof *word);
        all ^= word[0];
    }
    for (int i = 0; i < STREAMS; i++)
        all ^= sum[i];
    return all;
}

// A product and a sum, since fmaf without the instruction is a call of the library.
static float multiply_add_plain(uint64_t rounds)
{
    float sum[LANES] = {0}, all = 0;
    for (uint64_t round = 0; round < rounds; round++)
        for (int i = 0; i < LANES; i++)
            sum[i] = sum[i] * 0.999f + 0.5f;
    for (int i = 0; i < LANES; i++)
        all += sum[i];
    return all;
}

const struct probe probe_plain = {"plain", read_plain, multiply_add_plain, 2 * LANES};

const struct probe *probe_best(void)
{
#if defined(__x86_64__)
    if (isa_available(ISA_AVX512))
        return &probe_avx512;
    if (isa_available(ISA_AVX2))
        return &probe_avx2;
#elif defined(__aarch64__)
    return &probe_neon;
#endif
    return &probe_plain;
}
