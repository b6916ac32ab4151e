// policy: the limits, as data (`assay-policy/1`), each with the reason that stands beside it in the report.
//
// {"schema": "assay-policy/1", "name": ..., "description": ...?,
//  "required": {"own": [checks], "exec": [...], "trace": [...]},
//  "limits": {NAME: {"limit": x, "reason": "..."}, ...}, "families": {"lfm2": {NAME: {...}}, "qwen3_5_moe": ...},
//  "allowed_deviations": [{"plan": "key=value", "reason": ...}],
//  "known": [{"check", "case", "position", "owner", "reason", "expires": "YYYY-MM-DD"}]}
// Every limit of the table below must be given, by "limits" or by the family; a family's wins. Those of routers are
// demanded for families with experts only. A limit without a reason, an unknown name (in any family), a number that
// is not finite or cannot be such a limit, a date that is none: refused. No limit, no run. A deviation has expired on
// the day after "expires" (UTC).
#ifndef ASSAY_POLICY_H
#define ASSAY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/run/suite.h"

enum limit {
    LIMIT_FLOOR,           // nats: a gap below is a near-tie
    LIMIT_REFERENCE_ERROR, // nats: a gap below is a tie (the reference's own error)
    LIMIT_INTRODUCED,      // budget of introduced real flips, all positions of a check together
    LIMIT_INTRODUCED_PER_2048, // the same per 2,048 positions, the larger counts; 0 when absent
    LIMIT_UNEXPLAINED,     // budget of real flips with gap >= 3 sigma_c where no expert set changed
    LIMIT_RATIO_SIGMA,     // sigma_c over that of `expected`
    LIMIT_RATIO_RMS,       // RMS over all logits, ratio
    LIMIT_RATIO_KL_MEAN,
    LIMIT_RATIO_KL_P99,
    LIMIT_RATIO_KERNEL,         // RMS of the candidate against `expected` over that of the fp16 arm against the reference
    LIMIT_RATIO_STATE, // relative L2 of an end state, ratio
    LIMIT_RATIO_SEEDED_STATE,
    LIMIT_ROUTING_SD,           // of selection noise: a changed expert set further out is a fault; as the next five for
    LIMIT_MISROUTED,            // families with experts only. Expert sets that the router's own logits do not select
    LIMIT_RATIO_ROUTER,         // noise of a router's logits, ratio, of the worst layer
    LIMIT_RATIO_ROUTING_WEIGHTS, // error of the routed sum's weights, likewise
    LIMIT_CAP_ROUTER,           // noise of a router's logits
    LIMIT_CAP_STATE_TIE,        // relative L2 of a state that other experts, chosen at a tie, came before (tally_state_cap)
    LIMIT_CAP_SIGMA, // absolute caps of the family
    LIMIT_CAP_RMS,
    LIMIT_CAP_KL_MEAN,
    LIMIT_CAP_KL_P99,
    LIMIT_CAP_STATE, // relative L2 of every other state
    LIMIT_SHAPE_SD, // observed flips <= E(sigma_c) + this many standard deviations
    LIMIT_SLOPE_LOW,
    LIMIT_SLOPE_HIGH,       // head coverage
    LIMIT_ROLLOUT_DIVERGED, // share of prompts that may diverge
    LIMIT_MIN_TOP1,         // distinct reference top-1 ids, else NOT_RUN
    LIMIT_MIN_SWEEP,
    LIMIT_MIN_ROLLOUTS,
    LIMIT_MIN_FLIPS,
    LIMIT_MIN_DISTANCE, // positions or prompts, else NOT_RUN
    LIMIT_CONFIDENCE,   // of the bound on agreement
    LIMIT_COUNT
};
const char *limit_name(enum limit limit); // "floor", "ratio_sigma", ... : the keys of the JSON

enum engine_kind { ENGINE_OWN, ENGINE_EXEC, ENGINE_TRACE, ENGINE_KINDS };

struct known_deviation { // accepted, counted, and listed; expired ones count as faults again
    enum check check;
    const char *case_id;
    int64_t position; // -1: the whole case
    const char *owner, *reason, *expires;
    bool expired;
};

struct allowed_deviation { // a precision plan's legal departure from the default
    const char *plan, *reason;
};

struct policy {
    struct arena arena;
    char *path;
    const char *name;
    double limit[LIMIT_COUNT];
    const char *reason[LIMIT_COUNT];
    bool required[ENGINE_KINDS][CHECK_COUNT];
    size_t n_known;
    struct known_deviation *known;
    size_t n_allowed;
    struct allowed_deviation *allowed;
};

// `family` is family_name's, as "qwen3_5_moe". `today` "YYYY-MM-DD" decides what has expired (NULL: the clock).
int policy_open(struct policy **policy, const char *path, const char *family, const char *today, struct error *error);
void policy_close(struct policy **policy);

#endif
