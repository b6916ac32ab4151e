// bench: what bench.c measured, for bench_text.c to print.
#ifndef ASSAY_CMD_BENCH_H
#define ASSAY_CMD_BENCH_H

#include "harness/bench/bench.h"
#include "harness/cmd/options.h"
#include "harness/model/checkpoint.h"
#include "harness/run/profile.h"
#include "runtime/bundle.h"

// A checkpoint or a bundle, opened without hashing: what lies between the command and its first token.
struct bench_subject {
    const char *path;
    const char *name; // last component
    struct arena arena;
    struct checkpoint *checkpoint; // NULL: a bundle
    struct config config;
    struct model own;
    struct bundle *bundle;      // NULL: a checkpoint
    const struct model *model;  // own or the bundle's
    struct engine *engine;
    struct bench_stopwatch stopwatch; // the engine's
    double first_load, load;    // seconds to open it: the first time in this process, and again
    struct profile profile;
    uint32_t profiled, after;   // steps, and positions before them
};

struct bench_report {
    const struct options *options;
    const struct bench *bench;
    const struct bench_subject *subjects;
    size_t n_subjects;
    uint64_t anonymous_bytes;
    bool profile;
};

void bench_print_text(const struct bench_report *report);
void bench_print_json(const struct bench_report *report, struct arena *arena);

#endif
