#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/guard.h"

enum { OUTPUT_BUFFER_BYTES = 1 << 16 };

struct output {
    char *path;                    // as the caller named it
    char *target;                  // what the rename replaces; NULL: written to directly
    struct guard_entry *temporary; // NULL: written to directly
    int fd;
    int failure;  // errno of the first failure, 0
    bool scratch; // in a scratch directory
    size_t buffered;
    unsigned char buffer[OUTPUT_BUFFER_BYTES];
};

// What a person has to change is a mistake of the command line; what may be gone next time is trouble at run time.
static int code_of(int reason)
{
    switch (reason) {
    case EACCES:
    case EPERM:
    case EROFS:
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ESPIPE:
        return ERROR_USAGE;
    default:
        return ERROR_RUNTIME;
    }
}

static int refuse(const char *path, int reason, struct error *error)
{
    const int code = code_of(reason);
    return error_set(
        error, code, "%s: cannot be written (%s); nothing was left half-written, %s", path, strerror(reason),
        code == ERROR_USAGE ? "choose an output that can be written to" : "make room and repeat the command");
}

static void output_free(struct output *output)
{
    free(output->target);
    free(output->path);
    free(output);
}

// A new file beside the target, with the permissions of the file that it will replace.
static int open_temporary(struct output *output, const struct stat *old)
{
    static atomic_uint counter;
    const char *slash = strrchr(output->target, '/');
    const int directory = slash ? (int)(slash + 1 - output->target) : 0;
    const size_t size = (size_t)directory + 64;
    char *name = malloc(size);
    if (!name)
        return ENOMEM;
    int reason = EEXIST;
    while (reason == EEXIST) {
        // short and of fixed form, so that a target with the longest possible name has room beside it
        snprintf(name, size, "%.*s.assay-%ld-%u.part", directory, output->target, (long)getpid(),
                 atomic_fetch_add(&counter, 1));
        struct guard_entry *entry = guard_entry(name, false);
        if (!entry) {
            reason = ENOMEM;
            break;
        }
        guard_lock();
        output->fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        reason = output->fd < 0 ? errno : 0;
        if (output->fd >= 0) {
            guard_add(entry);
            output->temporary = entry;
            output->scratch = guard_is_scratch(name);
        }
        guard_unlock();
        if (reason)
            free(entry);
    }
    free(name);
    if (!reason && old)
        (void)fchmod(output->fd, old->st_mode & 0777); // a file system without modes is no reason to fail
    return reason;
}

// What stands at the path: 0 with *absent or *status, or the reason why nothing can be written there. A link to nowhere
// would be replaced by the rename: what it stands for is not ours to decide.
static int examine(const char *path, struct stat *status, bool *absent)
{
    *absent = false;
    while (stat(path, status)) {
        struct stat link;
        if (errno != ENOENT)
            return errno;
        if (lstat(path, &link)) {
            *absent = errno == ENOENT;
            return *absent ? 0 : errno;
        }
        if (S_ISLNK(link.st_mode))
            return ENOENT;
        // somebody has just made it: look again
    }
    return 0;
}

int output_open(struct output **output, const char *path, struct error *error)
{
    *output = NULL;
    if (!*path)
        return error_set(error, ERROR_USAGE, "the output's name is empty, expected the path of a file");
    struct output *opened = calloc(1, sizeof *opened);
    if (!opened || !(opened->path = strdup(path))) {
        free(opened);
        return error_set(error, ERROR_RUNTIME, "%s: no memory for an output", path);
    }
    opened->fd = -1;
    struct stat status;
    bool absent;
    int reason = examine(path, &status, &absent);
    if (reason) {
        // refused below
    } else if (absent) {
        opened->target = strdup(path);
        reason = opened->target ? open_temporary(opened, NULL) : ENOMEM;
    } else if (S_ISDIR(status.st_mode)) {
        reason = EISDIR;
    } else if (S_ISREG(status.st_mode)) {
        if (access(path, W_OK))
            reason = errno;
        else if (!(opened->target = realpath(path, NULL))) // a link stays a link to the new file
            reason = errno;
        else
            reason = open_temporary(opened, &status);
    } else {
        opened->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        reason = opened->fd < 0 ? errno : 0;
    }
    if (reason) {
        output_free(opened);
        return refuse(path, reason, error);
    }
    *output = opened;
    return 0;
}

static void write_all(struct output *output, const unsigned char *bytes, size_t size)
{
    while (size && !output->failure) {
        const ssize_t written = write(output->fd, bytes, size < SSIZE_MAX ? size : SSIZE_MAX);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            output->failure = written < 0 ? errno : EIO;
            return;
        }
        bytes += written;
        size -= (size_t)written;
    }
}

static void flush(struct output *output)
{
    write_all(output, output->buffer, output->buffered);
    output->buffered = 0;
}

void output_append(struct output *output, const void *bytes, size_t size)
{
    if (output->failure || !size)
        return;
    if (size > sizeof output->buffer - output->buffered)
        flush(output);
    if (size > sizeof output->buffer) {
        write_all(output, bytes, size);
        return;
    }
    memcpy(output->buffer + output->buffered, bytes, size);
    output->buffered += size;
}

void output_print(struct output *output, const char *format, ...)
{
    char text[1024];
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    const int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char *longer = NULL;
    if (length < 0) {
        if (!output->failure)
            output->failure = EINVAL;
    } else if ((size_t)length < sizeof text) {
        output_append(output, text, (size_t)length);
    } else if ((longer = malloc((size_t)length + 1))) {
        vsnprintf(longer, (size_t)length + 1, format, again);
        output_append(output, longer, (size_t)length);
        free(longer);
    } else if (!output->failure) {
        output->failure = ENOMEM;
    }
    va_end(again);
}

void output_write_at(struct output *output, uint64_t offset, const void *bytes, size_t size)
{
    const unsigned char *from = bytes;
    if (!output->failure && (offset > INT64_MAX || size > INT64_MAX - offset))
        output->failure = EFBIG;
    while (size && !output->failure) {
        const ssize_t written = pwrite(output->fd, from, size < SSIZE_MAX ? size : SSIZE_MAX, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            output->failure = written < 0 ? errno : EIO;
            return;
        }
        from += written;
        offset += (uint64_t)written;
        size -= (size_t)written;
    }
}

void output_lacks_memory(struct output *output)
{
    if (!output->failure)
        output->failure = ENOMEM;
}

int output_commit(struct output **output, struct error *error)
{
    assert(output && *output);
    struct output *done = *output;
    flush(done);
    // the bytes must be on the disk before the name is: a power cut may not leave a whole name with half a file
    if (!done->failure && done->temporary && !done->scratch && fsync(done->fd))
        done->failure = errno;
    if (close(done->fd) && !done->failure)
        done->failure = errno;
    done->fd = -1;
    if (done->temporary && !done->failure) {
        guard_lock();
        if (rename(done->temporary->path, done->target)) {
            done->failure = errno;
        } else {
            guard_forget(done->temporary);
            done->temporary = NULL;
        }
        guard_unlock();
    }
    const int result = done->failure ? refuse(done->path, done->failure, error) : 0;
    output_abandon(output);
    return result;
}

void output_abandon(struct output **output)
{
    if (!output || !*output)
        return;
    struct output *gone = *output;
    *output = NULL;
    if (gone->fd >= 0)
        close(gone->fd);
    if (gone->temporary) {
        guard_lock();
        unlink(gone->temporary->path);
        guard_forget(gone->temporary);
        guard_unlock();
    }
    output_free(gone);
}
