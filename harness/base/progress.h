// progress: a bar on a terminal, plain lines otherwise, on standard error only.
#ifndef ASSAY_PROGRESS_H
#define ASSAY_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what;      // "reference", "int8 bundle", ...
    uint64_t done, total;  // in units of the caller (positions)
    double started, shown; // seconds
    bool quiet;
    const char *unit; // "positions" unless set after progress_start
};

void progress_start(struct progress *progress, const char *what, uint64_t total, bool quiet);
// `more` units were finished since the last call, by any thread. Cheap: prints at most every 0.2 s (5 s off a terminal).
void progress_step(struct progress *progress, uint64_t more);
void progress_finish(struct progress *progress);

double progress_clock(void); // seconds, monotonic

#endif
