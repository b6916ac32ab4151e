#include "harness/judge/tally.h"

#include <math.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/judge/statistic.h"

static bool is_known(const struct policy *policy, enum check check, const char *id, uint32_t position)
{
    for (size_t i = 0; i < policy->n_known; i++) {
        const struct known_deviation *known = &policy->known[i];
        if (!known->expired && known->check == check && !strcmp(known->case_id, id) &&
            (known->position < 0 || known->position == (int64_t)position))
            return true;
    }
    return false;
}

void tally_count(const struct gate_input *input, enum check check, int64_t case_index, double sigma, struct tally *tally)
{
    *tally = (struct tally){0};
    for (size_t i = 0; i < input->comparison->n_positions; i++) {
        const struct compared_position *p = &input->comparison->positions[i];
        if (!p->checks[check] || (case_index >= 0 && p->case_index != (uint32_t)case_index))
            continue;
        tally->rows++;
        tally->agree += p->agreement == AGREE;
        tally->ties += p->agreement == TIE;
        tally->near_ties += p->agreement == NEAR_TIE;
        tally->real_flips += p->agreement == REAL_FLIP;
        tally->undecidable += p->undecidable;
        if (p->agreement == NO_PICK) {
            tally->bad_rows++;
            tally->bad = tally->bad ? tally->bad : p;
        } else if (p->agreement != AGREE && (!tally->worst || p->metric.gap > tally->worst->metric.gap)) {
            tally->worst = p;
        }
        if (p->introduced) {
            const bool known = is_known(input->policy, check, input->suite->cases[p->case_index].id, p->position);
            tally->known += known;
            tally->introduced += !known;
            tally->unexplained += !known && tally_is_unexplained(p, sigma);
        }
    }
}

double tally_budget(const struct policy *policy, uint64_t rows)
{
    return fmax(policy->limit[LIMIT_INTRODUCED], policy->limit[LIMIT_INTRODUCED_PER_2048] * (double)rows / 2048.0);
}

bool tally_is_unexplained(const struct compared_position *position, double sigma)
{
    return position->introduced && position->route_position != (int64_t)position->position &&
           !(position->metric.gap < TALLY_UNEXPLAINED_SIGMAS * sigma);
}

double tally_sigma(const struct comparison *comparison)
{
    if (comparison->distances[ARM_CANDIDATE].rows)
        return comparison->distances[ARM_CANDIDATE].sigma;
    double squares = 0.0;
    for (size_t i = 0; i < comparison->n_positions; i++)
        squares += comparison->positions[i].metric.noise * comparison->positions[i].metric.noise;
    return comparison->n_positions ? sqrt(squares / (double)comparison->n_positions) : (double)NAN;
}

void tally_expected_flips(const struct comparison *comparison, enum check check, double sigma, double *expected, double *sd)
{
    double sum = 0.0, variance = 0.0;
    for (size_t i = 0; i < comparison->n_positions; i++) {
        const struct compared_position *p = &comparison->positions[i];
        if (!p->checks[check])
            continue;
        // without any noise only an exact tie can flip
        const double flips = sigma > 0.0 ? statistic_normal_tail(p->metric.margin / sigma) : 0.0;
        sum += flips;
        variance += flips * (1.0 - flips);
    }
    *expected = sum;
    *sd = sqrt(variance);
}

enum limit tally_state_cap(const struct compared_state *state)
{
    return state->after_tie ? LIMIT_CAP_STATE_TIE : LIMIT_CAP_STATE;
}
