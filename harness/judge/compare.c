#include "harness/judge/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/judge/measure.h"
#include "harness/judge/statistic.h"
#include "harness/run/record.h"

const char *agreement_name(enum agreement agreement)
{
    static const char *const names[] = {"agree", "tie", "near-tie", "real flip", "no pick"};
    return names[agreement];
}

// Paths of a case's traces for one purpose; NULL for an arm that was not recorded.
static int join_case(struct joined *joined, const struct measuring *m, const char *purpose, struct error *error)
{
    const char *id = m->request->suite->cases[m->case_index].id, *arms[ARM_COUNT] = {0};
    const char *reference = record_path(&m->comparison->arena, m->request->reference, id, purpose);
    bool complete = reference != NULL;
    for (int arm = 0; arm < ARM_COUNT; arm++)
        if (m->request->arms[arm]) {
            arms[arm] = record_path(&m->comparison->arena, m->request->arms[arm], id, purpose);
            complete &= arms[arm] != NULL;
        }
    if (!complete)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    return join_open(joined, reference, arms, error);
}

// --- the first pair

static const char *kept(struct arena *arena, const char *text)
{
    const char *copy = text ? arena_print(arena, "%s", text) : NULL;
    return copy ? copy : "";
}

// The first pair's strings outlive the traces they came from.
static void keep_contract(struct arena *arena, struct trace_contract *c)
{
    const char **strings[] = {&c->model, &c->model_type, &c->weights_sha256, &c->config_sha256, &c->bundle_sha256,
        &c->tokenizer_sha256, &c->engine, &c->engine_version, &c->device, &c->precision, &c->mode, &c->start};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        *strings[i] = kept(arena, *strings[i]);
}

static int remember_pair(struct measuring *m, const struct joined *joined, struct error *error)
{
    struct comparison *comparison = m->comparison;
    const uint32_t vocabulary = joined->reference->vocabulary;
    if (comparison->vocabulary)
        return vocabulary == comparison->vocabulary
                   ? 0
                   : error_set(error, ERROR_CONTRACT, "%s: vocabulary %u, found %u in the cases before",
                               joined->reference->file->path, vocabulary, comparison->vocabulary);
    comparison->vocabulary = vocabulary;
    comparison->reference = joined->reference->contract;
    comparison->candidate = joined->arms[ARM_CANDIDATE]->contract;
    keep_contract(&comparison->arena, &comparison->reference);
    keep_contract(&comparison->arena, &comparison->candidate);
    m->reference_row = arena_alloc(&comparison->arena, vocabulary, sizeof *m->reference_row);
    m->arm_row = arena_alloc(&comparison->arena, vocabulary, sizeof *m->arm_row);
    m->expected_row = arena_alloc(&comparison->arena, vocabulary, sizeof *m->expected_row);
    m->probabilities = arena_alloc(&comparison->arena, vocabulary, sizeof *m->probabilities);
    bool complete = m->reference_row && m->arm_row && m->expected_row && m->probabilities;
    for (int check = 0; check < CHECK_COUNT; check++) {
        m->seen[check] = arena_alloc(&comparison->arena, vocabulary, 1);
        complete &= m->seen[check] != NULL;
    }
    return complete ? 0 : error_set(error, ERROR_RUNTIME, "out of memory");
}

// --- a case, a suite

static void declare(struct measuring *m, const struct suite_case *c, const bool *asked)
{
    uint64_t *declared = m->comparison->declared;
    declared[CHECK_SWEEP] += asked[CHECK_SWEEP] && c->checks[CHECK_SWEEP] ? c->n_positions : 0;
    declared[CHECK_SEEDED] += asked[CHECK_SEEDED] && c->checks[CHECK_SEEDED] ? c->seeded : 0;
    declared[CHECK_ROLLOUT] += asked[CHECK_ROLLOUT] && c->checks[CHECK_ROLLOUT];
    declared[CHECK_FLIPS] += asked[CHECK_FLIPS] && c->checks[CHECK_FLIPS] ? c->n : 0;
    declared[CHECK_DISTANCE] += asked[CHECK_DISTANCE] && c->checks[CHECK_DISTANCE] ? c->n : 0;
}

