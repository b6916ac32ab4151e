// trace: `assay-trace/1`, what one engine computed for one token sequence, as one safetensors file that PyTorch, MLX,
// Swift or C can write without our code.
//
//   tokens I32 [N] · logits F32 or F16 [N, V] (or topk.ids I32 [N, K], topk.logits F32 [N, K], logsumexp F32 [N])
//   tap.<layer>.<point> F32 [N, width] (experts: I32 [N, k]) · state.<layer>.<kind> F32
//   snapshot.<position>.<layer>.<kind> F32: conv and delta after that many positions. Keys and values have none: those
//   caches only grow, so the first columns of the end state are the cache at every earlier position
//   __metadata__ (strings): the contract below. Unknown keys are kept.
//
// Writing is streamed: rows go to their place in the file as they are computed, so memory does not grow with N.
#ifndef ASSAY_TRACE_H
#define ASSAY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/hash.h"
#include "harness/model/config.h"
#include "harness/model/safetensors.h"
#include "harness/run/state.h"
#include "harness/run/tap.h"

#define TRACE_SCHEMA "assay-trace/1"

// Who computed what from which files. Every string is "" when unknown, never NULL.
struct trace_contract {
    const char *model, *model_type;
    const char *weights_sha256, *config_sha256, *bundle_sha256, *tokenizer_sha256;
    const char *engine, *engine_version, *device, *precision;
    const char *mode;   // "s1", "batch", "chunk:N"
    const char *start;  // "zero", or the SHA-256 of the trace file whose state was seeded
    uint32_t position;  // positions before the first token
    uint32_t generated; // how many of the N tokens the engine chose itself
};

// --- writing

struct trace_writer;

struct trace_spec {
    struct trace_contract contract;
    const struct config *config; // borrowed until commit or abandon
    uint32_t n;                  // tokens, generated ones included; at least 1
    enum dtype logits;           // DTYPE_F32 or DTYPE_F16 (exact for engines whose logits are halves)
    enum tap_level taps;
    bool state; // a state after the last token will be put
    uint32_t state_every; // a snapshot will be put at every multiple of it, the end included; 0: none
};

// On failure *writer is NULL and nothing was written. Tensors stand in descending size of their elements, then in the
// order of the list above; NaNs become the canonical one. Two more metadata keys say what was recorded: taps (none,
// router, layers, all), state (none, final) and state_every (0: no snapshots).
int trace_create(struct trace_writer **writer, const char *path, const struct trace_spec *spec, struct error *error);
// Row t: the token and the logits [V] after it. A logit that DTYPE_F16 cannot hold makes commit fail with
// ERROR_CONTRACT.
void trace_put(struct trace_writer *writer, uint32_t t, uint32_t token, const float *logits);
// A sink that stores taps as row t (of the last trace_row call).
void trace_row(struct trace_writer *writer, uint32_t t);
const struct tap_sink *trace_taps(struct trace_writer *writer);
// position of `state` = contract.position + n.
void trace_put_state(struct trace_writer *writer, const struct state *state);
// The recurrent state (state_make_recurrent) at the next multiple of state_every.
void trace_put_snapshot(struct trace_writer *writer, const struct state *state);
// Every row, tap, snapshot and state must have been put (assert). Renames into place, or reports the first failure.
int trace_commit(struct trace_writer **writer, struct error *error);
void trace_abandon(struct trace_writer **writer);

// --- reading

struct trace {
    struct arena arena;
    struct safetensors *file;
    struct trace_contract contract;
    uint32_t n;                  // tokens
    uint32_t vocabulary;         // V; 0 when only topk is there and the width is unknown
    const int32_t *tokens;       // [n], each in [0, V)
    const struct tensor *logits; // NULL when only topk is there
    const struct tensor *topk_ids, *topk_logits, *logsumexp;
};

// Refused with ERROR_INPUT: no safetensors, another or no schema, missing tokens or logits, shapes that disagree,
// negative or too large ids, a tap or state of a wrong row count, a snapshot outside the trace or of another shape
// than the state it belongs to, numbers in the contract that are none, a start that
// is neither "zero" nor a digest, a position that does not go with it. Other tensors (logits64, points and states of
// other families) are left alone. On failure *trace is NULL.
int trace_open(struct trace **trace, const char *path, struct error *error);
void trace_close(struct trace **trace);

// Logits of row t as floats [V]: a pointer into the mapping for F32, else widened into `scratch` [V]. Full logits
// only.
const float *trace_logits(const struct trace *trace, uint32_t t, float *scratch);
// Tap row t, or NULL when the trace has no such tap; *width receives its width. Not for the experts' ids.
const float *trace_tap(const struct trace *trace, uint32_t t, uint32_t layer, enum tap_point point, uint32_t *width);
// The ids of row t, in the order of the trace's weights, or NULL when the trace has none. They may be any numbers.
const int32_t *trace_experts(const struct trace *trace, uint32_t t, uint32_t layer, uint32_t *k);
// Read-only pointers into the mapping; the list, by layer then kind, in the arena. state->n is 0 when the trace has
// no state. ERROR_INPUT for a state of a kind that enum state_kind does not have: it is not dropped silently.
int trace_state(const struct trace *trace, struct arena *arena, struct state *state, struct error *error);

// The snapshots, by position: each as trace_state, conv and delta alone. In the arena; *n is 0 when there are none.
// ERROR_INPUT when two of them do not have the same tensors.
int trace_snapshots(const struct trace *trace, struct arena *arena, struct state **snapshots, size_t *n,
                    struct error *error);
// The whole state after `position` tokens: the end state, or a snapshot with the first columns of its keys and values,
// copied into the arena; of a trace without an end state, no keys and values. ERROR_INPUT: no such snapshot (names those
// there are).
int trace_state_at(const struct trace *trace, uint32_t position, struct arena *arena, struct state *state,
                   struct error *error);

// May these two be compared? Equal schema, tokens, vocabulary, start and position and, where both state them, equal
// weights, config and tokenizer hashes. ERROR_CONTRACT names the first key that differs with both values.
// `same_mode`: two candidates are compared in equal modes.
int trace_comparable(const struct trace *reference, const struct trace *candidate, bool same_mode,
                     struct error *error);

#endif
