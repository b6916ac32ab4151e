#include "harness/run/record.h"

#include <assert.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/run/run.h"

char *record_path(struct arena *arena, const char *directory, const char *case_id, const char *purpose)
{
    const bool whole = !purpose || !purpose[0];
    return arena_print(arena, "%s/%s%s%s.safetensors", directory, case_id, whole ? "" : ".", whole ? "" : purpose);
}

static int path_make(struct arena *arena, const char *directory, const char *case_id, const char *purpose,
                     const char **path, struct error *error)
{
    *path = record_path(arena, directory, case_id, purpose);
    return *path ? 0 : error_set(error, ERROR_RUNTIME, "out of memory for a file name in %s", directory);
}

struct purposes {
    bool whole, prefix, seeded, again, restored, batch;
};

static struct purposes case_purposes(const struct record *record, const struct suite_case *c,
                                     const struct engine *engine)
{
    static const enum check of_whole_run[] = {CHECK_SWEEP, CHECK_ROLLOUT,     CHECK_FLIPS, CHECK_DISTANCE,
                                              CHECK_STATE, CHECK_DETERMINISM, CHECK_PATHS};
    const bool *asked = record->checks, is_reference = !record->reference;
    struct purposes purposes = {
        .seeded = asked[CHECK_SEEDED] && c->checks[CHECK_SEEDED],
        .prefix = is_reference && asked[CHECK_SEEDED] && c->checks[CHECK_SEEDED],
        .again = !is_reference && asked[CHECK_DETERMINISM] && c->checks[CHECK_DETERMINISM],
        .restored = !is_reference && asked[CHECK_PATHS] && c->checks[CHECK_PATHS] && c->n + c->rollout >= 2,
        .batch = !is_reference && asked[CHECK_PATHS] && c->checks[CHECK_PATHS] && engine->class->batch,
    };
    for (size_t i = 0; i < sizeof of_whole_run / sizeof *of_whole_run; i++)
        purposes.whole = purposes.whole || (asked[of_whole_run[i]] && c->checks[of_whole_run[i]]);
    return purposes;
}

// All but the repetition.
static uint64_t first_positions(const struct record *record, const struct suite_case *c, const struct engine *engine)
{
    const struct purposes purposes = case_purposes(record, c, engine);
    const uint64_t total = (uint64_t)c->n + c->rollout;
    return (purposes.whole ? total : purposes.prefix ? c->n - c->seeded : 0) + (purposes.seeded ? c->seeded : 0) +
           (purposes.restored ? total - total / 2 : 0) + (purposes.batch ? 2 * total : 0);
}

uint64_t record_case_positions(const struct record *record, const struct suite_case *c, const struct engine *engine)
{
    return first_positions(record, c, engine) +
           (case_purposes(record, c, engine).again ? (uint64_t)c->n + c->rollout : 0);
}

uint64_t record_positions(const struct record *record, const struct suite *suite, const struct engine *engine)
{
    uint64_t positions = 0;
    for (size_t i = 0; i < suite->n_cases; i++)
        positions += record_case_positions(record, &suite->cases[i], engine);
    return positions;
}

// The tokens of the whole run as far as they are known beforehand: the case's own, and for every engine but the
// reference the continuation that the reference picked.
static int whole_tokens(const struct record *record, const struct suite_case *c, struct arena *arena, struct run *run,
                        struct error *error)
{
    run->tokens = c->tokens;
    run->n = c->n;
    run->generate = c->rollout;
    if (!record->reference)
        return 0;
    const char *path;
    struct trace *trace = NULL;
    int status = path_make(arena, record->reference, c->id, NULL, &path, error);
    if (!status)
        status = trace_open(&trace, path, error);
    if (!status)
        status = run_check_hashes(trace, &record->contract, error);
    if (!status && trace->n != (uint64_t)c->n + c->rollout)
        status = error_set(error, ERROR_CONTRACT,
                           "%s holds %u tokens, expected %u of the case and %u generated; record the "
                           "reference again with this suite",
                           path, trace->n, c->n, c->rollout);
    for (uint32_t t = 0; !status && t < c->n; t++)
        if ((uint32_t)trace->tokens[t] != c->tokens[t])
            status = error_set(error, ERROR_CONTRACT,
                               "%s: token %u is %ld, in the suite it is %u; record the reference again "
                               "with this suite",
                               path, t, (long)trace->tokens[t], c->tokens[t]);
    uint32_t *tokens = status ? NULL : arena_alloc(arena, trace->n, sizeof *tokens);
    if (!status && !tokens)
        status = error_set(error, ERROR_RUNTIME, "out of memory for the %u tokens of %s", trace->n, path);
    if (!status) {
        memcpy(tokens, trace->tokens, trace->n * sizeof *tokens); // not negative: checked at open
        run->tokens = tokens;
        run->n = trace->n;
        run->generate = 0;
    }
    trace_close(&trace);
    return status;
}

