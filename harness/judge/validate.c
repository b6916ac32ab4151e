#include "harness/judge/validate.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "harness/base/floating.h"
#include "harness/base/number.h"
#include "harness/judge/metric.h"
#include "harness/run/record.h"
#include "harness/run/trace.h"

struct validating {
    const struct suite *suite;
    const struct config *config;
    const struct policy *policy;
    struct validation *out;
    float *row;               // [V]
    bool *undecidable;        // [rows of the case]
    uint32_t longest, highest_id;
    bool has_stop;
    bool out_of_memory;
};

static void find(struct validating *v, const char *sentence)
{
    v->out_of_memory |= !sentence;
    v->out->findings[v->out->n++] = sentence ? sentence : "";
}

#define FIND(v, ...) find(v, arena_print(&(v)->out->arena, __VA_ARGS__))

static void measure_rows(struct validating *v, const struct suite_case *c, const struct trace *trace)
{
    const double floor = v->policy->limit[LIMIT_FLOOR];
    for (uint32_t t = 0; t < trace->n; t++) {
        struct metric_reference m;
        metric_reference(trace_logits(trace, t, v->row), trace->vocabulary, NULL, &m);
        v->undecidable[t] = !(m.margin >= floor);
        const bool in_text = t < c->n && (c->checks[CHECK_FLIPS] || c->checks[CHECK_SWEEP]);
        const bool in_rollout = c->checks[CHECK_ROLLOUT] && t + 1 >= c->n && t + 1 < c->n + c->rollout;
        v->out->undecidable += v->undecidable[t] && (in_text || in_rollout);
    }
}

static void look_at_case(struct validating *v, const struct suite_case *c, const struct trace *trace)
{
    struct validation *out = v->out;
    measure_rows(v, c, trace);
    if (c->checks[CHECK_SWEEP]) {
        uint32_t decidable = 0;
        for (uint32_t i = 0; i < c->n_positions; i++)
            decidable += !v->undecidable[c->positions[i]];
        out->sweep_positions += c->n_positions;
        if (c->n_positions >= SUITE_SWEEP_POSITIONS && decidable < VALIDATE_DECIDABLE)
            FIND(v, "%s: only %" PRIu32 " of %" PRIu32 " sweep positions have a reference margin of %g nat or more; name better "
                 "`positions` or another text", c->id, decidable, c->n_positions, v->policy->limit[LIMIT_FLOOR]);
    }
    out->flips_positions += c->checks[CHECK_FLIPS] ? c->n : 0;
    out->distance_positions += c->checks[CHECK_DISTANCE] ? c->n : 0;
    if (c->checks[CHECK_ROLLOUT]) {
        bool strict = true;
        for (uint32_t t = c->n - 1; t + 1 < c->n + c->rollout; t++)
            strict &= !v->undecidable[t];
        out->rollouts++;
        out->strict_rollouts += strict;
    }
    v->longest = c->n > v->longest ? c->n : v->longest;
    for (uint32_t t = 0; t < c->n; t++) {
        v->highest_id = c->tokens[t] > v->highest_id ? c->tokens[t] : v->highest_id;
        for (uint32_t i = 0; i < v->config->n_eos; i++)
            v->has_stop |= c->tokens[t] == v->config->eos[i];
    }
}

static void look_at_suite(struct validating *v)
{
    const struct validation *out = v->out;
    const double *limit = v->policy->limit;
    const uint32_t vocabulary = v->config->vocabulary;
    if (v->highest_id < vocabulary - vocabulary / METRIC_BINS)
        FIND(v, "no high token ids: the highest is %" PRIu32 " of %" PRIu32 ", so a dead range of head rows shows in `distance` only",
             v->highest_id, vocabulary);
    if (!v->has_stop)
        FIND(v, "no stop token in any case: a bundle that never stops would pass");
    if (v->longest < VALIDATE_LONG)
        FIND(v, "no long case: the longest has %" PRIu32 " tokens, faults that compound show from about %d", v->longest,
             VALIDATE_LONG);
    if (v->suite->checks[CHECK_ROLLOUT] && out->strict_rollouts == 0)
        FIND(v, "no rollout whose reference margins are all over the floor: 24/24 is demanded of none");
    const struct { enum check check; enum limit limit; uint64_t n; const char *unit; } least[] = {
        {CHECK_SWEEP, LIMIT_MIN_SWEEP, out->sweep_positions, "sweep positions"},
        {CHECK_ROLLOUT, LIMIT_MIN_ROLLOUTS, out->rollouts, "rollouts"},
        {CHECK_FLIPS, LIMIT_MIN_FLIPS, out->flips_positions, "positions for flips"},
        {CHECK_DISTANCE, LIMIT_MIN_DISTANCE, out->distance_positions, "positions for distance"}};
    for (size_t i = 0; i < sizeof least / sizeof *least; i++)
        if (v->suite->checks[least[i].check] && (double)least[i].n < limit[least[i].limit])
            FIND(v, "%" PRIu64 " %s, policy '%s' wants at least %.0f: `%s` will be NOT_RUN", least[i].n, least[i].unit,
                 v->policy->name, limit[least[i].limit], check_name(least[i].check));
}

