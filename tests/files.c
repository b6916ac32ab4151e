// files: nothing half-written, whatever goes wrong. Controls: a committed file is there, an untouched one is
// unchanged.
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/base/files.h"

static struct arena arena;
static char *directory;

static void open_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
}

static void close_directory(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

static char *in(const char *name)
{
    return file_join(&arena, directory, name);
}

static int entries(const char *path)
{
    DIR *open = opendir(path);
    int n = 0;
    cr_assert_not_null(open);
    while (readdir(open))
        n++;
    closedir(open);
    return n - 2; // . and ..
}

static void put(const char *path, const char *text)
{
    struct output *output;
    struct error error;
    cr_assert_eq(output_open(&output, path, &error), 0, "%s", error.text);
    output_append(output, text, strlen(text));
    cr_assert_eq(output_commit(&output, &error), 0, "%s", error.text);
    cr_assert_null(output);
}

static void expect_text(const char *path, const char *text)
{
    char *found;
    uint64_t size;
    struct error error;
    cr_assert_eq(file_read(&arena, path, 1 << 20, &found, &size, &error), 0, "%s", error.text);
    cr_assert_eq(size, strlen(text));
    cr_assert_str_eq(found, text);
}

TestSuite(files, .init = open_directory, .fini = close_directory);

Test(files, a_committed_file_is_there_and_nothing_else)
{
    put(in("a"), "first");
    expect_text(in("a"), "first");
    put(in("a"), "second");
    expect_text(in("a"), "second");
    cr_assert_eq(entries(directory), 1);
}

Test(files, an_abandoned_output_leaves_the_old_file_as_it_was)
{
    put(in("a"), "old");
    struct output *output;
    cr_assert_eq(output_open(&output, in("a"), NULL), 0);
    output_print(output, "%s", "new");
    cr_assert_eq(entries(directory), 2); // the control: there is a temporary file to remove
    expect_text(in("a"), "old");
    output_abandon(&output);
    cr_assert_null(output);
    output_abandon(&output);
    expect_text(in("a"), "old");
    cr_assert_eq(entries(directory), 1);
}

Test(files, long_texts_and_offsets_arrive_whole)
{
    enum { N = 300000 };
    char *text = malloc(N + 1);
    for (int i = 0; i < N; i++)
        text[i] = (char)('a' + i % 26);
    text[N] = '\0';
    struct output *output;
    cr_assert_eq(output_open(&output, in("long"), NULL), 0);
    for (int i = 0; i < N; i += 1000)
        output_append(output, text + i, 1000);
    output_append(output, text, N);
    output_print(output, "%s", text);
    cr_assert_eq(output_commit(&output, NULL), 0);
    struct file_map map;
    cr_assert_eq(file_map_open(&map, in("long"), NULL), 0);
    cr_assert_eq(map.size, 3 * N);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(memcmp(map.bytes + i * N, text, N), 0);
    file_map_close(&map);
    cr_assert_eq(output_open(&output, in("parts"), NULL), 0);
    output_write_at(output, 4, "efgh", 4); // any order
    output_write_at(output, 0, "abcd", 4);
    cr_assert_eq(output_commit(&output, NULL), 0);
    expect_text(in("parts"), "abcdefgh");
    free(text);
}

Test(files, a_link_stays_a_link_and_modes_stay)
{
    put(in("real"), "old");
    chmod(in("real"), 0640);
    cr_assert_eq(symlink("real", in("link")), 0);
    put(in("link"), "new");
    expect_text(in("real"), "new");
    struct stat status;
    cr_assert_eq(lstat(in("link"), &status), 0);
    cr_assert(S_ISLNK(status.st_mode));
    cr_assert_eq(stat(in("real"), &status), 0);
    cr_assert_eq(status.st_mode & 0777, 0640);
}

Test(files, a_full_disk_is_reported_by_append_and_by_offset)
{
    for (int at = 0; at < 2; at++) {
        struct output *output;
        struct error error = {0};
        cr_assert_eq(output_open(&output, "/dev/full", &error), 0, "%s", error.text);
        if (at)
            output_write_at(output, 8, "x", 1);
        else
            output_append(output, "x", 1);
        cr_assert_eq(output_commit(&output, &error), ERROR_RUNTIME);
        cr_assert(strstr(error.text, "/dev/full") && strstr(error.text, "No space left"), "%s", error.text);
    }
    struct stat status;
    cr_assert(!stat("/dev/full", &status) && S_ISCHR(status.st_mode)); // never replaced
}

Test(files, devices_and_pipes_are_written_to_directly)
{
    put("/dev/null", "gone");
    struct stat status;
    cr_assert(!stat("/dev/null", &status) && S_ISCHR(status.st_mode));
    cr_assert_eq(mkfifo(in("pipe"), 0600), 0);
    const int reader = open(in("pipe"), O_RDONLY | O_NONBLOCK);
    put(in("pipe"), "through");
    char text[16] = "";
    cr_assert_eq(read(reader, text, sizeof text), 7);
    cr_assert_str_eq(text, "through");
    close(reader);
}

Test(files, what_cannot_be_written_is_refused_in_one_sentence)
{
    struct output *output;
    struct error error;
    cr_assert_eq(output_open(&output, directory, &error), ERROR_USAGE);
    cr_assert(strstr(error.text, "directory"), "%s", error.text);
    cr_assert_null(output);
    cr_assert_eq(output_open(&output, in("no/such/file"), &error), ERROR_USAGE);
    cr_assert(strstr(error.text, "No such"), "%s", error.text);
    cr_assert_eq(output_open(&output, "", &error), ERROR_USAGE);
    cr_assert_eq(symlink("nowhere", in("dangling")), 0);
    cr_assert_eq(output_open(&output, in("dangling"), &error), ERROR_USAGE);
    cr_assert_eq(entries(directory), 1);
}

Test(files, a_read_only_directory_gives_one_sentence_and_no_file)
{
    cr_assert_eq(mkdir(in("locked"), 0777), 0);
    cr_assert_eq(chmod(in("locked"), 0555), 0);
    chmod(directory, 0755);
    const char *path = in("locked/a"), *below = in("locked/a/b");
    const uid_t user = geteuid();
    if (!user) // root may write anywhere
        cr_assert_eq(seteuid(65534), 0);
    struct output *output;
    struct error error;
    cr_expect_eq(output_open(&output, path, &error), ERROR_USAGE);
    cr_expect(strstr(error.text, "locked/a") && strstr(error.text, "Permission denied"), "%s", error.text);
    cr_expect_eq(directory_make(below, &error), ERROR_USAGE);
    cr_expect(strstr(error.text, "can be written to"), "%s", error.text);
    if (!user)
        cr_assert_eq(seteuid(user), 0);
    cr_assert_eq(entries(in("locked")), 0);
}

Test(files, only_regular_files_are_read)
{
    struct file_map map;
    struct error error;
    cr_assert_eq(file_map_open(&map, directory, &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "is a directory"), "%s", error.text);
    cr_assert_eq(file_map_open(&map, "/dev/zero", &error), ERROR_INPUT);
    cr_assert_eq(mkfifo(in("pipe"), 0600), 0);
    cr_assert_eq(file_map_open(&map, in("pipe"), &error), ERROR_INPUT); // and does not wait for a writer
    cr_assert_eq(file_map_open(&map, in("missing"), &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "missing"), "%s", error.text);
    cr_assert_null(map.bytes);
    put(in("empty"), "");
    cr_assert_eq(file_map_open(&map, in("empty"), &error), 0);
    cr_assert_not_null(map.bytes);
    cr_assert_eq(map.size, 0);
    file_map_close(&map);
    file_map_close(&map);
    char *text;
    uint64_t size;
    put(in("ten"), "0123456789");
    cr_assert_eq(file_read(&arena, in("ten"), 9, &text, &size, &error), ERROR_INPUT);
    cr_assert_eq(file_read(&arena, in("ten"), 10, &text, &size, &error), 0);
}

Test(files, directories_are_made_with_their_parents)
{
    struct error error;
    cr_assert_eq(directory_make(in("a/b//c/"), &error), 0, "%s", error.text);
    cr_assert(file_is_directory(in("a/b/c")));
    cr_assert_eq(directory_make(in("a/b/c"), &error), 0);
    put(in("a/file"), "x");
    cr_assert_eq(directory_make(in("a/file"), &error), ERROR_USAGE);
    cr_assert_eq(directory_make(in("a/file/d"), &error), ERROR_USAGE);
    cr_assert(strstr(error.text, "no directory"), "%s", error.text);
    cr_assert(file_exists(in("a/file")));
    cr_assert_not(file_is_directory(in("a/file")));
    cr_assert_not(file_exists(in("nothing")));
}

Test(files, a_scratch_directory_goes_with_all_it_holds_but_not_what_links_point_to)
{
    char *scratch;
    struct arena own = {0};
    cr_assert_eq(directory_scratch(&own, &scratch, NULL), 0);
    put(in("kept"), "x");
    cr_assert_eq(directory_make(file_join(&own, scratch, "x/y"), NULL), 0);
    put(file_join(&own, scratch, "x/y/z"), "x");
    cr_assert_eq(symlink(directory, file_join(&own, scratch, "out")), 0);
    directory_remove(scratch);
    cr_assert_not(file_exists(scratch));
    expect_text(in("kept"), "x");
    arena_close(&own);
}

// `ignored`: the signal that the caller ignores, as nohup does, 0 for none; whatever this test's own caller ignores.
static void be_stopped(int ready, const char *target, int ignored)
{
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    if (ignored)
        signal(ignored, SIG_IGN);
    struct output *output;
    struct arena own = {0};
    char *scratch = NULL;
    files_guard_signals("assay gate again");
    if (output_open(&output, target, NULL) || directory_scratch(&own, &scratch, NULL))
        _exit(1);
    struct output *inner;
    if (output_open(&inner, file_join(&own, scratch, "trace"), NULL))
        _exit(1);
    output_print(output, "half of a ");
    dprintf(ready, "%s", scratch);
    close(ready);
    for (;;)
        pause();
}

Test(files, a_signal_removes_what_is_unfinished_and_says_how_to_repeat)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    put(in("report"), "old");
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        int ready[2], spoken[2];
        cr_assert_eq(pipe(ready) | pipe(spoken), 0);
        const pid_t child = fork();
        if (!child) {
            dup2(spoken[1], STDERR_FILENO);
            close(spoken[1]);
            be_stopped(ready[1], in("report"), 0);
        }
        close(ready[1]);
        close(spoken[1]);
        char scratch[256] = "", text[512] = "";
        cr_assert_gt(read(ready[0], scratch, sizeof scratch - 1), 0);
        cr_assert(file_is_directory(scratch)); // the control: it was there
        cr_assert_eq(entries(directory), 2);
        kill(child, signals[i]);
        int status;
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 128 + signals[i], "status %d", status);
        size_t length = 0;
        ssize_t n;
        while ((n = read(spoken[0], text + length, sizeof text - 1 - length)) > 0)
            length += (size_t)n;
        cr_assert(strstr(text, "no file was left half-written") && strstr(text, "assay gate again"), "%s", text);
        cr_assert_not(file_exists(scratch));
        cr_assert_eq(entries(directory), 1);
        expect_text(in("report"), "old");
        close(ready[0]);
        close(spoken[0]);
    }
}

