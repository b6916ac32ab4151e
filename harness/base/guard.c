#include "harness/base/guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/files.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct guard_entry *entries;

static struct mapped {
    struct mapped *next;
    const unsigned char *bytes;
    uint64_t size;
    char path[];
} *mappings;

void guard_lock(void)
{
    pthread_mutex_lock(&lock);
}

void guard_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

struct guard_entry *guard_entry(const char *path, bool directory)
{
    const size_t size = strlen(path) + 1;
    struct guard_entry *entry = calloc(1, sizeof *entry + size);
    if (entry) {
        entry->owner = getpid();
        entry->directory = directory;
        memcpy(entry->path, path, size);
    }
    return entry;
}

void guard_add(struct guard_entry *entry)
{
    entry->previous = NULL;
    entry->next = entries;
    if (entries)
        entries->previous = entry;
    entries = entry;
}

void guard_forget(struct guard_entry *entry)
{
    if (entry->next)
        entry->next->previous = entry->previous;
    if (entry->previous)
        entry->previous->next = entry->next;
    else
        entries = entry->next;
    free(entry);
}

struct guard_entry *guard_find_directory(const char *path)
{
    struct guard_entry *entry = entries;
    while (entry && !(entry->directory && !strcmp(entry->path, path)))
        entry = entry->next;
    return entry;
}

bool guard_is_scratch(const char *path)
{
    for (const struct guard_entry *entry = entries; entry; entry = entry->next) {
        const size_t length = strlen(entry->path);
        if (entry->directory && !strncmp(entry->path, path, length) && path[length] == '/')
            return true;
    }
    return false;
}

void guard_map_add(const void *bytes, uint64_t size, const char *path)
{
    const size_t length = strlen(path) + 1;
    struct mapped *mapped = malloc(sizeof *mapped + length);
    if (!mapped)
        return;
    mapped->bytes = bytes;
    mapped->size = size;
    memcpy(mapped->path, path, length);
    guard_lock();
    mapped->next = mappings;
    mappings = mapped;
    guard_unlock();
}

void guard_map_forget(const void *bytes)
{
    guard_lock();
    struct mapped **link = &mappings;
    while (*link && (*link)->bytes != bytes)
        link = &(*link)->next;
    struct mapped *found = *link;
    if (found)
        *link = found->next;
    guard_unlock();
    free(found);
}

// By system calls alone: memory may be what has run out, and nftw and opendir ask for some. The directory is read
// again until nothing more can be removed, since entries may move while others go.
static void remove_entries(int directory)
{
    _Alignas(struct dirent64) char entries_read[4096];
    for (bool removed = true; removed;) {
        ssize_t size;
        removed = false;
        lseek(directory, 0, SEEK_SET);
        while ((size = getdents64(directory, entries_read, sizeof entries_read)) > 0)
            for (ssize_t at = 0; at < size;) {
                const struct dirent64 *entry = (const void *)(entries_read + at);
                const char *name = entry->d_name;
                at += entry->d_reclen;
                if (!strcmp(name, ".") || !strcmp(name, ".."))
                    continue;
                bool gone = !unlinkat(directory, name, 0);
                const int below =
                    gone ? -1 : openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (below >= 0) {
                    remove_entries(below);
                    close(below);
                    gone = !unlinkat(directory, name, AT_REMOVEDIR);
                }
                removed = removed || gone;
            }
    }
}

void guard_remove_tree(const char *path)
{
    const int directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0) {
        unlink(path); // a file, or a link, which is not followed
        return;
    }
    remove_entries(directory);
    close(directory);
    rmdir(path);
}

static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_ENDING_SIGNALS = sizeof ending_signals / sizeof *ending_signals };

static sigset_t awaited;
static const char *hint;

static void remove_unfinished(void)
{
    for (const struct guard_entry *entry = entries; entry; entry = entry->next)
        if (entry->owner == getpid() && !entry->directory)
            unlink(entry->path);
    for (const struct guard_entry *entry = entries; entry; entry = entry->next)
        if (entry->owner == getpid() && entry->directory)
            guard_remove_tree(entry->path);
}

static void *wait_for_signal(void *unused)
{
    (void)unused;
    int number = 0;
    while (sigwait(&awaited, &number))
        ;
    guard_lock();
    remove_unfinished();
    fprintf(stderr, "\nassay: stopped by signal %d (%s); no file was left half-written.%s%s\n", number,
            strsignal(number), *hint ? " To repeat: " : "", hint);
    _exit(128 + number);
}

void files_guard_signals(const char *repeat_hint)
{
    static bool guarded;
    hint = repeat_hint ? repeat_hint : "";
    if (guarded)
        return;
    sigemptyset(&awaited);
    for (int i = 0; i < N_ENDING_SIGNALS; i++) {
        struct sigaction action;
        // what the caller of this process ignores (nohup) stays ignored
        if (!sigaction(ending_signals[i], NULL, &action) && action.sa_handler != SIG_IGN)
            sigaddset(&awaited, ending_signals[i]);
    }
    sigset_t before;
    pthread_t thread;
    if (pthread_sigmask(SIG_BLOCK, &awaited, &before))
        return;
    // without the thread the signals act as they always do: the process ends, temporary files stay
    if (pthread_create(&thread, NULL, wait_for_signal, NULL))
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    else
        guarded = !pthread_detach(thread);
}

static void lose_mapping(int number, siginfo_t *info, void *unused)
{
    (void)number;
    (void)unused;
    const unsigned char *address = info->si_addr;
    guard_lock();
    const struct mapped *mapped = mappings;
    while (mapped && !(address >= mapped->bytes && address < mapped->bytes + mapped->size))
        mapped = mapped->next;
    remove_unfinished();
    dprintf(STDERR_FILENO,
            "\nassay: %s: byte %llu of %llu can no longer be read: the file was cut meanwhile, or its disk fails; no "
            "file was left half-written. Repeat when it is whole.\n",
            mapped ? mapped->path : "a mapped file", mapped ? (unsigned long long)(address - mapped->bytes) : 0,
            mapped ? (unsigned long long)mapped->size : 0);
    _exit(error_exit_status(ERROR_RUNTIME));
}

void files_guard_maps(void)
{
    struct sigaction action = {.sa_sigaction = lose_mapping, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}
