// run: one run of one engine, to one trace. What record.h is made of; no other module needs it.
#ifndef ASSAY_RUN_H
#define ASSAY_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "harness/base/error.h"
#include "harness/base/progress.h"
#include "harness/run/engine.h"
#include "harness/run/trace.h"

struct run {
    const struct trace_contract *contract; // who runs what; engine, mode, start, position and generated are filled in
    enum dtype logits;
    const char *path;       // of the trace
    const char *from;       // the trace whose state is the start; NULL: zero state
    uint32_t at;            // the snapshot of `from` after so many positions; 0: its end state
    const uint32_t *tokens; // [n] given
    uint32_t n, generate;   // n >= 1; generate: more tokens, picked by the engine itself, one at a time
    uint32_t chunk;         // given tokens a call, as record.h says of its own
    enum tap_level taps;
    bool state;
    uint32_t state_every;   // snapshots in the trace, as in trace.h; 0: none
    const char *branch_path; // a second trace, of the first `branch` <= n tokens and with the state there; NULL: none
    uint32_t branch;
};

// Takes the engine from its start through all tokens. The branch is committed on the way, the trace at the end; on
// failure the one in progress leaves nothing.
int run_record(const struct run *run, struct engine *engine, struct progress *progress, struct error *error);

// The keys of the contract that tell who runs: engine, engine_version, device, precision, and mode, whose text is `mode`.
enum { RUN_MODE_TEXT = 24 };
void run_contract(struct trace_contract *contract, const struct engine *engine, uint32_t chunk, char mode[RUN_MODE_TEXT]);

// ERROR_CONTRACT when trace and contract both state a weights or config hash and they differ.
int run_check_hashes(const struct trace *trace, const struct trace_contract *contract, struct error *error);

#endif
