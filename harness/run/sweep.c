#include "harness/run/sweep.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "harness/base/floating.h"

// One arm's lane: its cases in order, then their repetitions in reverse.
struct stream {
    const struct sweep_arm *arm;
    struct engine *engine;
    size_t lane, n_cases, next; // next: 0 ... 2 n_cases - 1
    uint64_t left;              // positions of the cases that are not done
    bool busy;
};

struct sweep {
    const struct suite *suite;
    size_t lanes, n_streams;
    struct stream *streams;
    bool *complete; // [n_cases] the reference's traces are there
    struct progress progress;
    pthread_mutex_t lock; // over all that follows and the streams
    pthread_cond_t changed;
    struct error failure;
};

static size_t case_index(const struct sweep *sweep, const struct stream *stream)
{
    const size_t n = stream->n_cases, index = stream->next < n ? stream->next : 2 * n - 1 - stream->next;
    return stream->lane + index * sweep->lanes;
}

static bool is_ready(const struct sweep *sweep, const struct stream *stream)
{
    const bool waits = stream->arm->record.reference && !sweep->streams[0].arm->record.reference;
    return !stream->busy && stream->next < 2 * stream->n_cases &&
           (!waits || sweep->complete[case_index(sweep, stream)]);
}

// The ready stream with most to do, so that all of them end at about the same time. *all_done: nobody will be ready.
static struct stream *choose(struct sweep *sweep, bool *all_done)
{
    struct stream *best = NULL;
    *all_done = true;
    for (size_t i = 0; i < sweep->n_streams; i++) {
        struct stream *stream = &sweep->streams[i];
        *all_done = *all_done && stream->next == 2 * stream->n_cases;
        if (is_ready(sweep, stream) && (!best || stream->left > best->left))
            best = stream;
    }
    return best;
}

static int run_next(struct sweep *sweep, struct stream *stream, struct error *error)
{
    const struct suite_case *c = &sweep->suite->cases[case_index(sweep, stream)];
    const bool again = stream->next >= stream->n_cases;
    return (again ? record_again : record_case)(&stream->arm->record, c, stream->engine, &sweep->progress, error);
}

// Called and left with the lock held.
static void work_through(struct sweep *sweep)
{
    bool all_done = false;
    while (!sweep->failure.code && !all_done) {
        struct stream *stream = choose(sweep, &all_done);
        if (!stream) {
            if (!all_done)
                pthread_cond_wait(&sweep->changed, &sweep->lock);
            continue;
        }
        struct error error = {0};
        stream->busy = true;
        pthread_mutex_unlock(&sweep->lock);
        const int code = run_next(sweep, stream, &error);
        pthread_mutex_lock(&sweep->lock);
        const size_t index = case_index(sweep, stream);
        if (code && !sweep->failure.code)
            sweep->failure = error;
        if (stream->next < stream->n_cases) {
            stream->left -= record_case_positions(&stream->arm->record, &sweep->suite->cases[index], stream->engine);
            if (!stream->arm->record.reference)
                sweep->complete[index] = true;
        }
        stream->next++;
        stream->busy = false;
        pthread_cond_broadcast(&sweep->changed);
    }
}

static void *work(void *argument)
{
    struct sweep *sweep = argument;
    struct floating unused;
    floating_enter(&unused);
    pthread_mutex_lock(&sweep->lock);
    work_through(sweep);
    pthread_mutex_unlock(&sweep->lock);
    return NULL;
}

// A thread that cannot be started is not missed: the others do its work.
static void run_threads(struct sweep *sweep, pthread_t *workers, size_t n)
{
    size_t started = 0;
    while (started < n && !pthread_create(&workers[started], NULL, work, sweep))
        started++;
    pthread_mutex_lock(&sweep->lock);
    work_through(sweep);
    pthread_mutex_unlock(&sweep->lock);
    for (size_t i = 0; i < started; i++)
        pthread_join(workers[i], NULL);
}

static void make_streams(struct sweep *sweep, const struct sweep_arm *arms, size_t n_arms)
{
    const struct suite *suite = sweep->suite;
    for (size_t arm = 0; arm < n_arms; arm++)
        for (size_t lane = 0; lane < sweep->lanes; lane++) {
            struct stream *stream = &sweep->streams[sweep->n_streams++];
            *stream = (struct stream){.arm = &arms[arm], .engine = arms[arm].lanes[lane], .lane = lane};
            for (size_t i = lane; i < suite->n_cases; i += sweep->lanes) {
                stream->n_cases++;
                stream->left += record_case_positions(&arms[arm].record, &suite->cases[i], stream->engine);
            }
        }
}

int sweep_suite(const struct sweep_arm *arms, size_t n_arms, size_t lanes, const struct suite *suite,
                unsigned threads, bool quiet, struct error *error)
{
    assert(n_arms && lanes && lanes <= SWEEP_LANES && threads);
    int code = 0;
    uint64_t positions = 0;
    for (size_t arm = 0; arm < n_arms && !code; arm++) {
        code = record_open(&arms[arm].record, suite, error);
        positions += record_positions(&arms[arm].record, suite, arms[arm].lanes[0]);
    }
    if (code)
        return code;
    struct sweep sweep = {.suite = suite, .lanes = lanes};
    const size_t workers = threads < n_arms * lanes ? threads - 1 : n_arms * lanes - 1;
    struct arena arena = {0};
    sweep.streams = arena_alloc(&arena, n_arms * lanes, sizeof *sweep.streams);
    sweep.complete = arena_alloc(&arena, suite->n_cases, sizeof *sweep.complete);
    pthread_t *ids = arena_alloc(&arena, workers, sizeof *ids);
    if (!sweep.streams || !sweep.complete || !ids) {
        arena_close(&arena);
        return error_set(error, ERROR_RUNTIME, "out of memory for the %zu cases of suite '%s'", suite->n_cases,
                         suite->name);
    }
    make_streams(&sweep, arms, n_arms);
    pthread_mutex_init(&sweep.lock, NULL);
    pthread_cond_init(&sweep.changed, NULL);
    progress_start(&sweep.progress, n_arms > 1 ? "all engines" : arms[0].lanes[0]->name, positions, quiet);
    run_threads(&sweep, ids, workers);
    progress_finish(&sweep.progress);
    pthread_cond_destroy(&sweep.changed);
    pthread_mutex_destroy(&sweep.lock);
    arena_close(&arena);
    return sweep.failure.code ? error_set(error, sweep.failure.code, "%s", sweep.failure.text) : 0;
}
