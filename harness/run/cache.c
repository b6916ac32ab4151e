#include "harness/run/cache.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/guard.h"

#define FORMAT "assay-trace-cache/1"

static const char *const purposes[] = {[CACHE_WHOLE] = "whole", [CACHE_PREFIX] = "prefix", [CACHE_SEEDED] = "seeded"};

struct cache {
    struct arena arena;
    char *directory;
    char program[HASH_HEX];
    uint64_t limit;
    pthread_mutex_t lock; // over the two below
    uint64_t bytes;       // of all entries, as far as this process knows
    size_t hits;
};

// --- names

static bool is_digest(const char *text, size_t length)
{
    return length == HASH_HEX - 1 && strspn(text, "0123456789abcdef") >= length;
}

static bool is_entry(const char *name)
{
    return is_digest(name, strlen(name));
}

// The path of the case's entry; NULL when it cannot be named: no hashes, no memory.
static char *entry_path(struct arena *arena, const struct cache *cache, const struct cache_case *c)
{
    const struct trace_contract *k = &c->contract;
    char tokens[HASH_HEX], name[HASH_HEX];
    assert(c->seeded < c->n && !c->paths[CACHE_SEEDED] == !c->paths[CACHE_PREFIX]);
    if (!k->weights_sha256[0] || !k->config_sha256[0] ||
        hash_bytes(c->tokens, c->n * sizeof *c->tokens, tokens, NULL))
        return NULL;
    const char *key = arena_print(
        arena,
        FORMAT "\nprogram %s\nmodel %s\ntype %s\nweights %s\nconfig %s\ntokenizer %s\nengine %s %s\ndevice %s\n"
               "precision %s\nmode %s\ntokens %" PRIu32 " %s\nwhole %d\nprefix %d\nrollout %" PRIu32 "\nseeded %" PRIu32
               "\n",
        cache->program, k->model, k->model_type, k->weights_sha256, k->config_sha256, k->tokenizer_sha256, k->engine,
        k->engine_version, k->device, k->precision, k->mode, c->n, tokens, c->paths[CACHE_WHOLE] != NULL,
        c->paths[CACHE_PREFIX] != NULL, c->rollout, c->seeded);
    return key && !hash_bytes(key, strlen(key), name, NULL) ? file_join(arena, cache->directory, name) : NULL;
}

// A name of this process beside the entries, guarded: a signal removes what is made there.
static struct guard_entry *temporary_name(const struct cache *cache)
{
    static atomic_uint counter;
    struct arena arena = {0};
    const char *path = arena_print(&arena, "%s/.assay-%ld-%u.part", cache->directory, (long)getpid(),
                                   atomic_fetch_add(&counter, 1));
    struct guard_entry *entry = path ? guard_entry(path, true) : NULL;
    arena_close(&arena);
    return entry;
}

static void temporary_remove(struct guard_entry *entry)
{
    guard_lock();
    guard_remove_tree(entry->path);
    guard_forget(entry);
    guard_unlock();
}

// --- what is there

struct found {
    char *path;
    struct timespec used;
    uint64_t bytes;
};

static uint64_t entry_bytes(const char *path)
{
    uint64_t bytes = 0;
    DIR *directory = opendir(path);
    for (struct dirent *file; directory && (file = readdir(directory));) {
        struct stat status;
        if (!fstatat(dirfd(directory), file->d_name, &status, AT_SYMLINK_NOFOLLOW) && S_ISREG(status.st_mode))
            bytes += (uint64_t)status.st_size;
    }
    if (directory)
        closedir(directory);
    return bytes;
}

