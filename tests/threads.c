// threads: everything that runs at the same time, in one program without a test framework, so that ThreadSanitizer
// can watch it (Criterion does not start under it): the pool, both engines over it, outputs beside the signal thread.
//
// Indices are counted in plain bytes on purpose: two threads on one index, or a caller that reads before a worker has
// finished, are data races. THREADS_RACE builds the negative control: shares that overlap by one index.
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/pool.h"
#include "reference/engine.h"
#include "runtime/bundle.h"
#include "runtime/engine.h"
#include "runtime/quantize.h"

// The first race ends the program with ThreadSanitizer's exit code, in a child process, too. Threads that a signal
// ends together with their process are no leak.
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "halt_on_error=1:report_thread_leaks=0";
}

static int n_results, n_failures;

static void result(bool ok, const char *name, const char *detail)
{
    n_results++;
    n_failures += !ok;
    printf("%sok %d - %s\n", ok ? "" : "not ", n_results, name);
    if (!ok)
        printf("# %s\n", detail);
    fflush(stdout);
}

// --- the pool

enum { MOST = 1000 };

struct job {
    size_t n;
    unsigned char counts[MOST + 1];
};

static void count(void *context, size_t first, size_t end)
{
    struct job *job = context;
    for (size_t i = first; i < end; i++)
        job->counts[i]++;
}

#if defined(THREADS_RACE)
static void count_one_more(void *context, size_t first, size_t end)
{
    count(context, first, end + 1);
}
#endif

static void run_job(struct pool *pool, struct job *job, size_t grain)
{
#if defined(THREADS_RACE)
    pool_run(pool, job->n, grain, count_one_more, job);
#else
    pool_run(pool, job->n, grain, count, job);
#endif
}

static bool all_are(const struct job *job, unsigned times)
{
    for (size_t i = 0; i < MOST; i++)
        if (job->counts[i] != (i < job->n ? times : 0))
            return false;
    return true;
}

// Fewer indices than threads, around grains, and many more.
static void test_every_index_once(void)
{
    static const size_t sizes[] = {0, 1, 2, 3, 6, 7, 8, 9, 63, 64, 65, MOST}, grains[] = {1, 2, 3, 8, 64};
    bool ok = true;
    for (unsigned threads = 1; threads <= 9 && ok; threads++) {
        struct pool *pool;
        ok = !pool_open(&pool, threads, NULL);
        for (size_t i = 0; ok && i < sizeof sizes / sizeof *sizes; i++)
            for (size_t k = 0; ok && k < sizeof grains / sizeof *grains; k++) {
                struct job job = {.n = sizes[i]};
                run_job(pool, &job, grains[k]);
                ok = all_are(&job, 1);
            }
        pool_close(&pool);
    }
    result(ok, "every index once, for 1 to 9 threads and sizes around their grains",
           "an index was skipped or shared");
}

// Workers that are awake, workers that have fallen asleep, and large jobs between small ones on the same memory.
static void test_short_runs(void)
{
    static const unsigned counts[] = {2, 3, 7};
    static const size_t sizes[] = {MOST, 3, 1, 64};
    enum { RUNS = 400, NAPS = 10 };
    bool ok = true;
    for (size_t c = 0; c < sizeof counts / sizeof *counts && ok; c++) {
        struct pool *pool;
        struct job jobs[4] = {0};
        ok = !pool_open(&pool, counts[c], NULL);
        for (unsigned i = 0; ok && i < 4 * RUNS; i++) {
            struct job *job = &jobs[i % 4];
            job->n = sizes[i % 4];
            run_job(pool, job, 1 + i % 3);
            if (i % (4 * RUNS / NAPS) == 0)
                usleep(2000);
            if (i >= 4 * RUNS - 4)
                ok = all_are(job, RUNS % 256);
        }
        pool_close(&pool);
    }
    result(ok, "many short runs of changing size", "an index was skipped or shared");
}

static void test_open_and_close(void)
{
    bool ok = true;
    for (unsigned i = 0; i < 100 && ok; i++) {
        struct pool *pool;
        struct job job = {.n = 8};
        ok = !pool_open(&pool, 1 + i % 7, NULL);
        if (i % 2)
            run_job(pool, &job, 1);
        pool_close(&pool);
        ok = ok && all_are(&job, i % 2) && !pool;
    }
    result(ok, "pools that open and close, with work and without", "a pool did not run its work");
}

static void *use_own_pool(void *context)
{
    struct job *job = context;
    struct pool *pool;
    if (!pool_open(&pool, 3, NULL))
        for (int i = 0; i < 100; i++)
            run_job(pool, job, 2);
    pool_close(&pool);
    return NULL;
}