// The reference's greedy continuation against the published one; margins are softmax gaps of the publisher's fp32 oracle.
static void compare_answer(struct validating *v, const struct suite_case *c, const struct trace *trace)
{
    const struct suite_answer *answer = c->answer;
    struct validation *out = v->out;
    double largest = 0.0;
    uint32_t equal = 0;
    while (equal < answer->n && (uint32_t)trace->tokens[c->n + equal] == answer->ids[equal]) {
        struct metric_reference m;
        metric_reference(trace_logits(trace, c->n - 1 + equal, v->row), trace->vocabulary, NULL, &m);
        const double difference = answer->margins ? fabs(m.probability_margin - answer->margins[equal]) : 0.0;
        largest = difference > largest || isnan(difference) ? difference : largest;
        equal++;
    }
    const char *margins = answer->margins ? arena_print(&out->arena, ", largest difference of a probability margin %s",
                                                        NUMBER_FIXED(largest, 4))
                                          : "";
    const char *line =
        equal == answer->n
            ? arena_print(&out->arena, "%s: %" PRIu32 "/%" PRIu32 " published ids%s (%s)", c->id, equal, answer->n, margins,
                          answer->source)
            : arena_print(&out->arena, "%s: differs at token %" PRIu32 " of %" PRIu32 ": published %" PRIu32 "%s, here %" PRId32
                          " (%s)", c->id, equal + 1, answer->n, answer->ids[equal],
                          answer->margins ? arena_print(&out->arena, " with margin %.4f", answer->margins[equal]) : "",
                          trace->tokens[c->n + equal], answer->source);
    v->out_of_memory |= !line || !margins;
    out->answer_lines[out->answers++] = line ? line : "";
    out->answers_equal += equal == answer->n;
}

static int validate_case(struct validating *v, const struct suite_case *c, const char *directory, struct error *error)
{
    const char *path = record_path(&v->out->arena, directory, c->id, NULL);
    struct trace *trace;
    if (!path)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    int code = trace_open(&trace, path, error);
    if (code)
        return code;
    if (!trace->logits || trace->n != c->n + c->rollout || trace->vocabulary != v->config->vocabulary)
        code = error_set(error, ERROR_CONTRACT, "%s: expected %" PRIu32 " rows of %" PRIu32 " logits, found %" PRIu32 " of %" PRIu32,
                         path, c->n + c->rollout, v->config->vocabulary, trace->n, trace->vocabulary);
    v->undecidable = arena_alloc(&v->out->arena, trace->n, sizeof *v->undecidable);
    if (!code && !v->undecidable)
        code = error_set(error, ERROR_RUNTIME, "out of memory");
    if (!code) {
        look_at_case(v, c, trace);
        if (c->answer)
            compare_answer(v, c, trace);
    }
    trace_close(&trace);
    return code;
}

int validate_suite(struct validation **out, const struct suite *suite, const struct config *config,
                   const struct policy *policy, const char *directory, struct error *error)
{
    enum { SUITE_FINDINGS = 8 };
    *out = NULL;
    struct validation *validation = calloc(1, sizeof *validation);
    if (!validation)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    struct validating v = {.suite = suite, .config = config, .policy = policy, .out = validation};
    v.row = arena_alloc(&validation->arena, config->vocabulary, sizeof *v.row);
    validation->findings = arena_alloc(&validation->arena, suite->n_cases + SUITE_FINDINGS, sizeof *validation->findings);
    validation->answer_lines = arena_alloc(&validation->arena, suite->n_cases, sizeof *validation->answer_lines);
    int code = v.row && validation->findings && validation->answer_lines ? 0 : error_set(error, ERROR_RUNTIME, "out of memory");
    for (size_t i = 0; !code && i < suite->n_cases; i++)
        code = validate_case(&v, &suite->cases[i], directory, error);
    if (!code) {
        look_at_suite(&v);
        if (v.out_of_memory)
            code = error_set(error, ERROR_RUNTIME, "out of memory");
    }
    if (code) {
        validate_close(&validation);
        return code;
    }
    *out = validation;
    return 0;
}

void validate_close(struct validation **validation)
{
    if (!validation || !*validation)
        return;
    arena_close(&(*validation)->arena);
    free(*validation);
    *validation = NULL;
}
