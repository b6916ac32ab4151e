#include "harness/base/hash.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "harness/base/arena.h"
#include "harness/base/files.h"

enum { CACHED_BYTES = 1 << 20, SETTLED_SECONDS = 2 };

static int digest_error(struct error *error)
{
    return error_set(error, ERROR_RUNTIME,
                     "libcrypto cannot compute SHA-256 (no memory, or disabled in this build of it)");
}

static int finish(EVP_MD_CTX *context, char hex[HASH_HEX], struct error *error)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    if (!EVP_DigestFinal_ex(context, digest, &length) || 2 * length + 1 != HASH_HEX)
        return digest_error(error);
    for (unsigned i = 0; i < length; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    hex[2 * length] = '\0';
    return 0;
}

int hash_bytes(const void *bytes, size_t size, char hex[HASH_HEX], struct error *error)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    const bool ok =
        context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) && EVP_DigestUpdate(context, bytes, size);
    const int result = ok ? finish(context, hex, error) : digest_error(error);
    EVP_MD_CTX_free(context);
    return result;
}

static int read_and_hash(const char *const *paths, size_t n, char hex[HASH_HEX], struct error *error)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int result = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) ? 0 : digest_error(error);
    for (size_t i = 0; i < n && !result; i++) {
        struct file_map map;
        result = file_map_open(&map, paths[i], error);
        if (!result && !EVP_DigestUpdate(context, map.bytes, (size_t)map.size))
            result = digest_error(error);
        file_map_close(&map);
    }
    if (!result)
        result = finish(context, hex, error);
    EVP_MD_CTX_free(context);
    return result;
}

// One line per file, whatever tells two contents apart without reading them. NULL: not worth keeping, or not to be
// trusted.
static const char *cache_key(struct arena *arena, const char *const *paths, size_t n)
{
    const char *key = "";
    uint64_t bytes = 0;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return NULL;
    for (size_t i = 0; i < n && key; i++) {
        struct stat status;
        if (stat(paths[i], &status) || status.st_size < 0 || status.st_ctim.tv_sec > now.tv_sec - SETTLED_SECONDS)
            return NULL;
        char *absolute = realpath(paths[i], NULL);
        if (!absolute)
            return NULL;
        bytes += (uint64_t)status.st_size;
        // the length in front: no name can look like two files
        key = arena_print(arena, "%s%zu %s device %llu inode %llu size %lld modified %lld.%09ld changed %lld.%09ld\n",
                          key, strlen(absolute), absolute, (unsigned long long)status.st_dev,
                          (unsigned long long)status.st_ino, (long long)status.st_size,
                          (long long)status.st_mtim.tv_sec, status.st_mtim.tv_nsec, (long long)status.st_ctim.tv_sec,
                          status.st_ctim.tv_nsec);
        free(absolute);
    }
    return bytes >= CACHED_BYTES ? key : NULL;
}

// The file that keeps this key's digest: named by the digest of the key. NULL: no cache.
static const char *cache_path(struct arena *arena, const char *key)
{
    const char *directory = directory_cache(arena, "sha256");
    char name[HASH_HEX];
    return directory && !hash_bytes(key, strlen(key), name, NULL) ? file_join(arena, directory, name) : NULL;
}

// An entry is the digest, a newline, and the key it belongs to.
static bool cache_get(struct arena *arena, const char *path, const char *key, char hex[HASH_HEX])
{
    char *entry;
    uint64_t size;
    if (file_read(arena, path, 1 << 20, &entry, &size, NULL) || size != HASH_HEX + strlen(key) ||
        strspn(entry, "0123456789abcdef") != HASH_HEX - 1 || strcmp(entry + HASH_HEX, key))
        return false;
    memcpy(hex, entry, HASH_HEX - 1);
    hex[HASH_HEX - 1] = '\0';
    return true;
}

static void cache_put(const char *path, const char *key, const char *hex)
{
    struct output *output;
    if (output_open(&output, path, NULL))
        return;
    output_print(output, "%s\n", hex);
    output_append(output, key, strlen(key));
    (void)output_commit(&output, NULL); // the next run hashes again
}

int hash_files(const char *const *paths, size_t n, char hex[HASH_HEX], struct error *error)
{
    struct arena arena = {0};
    const char *key = cache_key(&arena, paths, n);
    const char *cache = key ? cache_path(&arena, key) : NULL;
    int result = 0;
    if (!cache || !cache_get(&arena, cache, key, hex)) {
        result = read_and_hash(paths, n, hex, error);
        const char *after = result || !cache ? NULL : cache_key(&arena, paths, n);
        if (after && !strcmp(after, key)) // unchanged while it was read
            cache_put(cache, key, hex);
    }
    arena_close(&arena);
    return result;
}

int hash_file(const char *path, char hex[HASH_HEX], struct error *error)
{
    return hash_files(&path, 1, hex, error);
}
