// assay bench: tokens/s, and what share that is of what this machine can do.
#include "harness/cmd/bench.h"

#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/progress.h"
#include "harness/cmd/subject.h"
#include "reference/engine.h"
#include "runtime/engine.h"

enum {
    SUBJECTS_MAX = 8,
    CHECKED = 3,        // tokens compared with the portable kernels; two more than the longest convolution step needs
    PROFILED_STEPS = 64,
    SIBLING_NS = 25, // one way between two cores 33 ns and more, within one 17 and less (measured on Zen 4)
};

struct bench_job {
    const struct options *options;
    struct bench bench;
    struct bench_subject subjects[SUBJECTS_MAX];
    size_t n;
    uint32_t prompt, generate, per_round, capacity;
    uint32_t after; // positions before the profiled steps
    bool profile;
};

// --- opening

static void close_subject(struct bench_subject *subject)
{
    engine_close(&subject->engine);
    bundle_close(&subject->bundle);
    checkpoint_close(&subject->checkpoint);
    arena_close(&subject->arena);
}

static int open_engine(const struct bench_job *job, struct bench_subject *subject, enum isa isa, struct pool *pool,
                       const struct profile_hook *hook, struct engine **engine, struct error *error)
{
    if (subject->bundle) {
        const struct runtime_options options = {.pool = pool, .isa = isa, .capacity = job->capacity, .name = "int8",
            .plan = &subject->bundle->plan, .profile = hook};
        return runtime_open(engine, subject->model, &options, error);
    }
    const struct reference_options options = {.pool = pool, .isa = isa, .capacity = job->capacity,
        .name = "reference", .profile = hook};
    return reference_open(engine, subject->model, &options, error);
}

static int open_weights(struct bench_subject *subject, struct error *error)
{
    if (subject_is_bundle(subject->path)) {
        const int code = bundle_open(&subject->bundle, subject->path, error);
        if (code)
            return code;
        subject->model = &subject->bundle->model;
        subject->name = subject->bundle->name;
        return 0;
    }
    int code = checkpoint_open(&subject->checkpoint, subject->path, error);
    if (!code)
        code = config_open(&subject->arena, subject->checkpoint->config_path, &subject->config, error);
    if (!code)
        code = model_bind(&subject->arena, &subject->config, &subject->checkpoint->table, false, &subject->own, NULL,
                          error);
    subject->model = &subject->own;
    subject->name = code ? NULL : subject->checkpoint->name;
    return code;
}

// Everything that a command needs before its first token, except hashes and a tokenizer.
static int open_subject(const struct bench_job *job, struct bench_subject *subject, double *seconds,
                        struct error *error)
{
    const double started = progress_clock();
    bench_stopwatch_open(&subject->stopwatch);
    int code = open_weights(subject, error);
    if (!code)
        code = open_engine(job, subject, job->options->isa, job->bench.pool, &subject->stopwatch.hook, &subject->engine, error);
    *seconds = progress_clock() - started;
    if (!code && job->capacity > subject->model->config.max_positions)
        return error_set(error, ERROR_USAGE, "%s: %u positions asked for by -p, -g and --after, the model allows %u", subject->path,
                         job->capacity, subject->model->config.max_positions);
    return code;
}

static int open_twice(const struct bench_job *job, struct bench_subject *subject, const char *path,
                      struct error *error)
{
    subject->path = path;
    int code = open_subject(job, subject, &subject->first_load, error);
    if (code)
        return code;
    close_subject(subject);
    return open_subject(job, subject, &subject->load, error);
}

// --- correct before fast

static int check(const struct bench_job *job, struct bench_subject *subject, struct error *error)
{
    struct engine *definition;
    const uint32_t n = job->capacity < CHECKED ? job->capacity : CHECKED;
    int code = open_engine(job, subject, ISA_SCALAR, NULL, NULL, &definition, error);
    if (!code)
        code = bench_check(subject->engine, definition, n, error);
    engine_close(&definition);
    return code;
}

// --- measuring

static int run_bench(struct bench_job *job, struct error *error)
{
    struct bench *bench = &job->bench;
    size_t n_ways = 0;
    while (bench_ways[n_ways].name)
        n_ways++;
    bench->modes = arena_alloc(&bench->arena, job->n * n_ways, sizeof *bench->modes);
    if (!bench->modes)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    for (size_t i = 0; i < job->n; i++)
        for (const struct bench_way *way = bench_ways; way->name; way++) {
            struct bench_subject *subject = &job->subjects[i];
            if (!way->has(subject->engine))
                continue;
            bench->modes[bench->n_modes++] = (struct bench_mode){.model = subject->name, .way = way,
                .engine = subject->engine, .stopwatch = &subject->stopwatch, .weights = subject->model,
                .tokens = way->reads_each ? job->per_round : job->prompt};
        }
    return bench_run(bench, error);
}

