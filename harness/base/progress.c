#include "harness/base/progress.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 30 };

// Several threads may report to one progress.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

double progress_clock(void)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void show(struct progress *progress, bool terminal, double now)
{
    const double share = progress->total ? (double)progress->done / (double)progress->total : 1.0;
    const double spent = now - progress->started;
    const double left = share > 0 && share < 1 ? spent / share - spent : 0;
    progress->shown = now;
    if (!terminal) {
        fprintf(stderr, "%s: %llu of %llu %s, %.0f s left\n", progress->what,
                (unsigned long long)progress->done, (unsigned long long)progress->total, progress->unit, left);
        return;
    }
    const int filled = share < 1 ? (int)(share * BAR) : BAR;
    fprintf(stderr, "\r%-24.24s [%.*s%*s] %llu/%llu  %.0f s left \033[K", progress->what, filled,
            "##############################", BAR - filled, "", (unsigned long long)progress->done,
            (unsigned long long)progress->total, left);
    fflush(stderr);
}

void progress_start(struct progress *progress, const char *what, uint64_t total, bool quiet)
{
    const double now = progress_clock();
    *progress = (struct progress){.what = what, .total = total, .started = now, .shown = now, .quiet = quiet};
    progress->unit = "positions";
}

void progress_step(struct progress *progress, uint64_t more)
{
    pthread_mutex_lock(&lock);
    progress->done += more;
    const double now = progress->quiet ? progress->shown : progress_clock();
    if (now - progress->shown >= 0.2) {
        const bool terminal = isatty(STDERR_FILENO);
        if (terminal || now - progress->shown >= 5)
            show(progress, terminal, now);
    }
    pthread_mutex_unlock(&lock);
}

void progress_finish(struct progress *progress)
{
    if (progress->quiet)
        return;
    if (isatty(STDERR_FILENO)) // the bar makes room for what comes next
        fprintf(stderr, "\r\033[K");
    else if (progress->shown > progress->started)
        fprintf(stderr, "%s: %llu %s in %.1f s\n", progress->what, (unsigned long long)progress->done,
                progress->unit, progress_clock() - progress->started);
}
