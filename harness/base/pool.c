#include "harness/base/pool.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/floating.h"

// Who waits looks this often before it sleeps: the gap between two linear layers of one step is shorter than waking
// up.
enum { SPINS = 2000 };

struct pool {
    unsigned threads; // the caller included
    unsigned spins;
    // the job: written by the caller before `job` changes, read by the workers after
    size_t n, grain;
    pool_fn run;
    void *context;
    atomic_uint job;        // number of the current one
    atomic_uint unfinished; // workers that have not done it
    atomic_uint sleepers;   // workers in, or about to enter, pthread_cond_wait
    atomic_bool caller_sleeps, quit;
    pthread_mutex_t lock;
    pthread_cond_t started, finished;
    unsigned n_workers;
    struct worker {
        struct pool *pool;
        unsigned index; // 1 ... threads - 1; the caller is 0
        pthread_t thread;
    } * workers;
};

static void pause_briefly(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#endif
}

// Share `index` of the job: whole grains, contiguous, the same for every run of this size.
static void run_share(struct pool *pool, unsigned index)
{
    const size_t grains = pool->n / pool->grain + (pool->n % pool->grain != 0);
    const size_t each = grains / pool->threads,
                 more = grains % pool->threads; // the first `more` shares are one longer
    const size_t first = index * each + (index < more ? index : more);
    const size_t count = each + (index < more);
    if (!count)
        return;
    const size_t end = first + count == grains ? pool->n : (first + count) * pool->grain;
    pool->run(pool->context, first * pool->grain, end);
}

// Returns false when the pool closes. The counters are sequentially consistent: either the caller sees this sleeper
// and signals under the lock, or this worker sees the new job before it waits.
static bool await_job(struct pool *pool, unsigned done)
{
    for (unsigned i = 0; i < pool->spins; i++) {
        if (atomic_load(&pool->job) != done)
            return !atomic_load(&pool->quit);
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->job) == done)
        pthread_cond_wait(&pool->started, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
    return !atomic_load(&pool->quit);
}

static void *work(void *argument)
{
    const struct worker *worker = argument;
    struct pool *pool = worker->pool;
    struct floating unused;
    floating_enter(&unused);
    for (unsigned job = 0; await_job(pool, job); job++) {
        run_share(pool, worker->index);
        if (atomic_fetch_sub(&pool->unfinished, 1) == 1 && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->lock);
        }
    }
    return NULL;
}

static void announce(struct pool *pool)
{
    atomic_fetch_add(&pool->job, 1);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->started);
        pthread_mutex_unlock(&pool->lock);
    }
}

static void await_workers(struct pool *pool)
{
    for (unsigned i = 0; i < pool->spins; i++) {
        if (!atomic_load(&pool->unfinished))
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    // An exchange is a full barrier everywhere; C11 asks for no more than a store. But under QEMU 7.2 (aarch64 on x86) a
    // caller was found asleep here with all workers done: the load below can have passed the store.
    (void)atomic_exchange(&pool->caller_sleeps, true);
    while (atomic_load(&pool->unfinished))
        pthread_cond_wait(&pool->finished, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

void pool_run(struct pool *pool, size_t n, size_t grain, pool_fn run, void *context)
{
    assert(grain);
    if (!n)
        return;
    if (!pool || pool->threads == 1 || n <= grain) {
        run(context, 0, n);
        return;
    }
    pool->n = n;
    pool->grain = grain;
    pool->run = run;
    pool->context = context;
    atomic_store(&pool->unfinished, pool->threads - 1);
    announce(pool);
    run_share(pool, 0);
    await_workers(pool);
}

unsigned pool_default_threads(void)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 1 ? (unsigned)online : 1;
}

unsigned pool_threads(const struct pool *pool)
{
    return pool ? pool->threads : 1;
}

int pool_open(struct pool **pool, unsigned threads, struct error *error)
{
    assert(threads >= 1);
    *pool = NULL;
    struct pool *opened = calloc(1, sizeof *opened);
    struct worker *workers = opened ? calloc(threads, sizeof *workers) : NULL;
    if (!workers) {
        free(opened);
        return error_set(error, ERROR_RUNTIME, "no memory for %u threads; try --threads 1", threads);
    }
    opened->workers = workers;
    opened->threads = threads;
    opened->spins = threads <= pool_default_threads() ? SPINS : 0; // spinning would take the processor from the work
    pthread_mutex_init(&opened->lock, NULL);
    pthread_cond_init(&opened->started, NULL);
    pthread_cond_init(&opened->finished, NULL);
    for (unsigned i = 1; i < threads; i++) {
        struct worker *worker = &workers[opened->n_workers];
        *worker = (struct worker){.pool = opened, .index = i};
        const int reason = pthread_create(&worker->thread, NULL, work, worker);
        if (reason) {
            pool_close(&opened);
            return error_set(error, ERROR_RUNTIME, "thread %u of %u cannot be started (%s); try a smaller --threads",
                             i + 1, threads, strerror(reason));
        }
        opened->n_workers++;
    }
    *pool = opened;
    return 0;
}

void pool_close(struct pool **pool)
{
    if (!pool || !*pool)
        return;
    struct pool *closed = *pool;
    *pool = NULL;
    atomic_store(&closed->quit, true);
    announce(closed);
    for (unsigned i = 0; i < closed->n_workers; i++)
        pthread_join(closed->workers[i].thread, NULL);
    pthread_cond_destroy(&closed->finished);
    pthread_cond_destroy(&closed->started);
    pthread_mutex_destroy(&closed->lock);
    free(closed->workers);
    free(closed);
}