// What the comparison of routers needs.
static enum tap_level case_taps(const struct engine *engine)
{
    return engine->config->experts ? TAPS_ROUTER : TAPS_NONE;
}

static int record_whole(const struct record *record, const struct suite_case *c, struct engine *engine,
                        struct progress *progress, struct arena *arena, struct error *error)
{
    const struct purposes purposes = case_purposes(record, c, engine);
    struct run run = {.contract = &record->contract,
                      .logits = record->logits,
                      .chunk = record->chunk,
                      .taps = case_taps(engine),
                      .state = true,
                      .state_every = record->checks[CHECK_STATE] ? c->state_every : 0};
    int status = whole_tokens(record, c, arena, &run, error);
    if (!status)
        status = path_make(arena, record->directory, c->id, NULL, &run.path, error);
    if (!status && purposes.prefix) {
        run.branch = c->n - c->seeded;
        status = path_make(arena, record->directory, c->id, "prefix", &run.branch_path, error);
    }
    if (!status && purposes.restored) {
        run.branch = run.n / 2;
        status = path_make(arena, record->directory, c->id, "middle", &run.branch_path, error);
    }
    if (!status)
        status = run_record(&run, engine, progress, error);
    if (status || !purposes.restored)
        return status;

    struct run rest = {.contract = run.contract,
                       .logits = run.logits,
                       .from = run.branch_path,
                       .tokens = run.tokens + run.branch,
                       .n = run.n - run.branch,
                       .chunk = record->chunk,
                       .state = true};
    status = path_make(arena, record->directory, c->id, "restored", &rest.path, error);
    return status ? status : run_record(&rest, engine, progress, error);
}

static int record_prefix(const struct record *record, const struct suite_case *c, struct engine *engine,
                         struct progress *progress, struct arena *arena, struct error *error)
{
    struct run run = {.contract = &record->contract,
                      .logits = record->logits,
                      .tokens = c->tokens,
                      .n = c->n - c->seeded,
                      .chunk = record->chunk,
                      .state = true};
    const int status = path_make(arena, record->directory, c->id, "prefix", &run.path, error);
    return status ? status : run_record(&run, engine, progress, error);
}

static int record_seeded(const struct record *record, const struct suite_case *c, struct engine *engine,
                         struct progress *progress, struct arena *arena, struct error *error)
{
    struct run run = {.contract = &record->contract,
                      .logits = record->logits,
                      .tokens = c->tokens + (c->n - c->seeded),
                      .n = c->seeded,
                      .chunk = record->chunk,
                      .taps = case_taps(engine),
                      .state = true};
    const char *source = record->reference ? record->reference : record->directory;
    int status = path_make(arena, source, c->id, "prefix", &run.from, error);
    if (!status)
        status = path_make(arena, record->directory, c->id, "seeded", &run.path, error);
    return status ? status : run_record(&run, engine, progress, error);
}

// The whole run once more, `chunk` tokens a call.
static int record_repeated(const struct record *record, const struct suite_case *c, const char *purpose,
                           uint32_t chunk, struct engine *engine, struct progress *progress, struct arena *arena,
                           struct error *error)
{
    struct run run = {.contract = &record->contract, .logits = record->logits, .chunk = chunk, .state = true};
    int status = whole_tokens(record, c, arena, &run, error);
    if (!status)
        status = path_make(arena, record->directory, c->id, purpose, &run.path, error);
    return status ? status : run_record(&run, engine, progress, error);
}

static int in_case(const struct suite_case *c, int status, struct error *error)
{
    if (status && error) {
        const struct error inner = *error;
        error_set(error, status, "case '%s': %s", c->id, inner.text);
    }
    return status;
}

int record_again(const struct record *record, const struct suite_case *c, struct engine *engine,
                 struct progress *progress, struct error *error)
{
    if (!case_purposes(record, c, engine).again)
        return 0;
    struct arena arena = {0};
    const int status = record_repeated(record, c, "again", record->chunk, engine, progress, &arena, error);
    arena_close(&arena);
    return in_case(c, status, error);
}

// What the cache is asked for, and given: the reference's traces of a case.
static int cache_case_make(const struct record *record, const struct suite_case *c, const struct engine *engine,
                           struct arena *arena, struct cache_case *out, struct error *error)
{
    const struct purposes purposes = case_purposes(record, c, engine);
    *out = (struct cache_case){.contract = record->contract,
                               .tokens = c->tokens,
                               .n = c->n,
                               .rollout = purposes.whole ? c->rollout : 0,
                               .state_every = purposes.whole && record->checks[CHECK_STATE] ? c->state_every : 0,
                               .taps = case_taps(engine),
                               .seeded = purposes.seeded ? c->seeded : 0};
    char *mode = arena_alloc(arena, RUN_MODE_TEXT, 1);
    if (!mode)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    run_contract(&out->contract, engine, record->chunk, mode);
    int status = 0;
    if (purposes.whole)
        status = path_make(arena, record->directory, c->id, NULL, &out->paths[CACHE_WHOLE], error);
    if (!status && purposes.prefix)
        status = path_make(arena, record->directory, c->id, "prefix", &out->paths[CACHE_PREFIX], error);
    if (!status && purposes.seeded)
        status = path_make(arena, record->directory, c->id, "seeded", &out->paths[CACHE_SEEDED], error);
    return status;
}