static int older_first(const void *a, const void *b)
{
    const struct timespec *x = &((const struct found *)a)->used, *y = &((const struct found *)b)->used;
    if (x->tv_sec != y->tv_sec)
        return x->tv_sec < y->tv_sec ? -1 : 1;
    return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

// All entries, least recently used first; the list is the caller's. SIZE_MAX: the directory cannot be read.
static size_t list_entries(struct arena *arena, const struct cache *cache, struct found **out)
{
    size_t n = 0, room = 0;
    DIR *directory = opendir(cache->directory);
    *out = NULL;
    for (struct dirent *file; directory && (file = readdir(directory));) {
        struct stat status;
        if (!is_entry(file->d_name) || fstatat(dirfd(directory), file->d_name, &status, AT_SYMLINK_NOFOLLOW))
            continue;
        if (n == room) {
            struct found *more = realloc(*out, (room = 2 * room + 64) * sizeof *more);
            if (!more)
                break;
            *out = more;
        }
        char *path = file_join(arena, cache->directory, file->d_name);
        if (path)
            (*out)[n++] = (struct found){.path = path, .used = status.st_mtim, .bytes = entry_bytes(path)};
    }
    if (directory)
        closedir(directory);
    if (n)
        qsort(*out, n, sizeof **out, older_first);
    return n;
}

// Under its own name it is there with all its files, or not at all.
static bool entry_remove(const struct cache *cache, const char *path)
{
    struct guard_entry *gone = temporary_name(cache);
    if (!gone)
        return false;
    guard_lock();
    const bool renamed = !rename(path, gone->path);
    guard_add(gone);
    guard_unlock();
    temporary_remove(gone);
    return renamed;
}

// What a killed process had not finished. A process of another machine or container may look dead: then it fails to
// keep a case, no more.
static void remove_unfinished(const struct cache *cache, struct arena *arena)
{
    DIR *directory = opendir(cache->directory);
    for (struct dirent *file; directory && (file = readdir(directory));) {
        long process;
        unsigned number;
        char end[8];
        if (sscanf(file->d_name, ".assay-%ld-%u.%7s", &process, &number, end) != 3 || strcmp(end, "part") != 0 ||
            process <= 0 || (pid_t)process != process)
            continue;
        const char *path = file_join(arena, cache->directory, file->d_name);
        if (path && kill((pid_t)process, 0) && errno == ESRCH)
            guard_remove_tree(path);
    }
    if (directory)
        closedir(directory);
}

// Least recently used entries go until the rest is within the limit. Under the lock.
static void shrink(struct cache *cache)
{
    struct arena arena = {0};
    struct found *entries;
    const size_t n = list_entries(&arena, cache, &entries);
    cache->bytes = 0;
    for (size_t i = 0; i < n; i++)
        cache->bytes += entries[i].bytes;
    for (size_t i = 0; i < n && cache->bytes > cache->limit; i++)
        if (entry_remove(cache, entries[i].path))
            cache->bytes -= entries[i].bytes;
    free(entries);
    arena_close(&arena);
}

struct cache *cache_open(uint64_t limit)
{
    struct cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    cache->limit = limit;
    cache->directory = directory_cache(&cache->arena, "traces");
    // without the program's own hash a rebuilt reference would be served the numbers of the one before
    if (!cache->directory || access(cache->directory, W_OK) || hash_file("/proc/self/exe", cache->program, NULL)) {
        arena_close(&cache->arena);
        free(cache);
        return NULL;
    }
    pthread_mutex_init(&cache->lock, NULL);
    remove_unfinished(cache, &cache->arena);
    shrink(cache);
    return cache;
}

void cache_close(struct cache **cache)
{
    if (!cache || !*cache)
        return;
    pthread_mutex_destroy(&(*cache)->lock);
    arena_close(&(*cache)->arena);
    free(*cache);
    *cache = NULL;
}

// --- one file

static bool copy_file(const char *from, const char *to)
{
    struct file_map map;
    struct output *output;
    if (file_map_open(&map, from, NULL))
        return false;
    bool ok = !output_open(&output, to, NULL);
    if (ok) {
        output_append(output, map.bytes, (size_t)map.size);
        ok = !output_commit(&output, NULL);
    }
    file_map_close(&map);
    return ok;
}

// A second name of the same bytes where the file system allows it, else a copy.
static bool place(const char *from, const char *to)
{
    guard_lock();
    const bool linked = !link(from, to);
    guard_unlock();
    return linked || copy_file(from, to);
}

// Is this the trace that the case asks for? *digest receives the SHA-256 of its bytes.
static bool trace_fits(const struct cache_case *c, enum cache_purpose purpose, const char *path, const char *start,
                       char digest[HASH_HEX])
{
    const uint32_t first = purpose == CACHE_SEEDED ? c->n - c->seeded : 0;
    const uint32_t given = purpose == CACHE_WHOLE ? c->n : purpose == CACHE_PREFIX ? c->n - c->seeded : c->seeded;
    const uint32_t rollout = purpose == CACHE_WHOLE ? c->rollout : 0;
    const struct trace_contract *wanted = &c->contract;
    struct trace *trace;
    if (trace_open(&trace, path, NULL))
        return false;
    const struct trace_contract *found = &trace->contract;
    const char *pairs[][2] = {{found->model, wanted->model},
                              {found->model_type, wanted->model_type},
                              {found->weights_sha256, wanted->weights_sha256},
                              {found->config_sha256, wanted->config_sha256},
                              {found->bundle_sha256, wanted->bundle_sha256},
                              {found->tokenizer_sha256, wanted->tokenizer_sha256},
                              {found->engine, wanted->engine},
                              {found->engine_version, wanted->engine_version},
                              {found->device, wanted->device},
                              {found->precision, wanted->precision},
                              {found->mode, wanted->mode},
                              {found->start, start}};
    bool fits = trace->n == (uint64_t)given + rollout && found->generated == rollout && found->position == first &&
                trace->logits;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        fits = fits && !strcmp(pairs[i][0], pairs[i][1]);
    for (uint32_t t = 0; fits && t < given; t++)
        fits = (uint32_t)trace->tokens[t] == c->tokens[first + t];
    fits = fits && !hash_bytes(trace->file->map.bytes, (size_t)trace->file->map.size, digest, NULL);
    trace_close(&trace);
    return fits;
}

// --- one case

// The entry's file of each purpose; false when one is missing, doubled, or beside something that does not belong.
static bool entry_files(struct arena *arena, const char *entry, const struct cache_case *c,
                        const char *files[CACHE_PURPOSES], char digests[CACHE_PURPOSES][HASH_HEX])
{
    DIR *directory = opendir(entry);
    bool whole = directory != NULL;
    for (struct dirent *file; whole && (file = readdir(directory));) {
        const char *dash = strchr(file->d_name, '-'), *dot = strchr(file->d_name, '.');
        if (!strcmp(file->d_name, ".") || !strcmp(file->d_name, ".."))
            continue;
        whole = dash && dot && dash < dot && is_digest(dash + 1, (size_t)(dot - dash - 1)) &&
                !strcmp(dot, ".safetensors");
        int purpose = 0;
        while (whole && purpose < CACHE_PURPOSES && (strlen(purposes[purpose]) != (size_t)(dash - file->d_name) ||
                                                     strncmp(file->d_name, purposes[purpose], strlen(purposes[purpose]))))
            purpose++;
        whole = whole && purpose < CACHE_PURPOSES && !files[purpose];
        if (whole) {
            memcpy(digests[purpose], dash + 1, HASH_HEX - 1);
            digests[purpose][HASH_HEX - 1] = '\0';
            files[purpose] = file_join(arena, entry, file->d_name);
            whole = files[purpose] != NULL;
        }
    }
    if (directory)
        closedir(directory);
    for (int purpose = 0; purpose < CACHE_PURPOSES; purpose++)
        whole = whole && !files[purpose] == !c->paths[purpose];
    return whole;
}

// Checked where they will be read, so that nothing can change between the check and the use.
static bool serve(struct arena *arena, const char *entry, const struct cache_case *c)
{
    const char *files[CACHE_PURPOSES] = {0};
    char promised[CACHE_PURPOSES][HASH_HEX], found[CACHE_PURPOSES][HASH_HEX] = {{0}};
    bool ok = entry_files(arena, entry, c, files, promised);
    for (int purpose = 0; purpose < CACHE_PURPOSES && ok; purpose++) {
        const char *path = c->paths[purpose];
        if (!path)
            continue;
        ok = place(files[purpose], path) &&
             trace_fits(c, (enum cache_purpose)purpose, path, purpose == CACHE_SEEDED ? found[CACHE_PREFIX] : "zero",
                        found[purpose]) &&
             !strcmp(found[purpose], promised[purpose]);
    }
    for (int purpose = 0; purpose < CACHE_PURPOSES && !ok; purpose++)
        if (c->paths[purpose])
            unlink(c->paths[purpose]);
    return ok;
}

bool cache_get(struct cache *cache, const struct cache_case *c)
{
    if (!cache)
        return false;
    struct arena arena = {0};
    const char *entry = entry_path(&arena, cache, c);
    const bool there = entry && file_exists(entry), served = there && serve(&arena, entry, c);
    if (served) {
        (void)utimensat(AT_FDCWD, entry, NULL, 0); // used now
        pthread_mutex_lock(&cache->lock);
        cache->hits++;
        pthread_mutex_unlock(&cache->lock);
    } else if (there) {
        entry_remove(cache, entry);
    }
    arena_close(&arena);
    return served;
}

// All files of the case below `directory`; their bytes, or 0.
static uint64_t fill(struct arena *arena, const char *directory, const struct cache_case *c)
{
    uint64_t bytes = 0;
    for (int purpose = 0; purpose < CACHE_PURPOSES; purpose++) {
        struct file_map map;
        char digest[HASH_HEX];
        if (!c->paths[purpose])
            continue;
        if (file_map_open(&map, c->paths[purpose], NULL))
            return 0;
        const bool hashed = !hash_bytes(map.bytes, (size_t)map.size, digest, NULL);
        bytes += map.size;
        file_map_close(&map);
        const char *path = arena_print(arena, "%s/%s-%s.safetensors", directory, purposes[purpose], digest);
        if (!hashed || !path || !place(c->paths[purpose], path))
            return 0;
    }
    return bytes;
}

void cache_put(struct cache *cache, const struct cache_case *c)
{
    if (!cache)
        return;
    struct arena arena = {0};
    const char *entry = entry_path(&arena, cache, c);
    struct guard_entry *temporary = entry ? temporary_name(cache) : NULL;
    if (temporary) {
        guard_lock();
        const bool made = !mkdir(temporary->path, 0777);
        guard_add(temporary);
        guard_unlock();
        const uint64_t bytes = made ? fill(&arena, temporary->path, c) : 0;
        bool kept = false;
        if (bytes && bytes <= cache->limit) {
            guard_lock();
            kept = !rename(temporary->path, entry); // fails when another process was faster: its entry stays
            guard_unlock();
        }
        temporary_remove(temporary);
        pthread_mutex_lock(&cache->lock);
        cache->bytes += kept ? bytes : 0;
        if (cache->bytes > cache->limit)
            shrink(cache);
        pthread_mutex_unlock(&cache->lock);
    }
    arena_close(&arena);
}

size_t cache_hits(struct cache *cache)
{
    if (!cache)
        return 0;
    pthread_mutex_lock(&cache->lock);
    const size_t hits = cache->hits;
    pthread_mutex_unlock(&cache->lock);
    return hits;
}
