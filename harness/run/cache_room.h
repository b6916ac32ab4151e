// cache_room: the directory that a cache's entries stand in, and its limit. What cache.h is made of; no other module
// needs it.
//
// An entry is a directory named by 64 hexadecimal digits. It comes and goes by a rename, so that under its own name
// it is there with all its files or not at all, for every process that looks.
#ifndef ASSAY_CACHE_ROOM_H
#define ASSAY_CACHE_ROOM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "harness/base/guard.h"

struct cache_room {
    char *directory; // borrowed
    uint64_t limit;
    pthread_mutex_t lock;
    uint64_t bytes; // of all entries, as far as this process knows; under the lock
};

// Removes what killed processes left unfinished, and what is over the limit.
void cache_room_open(struct cache_room *room, char *directory, uint64_t limit);
void cache_room_close(struct cache_room *room);

// A name of this process beside the entries; not yet made, nor guarded. NULL when memory is exhausted.
struct guard_entry *cache_room_temporary(const struct cache_room *room);
// Removes what is left of it, and the guard.
void cache_room_discard(struct guard_entry *temporary);

// False: it was not there any more.
bool cache_room_remove(const struct cache_room *room, const char *entry);
// An entry of so many bytes was added: the least recently used go until the rest is within the limit.
void cache_room_add(struct cache_room *room, uint64_t bytes);

#endif
