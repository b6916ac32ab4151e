// machine: read bandwidth, multiply-add peak and the distance of two threads, measured on the threads of a pool in a
// few milliseconds each, so that they can stand between two passes of what is being timed.
//
// A virtual machine is moved about under its guest: the same two threads may share a core in one second and not in
// the next. Only the time that a cache line takes from one to the other tells.
#ifndef ASSAY_MACHINE_H
#define ASSAY_MACHINE_H

#include <stddef.h>
#include <stdint.h>

#include "harness/base/pool.h"
#include "harness/bench/probe.h"

struct span {
    const unsigned char *bytes;
    size_t size;
};

// Seconds of one pass over all spans, each thread reading a contiguous share of the bytes in `streams` (probe.h).
double machine_read(struct pool *pool, const struct probe *probe, size_t streams, const struct span *spans, size_t n);

// Floating-point operations a second, all threads together, in about `seconds`.
double machine_peak(struct pool *pool, const struct probe *probe, double seconds);

// Nanoseconds that a written cache line takes from the caller's thread to the second one, the smallest mean of five
// batches; 0 with one thread, or more threads than processors.
double machine_distance(struct pool *pool);

// Anonymous memory of this process in bytes, 0 where the system does not tell (RssAnon of /proc/self/status).
uint64_t machine_anonymous_bytes(void);

// "AMD EPYC ..." of /proc/cpuinfo into `text`, "unknown processor" where it does not say.
const char *machine_processor(char *text, size_t size);

#endif
