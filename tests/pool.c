// pool: every index exactly once, whatever the number of threads, the grain and the load.
#include "harness/base/pool.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/floating.h"

enum { MOST = 5000 };

struct job {
    size_t n, grain;
    unsigned char seen[MOST]; // each byte is written by one range only: a race would be an error of its own
    unsigned char range_start[MOST];
};

static void mark(void *context, size_t first, size_t end)
{
    struct job *job = context;
    if (first >= end || end > job->n || first % job->grain)
        return; // its indices stay unseen
    job->range_start[first] = 1;
    for (size_t i = first; i < end; i++)
        job->seen[i]++;
}

static void expect_once(struct pool *pool, size_t n, size_t grain)
{
    static struct job job;
    memset(&job, 0, sizeof job);
    job.n = n;
    job.grain = grain;
    pool_run(pool, n, grain, mark, &job);
    for (size_t i = 0; i < MOST; i++)
        cr_assert_eq(job.seen[i], i < n, "%u threads, n %zu, grain %zu: index %zu seen %d times", pool_threads(pool),
                     n, grain, i, job.seen[i]);
}

Test(pool, every_index_exactly_once)
{
    static const size_t sizes[] = {0, 1, 2, 7, 8, 31, 64, 1000, 4999, MOST}, grains[] = {1, 3, 8, 64, 6000};
    for (unsigned threads = 1; threads <= 7; threads++) {
        struct pool *pool;
        struct error error;
        cr_assert_eq(pool_open(&pool, threads, &error), 0, "%s", error.text);
        cr_assert_eq(pool_threads(pool), threads);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (size_t k = 0; k < sizeof grains / sizeof *grains; k++)
                expect_once(pool, sizes[i], grains[k]);
        pool_close(&pool);
        cr_assert_null(pool);
        pool_close(&pool);
    }
    expect_once(NULL, 100, 1);
    cr_assert_eq(pool_threads(NULL), 1);
    cr_assert_geq(pool_default_threads(), 1);
}

static void note_threads(void *context, size_t first, size_t end)
{
    pthread_t *threads = context;
    for (size_t i = first; i < end; i++)
        threads[i] = pthread_self();
}

Test(pool, the_work_is_spread_over_all_threads)
{
    struct pool *pool;
    pthread_t threads[4];
    cr_assert_eq(pool_open(&pool, 4, NULL), 0);
    pool_run(pool, 4, 1, note_threads, threads);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < i; k++)
            cr_assert_not(pthread_equal(threads[i], threads[k]));
    pool_run(pool, 4, 4, note_threads, threads); // not more than a grain: inline
    for (int i = 0; i < 4; i++)
        cr_assert(pthread_equal(threads[i], pthread_self()));
    pool_close(&pool);
}

static void count_up(void *context, size_t first, size_t end)
{
    unsigned *counts = context;
    for (size_t i = first; i < end; i++)
        counts[i]++;
}

Test(pool, jobs_follow_one_another_awake_and_asleep)
{
    enum { N = 64, JOBS = 20000, NAPS = 50 };
    for (unsigned threads = 2; threads <= 4;
         threads += 2) { // as many as processors: spinning; more: sleeping at once
        struct pool *pool;
        unsigned counts[N] = {0};
        cr_assert_eq(pool_open(&pool, threads, NULL), 0);
        for (int i = 0; i < JOBS; i++)
            pool_run(pool, N, 1, count_up, counts);
        for (int i = 0; i < NAPS; i++) {
            usleep(2000); // long enough for the workers to fall asleep
            pool_run(pool, N, 1, count_up, counts);
        }
        for (int i = 0; i < N; i++)
            cr_assert_eq(counts[i], JOBS + NAPS);
        pool_close(&pool);
    }
}

Test(pool, opening_and_closing_without_work_ends)
{
    for (int i = 0; i < 200; i++) {
        struct pool *pool;
        cr_assert_eq(pool_open(&pool, 3, NULL), 0);
        pool_close(&pool);
    }
}

#if defined(__x86_64__)
#include <xmmintrin.h>

static void note_control(void *context, size_t first, size_t end)
{
    unsigned *controls = context;
    for (size_t i = first; i < end; i++)
        controls[i] = _mm_getcsr();
}

// A thread inherits its creator's register: a pool opened after a library switched flush-to-zero on must not.
Test(pool, workers_enter_the_floating_environment)
{
    struct pool *pool;
    unsigned controls[4] = {0};
    _mm_setcsr(0x9FC0);
    const int result = pool_open(&pool, 4, NULL);
    pool_run(pool, 4, 1, note_control, controls);
    _mm_setcsr(0x1F80);
    cr_assert_eq(result, 0);
    cr_assert_eq(controls[0] & 0xFFC0, 0x9FC0); // the control: the caller's own range ran as planted
    for (int i = 1; i < 4; i++)
        cr_assert_eq(controls[i] & 0xFFC0, 0x1F80, "thread %d: %04x", i, controls[i]);
    pool_close(&pool);
}
#endif
