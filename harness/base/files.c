#include "harness/base/files.h"

#include <errno.h>
#include <fcntl.h>
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

int file_map_open(struct file_map *map, const char *path, struct error *error)
{
    *map = (struct file_map){0};
    if (!*path)
        return error_set(error, ERROR_INPUT, "the file name is empty, expected the path of a file");
    // O_NONBLOCK: opening a pipe that nobody writes to must not wait
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(error, ERROR_INPUT, "%s: cannot be opened (%s), expected a readable file", path,
                         strerror(errno));
    struct stat status;
    int result = 0;
    if (fstat(fd, &status)) {
        result = error_set(error, ERROR_INPUT, "%s: cannot be examined (%s)", path, strerror(errno));
    } else if (!S_ISREG(status.st_mode)) {
        result = error_set(error, ERROR_INPUT, "%s: is %s, expected a file", path, kind_of(status.st_mode));
    } else if (status.st_size == 0) {
        map->bytes = (const unsigned char *)"";
    } else if ((uint64_t)status.st_size > SIZE_MAX) {
        result = error_set(error, ERROR_INPUT, "%s: %lld bytes are more than this machine can map", path,
                           (long long)status.st_size);
    } else {
        void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED) {
            result = error_set(error, ERROR_RUNTIME, "%s: %lld bytes cannot be mapped (%s)", path,
                               (long long)status.st_size, strerror(errno));
        } else {
            map->bytes = bytes;
            map->size = (uint64_t)status.st_size;
        }
    }
    close(fd);
    return result;
}

void file_map_close(struct file_map *map)
{
    if (map->size)
        munmap((void *)(uintptr_t)map->bytes, (size_t)map->size);
    *map = (struct file_map){0};
}

int file_read(struct arena *arena, const char *path, uint64_t limit, char **text, uint64_t *size, struct error *error)
{
    struct file_map map;
    int result = file_map_open(&map, path, error);
    if (result)
        return result;
    char *copy = NULL;
    if (map.size > limit)
        result = error_set(error, ERROR_INPUT, "%s: %llu bytes, expected at most %llu", path,
                           (unsigned long long)map.size, (unsigned long long)limit);
    else if (!(copy = arena_alloc(arena, (size_t)map.size + 1, 1)))
        result = error_set(error, ERROR_RUNTIME, "%s: no memory for %llu bytes", path, (unsigned long long)map.size);
    if (!result) {
        memcpy(copy, map.bytes, (size_t)map.size); // arena memory is zeroed: the NUL is there
        *text = copy;
        *size = map.size;
    }
    file_map_close(&map);
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
