// guard: the list of what this process has on disk and has not finished: temporary files of open outputs, scratch
// directories. files.c and output.c keep it; files_guard_signals empties it when a signal ends the process.
//
// For these there is no signal handler: the signals are blocked in every thread and one thread waits for them, so that
// the removal may use any function. It takes the lock and never gives it back; who wants to make, rename or remove a
// guarded path waits for the lock and so never comes in between.
//
// A file that is cut while it is mapped is another matter: the signal belongs to the thread that reads, which can only
// handle it on the spot. No mapping is read while the lock is held, and what removes needs nothing but system calls.
#ifndef ASSAY_GUARD_H
#define ASSAY_GUARD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct guard_entry {
    struct guard_entry *next, *previous;
    pid_t owner; // a child process inherits the list, not what is in it
    bool directory;
    char path[];
};

// Hold the lock around making the path and guard_add, and around removing or renaming it and guard_forget.
void guard_lock(void);
void guard_unlock(void);

// An entry with a copy of the path, not yet in the list. NULL when memory is exhausted.
struct guard_entry *guard_entry(const char *path, bool directory);
void guard_add(struct guard_entry *entry);
// Takes it out and frees it.
void guard_forget(struct guard_entry *entry);
// The directory's entry; NULL when it is none of ours.
struct guard_entry *guard_find_directory(const char *path);
// Whether `path` lies in a guarded directory: what is there need not survive a power cut.
bool guard_is_scratch(const char *path);

// Files that are mapped, for the message of files_guard_maps. Where memory is exhausted the file goes unnamed.
void guard_map_add(const void *bytes, uint64_t size, const char *path);
void guard_map_forget(const void *bytes);

// Removes a directory with all its contents; symbolic links are removed, not followed.
void guard_remove_tree(const char *path);

#endif
