#include "harness/bench/bench.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness/base/half.h"
#include "harness/base/number.h"
#include "harness/base/progress.h"

enum { TRIES = 3 };                      // times the rounds that are wanted
static const double PEAK_SECONDS = 0.02; // of multiply-adds in a round: 20 times what waking a thread may take

// --- ways

static bool always(const struct engine *engine)
{
    (void)engine;
    return true;
}

static int run_steps(struct engine *engine, const uint32_t *tokens, uint32_t n, float *rows, struct error *error)
{
    const size_t vocabulary = engine->config->vocabulary;
    engine->class->reset(engine);
    for (uint32_t t = 0; t < n; t++) {
        const float *logits;
        const int code = engine->class->step(engine, tokens[t], NULL, &logits, error);
        if (code)
            return code;
        if (rows)
            memcpy(rows + t * vocabulary, logits, vocabulary * sizeof *rows);
    }
    return 0;
}

struct gathering_rows {
    float *rows; // [n, V] or NULL
    size_t vocabulary;
};

static void put_row(void *context, uint32_t t, const float *logits)
{
    const struct gathering_rows *all = context;
    if (all->rows)
        memcpy(all->rows + t * all->vocabulary, logits, all->vocabulary * sizeof *logits);
}

static bool has_batch(const struct engine *engine)
{
    return engine->class->batch && engine->batch_width > 1;
}

static int run_batch(struct engine *engine, const uint32_t *tokens, uint32_t n, float *rows, struct error *error)
{
    struct gathering_rows all = {rows, engine->config->vocabulary};
    const struct batch_sink sink = {.context = &all, .row = put_row};
    int code = 0;
    engine->class->reset(engine);
    for (uint32_t t = 0; !code && t < n; t += engine->batch_width) {
        const uint32_t left = n - t, width = left < engine->batch_width ? left : engine->batch_width;
        all.rows = rows ? rows + t * all.vocabulary : NULL;
        code = engine->class->batch(engine, tokens + t, width, &sink, error);
    }
    return code;
}

const struct bench_way bench_ways[] = {
    {"s1", true, always, run_steps}, {"batch", false, has_batch, run_batch}, {0}};

void bench_tokens(uint32_t vocabulary, uint32_t n, uint32_t *tokens)
{
    for (uint32_t t = 0; t < n; t++)
        tokens[t] = (uint32_t)((t + 1) * UINT64_C(0x9E3779B97F4A7C15) >> 33) % vocabulary;
}

// --- correct before fast

static int compare_rows(const struct engine *engine, const char *way, const float *found, const float *expected,
                        uint32_t n, struct error *error)
{
    const size_t vocabulary = engine->config->vocabulary;
    for (size_t i = 0; i < n * vocabulary; i++) {
        const bool finite = isfinite(found[i]);
        if (finite && float_to_bits(found[i]) == float_to_bits(expected[i]))
            continue;
        return error_set(error, ERROR_CONTRACT,
                         "%s, %s: token %zu, logit %zu is %s, expected %s (%s by the portable kernels on one thread); "
                         "nothing was timed",
                         engine->name, way, i / vocabulary, i % vocabulary, NUMBER_EXACT((double)found[i]),
                         finite ? "the same bits" : "a finite number", NUMBER_EXACT((double)expected[i]));
    }
    return 0;
}

int bench_check(struct engine *engine, struct engine *definition, uint32_t n, struct error *error)
{
    const size_t vocabulary = engine->config->vocabulary;
    uint32_t *tokens = calloc(n, sizeof *tokens);
    float *expected = calloc(n * vocabulary, sizeof *expected), *found = calloc(n * vocabulary, sizeof *found);
    int code = tokens && expected && found ? 0 : error_set(error, ERROR_RUNTIME, "out of memory");
    if (!code) {
        bench_tokens(engine->config->vocabulary, n, tokens);
        code = run_steps(definition, tokens, n, expected, error);
    }
    for (const struct bench_way *way = bench_ways; !code && way->name; way++) {
        if (!way->has(engine))
            continue;
        code = way->run(engine, tokens, n, found, error);
        if (!code)
            code = compare_rows(engine, way->name, found, expected, n, error);
    }
    free(found);
    free(expected);
    free(tokens);
    return code;
}

// --- measuring

static void begin_linear(void *context)
{
    struct bench_stopwatch *stopwatch = context;
    stopwatch->began = progress_clock();
}

