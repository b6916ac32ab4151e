#include "harness/judge/metric.h"

#include <math.h>
#include <stdlib.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"

// The normal distribution's standard deviation over its median absolute deviation.
#define MAD_TO_SIGMA 1.4826

// A running maximum that keeps NaN: `!(value <= largest)` alone would let the next value replace it.
static double larger(double largest, double value)
{
    return value > largest || isnan(value) ? value : largest;
}

enum row_class metric_row_class(const float *row, uint64_t n)
{
    bool infinite = false, zero = true, constant = true;
    for (uint64_t i = 0; i < n; i++) {
        if (isnan(row[i]))
            return ROW_NAN;
        infinite |= isinf(row[i]) != 0;
        zero &= row[i] == 0.0f;
        constant &= row[i] == row[0];
    }
    return infinite ? ROW_INFINITE : zero ? ROW_ZERO : constant ? ROW_CONSTANT : ROW_FINITE;
}

const char *metric_row_class_name(enum row_class class)
{
    static const char *const names[] = {"finite", "NaN", "infinite", "all zero", "constant"};
    return names[class];
}

uint32_t metric_argmax(const float *row, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (row[i] > row[best])
            best = i;
    return best;
}

// Ids of the `k` largest values, descending; lowest index first among equals.
static uint32_t top_ids(const float *row, uint32_t n, uint32_t k, uint32_t *ids)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (count == k && !(row[i] > row[ids[k - 1]]))
            continue;
        uint32_t at = count < k ? count++ : k - 1;
        for (; at > 0 && row[i] > row[ids[at - 1]]; at--)
            ids[at] = ids[at - 1];
        ids[at] = i;
    }
    return count;
}

static double log_sum_exp(const float *row, uint32_t n, float largest)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)row[i] - (double)largest);
    return (double)largest + log(sum);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

// sqrt 2 x 1.4826 x MAD of (q - r) over the ids: the spread of a difference of two logits, blind to a common shift.
static double pair_noise(const float *r, const float *q, const uint32_t *ids, uint32_t n)
{
    double d[METRIC_TOP];
    for (uint32_t i = 0; i < n; i++)
        d[i] = (double)q[ids[i]] - (double)r[ids[i]];
    const double middle = median(d, n);
    for (uint32_t i = 0; i < n; i++)
        d[i] = fabs(d[i] - middle);
    return sqrt(2.0) * MAD_TO_SIGMA * median(d, n);
}

static uint32_t overlap(const uint32_t *a, uint32_t n_a, const uint32_t *b, uint32_t n_b)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n_a; i++)
        for (uint32_t j = 0; j < n_b; j++)
            count += a[i] == b[j];
    return count;
}

void metric_reference(const float *r, uint32_t vocabulary, double *probabilities, struct metric_reference *out)
{
    *out = (struct metric_reference){.row = r, .vocabulary = vocabulary, .class = metric_row_class(r, vocabulary),
        .log_sum = NAN, .margin = NAN, .probability_margin = NAN};
    if (out->class != ROW_FINITE)
        return;
    out->n_top = top_ids(r, vocabulary, METRIC_TOP, out->top);
    const double first = r[out->top[0]], second = r[out->top[1]];
    out->log_sum = log_sum_exp(r, vocabulary, r[out->top[0]]);
    out->margin = first - second;
    out->probability_margin = exp(first - out->log_sum) - exp(second - out->log_sum);
    for (uint32_t i = 0; probabilities && i < vocabulary; i++)
        probabilities[i] = exp((double)r[i] - out->log_sum);
    out->probabilities = probabilities;
}

