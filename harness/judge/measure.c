#include "harness/judge/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/run/record.h"

void measure_missing(struct measuring *m, enum check check, uint32_t rows, const char *why)
{
    struct comparison *comparison = m->comparison;
    comparison->missing[comparison->n_missing++] =
        (struct missing){.case_index = m->case_index, .check = check, .rows = rows, .why = why};
}

// --- rows

static enum agreement classify(const struct metric_position *metric, const struct compare_request *request)
{
    if (metric->pick < 0 || metric->top1 < 0)
        return NO_PICK;
    if (metric->pick == metric->top1)
        return AGREE;
    if (metric->gap <= 0.0 || metric->gap < request->reference_error)
        return TIE;
    return metric->gap < request->floor ? NEAR_TIE : REAL_FLIP;
}

// Which checks count row t of the whole run?
static bool row_serves(const struct suite_case *c, const bool *asked, uint32_t t, bool checks[CHECK_COUNT])
{
    memset(checks, 0, CHECK_COUNT * sizeof *checks);
    if (asked[CHECK_SWEEP] && c->checks[CHECK_SWEEP])
        for (uint32_t i = 0; i < c->n_positions; i++)
            checks[CHECK_SWEEP] |= c->positions[i] == t;
    // the token after row t is the (t - n + 1)-th generated one
    if (asked[CHECK_ROLLOUT] && c->checks[CHECK_ROLLOUT])
        checks[CHECK_ROLLOUT] = t + 1 >= c->n && t + 1 < c->n + c->rollout;
    checks[CHECK_FLIPS] = asked[CHECK_FLIPS] && c->checks[CHECK_FLIPS] && t < c->n;
    checks[CHECK_DISTANCE] = asked[CHECK_DISTANCE] && c->checks[CHECK_DISTANCE] && t < c->n;
    return checks[CHECK_SWEEP] || checks[CHECK_ROLLOUT] || checks[CHECK_FLIPS] || checks[CHECK_DISTANCE];
}

static void add_distance(struct measuring *m, enum arm arm, const struct metric_position *metric, const float *r, const float *q)
{
    struct distance *d = &m->comparison->distances[arm];
    m->rms[arm][d->rows] = sqrt(metric->square_sum / m->comparison->vocabulary);
    m->kl[arm][d->rows++] = metric->kl;
    m->squares[arm] += metric->square_sum;
    m->noise_squares[arm] += metric->noise * metric->noise;
    if (metric->max_abs > d->max_abs || isnan(metric->max_abs))
        d->max_abs = metric->max_abs;
    if (metric->kl > d->kl_max || isnan(metric->kl))
        d->kl_max = metric->kl;
    metric_coverage_add(&d->coverage, r, q, m->comparison->vocabulary);
}

static void add_kernel_error(struct measuring *m, const float *q, const float *e)
{
    struct comparison *comparison = m->comparison;
    double squares = 0.0;
    comparison->kernel_equal += !memcmp(q, e, comparison->vocabulary * sizeof *q);
    for (uint32_t i = 0; i < comparison->vocabulary; i++) {
        const double d = (double)q[i] - (double)e[i];
        squares += d * d;
    }
    m->kernel[comparison->kernel_rows++] = sqrt(squares / comparison->vocabulary);
    m->kernel_squares += squares;
}

static void add_position(struct measuring *m, const struct joined *joined, uint32_t t, bool seeded, const bool *checks)
{
    struct comparison *comparison = m->comparison;
    struct compared_position *p = &comparison->positions[comparison->n_positions++];
    const float *r = trace_logits(joined->reference, t, m->reference_row);
    const float *q = trace_logits(joined->arms[ARM_CANDIDATE], t, m->arm_row);
    *p = (struct compared_position){.case_index = m->case_index, .seeded = seeded,
        .position = joined->reference->contract.position + t, .fp16_agreement = NO_PICK, .route_layer = -1,
        .route_position = -1};
    memcpy(p->checks, checks, sizeof p->checks);
    struct metric_reference reference;
    metric_reference(r, comparison->vocabulary, m->probabilities, &reference);
    metric_against(&reference, q, &p->metric);
    p->agreement = classify(&p->metric, m->request);
    p->undecidable = !(p->metric.margin >= m->request->floor);
    if (checks[CHECK_DISTANCE])
        add_distance(m, ARM_CANDIDATE, &p->metric, r, q);
    struct metric_position metric;
    if (joined->arms[ARM_EXPECTED] && checks[CHECK_DISTANCE]) {
        const float *e = trace_logits(joined->arms[ARM_EXPECTED], t, m->expected_row);
        metric_against(&reference, e, &metric);
        add_distance(m, ARM_EXPECTED, &metric, r, e);
        add_kernel_error(m, q, e);
    }
    if (joined->arms[ARM_FP16]) {
        q = trace_logits(joined->arms[ARM_FP16], t, m->arm_row);
        metric_against(&reference, q, &metric);
        p->has_fp16 = true;
        p->fp16_agreement = classify(&metric, m->request);
        if (checks[CHECK_DISTANCE])
            add_distance(m, ARM_FP16, &metric, r, q);
    }
    p->introduced = p->agreement == REAL_FLIP && p->fp16_agreement != REAL_FLIP;
    for (int check = 0; check < CHECK_COUNT; check++)
        if (checks[check]) {
            if (check != CHECK_ROLLOUT) // counted in prompts
                comparison->compared[check]++;
            if (p->metric.top1 >= 0 && !m->seen[check][p->metric.top1]) {
                m->seen[check][p->metric.top1] = 1;
                comparison->distinct_top1[check]++;
            }
        }
}

