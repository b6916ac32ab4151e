#include "runtime/staging.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/guard.h"

struct staging {
    struct arena arena;
    char *target;              // absolute where it exists already, links resolved
    struct guard_entry *entry; // of the hidden directory
};

// A name of fixed form and length in the target's own directory, so that the rename stays on one file system.
static struct guard_entry *hidden_entry(struct staging *staging)
{
    static atomic_uint counter;
    const char *slash = strrchr(staging->target, '/');
    const int parent = slash ? (int)(slash + 1 - staging->target) : 0;
    const char *path = arena_print(&staging->arena, "%.*s.assay-%ld-%u.part", parent, staging->target, (long)getpid(),
                                   atomic_fetch_add(&counter, 1));
    return path ? guard_entry(path, true) : NULL;
}

static int make_hidden(struct staging *staging, struct error *error)
{
    int reason = EEXIST;
    while (reason == EEXIST) {
        struct guard_entry *entry = hidden_entry(staging);
        if (!entry)
            return error_set(error, ERROR_RUNTIME, "%s: no memory for a directory beside it", staging->target);
        guard_lock();
        reason = mkdir(entry->path, 0777) ? errno : 0;
        if (!reason) {
            guard_add(entry);
            staging->entry = entry;
        }
        guard_unlock();
        if (reason)
            free(entry);
    }
    if (!reason)
        return 0;
    const bool lasting =
        reason == EACCES || reason == EPERM || reason == EROFS || reason == ENOENT || reason == ENOTDIR;
    return error_set(error, lasting ? ERROR_USAGE : ERROR_RUNTIME,
                     "%s: cannot be written (%s); choose an output directory that can be written to", staging->target,
                     strerror(reason));
}

static int find_target(struct staging *staging, const char *target, struct error *error)
{
    size_t length = strlen(target);
    while (length > 1 && target[length - 1] == '/')
        length--;
    staging->target = arena_print(&staging->arena, "%.*s", (int)length, target);
    if (!staging->target)
        return error_set(error, ERROR_RUNTIME, "%s: no memory for its name", target);
    if (file_exists(staging->target)) {
        if (!file_is_directory(staging->target))
            return error_set(error, ERROR_USAGE,
                             "%s: exists and is no directory, so it is not replaced; choose another output", target);
        char *resolved = realpath(staging->target, NULL);
        if (!resolved)
            return error_set(error, ERROR_USAGE, "%s: cannot be resolved (%s)", target, strerror(errno));
        staging->target = arena_print(&staging->arena, "%s", resolved);
        free(resolved);
        return staging->target ? 0 : error_set(error, ERROR_RUNTIME, "%s: no memory for its name", target);
    }
    const char *slash = strrchr(staging->target, '/');
    if (!slash || slash == staging->target)
        return 0;
    const char *parent = arena_print(&staging->arena, "%.*s", (int)(slash - staging->target), staging->target);
    return parent ? directory_make(parent, error)
                  : error_set(error, ERROR_RUNTIME, "%s: no memory for its name", target);
}

int staging_open(struct staging **staging, const char *target, struct error *error)
{
    *staging = NULL;
    if (!*target)
        return error_set(error, ERROR_USAGE, "the output directory's name is empty, expected a path");
    struct staging *opened = calloc(1, sizeof *opened);
    if (!opened)
        return error_set(error, ERROR_RUNTIME, "%s: no memory for an output directory", target);
    int result = find_target(opened, target, error);
    if (!result)
        result = make_hidden(opened, error);
    if (result)
        staging_abandon(&opened);
    *staging = opened;
    return result;
}

const char *staging_path(const struct staging *staging)
{
    return staging->entry->path;
}

void staging_rename_error(const struct staging *staging, struct error *error)
{
    const char *at = error ? strstr(error->text, staging->entry->path) : NULL;
    if (!at)
        return;
    const struct error before = *error;
    error_set(error, before.code, "%.*s%s%s", (int)(at - error->text), before.text, staging->target,
              before.text + (at - error->text) + strlen(staging->entry->path));
}

static int sync_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    const int reason = fsync(fd) ? errno : 0;
    close(fd);
    return reason;
}

// Holds the guard's lock, so a signal finds either the old directory or the new one, and removes what has no name
// yet.
static int exchange(struct staging *staging, struct guard_entry *old)
{
    if (old && rename(staging->target, old->path))
        return errno;
    if (rename(staging->entry->path, staging->target)) {
        const int reason = errno;
        if (old)
            (void)rename(old->path, staging->target);
        return reason;
    }
    guard_forget(staging->entry);
    staging->entry = NULL;
    if (old)
        guard_add(old);
    return 0;
}

int staging_commit(struct staging **staging, struct error *error)
{
    assert(staging && *staging);
    struct staging *done = *staging;
    guard_lock();
    const bool scratch = guard_is_scratch(done->target);
    guard_unlock();
    // the bytes must be on the disk before the name is: a power cut may not leave a bundle with half a file
    int reason = scratch ? 0 : nftw(done->entry->path, sync_one, 16, FTW_PHYS);
    if (reason < 0)
        reason = errno;
    struct guard_entry *old = NULL;
    if (!reason && file_exists(done->target) && !(old = hidden_entry(done)))
        reason = ENOMEM;
    const char *aside = old ? arena_print(&done->arena, "%s", old->path) : NULL;
    if (!reason) {
        guard_lock();
        reason = exchange(done, old);
        guard_unlock();
    }
    if (reason)
        free(old);
    else if (aside)
        directory_remove(aside);
    const int result =
        !reason ? 0
                : error_set(error, ERROR_RUNTIME,
                            "%s: cannot be written (%s); nothing was changed, make room and repeat the command",
                            done->target, strerror(reason));
    staging_abandon(staging);
    return result;
}

void staging_abandon(struct staging **staging)
{
    if (!staging || !*staging)
        return;
    struct staging *gone = *staging;
    *staging = NULL;
    if (gone->entry)
        directory_remove(gone->entry->path); // forgets the entry, too
    arena_close(&gone->arena);
    free(gone);
}