Test(files, a_signal_that_the_caller_ignores_ends_nothing)
{
    int ready[2];
    char scratch[256] = "";
    cr_assert_eq(pipe(ready), 0);
    const pid_t child = fork();
    if (!child)
        be_stopped(ready[1], in("report"), SIGHUP);
    close(ready[1]);
    cr_assert_gt(read(ready[0], scratch, sizeof scratch - 1), 0);
    kill(child, SIGHUP);
    kill(child, SIGTERM); // the lower number would be taken first
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGTERM, "status %d", status);
    close(ready[0]);
}

// A hole of a terabyte is refused for its size before anything is mapped or reserved for it.
Test(files, a_file_over_its_limit_is_refused_by_its_size_alone)
{
    struct error error = {0};
    char *path = file_join(&arena, directory, "sparse"), *text;
    uint64_t size;
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    cr_assert_eq(ftruncate(fd, INT64_C(1) << 42), 0);
    close(fd);
    cr_assert_eq(file_read(&arena, path, 1 << 20, &text, &size, &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "expected at most 1048576"), "%s", error.text);
}

// A file that shrinks under its mapping: the page that is gone cannot be read.
static void lose_a_page(const char *target, const char *mapped)
{
    struct output *output;
    struct file_map map;
    files_guard_maps();
    if (output_open(&output, target, NULL) || file_map_open(&map, mapped, NULL) || truncate(mapped, 1))
        _exit(1);
    const volatile unsigned char *bytes = map.bytes;
    _exit(bytes[0] == 'x' && bytes[map.size - 1] == 'x' ? 2 : 3);
}

Test(files, a_file_that_is_cut_under_its_mapping_is_a_runtime_error)
{
    enum { SIZE = 1 << 17 };
    static char text[SIZE + 1];
    int spoken[2], status;
    memset(text, 'x', SIZE);
    put(in("mapped"), text);
    cr_assert_eq(pipe(spoken), 0);
    const pid_t child = fork();
    if (!child) {
        dup2(spoken[1], STDERR_FILENO);
        lose_a_page(in("report"), in("mapped"));
    }
    close(spoken[1]);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == error_exit_status(ERROR_RUNTIME), "status %d", status);
    char said[512] = "";
    cr_assert_gt(read(spoken[0], said, sizeof said - 1), 0);
    cr_assert(strstr(said, "mapped: byte 131071 of 131072 can no longer be read"), "%s", said);
    cr_assert_eq(entries(directory), 1); // the output's temporary file has gone
}
