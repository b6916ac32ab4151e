// recording: the engines that a command compares, opened as the model's size asks and run over its suite.
#ifndef ASSAY_RECORDING_H
#define ASSAY_RECORDING_H

#include "harness/cmd/arms.h"
#include "harness/run/cache.h"
#include "harness/run/record.h"

// Options of every command that records a whole suite: put into its table.
#define RECORDING_OPTIONS                                                                                              \
    {"no-cache", NULL, "compute the reference again, and keep no traces of it"},                                       \
    {"cache-limit", "SIZE", "bytes of reference traces to keep, as 500M or 2G (default: 4G); least recently used go first"}

// *cache is NULL when the options or the environment switch it off. ERROR_USAGE: a size that is none.
int recording_cache(const struct options *options, struct cache **cache, struct error *error);

struct recording_arm {
    enum arm_kind kind;
    enum fault fault;
    struct record record; // logits are filled in
    char engine[96];      // filled in: its name as it stands in traces
};

// Runs the arms in this order, the reference first. A small model's steps are too short to share out: with two threads
// that split the rows of its linear layers, lfm2-mini takes longer than with one. So under 64 MB of weights, which
// several engines share in the processor's cache, threads take whole cases, each on an engine without a pool (sweep.h).
// A larger model has one engine at a time, whose rows all threads split. The numbers are the same.
int recording_run(struct arms *arms, struct recording_arm *list, size_t n, const struct suite *suite, unsigned threads,
                  struct error *error);

// "reference: 12 of 25 cases from the cache ...", in the arena; NULL when none came from there.
const char *recording_note(struct arena *arena, struct cache *cache, const struct suite *suite);

#endif
