// validate: can this suite tell a good bundle from a bad one? Read from the reference's traces alone, before anything is judged.
#ifndef ASSAY_VALIDATE_H
#define ASSAY_VALIDATE_H

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/judge/policy.h"
#include "harness/model/config.h"
#include "harness/run/suite.h"

// A case with fewer decidable sweep positions of 16 cannot carry a 16/16; a suite without a case this long misses what
// compounds (zoo.md 1.11: faults first seen at 272 tokens of context).
enum { VALIDATE_DECIDABLE = 12, VALIDATE_LONG = 300 };

struct validation {
    struct arena arena;
    uint64_t sweep_positions, flips_positions, distance_positions, rollouts, strict_rollouts;
    uint64_t undecidable;          // of the positions that sweep, rollout and flips compare
    size_t n;
    const char **findings;         // one sentence each; none: the suite is sound
    size_t answers, answers_equal; // cases with a published continuation, and those that the reference reproduces
    const char **answer_lines;     // [answers] equal, or where it differs and by how much
};

// `directory` holds the reference's traces of this suite (record.h).
int validate_suite(struct validation **validation, const struct suite *suite, const struct config *config,
                   const struct policy *policy, const char *directory, struct error *error);
void validate_close(struct validation **validation);

#endif