static int compare_whole(struct measuring *m, struct error *error)
{
    const bool *asked = m->request->checks;
    const struct suite_case *c = &m->request->suite->cases[m->case_index];
    struct joined joined;
    int code = join_case(&joined, m, NULL, error);
    if (code)
        return code;
    const struct trace *candidate = joined.arms[ARM_CANDIDATE];
    if (!candidate) {
        for (int check = CHECK_SWEEP; check < CHECK_COUNT; check++)
            if (asked[check] && c->checks[check] && check != CHECK_SEEDED)
                measure_missing(m, (enum check)check, 0, "no trace of this case");
    } else {
        code = remember_pair(m, &joined, error);
        if (!code)
            code = measure_whole(m, &joined, error);
        if (!code && asked[CHECK_DETERMINISM] && c->checks[CHECK_DETERMINISM])
            code = measure_second_run(m, candidate, CHECK_DETERMINISM, SECOND_AGAIN, error);
        for (enum second_run way = SECOND_RESTORED; !code && way < SECOND_COUNT; way++)
            if (asked[CHECK_PATHS] && c->checks[CHECK_PATHS])
                code = measure_second_run(m, candidate, CHECK_PATHS, way, error);
    }
    join_close(&joined);
    return code;
}

static int compare_seeded(struct measuring *m, struct error *error)
{
    struct joined joined;
    int code = join_case(&joined, m, "seeded", error);
    if (code)
        return code;
    if (joined.arms[ARM_CANDIDATE])
        code = measure_seeded(m, &joined, error);
    else
        measure_missing(m, CHECK_SEEDED, m->request->suite->cases[m->case_index].seeded, "no trace of a seeded decode");
    join_close(&joined);
    return code;
}

// Room for everything that can be compared, once: rows, rollouts, second runs and what may be missing of them.
static int make_room(struct measuring *m, struct error *error)
{
    const struct suite *suite = m->request->suite;
    struct arena *arena = &m->comparison->arena;
    size_t rows = 0;
    for (size_t i = 0; i < suite->n_cases; i++)
        rows += (size_t)suite->cases[i].n + suite->cases[i].rollout + suite->cases[i].seeded;
    bool complete = true;
    for (int arm = 0; arm < ARM_COUNT; arm++) {
        m->kl[arm] = arena_alloc(arena, rows, sizeof *m->kl[arm]);
        m->rms[arm] = arena_alloc(arena, rows, sizeof *m->rms[arm]);
        complete &= m->kl[arm] && m->rms[arm];
    }
    m->kernel = arena_alloc(arena, rows, sizeof *m->kernel);
    complete &= m->kernel != NULL;
    m->room = rows;
    m->comparison->positions = arena_alloc(arena, rows, sizeof *m->comparison->positions);
    m->comparison->rollouts = arena_alloc(arena, suite->n_cases, sizeof *m->comparison->rollouts);
    m->comparison->rows = arena_alloc(arena, SECOND_COUNT * suite->n_cases, sizeof *m->comparison->rows);
    m->comparison->missing = arena_alloc(arena, CHECK_COUNT * suite->n_cases, sizeof *m->comparison->missing);
    complete &= m->comparison->positions && m->comparison->rollouts && m->comparison->rows && m->comparison->missing;
    return complete ? 0 : error_set(error, ERROR_RUNTIME, "out of memory for %zu positions", rows);
}

static int finish_distances(struct measuring *m, struct error *error)
{
    struct comparison *comparison = m->comparison;
    double *scratch = arena_alloc(&comparison->arena, m->room, sizeof *scratch);
    if (!scratch)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    for (int arm = 0; arm < ARM_COUNT; arm++) {
        struct distance *d = &comparison->distances[arm];
        if (!d->rows)
            continue;
        double sum = 0.0;
        for (uint64_t i = 0; i < d->rows; i++)
            sum += m->kl[arm][i];
        const double rows = (double)d->rows;
        d->kl_mean = sum / rows;
        d->kl_p99 = statistic_quantile(m->kl[arm], d->rows, 0.99, scratch);
        d->rms = sqrt(m->squares[arm] / (rows * comparison->vocabulary));
        d->rms_median = statistic_quantile(m->rms[arm], d->rows, 0.5, scratch);
        d->sigma = sqrt(m->noise_squares[arm] / rows);
    }
    measure_routing_finish(m);
    const uint64_t kernel_rows = comparison->kernel_rows;
    if (kernel_rows) {
        comparison->kernel_rms = sqrt(m->kernel_squares / ((double)kernel_rows * comparison->vocabulary));
        comparison->kernel_rms_median = statistic_quantile(m->kernel, kernel_rows, 0.5, scratch);
    }
    return 0;
}

