#include "harness/base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/guard.h"

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode)    ? "a directory"
           : S_ISCHR(mode)  ? "a character device"
           : S_ISBLK(mode)  ? "a block device"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
                            : "no regular file";
}

static int open_file(const char *path, int *fd, uint64_t *size, struct error *error)
{
    if (!*path)
        return error_set(error, ERROR_INPUT, "the file name is empty, expected the path of a file");
    // O_NONBLOCK: opening a pipe that nobody writes to must not wait
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0)
        return error_set(error, ERROR_INPUT, "%s: cannot be opened (%s), expected a readable file", path,
                         strerror(errno));
    struct stat status;
    int result = 0;
    if (fstat(*fd, &status))
        result = error_set(error, ERROR_INPUT, "%s: cannot be examined (%s)", path, strerror(errno));
    else if (!S_ISREG(status.st_mode))
        result = error_set(error, ERROR_INPUT, "%s: is %s, expected a file", path, kind_of(status.st_mode));
    if (result)
        close(*fd);
    else
        *size = (uint64_t)status.st_size;
    return result;
}

int file_map_open(struct file_map *map, const char *path, struct error *error)
{
    *map = (struct file_map){0};
    int fd;
    uint64_t size;
    int result = open_file(path, &fd, &size, error);
    if (result)
        return result;
    if (size == 0) {
        map->bytes = (const unsigned char *)"";
    } else if (size > SIZE_MAX) {
        result = error_set(error, ERROR_INPUT, "%s: %llu bytes are more than this machine can map", path,
                           (unsigned long long)size);
    } else {
        void *bytes = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED) {
            result = error_set(error, ERROR_RUNTIME, "%s: %llu bytes cannot be mapped (%s)", path,
                               (unsigned long long)size, strerror(errno));
        } else {
            map->bytes = bytes;
            map->size = size;
            guard_map_add(bytes, size, path);
        }
    }
    close(fd);
    return result;
}

void file_map_close(struct file_map *map)
{
    if (map->size) {
        guard_map_forget(map->bytes);
        munmap((void *)(uintptr_t)map->bytes, (size_t)map->size);
    }
    *map = (struct file_map){0};
}

// Not by mapping: a file that another process cuts meanwhile ends early here; touching a mapping of it would end this
// process.
static int read_all(int fd, const char *path, char *bytes, uint64_t size, struct error *error)
{
    for (uint64_t done = 0; done < size;) {
        const ssize_t some = read(fd, bytes + done, size - done < SSIZE_MAX ? (size_t)(size - done) : SSIZE_MAX);
        if (some < 0 && errno == EINTR)
            continue;
        if (some < 0)
            return error_set(error, ERROR_INPUT, "%s: cannot be read (%s)", path, strerror(errno));
        if (!some)
            return error_set(error, ERROR_INPUT,
                             "%s: ended after %llu of %llu bytes: it is being changed; repeat when it is whole", path,
                             (unsigned long long)done, (unsigned long long)size);
        done += (uint64_t)some;
    }
    return 0;
}

int file_read(struct arena *arena, const char *path, uint64_t limit, char **text, uint64_t *size, struct error *error)
{
    int fd;
    uint64_t bytes;
    int result = open_file(path, &fd, &bytes, error);
    if (result)
        return result;
    char *copy = NULL;
    if (bytes > limit)
        result = error_set(error, ERROR_INPUT, "%s: %llu bytes, expected at most %llu", path,
                           (unsigned long long)bytes, (unsigned long long)limit);
    else if (bytes >= SIZE_MAX || !(copy = arena_alloc(arena, (size_t)bytes + 1, 1)))
        result = error_set(error, ERROR_RUNTIME, "%s: no memory for %llu bytes", path, (unsigned long long)bytes);
    else
        result = read_all(fd, path, copy, bytes, error); // arena memory is zeroed: the NUL is there
    close(fd);
    if (!result) {
        *text = copy;
        *size = bytes;
    }
    return result;
}

bool file_exists(const char *path)
{
    struct stat status;
    return !lstat(path, &status);
}

bool file_is_directory(const char *path)
{
    struct stat status;
    return !stat(path, &status) && S_ISDIR(status.st_mode);
}

char *file_join(struct arena *arena, const char *directory, const char *name)
{
    const size_t length = strlen(directory);
    const char *slash = length && directory[length - 1] != '/' ? "/" : "";
    return arena_print(arena, "%s%s%s", directory, slash, name);
}

static int make_one(const char *path, const char *whole, struct error *error)
{
    if (!mkdir(path, 0777) || (errno == EEXIST && file_is_directory(path)))
        return 0;
    const int reason = errno;
    if (reason == EEXIST || reason == ENOTDIR)
        return error_set(error, ERROR_USAGE, "%s: %s exists and is no directory; choose another directory", whole,
                         path);
    // a parent that is there but may not be written to (EROFS, EACCES) is what a person can change
    return error_set(error, reason == ENOSPC || reason == EDQUOT || reason == EIO ? ERROR_RUNTIME : ERROR_USAGE,
                     "%s: directory %s cannot be made (%s); choose a directory that can be written to", whole, path,
                     strerror(reason));
}

int directory_make(const char *path, struct error *error)
{
    if (!*path)
        return error_set(error, ERROR_USAGE, "the directory name is empty, expected a path");
    char *copy = strdup(path);
    if (!copy)
        return error_set(error, ERROR_RUNTIME, "%s: no memory for the directory's name", path);
    int result = 0;
    for (char *end = copy + 1; *end && !result; end++) {
        if (*end != '/')
            continue;
        *end = '\0';
        if (!file_is_directory(copy))
            result = make_one(copy, path, error);
        *end = '/';
    }
    if (!result && !file_is_directory(copy))
        result = make_one(copy, path, error);
    free(copy);
    return result;
}

char *directory_cache(struct arena *arena, const char *name)
{
    const char *off = getenv("ASSAY_NO_CACHE"), *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *directory = NULL;
    if (off && *off && strcmp(off, "0") != 0)
        return NULL;
    if (base && *base == '/')
        directory = arena_print(arena, "%s/assay/%s", base, name);
    else if (home && *home == '/')
        directory = arena_print(arena, "%s/.cache/assay/%s", home, name);
    return directory && !directory_make(directory, NULL) ? directory : NULL;
}

int directory_scratch(struct arena *arena, char **path, struct error *error)
{
    const char *parent = getenv("TMPDIR");
    if (!parent || !*parent)
        parent = "/tmp";
    char *name = file_join(arena, parent, "assay-XXXXXX");
    struct guard_entry *entry = name ? guard_entry(name, true) : NULL;
    if (!entry)
        return error_set(error, ERROR_RUNTIME, "no memory for the name of a scratch directory in %s", parent);
    guard_lock();
    const bool made = mkdtemp(name) != NULL;
    const int reason = errno;
    if (made) {
        memcpy(entry->path, name, strlen(name) + 1);
        guard_add(entry);
    }
    guard_unlock();
    if (!made) {
        free(entry);
        return error_set(
            error, ERROR_RUNTIME,
            "%s: no scratch directory can be made (%s); set TMPDIR to a directory that can be written to", parent,
            strerror(reason));
    }
    *path = name;
    return 0;
}

void directory_remove(const char *path)
{
    guard_lock();
    guard_remove_tree(path);
    struct guard_entry *entry = guard_find_directory(path);
    if (entry)
        guard_forget(entry);
    guard_unlock();
}
