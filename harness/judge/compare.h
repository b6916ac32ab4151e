// compare: how far apart, and where? Joins the traces of one engine with the reference's, case by case, and measures; an outer
// join: a missing trace or row is a finding of its own. Decides nothing.
#ifndef ASSAY_COMPARE_H
#define ASSAY_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/judge/metric.h"
#include "harness/model/model.h"
#include "harness/run/suite.h"
#include "harness/run/trace.h"

// The four arms of one comparison: directories with the traces that record.h names. fp16 and expected may be NULL (then the
// checks that need them are NOT_RUN).
enum arm { ARM_CANDIDATE, ARM_FP16, ARM_EXPECTED, ARM_COUNT };

struct compare_request {
    const struct suite *suite;
    const char *reference;         // directory
    const char *arms[ARM_COUNT];   // directories
    double floor;                  // nats; classification of a disagreement is data of the policy, handed through
    double reference_error;        // nats
    bool checks[CHECK_COUNT];      // what was recorded for the candidate
    const struct model *model;     // whose routers choose by which scores; NULL: what the traces alone tell (measure.h)
    double routing_sd;             // deviations of selection noise up to which a changed expert set is a tie
};

enum agreement { AGREE, TIE, NEAR_TIE, REAL_FLIP, NO_PICK };
const char *agreement_name(enum agreement agreement);

// One compared row. The same row may serve several checks.
struct compared_position {
    uint32_t case_index;
    uint32_t position;          // absolute: tokens before this row's token
    bool seeded;                // from CASE.seeded
    bool checks[CHECK_COUNT];   // sweep, seeded, rollout, flips, distance that count it
    bool undecidable;           // the reference's own margin is under the floor
    struct metric_position metric;           // candidate against reference
    enum agreement agreement;                // of the candidate
    enum agreement fp16_agreement;           // of the fp16 arm at this position; NO_PICK when it has no such row
    bool has_fp16;
    bool introduced;            // real flip where the fp16 arm makes none
    // Of a disagreement: the first layer whose experts changed at this position, else at the latest position before it,
    // whose states carry the change on. -1: none did.
    int64_t route_layer, route_position;
};

// Distances of one arm over the rows that serve `distance`.
struct distance {
    uint64_t rows;
    double rms, max_abs;        // over all logits
    double rms_median;          // over rows, of a row's RMS: that of a typical row, whatever a few changed expert sets do
    double sigma;               // sigma_c: RMS over rows of metric.noise
    double kl_mean, kl_p99, kl_max;
    struct metric_coverage coverage;
};

struct compared_state {
    uint32_t case_index;
    bool seeded;                // after the seeded decode, else the end of the whole run
    uint32_t layer;
    enum state_kind kind;
    struct metric_tensor candidate, expected; // against the reference
    bool has_expected;
    // A layer below chose other experts in this run, and each such choice was a tie: the error may be theirs and says
    // little of the arithmetic. Never of a state at or below the first layer with experts.
    bool after_tie;
};

struct compared_rollout {
    uint32_t case_index;
    uint32_t n, equal;          // generated tokens, picks equal to the reference's
    uint32_t first_divergence;  // index of the first different pick; n when identical
    bool strict;                // every reference margin of the n is over the floor: n/n is demanded
};

struct compared_rows {          // determinism and paths: the same engine twice
    uint32_t case_index;
    enum check check;
    uint32_t rows, equal;       // rows bit-equal
    bool state_equal;           // end states bit-equal
    bool has_state;
    uint32_t real_flips;        // picks that differ with a gap over the floor
    const char *way;            // "saved and restored", "batch", "chunks"; a second run has none
};

// One layer with experts, over every row of the whole runs and of the seeded decodes.
struct compared_layer {
    uint32_t layer;
    uint64_t rows, unsound;          // compared; with a NaN, an infinity or no k different experts
    uint64_t changed, ties;          // other experts than the reference's; of them those with compared_route.tie
    uint64_t misrouted;              // the candidate's experts are not those that its own logits select
    double sigma;                    // noise of a router logit, root-mean-square over rows (routing.h)
    double weight_error;             // mean over rows
    double largest_margin, largest_depth; // of a changed set: the reference's margin, and in deviations of its noise
    uint64_t expected_rows;          // rows that the arm `expected` has, too
    double expected_sigma, expected_weight_error;
    double common_sigma, common_weight_error; // the candidate's over those rows
};

struct compared_route { // a changed expert set
    uint32_t case_index, position, layer;
    bool seeded;
    double margin, depth, weight_error;
    bool tie;             // depth <= request.routing_sd, and the set is what the candidate's own logits select
};

// A recurrent state on the way, or the keys and values that came since the snapshot before.
struct compared_snapshot {
    uint32_t case_index, position, layer;
    enum state_kind kind;
    struct metric_tensor candidate, expected; // against the reference
    bool has_expected;
};

struct missing {                // a row or trace that the suite declares and the candidate did not give
    uint32_t case_index;
    enum check check;
    uint32_t rows;              // how many
    const char *why;
};

struct comparison {
    struct arena arena;
    size_t n_positions;
    struct compared_position *positions;   // by case, then position; seeded rows after whole ones
    struct distance distances[ARM_COUNT];
    size_t n_states;
    struct compared_state *states;
    size_t n_rollouts;
    struct compared_rollout *rollouts;
    size_t n_rows;
    struct compared_rows *rows;
    size_t n_missing;
    struct missing *missing;
    // The candidate against `expected`, over the rows of `distance`: same weights by declaration, same arithmetic, so what
    // differs is the kernel or an undeclared plan (anchors.md 6.4). RMS over all logits, and rows that are equal bit for bit.
    uint64_t kernel_rows, kernel_equal;
    double kernel_rms, kernel_rms_median; // the median as in struct distance
    size_t n_layers;
    struct compared_layer *layers;          // with experts; none in a dense model
    size_t n_routes;
    struct compared_route *routes;          // by case, whole runs before seeded decodes, then position, then layer
    uint64_t routing_declared, routing_compared; // rows x layers
    bool routing_known;                     // margins and what logits select
    size_t n_snapshots;
    struct compared_snapshot *snapshots;    // by case, position, layer, kind
    uint64_t class_count[ROW_CONSTANT + 1]; // candidate rows of every trace, compared or not
    uint64_t declared[CHECK_COUNT];         // rows (prompts for rollout) that the suite declares
    uint64_t compared[CHECK_COUNT];
    uint64_t distinct_top1[CHECK_COUNT];    // distinct reference top-1 ids among the compared rows
    struct trace_contract reference, candidate; // of the first pair; strings in the arena
    uint32_t vocabulary;                        // V
};

// Traces that are not comparable end it with ERROR_CONTRACT or ERROR_INPUT; absent ones of the candidate become `missing`.
int compare_suite(struct comparison **comparison, const struct compare_request *request, struct error *error);

// Two trace files alone (`assay compare`): every row serves `flips` and `distance`, end states serve `state`. Of the request
// reference and arms[ARM_CANDIDATE] are files here, its suite and checks are not used, and a model is of these traces.
// `suite` receives a suite of one case, named after the candidate's file, that lives in the comparison.
int compare_traces(struct comparison **comparison, const struct compare_request *pair, const struct suite **suite,
                   struct error *error);
void compare_close(struct comparison **comparison);

#endif