int compare_suite(struct comparison **out, const struct compare_request *request, struct error *error)
{
    *out = NULL;
    struct comparison *comparison = calloc(1, sizeof *comparison);
    if (!comparison)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    struct measuring m = {.request = request, .comparison = comparison};
    int code = make_room(&m, error);
    if (!code && request->model)
        code = measure_routing_open(&m, NULL, error);
    for (size_t i = 0; !code && i < request->suite->n_cases; i++) {
        m.case_index = (uint32_t)i;
        const struct suite_case *c = &request->suite->cases[i];
        declare(&m, c, request->checks);
        code = compare_whole(&m, error);
        if (!code && request->checks[CHECK_SEEDED] && c->checks[CHECK_SEEDED])
            code = compare_seeded(&m, error);
    }
    if (!code)
        code = finish_distances(&m, error);
    free(m.measured);
    if (code) {
        compare_close(&comparison);
        return code;
    }
    *out = comparison;
    return 0;
}

// One case that asks of all its rows what two bare traces can answer.
static struct suite *pair_suite(struct arena *arena, const struct trace *trace, const char *path)
{
    struct suite *suite = arena_alloc(arena, 1, sizeof *suite);
    struct suite_case *c = arena_alloc(arena, 1, sizeof *c);
    const char *slash = strrchr(path, '/');
    const char *id = arena_print(arena, "%s", slash ? slash + 1 : path);
    if (!suite || !c || !id)
        return NULL;
    *c = (struct suite_case){.id = id, .domain = "", .n = trace->n,
        .checks = {[CHECK_FLIPS] = true, [CHECK_DISTANCE] = true, [CHECK_STATE] = true}};
    *suite = (struct suite){.name = "two traces", .path = arena_print(arena, "%s", path), .n_cases = 1, .cases = c};
    memcpy(suite->checks, c->checks, sizeof suite->checks);
    return suite;
}

int compare_traces(struct comparison **out, const struct compare_request *pair, const struct suite **suite,
                   struct error *error)
{
    const char *candidate = pair->arms[ARM_CANDIDATE];
    *out = NULL;
    if (!file_exists(candidate))
        return error_set(error, ERROR_INPUT, "%s: no such trace", candidate);
    const char *arms[ARM_COUNT] = {[ARM_CANDIDATE] = candidate};
    struct joined joined;
    int code = join_open(&joined, pair->reference, arms, error);
    if (code)
        return code;
    struct comparison *comparison = calloc(1, sizeof *comparison);
    *suite = comparison ? pair_suite(&comparison->arena, joined.reference, candidate) : NULL;
    struct compare_request request = *pair;
    request.suite = *suite;
    struct measuring m = {.request = &request, .comparison = comparison};
    if (!*suite) {
        code = error_set(error, ERROR_RUNTIME, "out of memory");
    } else {
        struct state state;
        code = trace_state(joined.reference, &comparison->arena, &state, error);
        memcpy(request.checks, (*suite)->checks, sizeof request.checks);
        request.checks[CHECK_STATE] = !code && state.n && joined.arms[ARM_CANDIDATE]; // no states, no such check
        declare(&m, &(*suite)->cases[0], request.checks);
    }
    if (!code)
        code = make_room(&m, error);
    if (!code)
        code = remember_pair(&m, &joined, error);
    if (!code)
        code = measure_routing_open(&m, joined.reference, error);
    if (!code)
        code = measure_whole(&m, &joined, error);
    if (!code)
        code = finish_distances(&m, error);
    join_close(&joined);
    free(m.measured);
    if (code) {
        compare_close(&comparison);
        return code;
    }
    *out = comparison;
    return 0;
}

void compare_close(struct comparison **comparison)
{
    if (!comparison || !*comparison)
        return;
    free((*comparison)->states);
    free((*comparison)->routes);
    free((*comparison)->snapshots);
    arena_close(&(*comparison)->arena);
    free(*comparison);
    *comparison = NULL;
}