static void test_two_pools_at_once(void)
{
    struct job jobs[2] = {{.n = 65}, {.n = 64}};
    pthread_t thread;
    bool ok = !pthread_create(&thread, NULL, use_own_pool, &jobs[0]);
    use_own_pool(&jobs[1]);
    ok = ok && !pthread_join(thread, NULL) && all_are(&jobs[0], 100) && all_are(&jobs[1], 100);
    result(ok, "two pools at once, each of its own caller", "an index was skipped or shared");
}

// --- engines

enum { STEPS = 4, CAPACITY = 16 };

static const uint32_t tokens[STEPS] = {1, 300, 7, 4000};

struct kept {
    const struct engine *engine;
    float *out; // [STEPS, V]
};

static void keep_row(void *context, uint32_t t, const float *logits)
{
    const struct engine *engine = ((struct kept *)context)->engine;
    memcpy(((struct kept *)context)->out + (size_t)t * engine->config->vocabulary, logits,
           engine->config->vocabulary * sizeof *logits);
}

// Logits of every step, of the same tokens in one call, and the state after the last, [2 STEPS V + elements], from
// malloc. NULL: *error says why.
static float *run_engine(struct engine *engine, size_t *n, struct error *error)
{
    const uint32_t vocabulary = engine->config->vocabulary;
    struct arena arena = {0};
    struct state state;
    int code = state_make(&arena, engine->config, STEPS, &state, error);
    *n = 2 * (size_t)STEPS * vocabulary;
    for (size_t i = 0; !code && i < state.n; i++)
        *n += state.tensors[i].elements;
    float *values = code ? NULL : calloc(*n, sizeof *values);
    float *out = values;
    for (size_t t = 0; values && t < STEPS && !code; t++) {
        const float *logits;
        code = engine->class->step(engine, tokens[t], NULL, &logits, error);
        if (!code)
            memcpy(out, logits, vocabulary * sizeof *out);
        out += vocabulary;
    }
    if (values && !code && engine->class->batch) {
        struct kept kept = {engine, out};
        const struct batch_sink sink = {.context = &kept, .row = keep_row};
        engine->class->reset(engine);
        code = engine->class->batch(engine, tokens, STEPS, &sink, error);
        out += (size_t)STEPS * vocabulary;
    }
    if (values && !code) {
        engine->class->save(engine, &state);
        for (size_t i = 0; i < state.n; i++) {
            memcpy(out, state.tensors[i].data, state.tensors[i].elements * sizeof *out);
            out += state.tensors[i].elements;
        }
    }
    if (code) {
        free(values);
        values = NULL;
    }
    arena_close(&arena);
    return values;
}

static float *run_with(const struct model *model, const struct plan *plan, unsigned threads, size_t *n,
                       struct error *error)
{
    struct pool *pool = NULL;
    struct engine *engine = NULL;
    int code = pool_open(&pool, threads, error);
    const struct reference_options exact = {
        .pool = pool, .isa = isa_best(), .capacity = CAPACITY, .name = "reference"};
    const struct runtime_options int8 = {
        .pool = pool, .isa = isa_best(), .capacity = CAPACITY, .name = "int8", .plan = plan};
    if (!code)
        code = plan ? runtime_open(&engine, model, &int8, error) : reference_open(&engine, model, &exact, error);
    float *values = code ? NULL : run_engine(engine, n, error);
    engine_close(&engine);
    pool_close(&pool);
    return values;
}

// `plan` NULL: the reference.
static void test_engine(const char *name, const struct model *model, const struct plan *plan)
{
    static const unsigned counts[] = {2, 3, 7};
    struct error error = {.text = "other bits than one thread"};
    size_t n = 0, again = 0;
    float *one = run_with(model, plan, 1, &n, &error);
    bool ok = one != NULL;
    for (size_t i = 0; i < sizeof counts / sizeof *counts && ok; i++) {
        float *many = run_with(model, plan, counts[i], &again, &error);
        ok = many && n == again && !memcmp(one, many, n * sizeof *one);
        free(many);
    }
    free(one);
    result(ok, name, error.text);
}