static int record_anew(const struct record *record, const struct suite_case *c, struct engine *engine,
                       struct progress *progress, struct arena *arena, struct error *error)
{
    const struct purposes purposes = case_purposes(record, c, engine);
    int status = 0;
    if (purposes.whole)
        status = record_whole(record, c, engine, progress, arena, error);
    else if (purposes.prefix)
        status = record_prefix(record, c, engine, progress, arena, error);
    if (!status && purposes.seeded)
        status = record_seeded(record, c, engine, progress, arena, error);
    if (!status && purposes.batch)
        status = record_repeated(record, c, "batch", RECORD_BATCH, engine, progress, arena, error);
    if (!status && purposes.batch)
        status = record_repeated(record, c, "chunk", RECORD_CHUNK, engine, progress, arena, error);
    return status;
}

int record_case(const struct record *record, const struct suite_case *c, struct engine *engine,
                struct progress *progress, struct error *error)
{
    assert(c->n > 0 && (!c->checks[CHECK_SEEDED] || (c->seeded > 0 && c->seeded < c->n)));
    struct arena arena = {0};
    struct cache_case kept;
    struct cache *cache = record->reference || !first_positions(record, c, engine) ? NULL : record->cache;
    int status = cache ? cache_case_make(record, c, engine, &arena, &kept, error) : 0;
    if (!status && cache && cache_get(cache, &kept)) {
        progress_step(progress, first_positions(record, c, engine));
    } else if (!status) {
        status = record_anew(record, c, engine, progress, &arena, error);
        if (!status && cache)
            cache_put(cache, &kept);
    }
    arena_close(&arena);
    return in_case(c, status, error);
}

// Case "a.again" would be the file of case "a" for another purpose.
static int check_case_ids(const struct suite *suite, struct error *error)
{
    static const char *const endings[] = {".prefix", ".seeded", ".again", ".middle", ".restored", ".batch", ".chunk"};
    for (size_t i = 0; i < suite->n_cases; i++) {
        const char *id = suite->cases[i].id;
        for (size_t j = 0; j < sizeof endings / sizeof *endings; j++)
            if (strlen(id) >= strlen(endings[j]) && strcmp(id + strlen(id) - strlen(endings[j]), endings[j]) == 0)
                return error_set(error, ERROR_INPUT,
                                 "case '%s': an id must not end in '%s', which is how a trace of another "
                                 "purpose is named; rename the case",
                                 id, endings[j]);
    }
    return 0;
}

int record_open(const struct record *record, const struct suite *suite, struct error *error)
{
    const int status = check_case_ids(suite, error);
    return status ? status : directory_make(record->directory, error);
}

int record_suite(const struct record *record, const struct suite *suite, struct engine *engine, struct error *error)
{
    int status = record_open(record, suite, error);
    if (status)
        return status;
    struct progress progress;
    progress_start(&progress, engine->name, record_positions(record, suite, engine), record->quiet);
    for (size_t i = 0; i < suite->n_cases && !status; i++)
        status = record_case(record, &suite->cases[i], engine, &progress, error);
    // Repetitions come last and in reverse, so that each follows work that its first run did not follow.
    for (size_t i = suite->n_cases; i-- > 0 && !status;)
        status = record_again(record, &suite->cases[i], engine, &progress, error);
    progress_finish(&progress);
    return status;
}

int record_run(const struct record *record, const struct record_run *request, struct engine *engine, const char *path,
               struct error *error)
{
    const uint64_t total = (uint64_t)request->n + request->generate;
    if (!request->n)
        return error_set(error, ERROR_INPUT, "%s: the prompt has no tokens; expected at least one", path);
    if (total > engine->config->max_positions)
        return error_set(error, ERROR_INPUT,
                         "%s: %u tokens and %u to generate are more than the %u positions that the model "
                         "allows",
                         path, request->n, request->generate, engine->config->max_positions);
    const struct run run = {.contract = &record->contract,
                            .logits = record->logits,
                            .path = path,
                            .from = request->from,
                            .at = request->at,
                            .tokens = request->tokens,
                            .n = request->n,
                            .generate = request->generate,
                            .chunk = record->chunk,
                            .taps = request->taps,
                            .state = request->state,
                            .state_every = request->state_every};
    struct progress progress;
    progress_start(&progress, engine->name, total, record->quiet);
    const int status = run_record(&run, engine, &progress, error);
    progress_finish(&progress);
    return status;
}
