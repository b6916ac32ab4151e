#include "harness/cmd/recording.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/run/sweep.h"

enum { SMALL_MODEL_BYTES = 64 << 20, ARMS_MOST = 4 };

static int parse_size(const char *text, uint64_t *bytes, struct error *error)
{
    const size_t digits = strspn(text, "0123456789");
    const char *unit = text + digits, *units = "KMGT", *found = *unit ? strchr(units, *unit) : NULL;
    const unsigned shift = found ? 10 * (unsigned)(found - units + 1) : 0;
    uint64_t value = 0;
    for (size_t i = 0; i < digits && digits <= 12; i++)
        value = 10 * value + (uint64_t)(text[i] - '0');
    if (!digits || digits > 12 || (*unit && (!found || unit[1])) || value > UINT64_MAX >> shift)
        return error_set(error, ERROR_USAGE, "--cache-limit %s: expected a number of bytes, as 500M or 2G", text);
    *bytes = value << shift;
    return 0;
}

int recording_cache(const struct options *options, struct cache **cache, struct error *error)
{
    const char *limit = options_text(options, "cache-limit");
    uint64_t bytes = CACHE_DEFAULT_BYTES;
    const int code = limit ? parse_size(limit, &bytes, error) : 0;
    *cache = code || options_flag(options, "no-cache") ? NULL : cache_open(bytes);
    return code;
}

static uint64_t checkpoint_bytes(const struct subject *subject)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < subject->checkpoint->table.n; i++)
        bytes += subject->checkpoint->table.tensors[i]->bytes;
    return bytes;
}

static uint32_t longest_run(const struct suite *suite)
{
    uint32_t longest = 1;
    for (size_t i = 0; i < suite->n_cases; i++)
        if (suite->cases[i].n + suite->cases[i].rollout > longest)
            longest = suite->cases[i].n + suite->cases[i].rollout;
    return longest;
}

static int open_engine(struct arms *arms, struct recording_arm *arm, const struct suite *suite, struct engine **engine,
                       struct error *error)
{
    const int code = arms_open(arms, arm->kind, arm->fault, longest_run(suite), engine, error);
    if (!code) {
        arm->record.logits = arms_logits(arms, arm->kind);
        snprintf(arm->engine, sizeof arm->engine, "%s", (*engine)->name);
    }
    return code;
}

static int run_cases(struct arms *arms, struct recording_arm *list, size_t n, const struct suite *suite,
                     unsigned threads, struct error *error)
{
    const size_t lanes = suite->n_cases < SWEEP_LANES ? suite->n_cases : SWEEP_LANES;
    struct sweep_arm sweep[ARMS_MOST] = {0};
    int code = 0;
    arms->pool = NULL;
    for (size_t i = 0; i < n && !code; i++) {
        for (size_t lane = 0; lane < lanes && !code; lane++)
            code = open_engine(arms, &list[i], suite, &sweep[i].lanes[lane], error);
        sweep[i].record = list[i].record;
    }
    if (!code)
        code = sweep_suite(sweep, n, lanes, suite, threads, arms->quiet, error);
    for (size_t i = 0; i < n; i++)
        for (size_t lane = 0; lane < lanes; lane++)
            engine_close(&sweep[i].lanes[lane]);
    return code;
}

static int run_rows(struct arms *arms, struct recording_arm *list, size_t n, const struct suite *suite,
                    unsigned threads, struct error *error)
{
    struct pool *pool;
    int code = pool_open(&pool, threads, error);
    arms->pool = pool;
    for (size_t i = 0; i < n && !code; i++) {
        struct engine *engine;
        code = open_engine(arms, &list[i], suite, &engine, error);
        if (!code)
            code = record_suite(&list[i].record, suite, engine, error);
        engine_close(&engine);
    }
    arms->pool = NULL;
    pool_close(&pool);
    return code;
}

int recording_run(struct arms *arms, struct recording_arm *list, size_t n, const struct suite *suite, unsigned threads,
                  struct error *error)
{
    assert(n && n <= ARMS_MOST);
    const bool small = checkpoint_bytes(arms->subject) < SMALL_MODEL_BYTES;
    return (small ? run_cases : run_rows)(arms, list, n, suite, threads, error);
}

const char *recording_note(struct arena *arena, struct cache *cache, const struct suite *suite)
{
    const size_t hits = cache_hits(cache);
    return hits ? arena_print(arena, "reference: %zu of %zu cases from the cache of traces, checked by hash (--no-cache "
                              "computes them again)", hits, suite->n_cases)
                : NULL;
}