// The reference on a model, and the runtime on a bundle of it.
static void test_engines(const char *name, const char *scheme_name)
{
    struct arena arena = {0};
    struct error error = {0};
    struct checkpoint *checkpoint = NULL;
    struct bundle *bundle = NULL;
    struct config config;
    struct model model;
    char *scratch = NULL, *path = NULL;
    const struct scheme *scheme;
    const char *directory = file_join(&arena, ASSAY_FIXTURES "/models", name);
    const char *title = arena_print(&arena, "%s, and a bundle of it: %s", name, scheme_name);
    int code = directory && title ? checkpoint_open(&checkpoint, directory, &error) : ERROR_RUNTIME;
    if (!code)
        code = config_open(&arena, checkpoint->config_path, &config, &error);
    if (!code)
        code = model_bind(&arena, &config, &checkpoint->table, false, &model, NULL, &error);
    if (!code)
        code = directory_scratch(&arena, &scratch, &error);
    if (!code && !(path = file_join(&arena, scratch, "bundle")))
        code = ERROR_RUNTIME;
    if (!code)
        code = scheme_find(scheme_name, &scheme, &error);
    if (!code) {
        const struct quantize_request request = {
            .checkpoint = checkpoint, .model = &model, .scheme = scheme, .out = path, .quiet = true};
        code = quantize_bundle(&request, NULL, &error);
    }
    if (!code)
        code = bundle_open(&bundle, path, &error);
    result(!code, title ? title : name, error.text);
    if (!code) {
        test_engine("the reference gives one thread's bits with 2, 3 and 7", &model, NULL);
        test_engine("the runtime gives one thread's bits with 2, 3 and 7", &bundle->model, &bundle->plan);
    }
    bundle_close(&bundle);
    checkpoint_close(&checkpoint);
    if (scratch)
        directory_remove(scratch);
    arena_close(&arena);
}

// --- outputs and the signal thread

enum { COMMITS = 60, WRITERS = 3 };

static void *commit_outputs(void *directory)
{
    char path[512], text[64];
    for (int i = 0; i < COMMITS; i++) {
        struct output *output;
        snprintf(path, sizeof path, "%s/%d", (const char *)directory, i % 5);
        snprintf(text, sizeof text, "whole file %d\n", i);
        if (output_open(&output, path, NULL))
            return NULL;
        output_append(output, text, strlen(text));
        if (i % 7 == 3)
            output_abandon(&output);
        else if (output_commit(&output, NULL))
            return NULL;
    }
    return directory;
}

// In a process of its own: the signal thread waits while outputs are committed, for ever when `until_signal`.
static void write_beside_the_signal_thread(char *directory, bool until_signal)
{
    pthread_t threads[WRITERS];
    int failed = 0;
    files_guard_signals("tests/test_threads");
    do {
        for (int i = 0; i < WRITERS; i++)
            failed |= pthread_create(&threads[i], NULL, commit_outputs, directory);
        for (int i = 0; i < WRITERS && !failed; i++) {
            void *done = NULL;
            failed |= pthread_join(threads[i], &done) || !done;
        }
    } while (until_signal && !failed);
    _exit(failed ? 1 : 0);
}

// Every file that is there is whole, and no other is.
static bool is_clean(const char *directory)
{
    bool clean = true;
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        char path[512], text[64] = "";
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        snprintf(path, sizeof path, "%s/%.20s", directory, entry->d_name);
        const int fd = open(path, O_RDONLY);
        const ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
        clean = clean && strlen(entry->d_name) == 1 && size > 0 && !strncmp(text, "whole file ", 11) &&
                text[size - 1] == '\n';
        if (fd >= 0)
            close(fd);
    }
    if (entries)
        closedir(entries);
    return clean && entries;
}

static void test_outputs(const char *name, bool with_signal)
{
    char detail[128] = "no child process";
    char directory[] = "/tmp/assay-threads-XXXXXX";
    bool ok = mkdtemp(directory) != NULL;
    fflush(stdout);
    const pid_t child = ok ? fork() : -1;
    if (!child)
        write_beside_the_signal_thread(directory, with_signal);
    if (child > 0) {
        int status = 0;
        if (with_signal) {
            usleep(300000);
            kill(child, SIGTERM);
        }
        ok = waitpid(child, &status, 0) == child && WIFEXITED(status) &&
             WEXITSTATUS(status) == (with_signal ? 128 + SIGTERM : 0) && is_clean(directory);
        snprintf(detail, sizeof detail, "wait status %#x, the directory is %s", (unsigned)status,
                 is_clean(directory) ? "clean" : "not clean");
    }
    directory_remove(directory);
    result(ok && child > 0, name, detail);
}

int main(void)
{
    // first, while this process has one thread: a child of more could not start any
    test_outputs("outputs are committed beside the signal thread", false);
    test_outputs("a signal between commits leaves whole files only", true);
    test_every_index_once();
    test_short_runs();
    test_open_and_close();
    test_two_pools_at_once();
    test_engines("lfm2-mini", "int8hu_block32_sym");
    test_engines("lfm2moe-mini", "sym8");
    test_engines("qwen35-mini", "int8hu_perchan_sym");
    test_engines("qwen35moe-mini", "int4aff");
    printf("1..%d\n", n_results);
    return n_failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
