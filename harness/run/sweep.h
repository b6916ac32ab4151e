// sweep: several engines over one suite, several cases at a time.
//
// For models whose steps are too short to share out among threads: each engine then runs on one thread, and threads
// take whole cases. An arm has `lanes` engines; case i of every arm runs on lane i mod lanes. A lane's cases follow
// one another in the suite's order, its repetitions (determinism) come after them in reverse. So every engine sees
// the same calls in the same order however many threads there are, and even an engine that carries something over
// from one case to the next gives the same numbers.
#ifndef ASSAY_SWEEP_H
#define ASSAY_SWEEP_H

#include "harness/run/record.h"

enum { SWEEP_LANES = 4 };

struct sweep_arm {
    struct record record;
    struct engine *lanes[SWEEP_LANES]; // borrowed
};

// If arms[0] is the reference (record.reference NULL), the others' case i starts when the reference's is complete.
// `threads` >= 1 counts the caller. The first failure stops the others after the case they are at, and is returned as
// record_suite would.
int sweep_suite(const struct sweep_arm *arms, size_t n_arms, size_t lanes, const struct suite *suite,
                unsigned threads, bool quiet, struct error *error);

#endif
