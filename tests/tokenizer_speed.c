// How long a tokenizer.json takes to load and how fast it encodes: medians of processor time, on one thread.
//
//   tokenizer_speed                          three made ones, as large as the released vocabularies
//   tokenizer_speed TOKENIZER.json TEXT...   that file on those texts, and the SHA-256 of the ids (little endian, 4
//                                            bytes each, without special tokens) for a comparison with another
//                                            program
//
// Exit 1 when a median misses its limit: 1 s, 5 MB/s. Not a test, since a loaded machine is no fault of the
// tokenizer.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness/base/files.h"
#include "harness/base/hash.h"
#include "harness/model/tokenizer.h"
#include "tests/large_tokenizer.h"

enum { ROUNDS = 5, TEXT_BYTES = 4 << 20 };
static const double LOAD_SECONDS = 1, ENCODE_MB = 5;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare(const void *left, const void *right)
{
    const double *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

static double median(double times[ROUNDS])
{
    qsort(times, ROUNDS, sizeof *times, compare);
    return times[ROUNDS / 2];
}

static int load(struct tokenizer **tokenizer, const char *path, bool *fast, struct error *error)
{
    double times[ROUNDS];
    *tokenizer = NULL;
    for (int i = 0; i < ROUNDS; i++) {
        tokenizer_close(tokenizer);
        const double start = seconds();
        const int failed = tokenizer_open(tokenizer, path, error);
        if (failed)
            return failed;
        times[i] = seconds() - start;
    }
    const double taken = median(times);
    const bool ok = taken < LOAD_SECONDS;
    *fast &= ok;
    printf("%s: %zu ids, loads in %.3f s%s\n", path, tokenizer_size(*tokenizer), taken, ok ? "" : " TOO SLOW");
    return 0;
}

// expected: text->ids are known, and compared.
static int encode(struct tokenizer *tokenizer, const char *name, const struct large_text *text, bool expected,
                  bool *fast, struct error *error)
{
    double times[ROUNDS];
    char digest[HASH_HEX] = "";
    size_t n = 0;
    for (int i = 0; i < ROUNDS; i++) {
        struct arena arena = {0};
        uint32_t *ids;
        const double start = seconds();
        int failed = tokenizer_encode(tokenizer, &arena, text->text, text->size, false, &ids, &n, error);
        times[i] = seconds() - start;
        if (!failed && expected && (n != text->n || memcmp(ids, text->ids, n * sizeof *ids)))
            failed = error_set(error, ERROR_CONTRACT, "%s: other ids than the merges make of it", name);
        if (!failed && !expected)
            failed = hash_bytes(ids, n * sizeof *ids, digest, error);
        arena_close(&arena);
        if (failed)
            return failed;
    }
    const double speed = (double)text->size / 1e6 / median(times);
    const bool ok = speed >= ENCODE_MB;
    *fast &= ok;
    printf("  %s: %.1f MB, %zu ids, %.1f MB/s%s %s\n", name, (double)text->size / 1e6, n, speed,
           ok ? "" : " TOO SLOW", digest);
    return 0;
}

static int measure_made(const char *directory, enum large_kind kind, uint32_t n_ids, bool *fast, struct error *error)
{
    struct large *large;
    struct large_text prose, even;
    struct tokenizer *tokenizer = NULL;
    int failed = large_open(&large, kind, n_ids, error);
    if (failed)
        return failed;
    const char *path = file_join(&large->arena, directory, kind == LARGE_QWEN ? "qwen.json" : "lfm2.json");
    if (!path)
        failed = error_set(error, ERROR_RUNTIME, "out of memory");
    if (!failed)
        failed = large_prose(large, TEXT_BYTES, false, &prose, error);
    if (!failed)
        failed = large_prose(large, TEXT_BYTES, true, &even, error);
    if (!failed)
        failed = large_write(large, path, large->n, error);
    if (!failed)
        failed = load(&tokenizer, path, fast, error);
    if (!failed)
        failed = encode(tokenizer, "early tokens likelier", &prose, true, fast, error);
    if (!failed)
        failed = encode(tokenizer, "all tokens alike", &even, true, fast, error);
    tokenizer_close(&tokenizer);
    large_close(&large);
    return failed;
}

static int measure_all_made(bool *fast, struct error *error)
{
    struct arena arena = {0};
    char *directory;
    int failed = directory_scratch(&arena, &directory, error);
    if (!failed) {
        failed = measure_made(directory, LARGE_LFM2, 65536, fast, error);
        if (!failed)
            failed = measure_made(directory, LARGE_LFM2, 128000, fast, error);
        if (!failed)
            failed = measure_made(directory, LARGE_QWEN, 248320, fast, error);
        directory_remove(directory);
    }
    arena_close(&arena);
    return failed;
}

static int measure_file(int n, char **paths, bool *fast, struct error *error)
{
    struct tokenizer *tokenizer;
    int failed = load(&tokenizer, paths[0], fast, error);
    for (int i = 1; i < n && !failed; i++) {
        struct arena arena = {0};
        struct large_text text = {0};
        uint64_t size = 0;
        failed = file_read(&arena, paths[i], 64 << 20, &text.text, &size, error);
        text.size = (size_t)size;
        if (!failed)
            failed = encode(tokenizer, paths[i], &text, false, fast, error);
        arena_close(&arena);
    }
    tokenizer_close(&tokenizer);
    return failed;
}

int main(int n, char **arguments)
{
    struct error error = {0};
    bool fast = true;
    if (n > 1 ? measure_file(n - 1, arguments + 1, &fast, &error) : measure_all_made(&fast, &error)) {
        fprintf(stderr, "tokenizer_speed: %s\n", error.text);
        return 2;
    }
    printf(fast ? "within the limits: loads in %.0f s, %.0f MB/s\n" : "misses a limit: loads in %.0f s, %.0f MB/s\n",
           LOAD_SECONDS, ENCODE_MB);
    return !fast;
}