void metric_against(const struct metric_reference *reference, const float *q, struct metric_position *out)
{
    const float *r = reference->row;
    const uint32_t vocabulary = reference->vocabulary, *best_r = reference->top, n_r = reference->n_top;
    *out = (struct metric_position){
        .reference_class = reference->class, .candidate_class = metric_row_class(q, vocabulary),
        .top1 = -1, .top2 = -1, .pick = -1, .top1_logit = NAN, .top2_logit = NAN, .pick_logit = NAN, .gap = NAN,
        .margin = reference->margin, .probability_margin = reference->probability_margin, .kl = NAN, .noise = NAN,
        .square_sum = NAN, .max_abs = NAN};
    if (out->reference_class == ROW_FINITE) {
        out->top1 = best_r[0];
        out->top2 = best_r[1];
        out->top1_logit = r[best_r[0]];
        out->top2_logit = r[best_r[1]];
    }
    if (out->reference_class != ROW_FINITE || out->candidate_class != ROW_FINITE)
        return;

    uint32_t best_q[METRIC_TOP];
    const uint32_t n_q = top_ids(q, vocabulary, METRIC_OVERLAP, best_q);
    const double log_q = log_sum_exp(q, vocabulary, q[best_q[0]]);
    double kl = 0.0, squares = 0.0, largest = 0.0;
    for (uint32_t i = 0; i < vocabulary; i++) {
        const double d = (double)q[i] - (double)r[i], log_p = (double)r[i] - reference->log_sum;
        const double p = reference->probabilities ? reference->probabilities[i] : exp(log_p);
        kl += p * (log_p - ((double)q[i] - log_q));
        squares += d * d;
        largest = larger(largest, fabs(d));
    }
    out->pick = best_q[0];
    out->pick_logit = r[best_q[0]];
    out->gap = (double)out->top1_logit - (double)out->pick_logit;
    out->kl = kl;
    out->square_sum = squares;
    out->max_abs = largest;
    out->noise = pair_noise(r, q, best_r, n_r);
    out->overlap = overlap(best_r, n_r < METRIC_OVERLAP ? n_r : METRIC_OVERLAP, best_q, n_q);
}

void metric_position(const float *r, const float *q, uint32_t vocabulary, struct metric_position *out)
{
    struct metric_reference reference;
    metric_reference(r, vocabulary, NULL, &reference);
    metric_against(&reference, q, out);
}

void metric_tensor(const float *r, const float *q, uint64_t n, struct metric_tensor *out)
{
    double square_error = 0.0, square_sum = 0.0, largest = 0.0;
    uint64_t worst = 0;
    bool halves = true;
    for (uint64_t i = 0; i < n; i++) {
        const double d = (double)q[i] - (double)r[i];
        halves = halves && half_round(q[i]) == q[i]; // false for a NaN, whose class says enough
        square_error += d * d;
        square_sum += (double)r[i] * (double)r[i];
        if (fabs(d) > largest || (isnan(d) && !isnan(largest)))
            worst = i;
        largest = larger(largest, fabs(d));
    }
    *out = (struct metric_tensor){.reference_class = metric_row_class(r, n), .candidate_class = metric_row_class(q, n),
        .error = square_error == 0.0 ? 0.0 : sqrt(square_error / square_sum), .max_abs = largest, .worst = worst,
        .halves = halves};
}

void metric_coverage_bin(uint32_t vocabulary, uint32_t bin, uint32_t *first, uint32_t *end)
{
    *first = (uint32_t)((uint64_t)vocabulary * bin / METRIC_BINS);
    *end = (uint32_t)((uint64_t)vocabulary * (bin + 1) / METRIC_BINS);
}

void metric_coverage_add(struct metric_coverage *coverage, const float *r, const float *q, uint32_t vocabulary)
{
    for (uint32_t bin = 0; bin < METRIC_BINS; bin++) {
        uint32_t first, end;
        metric_coverage_bin(vocabulary, bin, &first, &end);
        for (uint32_t i = first; i < end; i++) {
            coverage->n[bin] += 1.0;
            coverage->r[bin] += (double)r[i];
            coverage->q[bin] += (double)q[i];
            coverage->rr[bin] += (double)r[i] * (double)r[i];
            coverage->rq[bin] += (double)r[i] * (double)q[i];
        }
    }
}

double metric_coverage_slope(const struct metric_coverage *coverage, uint32_t bin)
{
    const double n = coverage->n[bin];
    const double variance = coverage->rr[bin] - coverage->r[bin] * coverage->r[bin] / n;
    const double covariance = coverage->rq[bin] - coverage->r[bin] * coverage->q[bin] / n;
    return variance > 0.0 ? covariance / variance : (double)NAN;
}
