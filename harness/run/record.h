// record: runs one engine over a suite and leaves one trace per case and purpose. Which numbers, in what order?
// Nothing here computes or judges.
//
// In DIRECTORY, for every case that asks for it:
//   CASE.safetensors            zero state, all tokens S=1, teacher-forced, then the case's `rollout` more; end state
//                               (sweep, rollout, flips, distance, state: the same rows whichever is asked for);
//                               snapshots of the recurrent states every `state_every` tokens, where the case says so
//   CASE.prefix.safetensors     reference only: the first n - seeded tokens, end state: the seed
//   CASE.seeded.safetensors     the last `seeded` tokens from the reference's state, end state
//   CASE.again.safetensors      determinism: the whole run a second time, after other work
//   CASE.middle.safetensors     paths: the first half (rounded down) of the whole run, with the state there
//   CASE.restored.safetensors   paths: the second half, by the engine after a reset and that state loaded
//   CASE.batch.safetensors      paths: the whole run again, as many tokens a call as the engine takes
//   CASE.chunk.safetensors      paths: the whole run again, RECORD_CHUNK tokens a call
// Of a model with experts the first and the third also hold the router's taps of every row.
// An engine without batches writes no `batch` and no `chunk`. The reference writes none of the last five: nobody
// compares it with itself; for determinism and paths it leaves the whole run that the others follow. A whole run of a
// single token has no middle, hence no `restored`.
//
// A trace that continues a state names the file it came from: start = its SHA-256, position = its positions. A state
// of another model (hashes that both state, or shapes) is refused.
//
// Rollout: the reference generates greedily, past stop tokens (contract: generated = rollout). A row with a NaN, an
// infinity or fewer than two distinct values has no pick: the reference then fails with ERROR_RUNTIME. Every other
// engine is fed the reference's continuation; where its own pick differs, the reference's token is forced and it goes
// on. A free greedy run is the same up to its first divergence, so the picks of this trace tell both.
#ifndef ASSAY_RECORD_H
#define ASSAY_RECORD_H

#include "harness/base/error.h"
#include "harness/base/progress.h"
#include "harness/run/cache.h"
#include "harness/run/engine.h"
#include "harness/run/suite.h"
#include "harness/run/trace.h"

#define RECORD_BATCH UINT32_MAX // tokens a call: as many as the engine takes
enum { RECORD_CHUNK = 7 };      // divides neither a power of two nor the usual length of a case

struct record {
    const char *directory;          // made when missing
    const char *reference;          // directory of the reference's traces; NULL: this is the reference
    struct trace_contract contract; // engine fields and start are filled in per trace
    enum dtype logits;              // DTYPE_F32, or DTYPE_F16 for engines with half logits
    bool checks[CHECK_COUNT];       // what to serve with this engine
    // Given tokens a call, which contract.mode says: 0 or 1 is "s1", RECORD_BATCH "batch", any other N "chunk:N" (and
    // no more than the engine takes at once). Generated tokens are steps. An engine without batches has s1 only
    // (ERROR_USAGE).
    uint32_t chunk;
    bool quiet;
    struct cache *cache; // of the reference's traces (cache.h), else NULL; borrowed
};

// Runs `suite` on `engine`. Traces that exist already are overwritten. On failure the trace in progress leaves
// nothing. ERROR_INPUT: a case id that ends like the purpose of another file ("a.again"), a missing reference trace;
// ERROR_CONTRACT: a reference trace of other tokens or another model; ERROR_USAGE: a case longer than the engine's
// capacity.
int record_suite(const struct record *record, const struct suite *suite, struct engine *engine, struct error *error);
// Positions that record_suite will run: for the progress bar.
uint64_t record_positions(const struct record *record, const struct suite *suite, const struct engine *engine);

// The parts of record_suite, for a scheduler (sweep.h). record_open first; then record_case for every case, when the
// reference's traces of that case are there; then record_again (nothing, for a case without determinism) on the
// engine that ran the case. With a cache the reference's case comes from there, or goes there once it is complete.
int record_open(const struct record *record, const struct suite *suite, struct error *error);
int record_case(const struct record *record, const struct suite_case *c, struct engine *engine,
                struct progress *progress, struct error *error);
int record_again(const struct record *record, const struct suite_case *c, struct engine *engine,
                 struct progress *progress, struct error *error);
uint64_t record_case_positions(const struct record *record, const struct suite_case *c, const struct engine *engine);

// One run, for `assay trace`: tokens teacher-forced, then `generate` more that the engine picks itself, to one trace
// file. `from` (may be NULL) is a trace with a state to start from. record->directory, reference and checks are not
// used. ERROR_INPUT: no tokens, more positions than the model allows; ERROR_USAGE: more than the engine has room for.
struct record_run {
    const uint32_t *tokens;
    uint32_t n, generate;
    enum tap_level taps;
    bool state;
    uint32_t state_every; // snapshots, as in trace.h; 0: none
    const char *from;
    uint32_t at;          // positions of the snapshot in `from` to start from; 0: its end state
};
int record_run(const struct record *record, const struct record_run *run, struct engine *engine, const char *path,
               struct error *error);

// DIR/CASE[.purpose].safetensors in the arena; purpose NULL or "" for the whole run. NULL when memory is exhausted.
char *record_path(struct arena *arena, const char *directory, const char *case_id, const char *purpose);

#endif
