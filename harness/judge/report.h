// report: what a person, or the next program, reads. Filled by gate, rendered by reports/; a renderer changes no verdict.
#ifndef ASSAY_REPORT_H
#define ASSAY_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/judge/compare.h"
#include "harness/judge/policy.h"
#include "harness/run/audit.h"
#include "harness/run/suite.h"

#define REPORT_SCHEMA "assay-report/1"

enum verdict { VERDICT_PASS, VERDICT_WARN, VERDICT_FAIL, VERDICT_NOT_RUN, VERDICT_ERROR };
const char *verdict_name(enum verdict verdict); // "PASS", ...

// One measured number beside its limit, in accept form: ok = value <= limit (or >= for lower limits).
struct report_number {
    const char *name;      // "sigma_c / expected"
    double value, limit;
    bool at_least;         // value >= limit is accepted
    bool ok;
    const char *reason;    // the policy's, for this limit
};

struct report_check {
    enum check check;
    const char *case_id;   // "" for the line over all cases together
    enum verdict verdict;
    uint64_t agree, of;    // in the check's own unit; 0 of 0 when it has none
    const char *detail;    // one sentence for people: what is wrong, where, how much
    size_t n_numbers;
    struct report_number *numbers;
};

struct report {
    struct arena arena;
    enum verdict verdict;      // of the whole gate
    int exit_code;
    const char *why;           // one sentence: the first reason for the verdict
    size_t n_checks;
    struct report_check *checks;   // suite-wide lines first (in enum order), then the lines per case
    // What was judged
    const char *engine;        // of the candidate
    enum engine_kind kind;
    const struct suite *suite;
    const struct policy *policy;
    const struct audit *audit;              // NULL when not audited
    const struct comparison *comparison;    // NULL when nothing was compared
    // Over all decidable and undecidable positions of sweep, seeded, rollout and flips together
    uint64_t positions, agreed, ties, near_ties, real_flips, introduced, unexplained, undecidable;
    double worst_gap, worst_margin, worst_probability_margin;  // of a disagreement; 0 without one
    double expected_flips, expected_flips_sd;                  // shape: sum of 1 - Phi(margin / sigma_c)
    double bound, confidence, design_effect;                   // lower bound on non-introduced agreement
    size_t n_known;                                            // known deviations that were used
    double seconds;            // wall time of the whole command; filled by the command
    const char *command;       // that reproduces this report
    const char *model_path, *bundle_path, *scheme;             // "" when there is none
    size_t n_notes;
    const char **notes;        // things a reader must know: unlisted head, cut suite, weak validation
};

#endif
