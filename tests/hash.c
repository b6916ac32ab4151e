// hash: the digests of FIPS 180-4, and a cache that never tells of another file's bytes.
#include "harness/base/hash.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/files.h"

static const char ABC[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char EMPTY[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static const char MILLION_A[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

static struct arena arena;
static char *directory;
static struct error error;

static void open_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
    setenv("XDG_CACHE_HOME", file_join(&arena, directory, "cache"), 1);
    unsetenv("ASSAY_NO_CACHE");
}

static void close_directory(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

static const char *put(const char *name, const char *text, size_t size)
{
    char *path = file_join(&arena, directory, name);
    struct output *output;
    cr_assert_eq(output_open(&output, path, NULL), 0);
    output_append(output, text, size);
    cr_assert_eq(output_commit(&output, NULL), 0);
    return path;
}

// The cached entries; their directory appears with the first large file.
static int cached(char last[512])
{
    const char *path = file_join(&arena, directory, "cache/assay/sha256");
    DIR *open = opendir(path);
    int n = 0;
    for (struct dirent *entry; open && (entry = readdir(open)) != NULL;)
        if (*entry->d_name != '.') {
            snprintf(last, 512, "%s/%s", path, entry->d_name);
            n++;
        }
    if (open)
        closedir(open);
    return n;
}

TestSuite(hash, .init = open_directory, .fini = close_directory);

Test(hash, published_digests)
{
    char hex[HASH_HEX];
    cr_assert_eq(hash_bytes("abc", 3, hex, &error), 0);
    cr_assert_str_eq(hex, ABC);
    cr_assert_eq(hash_bytes("", 0, hex, &error), 0);
    cr_assert_str_eq(hex, EMPTY);
    char *many = malloc(1000000);
    memset(many, 'a', 1000000);
    cr_assert_eq(hash_file(put("a", many, 1000000), hex, &error), 0);
    cr_assert_str_eq(hex, MILLION_A);
    cr_assert_eq(hash_file(put("empty", "", 0), hex, &error), 0);
    cr_assert_str_eq(hex, EMPTY);
    free(many);
}

Test(hash, a_list_is_the_digest_of_the_bytes_in_order)
{
    char hex[HASH_HEX];
    const char *forward[] = {put("1", "a", 1), put("2", "", 0), put("3", "bc", 2)};
    const char *backward[] = {forward[2], forward[0]};
    cr_assert_eq(hash_files(forward, 3, hex, &error), 0);
    cr_assert_str_eq(hex, ABC);
    cr_assert_eq(hash_files(backward, 2, hex, &error), 0);
    cr_assert_str_neq(hex, ABC);
}

Test(hash, a_missing_file_is_an_error_that_names_it)
{
    char hex[HASH_HEX];
    const char *paths[] = {put("1", "a", 1), file_join(&arena, directory, "gone")};
    cr_assert_eq(hash_files(paths, 2, hex, &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "gone"), "%s", error.text);
    cr_assert_eq(hash_file(directory, hex, &error), ERROR_INPUT);
}

// The status change time cannot be set back, so the file has to grow old enough to be kept.
Test(hash, a_settled_large_file_is_kept_and_a_changed_one_is_read_again)
{
    enum { N = 2 << 20 };
    char *bytes = calloc(N, 1), entry[512], hex[HASH_HEX], first[HASH_HEX];
    const char *path = put("large", bytes, N);
    cr_assert_eq(hash_file(path, first, &error), 0);
    cr_assert_eq(cached(entry), 0); // too young
    sleep(4);
    cr_assert_eq(hash_file(path, hex, &error), 0);
    cr_assert_str_eq(hex, first);
    cr_assert_eq(cached(entry), 1);
    // the control that the entry is what answers: another digest in it is believed
    FILE *file = fopen(entry, "r+");
    char found[HASH_HEX];
    cr_assert_eq(fread(found, 1, 64, file), 64);
    cr_assert_eq(strncmp(found, first, 64), 0);
    rewind(file);
    fputc(found[0] == '0' ? '1' : '0', file);
    fclose(file);
    cr_assert_eq(hash_file(path, hex, &error), 0);
    cr_assert_str_neq(hex, first);
    setenv("ASSAY_NO_CACHE", "1", 1);
    cr_assert_eq(hash_file(path, hex, &error), 0);
    cr_assert_str_eq(hex, first);
    unsetenv("ASSAY_NO_CACHE");
    // same path, size and modification time, other bytes
    struct stat before;
    cr_assert_eq(stat(path, &before), 0);
    const int descriptor = open(path, O_WRONLY);
    cr_assert_eq(pwrite(descriptor, "x", 1, 0), 1);
    const struct timespec times[] = {before.st_atim, before.st_mtim};
    cr_assert_eq(futimens(descriptor, times), 0);
    close(descriptor);
    char changed[HASH_HEX];
    bytes[0] = 'x';
    cr_assert_eq(hash_bytes(bytes, N, changed, &error), 0);
    cr_assert_eq(hash_file(path, hex, &error), 0);
    cr_assert_str_eq(hex, changed);
    // a broken entry is no answer
    cr_assert_eq(truncate(entry, 10), 0);
    cr_assert_eq(hash_file(path, hex, &error), 0);
    cr_assert_str_eq(hex, changed);
    free(bytes);
}

Test(hash, a_cache_that_cannot_be_written_is_no_error)
{
    enum { N = 2 << 20 };
    char *bytes = calloc(N, 1), hex[HASH_HEX];
    setenv("XDG_CACHE_HOME", "/dev/null/cache", 1);
    cr_assert_eq(hash_file(put("large", bytes, N), hex, &error), 0);
    free(bytes);
}

static char *describe(const char *path)
{
    struct stat s;
    cr_assert_eq(stat(path, &s), 0);
    return arena_print(&arena, "%s device %llu inode %llu size %lld modified %lld.%09ld changed %lld.%09ld\n", path,
                       (unsigned long long)s.st_dev, (unsigned long long)s.st_ino, (long long)s.st_size,
                       (long long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec, (long long)s.st_ctim.tv_sec,
                       s.st_ctim.tv_nsec);
}

// One file, linked under a name that says what stands in the cache of another before it, is not the two of them.
Test(hash, a_file_named_like_two_does_not_answer_for_them)
{
    enum { N = 2 << 20 };
    char *bytes = calloc(N, 1), one[HASH_HEX], both[HASH_HEX], expected[HASH_HEX];
    const char *a = put("a", "first", 5), *b = put("b", bytes, N);
    char *forged = arena_print(&arena, "%s%s", describe(a), b);
    *strrchr(forged, '/') = '\0';
    cr_assert_eq(directory_make(forged, &error), 0, "%s", error.text);
    forged[strlen(forged)] = '/';
    cr_assert_eq(link(b, forged), 0);
    sleep(4); // until it is kept
    cr_assert_eq(hash_file(forged, one, &error), 0);
    char entry[512];
    cr_assert_eq(cached(entry), 1);
    cr_assert_eq(hash_files((const char *const[]){a, b}, 2, both, &error), 0);
    setenv("ASSAY_NO_CACHE", "1", 1);
    cr_assert_eq(hash_files((const char *const[]){a, b}, 2, expected, &error), 0);
    cr_assert_str_eq(both, expected);
    cr_assert_str_neq(both, one);
    free(bytes);
}
