// tally: counts over the rows that serve a check, and the flips that noise explains (arithmetic.md 5). Counts, never decides.
#ifndef ASSAY_TALLY_H
#define ASSAY_TALLY_H

#include "harness/judge/gate.h"

// Counts over the compared rows that serve one check, of one case or of all.
struct tally {
    uint64_t rows, agree, ties, near_ties, real_flips, introduced, unexplained, bad_rows, undecidable, known;
    const struct compared_position *worst; // the disagreement with the largest gap, or NULL
    const struct compared_position *bad;   // the first row without a pick, or NULL
};

enum { TALLY_ALL_CASES = -1 };
#define TALLY_UNEXPLAINED_SIGMAS 3.0 // of sigma_c: a real flip this far out is not noise

// `sigma` is sigma_c: a real flip of 3 sigma_c and more is unexplained, unless a layer chose other experts there. Known deviations of the policy that have not expired are
// counted in `known`, not in introduced and unexplained.
void tally_count(const struct gate_input *input, enum check check, int64_t case_index, double sigma, struct tally *tally);

// Real flips that may be introduced among so many rows of one check.
double tally_budget(const struct policy *policy, uint64_t rows);
// Is an introduced flip further out than noise reaches, and no experts were changed at its position?
bool tally_is_unexplained(const struct compared_position *position, double sigma);

// sigma_c of the candidate: over the rows of `distance`, or over all compared rows when there are none.
double tally_sigma(const struct comparison *comparison);

// Flips that noise of this sigma explains, over the rows of a check: the sum of 1 - Phi(margin / sigma), and its deviation.
void tally_expected_flips(const struct comparison *comparison, enum check check, double sigma, double *expected, double *sd);

// The policy's cap on the error of a state: after a tie of a router its own, wider one.
enum limit tally_state_cap(const struct compared_state *state);

#endif