static void count_classes(struct measuring *m, const struct trace *trace)
{
    for (uint32_t t = 0; t < trace->n; t++)
        m->comparison->class_count[metric_row_class(trace_logits(trace, t, m->arm_row), m->comparison->vocabulary)]++;
}

static void add_rollout(struct measuring *m, size_t first_position)
{
    const struct suite_case *c = &m->request->suite->cases[m->case_index];
    struct compared_rollout rollout = {.case_index = m->case_index, .n = c->rollout, .first_divergence = c->rollout,
        .strict = true};
    uint32_t index = 0;
    for (size_t i = first_position; i < m->comparison->n_positions; i++) {
        const struct compared_position *p = &m->comparison->positions[i];
        if (!p->checks[CHECK_ROLLOUT])
            continue;
        if (p->agreement == AGREE)
            rollout.equal++;
        else if (index < rollout.first_divergence)
            rollout.first_divergence = index;
        rollout.strict &= !p->undecidable;
        index++;
    }
    m->comparison->rollouts[m->comparison->n_rollouts++] = rollout;
    m->comparison->compared[CHECK_ROLLOUT]++;
}

// --- states

static int add_states(struct measuring *m, const struct joined *joined, enum check check, struct error *error)
{
    struct comparison *comparison = m->comparison;
    struct state states[1 + ARM_COUNT] = {0};
    int code = trace_state(joined->reference, &comparison->arena, &states[ARM_COUNT], error);
    for (int arm = 0; !code && arm < ARM_COUNT; arm++)
        if (joined->arms[arm])
            code = trace_state(joined->arms[arm], &comparison->arena, &states[arm], error);
    if (code)
        return code;
    const struct state *reference = &states[ARM_COUNT], *candidate = &states[ARM_CANDIDATE],
                       *expected = &states[ARM_EXPECTED];
    comparison->declared[check] += reference->n;
    if (!candidate->n) {
        measure_missing(m, check, (uint32_t)reference->n, "the trace holds no end state");
        return 0;
    }
    // one more than needed: realloc to nothing frees, and says the same as no memory
    struct compared_state *rows = realloc(comparison->states, (comparison->n_states + reference->n + 1) * sizeof *rows);
    if (!rows)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    comparison->states = rows;
    for (size_t i = 0; i < reference->n; i++) {
        const struct state_tensor *r = &reference->tensors[i];
        struct compared_state *row = &rows[comparison->n_states];
        *row = (struct compared_state){.case_index = m->case_index, .seeded = check == CHECK_SEEDED, .layer = r->layer,
            .kind = r->kind, .has_expected = i < expected->n && expected->tensors[i].elements == r->elements};
        if (i >= candidate->n || candidate->tensors[i].layer != r->layer || candidate->tensors[i].kind != r->kind ||
            candidate->tensors[i].elements != r->elements) {
            measure_missing(m, check, 1, "a state tensor is missing or of another shape");
            continue;
        }
        metric_tensor(r->data, candidate->tensors[i].data, r->elements, &row->candidate);
        if (row->has_expected)
            metric_tensor(r->data, expected->tensors[i].data, r->elements, &row->expected);
        comparison->n_states++;
        if (check == CHECK_STATE)
            comparison->compared[check]++;
    }
    return 0;
}

// --- a case

