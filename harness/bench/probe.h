// probe: the two loops that nothing can beat on this machine: reading memory once, and fused multiply-adds in
// registers. As wide as the processor allows, whatever --isa says: they are what speeds are compared with.
#ifndef ASSAY_PROBE_H
#define ASSAY_PROBE_H

#include <stddef.h>
#include <stdint.h>

#include "harness/base/isa.h"

enum { PROBE_MANY = 8, PROBE_FEW = 2, PROBE_AHEAD = 1024 };

struct probe {
    const char *name; // "avx512"; "plain" without any of the sets below
    // XOR of all 8-byte words (a rest under 8 bytes is left out), so that no load can be dropped. Any alignment. Where
    // there are instructions for it: from `streams` places at a time, and PROBE_AHEAD bytes are asked for before they
    // are read. Which of PROBE_MANY and PROBE_FEW gets the most out of memory depends on the processor: on one core of
    // Zen 4 many, a plain stream having a third of it, on Zen 5 few, many having three quarters. So both are measured,
    // and the faster one is the bandwidth.
    uint64_t (*read)(const unsigned char *bytes, size_t size, size_t streams);
    // `rounds` rounds of independent multiply-adds; the sum of the accumulators, finite.
    float (*multiply_add)(uint64_t rounds);
    unsigned operations; // floating-point operations of a round: 2 for every multiply-add of every lane
};

extern const struct probe probe_plain;
#if defined(__x86_64__)
extern const struct probe probe_avx2, probe_avx512;
#elif defined(__aarch64__)
extern const struct probe probe_neon;
#endif

// The widest one that this processor runs.
const struct probe *probe_best(void);

#endif
