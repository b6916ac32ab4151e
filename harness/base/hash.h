// hash: SHA-256 by OpenSSL's libcrypto, of bytes and of files.
//
// Digests of files of 1 MiB and more are kept in $XDG_CACHE_HOME/assay/sha256 (else ~/.cache/assay/sha256), keyed by
// absolute path, inode, size, and times of modification and status change in nanoseconds, so that gating a 16 GB
// checkpoint does not read it twice. A file changed less than two seconds ago is not kept: it may change again within
// one tick of the clock. A cache that cannot be read or written is ignored; ASSAY_NO_CACHE=1 switches it off.
#ifndef ASSAY_HASH_H
#define ASSAY_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"

enum { HASH_HEX = 65 }; // 64 lower-case digits and a NUL

int hash_bytes(const void *bytes, size_t size, char hex[HASH_HEX], struct error *error);
int hash_file(const char *path, char hex[HASH_HEX], struct error *error);

// SHA-256 of the files' bytes, concatenated in the given order. The list is cached as a whole: its key holds every
// path, size and time.
int hash_files(const char *const *paths, size_t n, char hex[HASH_HEX], struct error *error);

#endif