static void end_linear(void *context, const struct weight *weight)
{
    struct bench_stopwatch *stopwatch = context;
    (void)weight;
    stopwatch->seconds += progress_clock() - stopwatch->began;
}

void bench_stopwatch_open(struct bench_stopwatch *stopwatch)
{
    *stopwatch = (struct bench_stopwatch){.hook = {stopwatch, begin_linear, end_linear}};
}

struct gathering {
    struct span *spans;
    size_t n;
};

static void gather(void *context, const struct weight *weight)
{
    struct gathering *all = context;
    all->spans[all->n++] = (struct span){weight->data, (size_t)(weight->rows * weight_row_bytes(weight))};
    if (weight->scale)
        all->spans[all->n++] = (struct span){(const unsigned char *)weight->scale,
                                             (size_t)weight->rows * (weight->cols / weight->block) * 2};
}

static bool open_mode(struct bench *bench, struct bench_mode *mode, size_t tries)
{
    const struct model *model = mode->weights;
    struct gathering all = {arena_alloc(&bench->arena, 2 * (size_t)model->n_weights, sizeof *all.spans), 0};
    double **const series[] = {&mode->speeds, &mode->reads, &mode->bandwidths, &mode->peaks, &mode->linears};
    mode->times = arena_alloc(&bench->arena, bench->n_modes, sizeof *mode->times);
    bool ok = all.spans && mode->times;
    for (size_t i = 0; i < sizeof series / sizeof *series; i++) {
        *series[i] = arena_alloc(&bench->arena, tries, sizeof **series[i]);
        ok = ok && *series[i];
    }
    if (!ok)
        return false;
    model_visit(model, gather, &all);
    mode->spans = all.spans;
    mode->n_spans = all.n;
    mode->traffic = model_step_traffic(model);
    return true;
}

static uint64_t bytes_of(const struct bench_mode *mode)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < mode->n_spans; i++)
        bytes += mode->spans[i].size;
    return bytes;
}

// One pass of a mode between read passes of two kinds, into place `round` of its series.
static int time_mode(const struct bench *bench, struct bench_mode *mode, const uint32_t *tokens, uint32_t round,
                     struct error *error)
{
    const struct probe *probe = probe_best();
    const double many = machine_read(bench->pool, probe, PROBE_MANY, mode->spans, mode->n_spans);
    mode->stopwatch->seconds = 0;
    const double started = progress_clock();
    const int code = mode->way->run(mode->engine, tokens, mode->tokens, NULL, error);
    const double spent = progress_clock() - started;
    const double few = machine_read(bench->pool, probe, PROBE_FEW, mode->spans, mode->n_spans);
    if (code)
        return code;
    mode->speeds[round] = mode->tokens / spent;
    mode->linears[round] = mode->tokens / mode->stopwatch->seconds;
    mode->reads[round] = (double)bytes_of(mode) / (few < many ? few : many);
    mode->bandwidths[round] = mode->speeds[round] * (double)mode->traffic.bytes / mode->reads[round];
    return 0;
}

// What belongs to a round and to no mode.
struct series {
    double *distances, *peaks, *cores, *running; // [rounds]
};

// Seconds for which this thread has run.
static double running_clock(void)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int time_round(struct bench *bench, const uint32_t *const *tokens, uint32_t round, struct series *series,
                      struct error *error)
{
    const double started = progress_clock(), ran = running_clock();
    int code = 0;
    for (size_t i = 0; !code && i < bench->n_modes; i++)
        code = time_mode(bench, &bench->modes[i], tokens[i], round, error);
    series->running[round] = (running_clock() - ran) / (progress_clock() - started);
    const double peak = machine_peak(bench->pool, probe_best(), PEAK_SECONDS);
    series->peaks[round] = peak;
    series->cores[round] = peak / (pool_threads(bench->pool) * machine_peak(NULL, probe_best(), PEAK_SECONDS));
    for (size_t i = 0; i < bench->n_modes; i++) {
        struct bench_mode *mode = &bench->modes[i];
        const double operations = 2 * (double)mode->traffic.multiplications; // of a token
        mode->peaks[round] = mode->speeds[round] * operations / peak;
        mode->linears[round] *= operations / peak;
    }
    return code;
}

