#include "harness/base/guard.h"

#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/files.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct guard_entry *entries;

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

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    remove(path);
    return 0;
}

void guard_remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_ENDING_SIGNALS = sizeof ending_signals / sizeof *ending_signals };

static sigset_t awaited;
static const char *hint;

static void *wait_for_signal(void *unused)
{
    (void)unused;
    int number = 0;
    while (sigwait(&awaited, &number))
        ;
    guard_lock();
    for (const struct guard_entry *entry = entries; entry; entry = entry->next)
        if (entry->owner == getpid() && !entry->directory)
            unlink(entry->path);
    for (const struct guard_entry *entry = entries; entry; entry = entry->next)
        if (entry->owner == getpid() && entry->directory)
            guard_remove_tree(entry->path);
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
