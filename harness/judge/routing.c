#include "harness/judge/routing.h"

#include <math.h>
#include <stdlib.h>

#include "harness/base/floating.h"

#define MAD_TO_SIGMA 1.4826
// A score in fp32 is within a few units of 2^-24 of its double; experts closer than this may be chosen either way.
#define SCORE_ROUNDING 1e-6

static bool is_sound(const struct routing_rule *rule, const struct routing_row *row)
{
    for (uint32_t e = 0; e < rule->experts; e++)
        if (!isfinite(row->logits[e]))
            return false;
    for (uint32_t i = 0; i < rule->chosen; i++) {
        if (!isfinite(row->weights[i]) || row->experts[i] < 0 || (uint32_t)row->experts[i] >= rule->experts)
            return false;
        for (uint32_t j = 0; j < i; j++)
            if (row->experts[i] == row->experts[j])
                return false;
    }
    return true;
}

// Selection scores [E] and, if asked for, how fast each follows its logit.
static void score(const struct routing_rule *rule, const float *logits, double *scores, double *slopes)
{
    double largest = -INFINITY, sum = 0.0;
    for (uint32_t e = 0; e < rule->experts; e++)
        largest = (double)logits[e] > largest ? (double)logits[e] : largest;
    for (uint32_t e = 0; e < rule->experts; e++)
        sum += exp((double)logits[e] - largest);
    for (uint32_t e = 0; e < rule->experts; e++) {
        const double x = logits[e], s = rule->scores == ROUTING_SIGMOID ? 1.0 / (1.0 + exp(-x)) : exp(x - largest) / sum;
        scores[e] = s + (rule->bias ? rule->bias[e] : 0.0);
        if (slopes)
            slopes[e] = rule->scores == ROUTING_SIGMOID ? s * (1.0 - s) : s;
    }
}

// The experts of the k-th and the (k+1)-th largest score, the lowest index first among equals; E > k.
static void border(const struct routing_rule *rule, const double *scores, uint32_t *last, uint32_t *next)
{
    *last = *next = 0;
    for (uint32_t e = 0; e < rule->experts; e++) {
        uint32_t before = 0;
        for (uint32_t other = 0; other < rule->experts; other++)
            before += scores[other] > scores[e] || (scores[other] == scores[e] && other < e);
        if (before == rule->chosen - 1)
            *last = e;
        else if (before == rule->chosen)
            *next = e;
    }
}

static bool contains(const struct routing_rule *rule, const struct routing_row *row, uint32_t expert)
{
    for (uint32_t i = 0; i < rule->chosen; i++)
        if ((uint32_t)row->experts[i] == expert)
            return true;
    return false;
}

static double weight_of(const struct routing_rule *rule, const struct routing_row *row, uint32_t expert)
{
    for (uint32_t i = 0; i < rule->chosen; i++)
        if ((uint32_t)row->experts[i] == expert)
            return row->weights[i];
    return 0.0;
}

// Is a rejected expert's score over that of a chosen one?
static bool is_misrouted(const struct routing_rule *rule, const struct routing_row *row, double *scores)
{
    double least = INFINITY, best = -INFINITY;
    score(rule, row->logits, scores, NULL);
    for (uint32_t e = 0; e < rule->experts; e++) {
        if (contains(rule, row, e))
            least = scores[e] < least ? scores[e] : least;
        else
            best = scores[e] > best ? scores[e] : best;
    }
    return !(best - least <= SCORE_ROUNDING * fmax(1.0, fabs(least)));
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

static double logit_noise(uint32_t experts, const float *r, const float *q, double *values)
{
    for (uint32_t e = 0; e < experts; e++)
        values[e] = (double)q[e] - (double)r[e];
    const double middle = median(values, experts);
    for (uint32_t e = 0; e < experts; e++)
        values[e] = fabs(values[e] - middle);
    return MAD_TO_SIGMA * median(values, experts);
}

void routing_compare(const struct routing_rule *rule, const struct routing_row *reference,
                     const struct routing_row *candidate, double *scratch, struct routing_difference *out)
{
    double *scores = scratch, *slopes = scratch + rule->experts, *own = scratch + 2 * (size_t)rule->experts,
           *values = scratch + 3 * (size_t)rule->experts;
    *out = (struct routing_difference){.margin = NAN, .steepness = NAN, .noise = NAN, .weight_error = NAN};
    out->sound = is_sound(rule, reference) && is_sound(rule, candidate);
    if (!out->sound)
        return;
    out->weight_error = 0.0;
    for (uint32_t e = 0; e < rule->experts; e++) {
        out->changed = out->changed || contains(rule, reference, e) != contains(rule, candidate, e);
        out->weight_error += fabs(weight_of(rule, candidate, e) - weight_of(rule, reference, e));
    }
    out->noise = logit_noise(rule->experts, reference->logits, candidate->logits, values);
    if (rule->scores == ROUTING_UNKNOWN)
        return;
    out->margin = INFINITY;
    out->steepness = 0.0;
    if (rule->chosen == rule->experts)
        return;
    uint32_t last, next;
    score(rule, reference->logits, scores, slopes);
    border(rule, scores, &last, &next);
    out->margin = scores[last] - scores[next];
    out->steepness = sqrt(slopes[last] * slopes[last] + slopes[next] * slopes[next]);
    out->misrouted = is_misrouted(rule, candidate, own);
}

double routing_depth(const struct routing_difference *difference, double sigma)
{
    const double noise = (difference->noise > sigma ? difference->noise : sigma) * difference->steepness;
    if (difference->margin == 0.0)
        return 0.0;
    return noise == 0.0 ? (double)INFINITY : difference->margin / noise; // a NaN stays
}
