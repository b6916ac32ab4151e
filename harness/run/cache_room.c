#include "harness/run/cache_room.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/hash.h"

struct guard_entry *cache_room_temporary(const struct cache_room *room)
{
    static atomic_uint counter;
    struct arena arena = {0};
    const char *path =
        arena_print(&arena, "%s/.assay-%ld-%u.part", room->directory, (long)getpid(), atomic_fetch_add(&counter, 1));
    struct guard_entry *entry = path ? guard_entry(path, true) : NULL;
    arena_close(&arena);
    return entry;
}

void cache_room_discard(struct guard_entry *entry)
{
    guard_lock();
    guard_remove_tree(entry->path);
    guard_forget(entry);
    guard_unlock();
}

// --- what is there

static bool is_entry(const char *name)
{
    return strlen(name) == HASH_HEX - 1 && strspn(name, "0123456789abcdef") == HASH_HEX - 1;
}

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
static size_t list_entries(struct arena *arena, const struct cache_room *room, struct found **out)
{
    size_t n = 0, places = 0;
    DIR *directory = opendir(room->directory);
    *out = NULL;
    for (struct dirent *file; directory && (file = readdir(directory));) {
        struct stat status;
        if (!is_entry(file->d_name) || fstatat(dirfd(directory), file->d_name, &status, AT_SYMLINK_NOFOLLOW))
            continue;
        if (n == places) {
            struct found *more = realloc(*out, (places = 2 * places + 64) * sizeof *more);
            if (!more)
                break;
            *out = more;
        }
        char *path = file_join(arena, room->directory, file->d_name);
        if (path)
            (*out)[n++] = (struct found){.path = path, .used = status.st_mtim, .bytes = entry_bytes(path)};
    }
    if (directory)
        closedir(directory);
    if (n)
        qsort(*out, n, sizeof **out, older_first);
    return n;
}

bool cache_room_remove(const struct cache_room *room, const char *path)
{
    struct guard_entry *gone = cache_room_temporary(room);
    if (!gone)
        return false;
    guard_lock();
    const bool renamed = !rename(path, gone->path);
    guard_add(gone);
    guard_unlock();
    cache_room_discard(gone);
    return renamed;
}

// What a killed process had not finished. A process of another machine or container may look dead: then it fails to
// keep a case, no more.
static void remove_unfinished(const struct cache_room *room, struct arena *arena)
{
    DIR *directory = opendir(room->directory);
    for (struct dirent *file; directory && (file = readdir(directory));) {
        long process;
        unsigned number;
        char end[8];
        if (sscanf(file->d_name, ".assay-%ld-%u.%7s", &process, &number, end) != 3 || strcmp(end, "part") != 0 ||
            process <= 0 || (pid_t)process != process)
            continue;
        const char *path = file_join(arena, room->directory, file->d_name);
        if (path && kill((pid_t)process, 0) && errno == ESRCH)
            guard_remove_tree(path);
    }
    if (directory)
        closedir(directory);
}

// Least recently used entries go until the rest is within the limit. Under the lock.
static void shrink(struct cache_room *room)
{
    struct arena arena = {0};
    struct found *entries;
    const size_t n = list_entries(&arena, room, &entries);
    room->bytes = 0;
    for (size_t i = 0; i < n; i++)
        room->bytes += entries[i].bytes;
    for (size_t i = 0; i < n && room->bytes > room->limit; i++)
        if (cache_room_remove(room, entries[i].path))
            room->bytes -= entries[i].bytes;
    free(entries);
    arena_close(&arena);
}

void cache_room_open(struct cache_room *room, char *directory, uint64_t limit)
{
    struct arena arena = {0};
    *room = (struct cache_room){.directory = directory, .limit = limit};
    pthread_mutex_init(&room->lock, NULL);
    remove_unfinished(room, &arena);
    shrink(room);
    arena_close(&arena);
}

void cache_room_close(struct cache_room *room)
{
    pthread_mutex_destroy(&room->lock);
}

void cache_room_add(struct cache_room *room, uint64_t bytes)
{
    pthread_mutex_lock(&room->lock);
    room->bytes += bytes;
    if (room->bytes > room->limit)
        shrink(room);
    pthread_mutex_unlock(&room->lock);
}
