// metric: how far apart are two rows, two tensors? Measures, never decides. Formulas: arithmetic.md 5, anchors.md 6.
//
// r is the reference's row of logits, q the candidate's; V their width. All sums in double. Running maxima keep NaN.
// Nothing here has a limit in it.
#ifndef ASSAY_METRIC_H
#define ASSAY_METRIC_H

#include <stdbool.h>
#include <stdint.h>

enum row_class { // class comes before distance
    ROW_FINITE,
    ROW_NAN,
    ROW_INFINITE,
    ROW_ZERO,     // every value +-0
    ROW_CONSTANT, // fewer than two distinct values
};
enum row_class metric_row_class(const float *row, uint64_t n);
const char *metric_row_class_name(enum row_class class);

// Lowest index of the maximum. The row holds no NaN (class first).
uint32_t metric_argmax(const float *row, uint32_t n);

enum { METRIC_TOP = 20, METRIC_OVERLAP = 10 };

// What a reference's row says by itself, once for every row that is compared with it.
struct metric_reference {
    const float *row; // [V], borrowed
    uint32_t vocabulary;
    enum row_class class;       // what follows needs ROW_FINITE; numbers are NaN otherwise
    uint32_t n_top, top[METRIC_TOP]; // ids of the largest values, descending; lowest index first among equals
    double log_sum;             // log sum exp r
    double margin;              // r[top1] - r[top2]
    double probability_margin;  // softmax(r)[top1] - softmax(r)[top2]
    const double *probabilities; // [V] softmax(r), or NULL: computed where needed, with the same bits
};
// `probabilities` [V] is filled and borrowed; it may be NULL.
void metric_reference(const float *r, uint32_t vocabulary, double *probabilities, struct metric_reference *out);

// Everything recorded about one position. Ids are -1 and numbers NaN where a row has no pick (its class says why).
struct metric_position {
    enum row_class reference_class, candidate_class;
    int64_t top1, top2;         // of r; lowest index on a tie
    float top1_logit, top2_logit;
    int64_t pick;               // argmax q
    float pick_logit;           // r[pick]
    double gap;                 // r[top1] - r[pick] >= 0: the margin that assay judges by
    double margin;              // r[top1] - r[top2]: logit margin (eager gates)
    double probability_margin;  // softmax(r)[top1] - softmax(r)[top2] (coreai_gate)
    double kl;                  // KL(softmax r || softmax q), nats
    double noise;               // sqrt 2 x 1.4826 x MAD of (q - r) over the reference's top 20 ids
    double square_sum;          // sum over V of (q - r)^2
    double max_abs;             // max |q - r|
    uint32_t overlap;           // |top10(r) and top10(q)|
};
void metric_position(const float *r, const float *q, uint32_t vocabulary, struct metric_position *out);
// The same, against a reference's row that was prepared.
void metric_against(const struct metric_reference *reference, const float *q, struct metric_position *out);

// ||q - r||_2 / ||r||_2, its parts, and classes, over a tensor of n values. error is 0 when both are all zero, infinite when
// only r is.
struct metric_tensor {
    enum row_class reference_class, candidate_class;
    double error;       // relative L2
    double max_abs;
    uint64_t worst;     // index of max_abs
    bool halves;        // every value of q is a half: what a tensor stored in fp16 holds
};
void metric_tensor(const float *r, const float *q, uint64_t n, struct metric_tensor *out);

// Slope of q on r per 1/32 of the ids, over any number of rows: sum (r - mean r)(q - mean q) / sum (r - mean r)^2.
enum { METRIC_BINS = 32 };
struct metric_coverage {
    double n[METRIC_BINS], r[METRIC_BINS], q[METRIC_BINS], rr[METRIC_BINS], rq[METRIC_BINS];
};
void metric_coverage_add(struct metric_coverage *coverage, const float *r, const float *q, uint32_t vocabulary);
double metric_coverage_slope(const struct metric_coverage *coverage, uint32_t bin); // NaN when undefined
// Ids [*first, *end) of a bin.
void metric_coverage_bin(uint32_t vocabulary, uint32_t bin, uint32_t *first, uint32_t *end);

#endif
