// exhaustion: every stage with its k-th allocation refused, for each k, and with all allocations from the k-th on
// refused. The stage then succeeds with the very same files, or says ERROR_RUNTIME and a sentence; it leaves whole
// files or none. Leaks are for the build with AddressSanitizer to report.
//
// There, the linker's --wrap sends the project's own allocations here (EXHAUSTION_WRAPPED, see meson.build). Without
// a sanitizer this program's malloc is everybody's, so the libraries' allocations fail, too.
#include "tests/exhaustion.h"

#include <ftw.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// --- the allocator

static atomic_long countdown; // the allocation that fails; 0: none
static atomic_long counted;
static atomic_bool armed, sticky, refused;

static bool refuse(void)
{
    if (!armed)
        return false;
    const long number = ++counted, limit = countdown;
    const bool fails = limit && (sticky ? number >= limit : number == limit);
    refused = refused || fails;
    return fails;
}

#if defined(EXHAUSTION_WRAPPED)
#define OURS(name) __wrap_##name
#define REAL(name) __real_##name
char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
char *__wrap_strdup(const char *text)
{
    return refuse() ? NULL : __real_strdup(text);
}
#else
#define OURS(name) name
#define REAL(name) __libc_##name
#define __libc_aligned_alloc __libc_memalign
#endif

void *REAL(malloc)(size_t size);
void *REAL(calloc)(size_t count, size_t size);
void *REAL(realloc)(void *memory, size_t size);
void *REAL(aligned_alloc)(size_t alignment, size_t size);
void *OURS(malloc)(size_t size);
void *OURS(calloc)(size_t count, size_t size);
void *OURS(realloc)(void *memory, size_t size);
void *OURS(aligned_alloc)(size_t alignment, size_t size);

void *OURS(malloc)(size_t size)
{
    return refuse() ? NULL : REAL(malloc)(size);
}

void *OURS(calloc)(size_t count, size_t size)
{
    return refuse() ? NULL : REAL(calloc)(count, size);
}

void *OURS(realloc)(void *memory, size_t size)
{
    return refuse() ? NULL : REAL(realloc)(memory, size);
}

void *OURS(aligned_alloc)(size_t alignment, size_t size)
{
    return refuse() ? NULL : REAL(aligned_alloc)(alignment, size);
}

// --- what a stage wrote

static struct arena arena;
static char *scratch; // good/STAGE: files of the run without failures; out/: of the run at hand

static const char *good; // good/STAGE
static unsigned n_written;
static bool as_good;

static int check_file(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)walk;
    struct arena memory = {0};
    char *found, *expected;
    uint64_t size, expected_size;
    if (type != FTW_F)
        return 0;
    n_written++;
    const char *twin = in(good, path + strlen(folder) + 1);
    if (file_read(&memory, path, 1 << 24, &found, &size, NULL) ||
        file_read(&memory, twin, 1 << 24, &expected, &expected_size, NULL) || size != expected_size ||
        memcmp(found, expected, (size_t)size)) {
        printf("# %s is not %s\n", path, twin);
        as_good = false;
    }
    arena_close(&memory);
    return 0;
}

// Whether every file below `folder` is as the run without failures wrote it; *n counts them.
static bool files_are_good(unsigned *n)
{
    n_written = 0;
    as_good = true;
    nftw(folder, check_file, 16, FTW_PHYS);
    *n = n_written;
    return as_good;
}

// --- one stage, again and again

// The negative controls: memory that is not there called bad input, and text that is left out without a word.
static int blame_the_input(struct error *error)
{
    struct arena memory = {0};
    const int code = arena_alloc(&memory, 1, 1) ? 0 : error_set(error, ERROR_INPUT, "the file is wrong");
    arena_close(&memory);
    return code;
}

static int leave_text_out(struct error *error)
{
    struct output *output;
    struct arena memory = {0};
    if (output_open(&output, in(folder, "text"), error))
        return error->code;
    const char *text = arena_print(&memory, "text");
    output_print(output, "%s", text ? text : "");
    arena_close(&memory);
    return output_commit(&output, error);
}

static const struct stage careless[] = {
    {"memory called bad input", blame_the_input},
    {"text left out in silence", leave_text_out},
};

static int run_once(const struct stage *stage, long limit, struct error *error)
{
    *error = (struct error){0};
    counted = 0;
    countdown = limit;
    refused = false;
    armed = true;
    const int code = stage->run(error);
    armed = false;
    return code;
}

// The k-th allocation fails. Returns false after the first finding, which it prints.
static bool survives(const struct stage *stage, long k, unsigned n_good)
{
    struct error error;
    unsigned n;
    const int made = directory_make(folder, &error);
    const int code = run_once(stage, k, &error);
    const bool honest = code == ERROR_RUNTIME ? error.code == code && *error.text : !code;
    const bool whole = files_are_good(&n) && (code || n == n_good);
    directory_remove(folder);
    if (!made && honest && whole)
        return true;
    printf("# allocation %ld%s: code %d, %u of %u files, '%s'\n", k, sticky ? " and all after it" : "", code, n,
           n_good, error.text);
    return false;
}

// Until the k-th allocation is one that the stage does not come to. Stages with many are sampled behind the first few
// hundred, in steps that grow.
static bool withstands(const struct stage *stage, long *n_tried)
{
    struct error error;
    unsigned n_good;
    good = folder = arena_print(&arena, "%s/good/%s", scratch, stage->name);
    bool ok = !directory_make(folder, &error) && !run_once(stage, 0, &error) && !run_once(stage, 0, &error);
    ok = ok && counted && files_are_good(&n_good);
    if (!ok)
        printf("# without failures: %s\n", error.text);
    folder = arena_print(&arena, "%s/out", scratch);
    for (int all = 0; all < 2 && ok; all++) {
        sticky = all;
        refused = true;
        for (long k = 1; refused && ok; k += 1 + k / 200, ++*n_tried)
            ok = survives(stage, k, n_good);
    }
    return ok;
}

int main(void)
{
    enum { N_CARELESS = sizeof careless / sizeof *careless };
    struct error error = {0};
    int n = 0, failures = 0;
    setenv("ASSAY_NO_CACHE", "1", 1);
    int code = directory_scratch(&arena, &scratch, &error);
    if (!code)
        code = stages_open(scratch, &error);
    if (code)
        printf("Bail out! %s\n", error.text);
    for (const struct stage *stage = stages; stage->name && !code; stage++) {
        long tried = 0;
        const bool ok = withstands(stage, &tried);
        printf("%sok %d - %s survives %ld refused allocations\n", ok ? "" : "not ", ++n, stage->name, tried);
        fflush(stdout);
        failures += !ok;
    }
    for (int i = 0; i < N_CARELESS && !code; i++) {
        long tried = 0;
        const bool caught = !withstands(&careless[i], &tried);
        printf("%sok %d - %s is caught\n", caught ? "" : "not ", ++n, careless[i].name);
        failures += !caught;
    }
    printf("1..%d\n", n);
    stages_close();
    if (scratch)
        directory_remove(scratch);
    arena_close(&arena);
    return code || failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
