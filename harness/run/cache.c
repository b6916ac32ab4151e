#include "harness/run/cache.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/guard.h"
#include "harness/run/cache_room.h"

#define FORMAT "assay-trace-cache/1"

static const char *const purposes[] = {[CACHE_WHOLE] = "whole", [CACHE_PREFIX] = "prefix", [CACHE_SEEDED] = "seeded"};

struct cache {
    struct arena arena;
    char *directory;
    char program[HASH_HEX];
    struct cache_room room;
    atomic_size_t hits;
};

// --- names

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
               "precision %s\nmode %s\ntokens %" PRIu32 " %s\nwhole %d\nprefix %d\nrollout %" PRIu32
               "\nseeded %" PRIu32 "\nstate_every %" PRIu32 "\ntaps %s\n",
        cache->program, k->model, k->model_type, k->weights_sha256, k->config_sha256, k->tokenizer_sha256, k->engine,
        k->engine_version, k->device, k->precision, k->mode, c->n, tokens, c->paths[CACHE_WHOLE] != NULL,
        c->paths[CACHE_PREFIX] != NULL, c->rollout, c->seeded, c->state_every, tap_level_name(c->taps));
    return key && !hash_bytes(key, strlen(key), name, NULL) ? file_join(arena, cache->directory, name) : NULL;
}

struct cache *cache_open(uint64_t limit)
{
    struct cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    cache->directory = directory_cache(&cache->arena, "traces");
    // without the program's own hash a rebuilt reference would be served the numbers of the one before
    if (!cache->directory || access(cache->directory, W_OK) || hash_file("/proc/self/exe", cache->program, NULL)) {
        arena_close(&cache->arena);
        free(cache);
        return NULL;
    }
    cache_room_open(&cache->room, cache->directory, limit);
    return cache;
}

void cache_close(struct cache **cache)
{
    if (!cache || !*cache)
        return;
    cache_room_close(&(*cache)->room);
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

// Of a file named PURPOSE-HASH.safetensors. CACHE_PURPOSES: it is named otherwise.
static int file_purpose(const char *name, char digest[HASH_HEX])
{
    for (int purpose = 0; purpose < CACHE_PURPOSES; purpose++) {
        const size_t length = strlen(purposes[purpose]);
        if (strncmp(name, purposes[purpose], length) != 0 || name[length] != '-' ||
            strspn(name + length + 1, "0123456789abcdef") != HASH_HEX - 1 ||
            strcmp(name + length + HASH_HEX, ".safetensors") != 0)
            continue;
        memcpy(digest, name + length + 1, HASH_HEX - 1);
        digest[HASH_HEX - 1] = '\0';
        return purpose;
    }
    return CACHE_PURPOSES;
}

// The entry's file of each purpose; false when one is missing, doubled, or beside something that does not belong.
static bool entry_files(struct arena *arena, const char *entry, const struct cache_case *c,
                        const char *files[CACHE_PURPOSES], char digests[CACHE_PURPOSES][HASH_HEX])
{
    DIR *directory = opendir(entry);
    bool whole = directory != NULL;
    for (struct dirent *file; whole && (file = readdir(directory));) {
        char digest[HASH_HEX];
        const int purpose = file_purpose(file->d_name, digest);
        if (!strcmp(file->d_name, ".") || !strcmp(file->d_name, ".."))
            continue;
        whole = purpose < CACHE_PURPOSES && !files[purpose];
        if (whole) {
            memcpy(digests[purpose], digest, HASH_HEX);
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
        atomic_fetch_add(&cache->hits, 1);
    } else if (there) {
        cache_room_remove(&cache->room, entry);
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
    struct guard_entry *temporary = entry ? cache_room_temporary(&cache->room) : NULL;
    if (temporary) {
        guard_lock();
        const bool made = !mkdir(temporary->path, 0777);
        guard_add(temporary);
        guard_unlock();
        const uint64_t bytes = made ? fill(&arena, temporary->path, c) : 0;
        bool kept = false;
        if (bytes && bytes <= cache->room.limit) {
            guard_lock();
            kept = !rename(temporary->path, entry); // fails when another process was faster: its entry stays
            guard_unlock();
        }
        cache_room_discard(temporary);
        if (kept)
            cache_room_add(&cache->room, bytes);
    }
    arena_close(&arena);
}

size_t cache_hits(struct cache *cache)
{
    return cache ? atomic_load(&cache->hits) : 0;
}
