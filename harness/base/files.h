// files: reading by mapping, writing so that a reader never sees half a file.
#ifndef ASSAY_FILES_H
#define ASSAY_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"

// A whole regular file, mapped read-only and private. An empty file has size 0 and bytes != NULL.
struct file_map {
    const unsigned char *bytes;
    uint64_t size;
};

// Refuses what is not a regular file (a directory, a device) by name. On failure *map is {0}.
int file_map_open(struct file_map *map, const char *path, struct error *error);
void file_map_close(struct file_map *map);

// The text of a file of at most `limit` bytes, NUL-terminated, in the arena; *size excludes the NUL. It is read, not
// mapped: a file that another process cuts meanwhile is ERROR_INPUT, where a mapping of it would end this process.
int file_read(struct arena *arena, const char *path, uint64_t limit, char **text, uint64_t *size,
              struct error *error);

bool file_exists(const char *path); // anything of that name
bool file_is_directory(const char *path);

// DIR/NAME in the arena; NULL when memory is exhausted.
char *file_join(struct arena *arena, const char *directory, const char *name);

// Makes `path` and its parents. Succeeds when it is there already; fails when it exists and is no directory.
int directory_make(const char *path, struct error *error);

// The directory in which this program keeps `name` ("sha256") from run to run: $XDG_CACHE_HOME/assay/NAME, else
// ~/.cache/assay/NAME, made when missing, in the arena. NULL: there is none, or ASSAY_NO_CACHE=1 switches it off.
char *directory_cache(struct arena *arena, const char *name);

// A new directory below $TMPDIR (or /tmp) for files of this process only; `path` in the arena. It is removed with all
// its contents by directory_remove, and by a signal that ends the process after files_guard_signals().
int directory_scratch(struct arena *arena, char **path, struct error *error);
void directory_remove(const char *path);

// One output file. Bytes go to a temporary name in the same directory; output_commit renames it. Whatever happens
// before the commit, the old file (or its absence) stays as it was. A path that exists and is not a regular file
// (/dev/full, a pipe) is never replaced: it is written to directly and its errors are reported. ERROR_USAGE: the path
// cannot be written to; ERROR_RUNTIME: no room, no memory.
struct output;

int output_open(struct output **output, const char *path, struct error *error);
// Appends at the end of what output_append wrote so far. Buffered; the first failure is kept and reported by commit.
void output_append(struct output *output, const void *bytes, size_t size);
void output_print(struct output *output, const char *format, ...) PRINTF_LIKE(2, 3);
// Writes at an absolute offset (not buffered, any order). For outputs with a known layout: traces, bundles.
void output_write_at(struct output *output, uint64_t offset, const void *bytes, size_t size);
// What was to be written could not be made for want of memory: commit reports that, and nothing of it appears.
void output_lacks_memory(struct output *output);
// Flushes, renames, closes. On failure nothing of the new file remains. *output is NULL afterwards in either case.
int output_commit(struct output **output, struct error *error);
// Forgets the output; the temporary file is removed. Safe on NULL.
void output_abandon(struct output **output);

// After this call SIGINT, SIGTERM and SIGHUP remove the temporary files of open outputs and scratch directories,
// print one line that says nothing was left half-written and how to repeat, and end the process with 128 + signal.
// Call it before any other thread is started: the signals are blocked in this thread and in all that it starts (a
// child process, too, inherits the blocked signals and has to unblock them before exec). `repeat_hint` must outlive
// the process.
void files_guard_signals(const char *repeat_hint);

// After this call a mapped file that is cut, or can no longer be read, ends the process as a runtime error does: the
// temporary files go, one line names the file, and the exit status is that of ERROR_RUNTIME.
void files_guard_maps(void);

#endif
