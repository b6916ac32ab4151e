// gate: is that good enough? The only place with limits (those that policy read). Reads measurements, never a tensor.
#ifndef ASSAY_GATE_H
#define ASSAY_GATE_H

#include "harness/judge/report.h"

struct gate_input {
    const struct suite *suite;
    const struct policy *policy;
    const struct comparison *comparison;
    const struct audit *audit;          // NULL: weights NOT_RUN
    enum engine_kind kind;
    const char *engine;
    bool exact_kernel;                  // the engine promises the bits of `expected` for equal weights and plan
    bool float_state[STATE_KINDS];      // the bundle's plan keeps it in fp32
    bool asked[CHECK_COUNT];            // checks asked for (suite, or --checks); the others do not appear
};

// Fills checks, counts, bound, verdict and exit code. Cannot fail but for memory (ERROR_RUNTIME).
int gate_judge(struct report **report, const struct gate_input *input, struct error *error);
void gate_close(struct report **report);

// Exit code of a mixture: any FAIL 1, else contract 2, else runtime 75, else not judged 3, else 0.
int gate_exit_code(bool any_fail, bool contract, bool runtime, bool unjudged);

#endif