static int ascending(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

struct bench_range bench_range(double *values, size_t n)
{
    assert(n);
    qsort(values, n, sizeof *values, ascending);
    return (struct bench_range){values[0], (values[(n - 1) / 2] + values[n / 2]) / 2, values[n - 1]};
}

// Before any series is sorted. `scratch` [kept].
static void compare_modes(struct bench *bench, double *scratch)
{
    for (size_t i = 0; i < bench->n_modes; i++)
        for (size_t j = 0; j < bench->n_modes; j++) {
            for (size_t round = 0; round < bench->kept; round++)
                scratch[round] = bench->modes[i].speeds[round] / bench->modes[j].speeds[round];
            bench->modes[i].times[j] = bench_range(scratch, bench->kept);
        }
}

// Sorts every series; the distances serve as scratch once their range is known.
static void summarize(struct bench *bench, struct series *series)
{
    const size_t n = bench->kept;
    bench->distance_ns = bench_range(series->distances, n);
    bench->peak = bench_range(series->peaks, n);
    bench->cores_share = bench_range(series->cores, n);
    bench->running = bench_range(series->running, n);
    compare_modes(bench, series->distances);
    for (size_t i = 0; i < bench->n_modes; i++) {
        struct bench_mode *mode = &bench->modes[i];
        mode->tokens_per_s = bench_range(mode->speeds, n);
        mode->read_bytes_per_s = bench_range(mode->reads, n);
        mode->bandwidth_share = bench_range(mode->bandwidths, n);
        mode->fma_share = bench_range(mode->peaks, n);
        mode->linear_fma_share = bench_range(mode->linears, n);
    }
}

static int measure(struct bench *bench, const uint32_t *const *tokens, struct series *series, struct error *error)
{
    struct progress progress;
    progress_start(&progress, "bench", bench->rounds + 1, bench->quiet);
    progress.unit = "rounds";
    int code = time_round(bench, tokens, 0, series, error); // the first pass over fresh mappings is slow
    progress_step(&progress, 1);
    for (uint32_t tried = 0; !code && bench->kept < bench->rounds && tried < TRIES * bench->rounds; tried++) {
        const uint32_t round = bench->kept;
        const double before = machine_distance(bench->pool);
        code = time_round(bench, tokens, round, series, error);
        const double after = machine_distance(bench->pool); // moved during the round: as bad as before it
        series->distances[round] = after < before ? after : before;
        if (series->distances[round] > 0 && series->distances[round] < bench->sibling_ns)
            bench->dropped_near++;
        else if (!(series->running[round] >= bench->least_running))
            bench->dropped_waiting++;
        else
            bench->kept++;
        progress_step(&progress, bench->kept - round);
    }
    progress_finish(&progress);
    return code;
}

int bench_run(struct bench *bench, struct error *error)
{
    const size_t tries = bench->rounds + 1;
    struct series series;
    series.distances = arena_alloc(&bench->arena, tries, sizeof *series.distances);
    series.peaks = arena_alloc(&bench->arena, tries, sizeof *series.peaks);
    series.cores = arena_alloc(&bench->arena, tries, sizeof *series.cores);
    series.running = arena_alloc(&bench->arena, tries, sizeof *series.running);
    uint32_t **tokens = arena_alloc(&bench->arena, bench->n_modes, sizeof *tokens);
    bool ok = series.distances && series.peaks && series.cores && series.running && tokens;
    for (size_t i = 0; ok && i < bench->n_modes; i++) {
        struct bench_mode *mode = &bench->modes[i];
        tokens[i] = arena_alloc(&bench->arena, mode->tokens, sizeof **tokens);
        ok = tokens[i] && open_mode(bench, mode, tries);
        if (ok)
            bench_tokens(mode->engine->config->vocabulary, mode->tokens, tokens[i]);
    }
    if (!ok)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    const int code = measure(bench, (const uint32_t *const *)tokens, &series, error);
    if (code)
        return code;
    if (!bench->kept)
        return error_set(error, ERROR_RUNTIME,
                         "no round was worth keeping: in %u two threads were nearer than %g ns, as on one core, in %u "
                         "other work had the processor for more than %.0f %% of the time; try again, use --threads 1, "
                         "or --keep-all",
                         bench->dropped_near, bench->sibling_ns, bench->dropped_waiting,
                         100 * (1 - bench->least_running));
    summarize(bench, &series);
    return 0;
}

void bench_close(struct bench *bench)
{
    arena_close(&bench->arena);
}
