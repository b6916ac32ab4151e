// cache: the reference's traces, kept from run to run, so that a second bundle of a checkpoint, or a run that was
// interrupted, does not compute them again. Only the reference is kept, never a candidate.
//
// In directory_cache("traces"), an entry per case: a directory named by the SHA-256 of its key, which holds
// whole-HASH.safetensors, prefix-HASH.safetensors, seeded-HASH.safetensors (record.h; as many as the case asks for),
// HASH being the SHA-256 of the file's bytes. The key is everything that the bytes follow from: the contract (model,
// hashes of weights, config and tokenizer, engine, version, precision, mode), the tokens, what was asked, the version
// of the format, and the SHA-256 of this program, since two builds may carry one version number.
//
// Nothing is trusted because it is there: an entry is used when its files have the bytes that their names promise and
// are traces of this contract and these tokens; otherwise it is removed and the case computed again. An entry is made
// under a temporary name and renamed, so that it is whole or absent whenever a process dies and however many run at
// once; temporaries of dead processes are removed at open. Trouble (no room, no permission) never fails a run: the
// case is then not kept.
#ifndef ASSAY_CACHE_H
#define ASSAY_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/run/trace.h"

#define CACHE_DEFAULT_BYTES (UINT64_C(4) << 30) // four models of 65,536 ids under the standard suite

struct cache;

enum cache_purpose { CACHE_WHOLE, CACHE_PREFIX, CACHE_SEEDED, CACHE_PURPOSES };

// The traces of one case. All strings and tokens are borrowed for the call.
struct cache_case {
    struct trace_contract contract;    // from the zero state: start, position and generated are not looked at
    const uint32_t *tokens;            // [n]
    uint32_t n, rollout, seeded;       // as in suite.h; 0 for what is not asked
    uint32_t state_every;              // of the whole run
    enum tap_level taps;               // of the whole run and the seeded decode
    const char *paths[CACHE_PURPOSES]; // the files of this run; NULL: not asked for
};

// NULL when there is none: switched off (ASSAY_NO_CACHE), no place that can be written to, no memory. Every function
// accepts that NULL. `limit`: bytes; the least recently used entries go first. Safe from several threads.
struct cache *cache_open(uint64_t limit);
void cache_close(struct cache **cache);

// True: all files that were asked for are at their paths (links or copies of the entry's) and were checked there.
// False: none of them is from the cache.
bool cache_get(struct cache *cache, const struct cache_case *wanted);
// Keeps the files at the paths (links or copies). Without hashes of weights and config in the contract: nothing.
void cache_put(struct cache *cache, const struct cache_case *recorded);
// Cases that cache_get served.
size_t cache_hits(struct cache *cache);

#endif
