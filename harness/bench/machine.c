#include "harness/bench/machine.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/progress.h"

static atomic_uint_fast64_t kept; // where results go, so that no loop is dropped

static void keep(uint64_t value)
{
    atomic_fetch_xor_explicit(&kept, value, memory_order_relaxed);
}

// --- reading

struct reading {
    const struct probe *probe;
    size_t streams;
    const struct span *spans;
    size_t n;
    uint64_t total;
    unsigned threads;
};

static void read_shares(void *context, size_t first, size_t end)
{
    const struct reading *job = context;
    const uint64_t each = job->total / job->threads + 1;
    uint64_t low = first * each, high = end * each, sum = 0, at = 0;
    for (size_t i = 0; i < job->n; at += job->spans[i++].size) {
        const uint64_t stop = at + job->spans[i].size;
        const uint64_t from = low > at ? low : at, to = high < stop ? high : stop;
        if (from < to)
            sum ^= job->probe->read(job->spans[i].bytes + (from - at), (size_t)(to - from), job->streams);
    }
    keep(sum);
}

double machine_read(struct pool *pool, const struct probe *probe, size_t streams, const struct span *spans, size_t n)
{
    struct reading job = {probe, streams, spans, n, 0, pool_threads(pool)};
    for (size_t i = 0; i < n; i++)
        job.total += spans[i].size;
    const double started = progress_clock();
    pool_run(pool, job.threads, 1, read_shares, &job);
    return progress_clock() - started;
}

// --- multiply-add peak

struct working {
    const struct probe *probe;
    uint64_t rounds;
};

static void multiply_add(void *context, size_t first, size_t end)
{
    const struct working *job = context;
    for (size_t i = first; i < end; i++)
        keep((uint64_t)job->probe->multiply_add(job->rounds));
}

static double time_rounds(struct pool *pool, const struct probe *probe, uint64_t rounds)
{
    struct working job = {probe, rounds};
    const double started = progress_clock();
    pool_run(pool, pool_threads(pool), 1, multiply_add, &job);
    return progress_clock() - started;
}

double machine_peak(struct pool *pool, const struct probe *probe, double seconds)
{
    uint64_t rounds = 1 << 14;
    double spent = time_rounds(pool, probe, rounds);
    if (spent < seconds) { // the first call wakes the threads up as well
        rounds = (uint64_t)((double)rounds * (seconds / (spent > 1e-6 ? spent : 1e-6)));
        spent = time_rounds(pool, probe, rounds);
    }
    return (double)rounds * probe->operations * pool_threads(pool) / spent;
}

// --- distance

enum { BATCHES = 5, EXCHANGES = 500, PATIENCE = 1 << 12 };

struct exchange {
    _Alignas(64) atomic_uint turn;
    double nanoseconds;
};

// The partner may not be running: do not keep its processor from it for ever.
static void await(const atomic_uint *turn, unsigned mine)
{
    for (unsigned i = 1; atomic_load_explicit(turn, memory_order_acquire) != mine; i++)
        if (i % PATIENCE == 0)
            sched_yield();
}


static void play(void *context, size_t first, size_t end)
{
    struct exchange *exchange = context;
    (void)end; // one share for each thread
    if (first > 1)
        return;
    for (unsigned batch = 0; batch < BATCHES; batch++) {
        const double started = progress_clock();
        for (unsigned i = 0; i < EXCHANGES; i++) {
            const unsigned mine = 2 * (batch * EXCHANGES + i) + (unsigned)first;
            await(&exchange->turn, mine);
            atomic_store_explicit(&exchange->turn, mine + 1, memory_order_release);
        }
        const double each = 1e9 * (progress_clock() - started) / (2 * EXCHANGES);
        if (first == 0 && (batch == 0 || each < exchange->nanoseconds)) // the first batch waits for the wake-up
            exchange->nanoseconds = each;
    }
}

double machine_distance(struct pool *pool)
{
    struct exchange exchange = {.nanoseconds = 0};
    const unsigned threads = pool_threads(pool);
    if (threads < 2 || threads > pool_default_threads())
        return 0;
    pool_run(pool, threads, 1, play, &exchange);
    return exchange.nanoseconds;
}

// --- what the system says

// The text after "KEY...:" of the first line of `path` that begins so; false when there is none.
static bool find_line(const char *path, const char *key, char *text, size_t size)
{
    char line[512];
    FILE *file = fopen(path, "r");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        found = colon && !strncmp(line, key, strlen(key));
        if (found)
            snprintf(text, size, "%.*s", (int)strcspn(colon + 1 + strspn(colon + 1, " \t"), "\n"),
                     colon + 1 + strspn(colon + 1, " \t"));
    }
    if (file)
        fclose(file);
    return found;
}

uint64_t machine_anonymous_bytes(void)
{
    char text[64];
    return find_line("/proc/self/status", "RssAnon", text, sizeof text) ? 1024 * strtoull(text, NULL, 10) : 0;
}

const char *machine_processor(char *text, size_t size)
{
    if (!find_line("/proc/cpuinfo", "model name", text, size))
        snprintf(text, size, "unknown processor");
    return text;
}