static int run_profile(const struct bench_job *job, struct bench_subject *subject, struct error *error)
{
    struct profile *profile = &subject->profile;
    struct engine *engine;
    const bool halves = subject->bundle && subject->bundle->plan.rows[PLAN_KV_STATE] == PRECISION_F16;
    const uint32_t n = job->per_round < PROFILED_STEPS ? job->per_round : PROFILED_STEPS;
    uint32_t *tokens = calloc((size_t)job->after + n, sizeof *tokens);
    if (!tokens)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    profile_open(profile, subject->model, halves ? 2 : 4);
    int code = open_engine(job, subject, job->options->isa, job->bench.pool, &profile->hook, &engine, error);
    bench_tokens(subject->model->config.vocabulary, job->after + n, tokens);
    for (uint32_t t = 0; !code && t < job->after + n; t++) {
        const float *logits;
        if (t == job->after) // what came before is not counted; the hook stays where it is
            profile_open(profile, subject->model, halves ? 2 : 4);
        profile_start(profile, t);
        code = engine->class->step(engine, tokens[t], &profile->sink, &logits, error);
        profile_stop(profile);
    }
    free(tokens);
    subject->profiled = n;
    subject->after = job->after;
    engine_close(&engine);
    return code;
}

static int run_all(struct bench_job *job, struct error *error)
{
    const struct options *options = job->options;
    int code = pool_open(&job->bench.pool, options->threads, error);
    for (; !code && job->n < options->n_positional; job->n++)
        code = open_twice(job, &job->subjects[job->n], options->positional[job->n], error);
    for (size_t i = 0; !code && i < job->n; i++)
        code = check(job, &job->subjects[i], error);
    if (!code)
        code = run_bench(job, error);
    struct bench_report report = {options, &job->bench, job->subjects, job->n, machine_anonymous_bytes(), job->profile};
    for (size_t i = 0; !code && job->profile && i < job->n; i++)
        code = run_profile(job, &job->subjects[i], error);
    if (!code && options->json)
        bench_print_json(&report, &job->bench.arena);
    else if (!code)
        bench_print_text(&report);
    for (size_t i = 0; i < SUBJECTS_MAX; i++)
        close_subject(&job->subjects[i]);
    pool_close(&job->bench.pool);
    return code;
}

static int run_command(const struct options *options, struct error *error)
{
    struct bench_job job = {.options = options, .profile = options_flag(options, "profile")};
    long prompt, generate, rounds, after;
    int code = options_number(options, "p", 1, 1 << 17, 128, &prompt, error);
    if (!code)
        code = options_number(options, "g", 1, 1 << 17, 256, &generate, error);
    if (!code)
        code = options_number(options, "n", 1, BENCH_ROUNDS_MAX, 9, &rounds, error);
    if (!code)
        code = options_number(options, "after", 0, 1 << 17, 0, &after, error);
    if (code)
        return code;
    job.prompt = (uint32_t)prompt;
    job.generate = (uint32_t)generate;
    job.per_round = (uint32_t)((generate + rounds - 1) / rounds);
    job.after = (uint32_t)after;
    job.capacity = job.prompt > job.per_round + job.after ? job.prompt : job.per_round + job.after;
    job.bench.rounds = (uint32_t)rounds;
    if (!options_flag(options, "keep-all")) {
        job.bench.sibling_ns = SIBLING_NS;
        job.bench.least_running = 0.9;
    }
    job.bench.quiet = options->quiet;
    code = run_all(&job, error);
    bench_close(&job.bench);
    return code;
}

static const struct option bench_options[] = {
    {"p", "N", "tokens of a batch, in every round (default: 128)"},
    {"g", "N", "tokens of one-token steps in all, split over the rounds; each starts from nothing (default: 256)"},
    {"n", "N", "rounds to keep; medians are taken over them (default: 9)"},
    {"keep-all", NULL, "keep rounds, too, in which threads shared a core or other work had the processor"},
    {"profile", NULL, "also time and bytes of every operator, in steps of their own"},
    {"after", "N", "positions before those steps (default: 0)"},
    {0},
};

const struct command command_bench = {
    "bench",
    "MODEL|BUNDLE... [options]",
    "tokens/s, as shares of this machine's memory bandwidth and multiply-add peak",
    "Times the reference over a checkpoint and the int8 runtime over a bundle, after checking their bits against the\n"
    "portable kernels. Around every pass it reads the same weights twice, in 8 streams and in 2, of which the faster\n"
    "counts, and runs multiply-adds in registers; shares and ratios are formed within a round, so that a busy or moving\n"
    "host changes them little. With several models, all take turns in every round and the last column compares them with\n"
    "the first.",
    "assay bench fixtures/models/lfm2-mini -g 90 -n 9 --profile",
    bench_options,
    1,
    SUBJECTS_MAX,
    run_command};