int measure_whole(struct measuring *m, const struct joined *joined, struct error *error)
{
    const bool *asked = m->request->checks;
    const struct suite_case *c = &m->request->suite->cases[m->case_index];
    const size_t first = m->comparison->n_positions;
    count_classes(m, joined->arms[ARM_CANDIDATE]);
    for (uint32_t t = 0; t < joined->reference->n; t++) {
        bool checks[CHECK_COUNT];
        if (row_serves(c, asked, t, checks))
            add_position(m, joined, t, false, checks);
    }
    if (asked[CHECK_ROLLOUT] && c->checks[CHECK_ROLLOUT])
        add_rollout(m, first);
    int code = measure_routing(m, joined, false, error);
    if (!code && asked[CHECK_STATE] && c->checks[CHECK_STATE])
        code = add_states(m, joined, CHECK_STATE, error);
    if (!code && asked[CHECK_STATE] && c->checks[CHECK_STATE])
        code = measure_snapshots(m, joined, error);
    return code;
}

int measure_seeded(struct measuring *m, const struct joined *joined, struct error *error)
{
    const bool checks[CHECK_COUNT] = {[CHECK_SEEDED] = true};
    count_classes(m, joined->arms[ARM_CANDIDATE]);
    for (uint32_t t = 0; t < joined->reference->n; t++)
        add_position(m, joined, t, true, checks);
    const uint64_t declared = m->comparison->declared[CHECK_SEEDED]; // rows; its states have no count of their own
    int code = measure_routing(m, joined, true, error);
    if (!code)
        code = add_states(m, joined, CHECK_SEEDED, error);
    m->comparison->declared[CHECK_SEEDED] = declared;
    return code;
}

// --- the same engine twice

int measure_second_run(struct measuring *m, const struct trace *whole, enum check check, enum second_run way,
                       struct error *error)
{
    static const struct {
        const char *purpose, *way;
    } runs[SECOND_COUNT] = {[SECOND_AGAIN] = {"again", NULL},
                            [SECOND_RESTORED] = {"restored", "saved and restored"},
                            [SECOND_BATCH] = {"batch", "batch"},
                            [SECOND_CHUNK] = {"chunk", "chunks"}};
    struct comparison *comparison = m->comparison;
    const char *path = record_path(&comparison->arena, m->request->arms[ARM_CANDIDATE],
                                   m->request->suite->cases[m->case_index].id, runs[way].purpose);
    if (!path)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    if (!file_exists(path)) {
        if (way == SECOND_BATCH || way == SECOND_CHUNK)
            return 0;
        comparison->declared[check] += 1;
        measure_missing(m, check, 1, "the second run was not recorded");
        return 0;
    }
    struct trace *second;
    int code = trace_open(&second, path, error);
    if (code)
        return code;
    const uint32_t start = second->contract.position - whole->contract.position;
    if (second->vocabulary != whole->vocabulary || !second->logits || start + second->n != whole->n || second->n == 0 ||
        memcmp(second->tokens, whole->tokens + start, second->n * sizeof *second->tokens) != 0) {
        code = error_set(error, ERROR_CONTRACT, "%s: expected tokens %u to %u of %s, found %u other tokens from position %u",
                         path, start, whole->n, whole->file->path, second->n, second->contract.position);
        trace_close(&second);
        return code;
    }
    struct compared_rows rows = {.case_index = m->case_index, .check = check, .rows = second->n, .way = runs[way].way};
    const size_t bytes = comparison->vocabulary * sizeof(float);
    for (uint32_t t = 0; t < second->n; t++) {
        const float *one = trace_logits(whole, start + t, m->reference_row);
        const float *two = trace_logits(second, t, m->arm_row);
        if (!memcmp(one, two, bytes)) {
            rows.equal++;
            continue;
        }
        struct metric_position metric;
        metric_position(one, two, comparison->vocabulary, &metric);
        rows.real_flips += classify(&metric, m->request) == REAL_FLIP || metric.pick < 0;
    }
    struct state first_state, second_state;
    code = trace_state(whole, &comparison->arena, &first_state, error);
    if (!code)
        code = trace_state(second, &comparison->arena, &second_state, error);
    if (!code) {
        rows.has_state = first_state.n && first_state.n == second_state.n;
        rows.state_equal = rows.has_state;
        for (size_t i = 0; rows.state_equal && i < first_state.n; i++)
            rows.state_equal = first_state.tensors[i].elements == second_state.tensors[i].elements &&
                               !memcmp(first_state.tensors[i].data, second_state.tensors[i].data,
                                       first_state.tensors[i].elements * sizeof(float));
        comparison->rows[comparison->n_rows++] = rows;
        comparison->declared[check] += rows.rows;
        comparison->compared[check] += rows.rows;
    }
    trace_close(&second);
    return code;
}
