// bench: how fast are engines on this machine, as shares of what the machine can do, measured beside them.
//
// A shared host changes its speed by half within minutes, so a speed alone says little. Every round times, one after
// the other on the same threads: the distance of the threads; for each mode one read pass over its own weights, the
// mode, and a read pass of another kind, of which the faster counts; the multiply-add peak of all threads and of one.
// Shares are formed within the round, then medians over rounds. A round is dropped and counted when two threads were
// found on one core, or when the caller's thread was without a processor for much of it, as on a machine with other
// work. The first round warms up.
//
// Correct before fast: bench_check comes first, and nothing is timed whose bits are wrong.
#ifndef ASSAY_BENCH_H
#define ASSAY_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/pool.h"
#include "harness/bench/machine.h"
#include "harness/model/model.h"
#include "harness/run/engine.h"
#include "harness/run/profile.h"

// How an engine may be driven over n tokens from the zero state. rows [n, V]: where the logits go; NULL: nowhere.
struct bench_way {
    const char *name;    // "s1"
    bool reads_each;     // every token reads all weights once: a share of the bandwidth can be stated
    bool (*has)(const struct engine *engine);
    int (*run)(struct engine *engine, const uint32_t *tokens, uint32_t n, float *rows, struct error *error);
};
extern const struct bench_way bench_ways[]; // ends with name NULL

enum { BENCH_ROUNDS_MAX = 1000 };

struct bench_range {
    double low, median, high;
};

// Seconds inside linear layers, the packing of a batch's inputs included.
struct bench_stopwatch {
    struct profile_hook hook; // to be given to the engine when it is opened
    double began, seconds;
};
// `stopwatch` must stay where it is while an engine has its hook.
void bench_stopwatch_open(struct bench_stopwatch *stopwatch);

// One engine driven one way, and what was measured.
struct bench_mode {
    const char *model; // as the user named it
    const struct bench_way *way;
    struct engine *engine;
    struct bench_stopwatch *stopwatch; // the engine's
    const struct model *weights;
    uint32_t tokens; // of one round
    // filled in by bench_run
    struct model_traffic traffic;
    const struct span *spans;
    size_t n_spans;
    double *speeds, *reads, *bandwidths, *peaks, *linears; // [rounds]
    struct bench_range tokens_per_s, read_bytes_per_s;
    struct bench_range bandwidth_share;  // bytes of weights a token, a second, of the faster read pass around it
    struct bench_range fma_share;        // 2 x multiplications of linear layers, of the peak in the same round
    struct bench_range linear_fma_share; // the same, counting only the time inside them
    struct bench_range *times;           // [modes] tokens/s, as a multiple of every mode's in the same round
};

struct bench {
    struct arena arena;
    struct pool *pool;
    uint32_t rounds;       // to keep; at most three times as many are tried
    double sibling_ns;     // threads nearer than this share a core; 0: keep such rounds
    double least_running;  // share of the time for which the caller's thread must run; 0: keep every such round
    bool quiet;
    struct bench_mode *modes;
    size_t n_modes;
    // filled in by bench_run
    uint32_t kept, dropped_near, dropped_waiting;
    struct bench_range distance_ns, peak; // of the kept rounds; peak in operations a second
    // That peak, of what as many threads would do that were each as fast as one alone: well under 1, the threads had
    // not a core each, and nothing that was measured with all of them means much.
    struct bench_range cores_share;
    struct bench_range running; // share of the modes' time for which the caller's thread ran
};

// The first `n` tokens of the text that every mode is given: all ids of the vocabulary are equally likely.
void bench_tokens(uint32_t vocabulary, uint32_t n, uint32_t *tokens);

// Runs `n` tokens by every way the engine has and compares all bits of the logits with those of `definition` (the
// same model on the portable kernels and one thread) run by single steps. ERROR_CONTRACT names way, token and id of
// the first difference, or the first logit that is not finite.
int bench_check(struct engine *engine, struct engine *definition, uint32_t n, struct error *error);

// Measures. Engines have room for their modes' tokens. Results live in the arena. ERROR_RUNTIME: no round was kept.
int bench_run(struct bench *bench, struct error *error);
void bench_close(struct bench *bench); // results only; engines and pool are the caller's

// Sorts `values` [n], n >= 1. The median of an even number is the mean of the middle two.
struct bench_range bench_range(double *values, size_t n);

#endif
