#include <criterion/criterion.h>

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "runtime/staging.h"

static struct arena arena;
static char *directory;
static const char *target;

static void make_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
    target = file_join(&arena, directory, "bundle");
}

static void remove_directory(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(staging, .init = make_directory, .fini = remove_directory);

static size_t entries(void)
{
    size_t n = 0;
    DIR *stream = opendir(directory);
    while (readdir(stream))
        n++;
    closedir(stream);
    return n - 2;
}

static struct staging *staged(const char *text)
{
    struct staging *staging;
    struct output *output;
    struct error error = {0};
    cr_assert_eq(staging_open(&staging, target, &error), 0, "%s", error.text);
    cr_assert_eq(output_open(&output, file_join(&arena, staging_path(staging), "file"), &error), 0, "%s", error.text);
    output_append(output, text, strlen(text));
    cr_assert_eq(output_commit(&output, &error), 0, "%s", error.text);
    return staging;
}

static void holds(const char *expected)
{
    char *text;
    uint64_t size;
    struct error error = {0};
    cr_assert_eq(file_read(&arena, file_join(&arena, target, "file"), 100, &text, &size, &error), 0, "%s",
                 error.text);
    cr_assert_str_eq(text, expected);
}

Test(staging, nothing_bears_the_name_before_the_commit)
{
    struct staging *staging = staged("new");
    cr_assert_not(file_exists(target));
    cr_assert_eq(staging_commit(&staging, NULL), 0);
    cr_assert_null(staging);
    holds("new");
    cr_assert_eq(entries(), 1);
}

Test(staging, an_old_directory_is_replaced_as_a_whole)
{
    struct staging *staging = staged("old");
    cr_assert_eq(staging_commit(&staging, NULL), 0);
    cr_assert_eq(directory_make(file_join(&arena, target, "only-in-the-old-one"), NULL), 0);
    staging = staged("new");
    holds("old");
    cr_assert_eq(staging_commit(&staging, NULL), 0);
    holds("new");
    cr_assert_not(file_exists(file_join(&arena, target, "only-in-the-old-one")));
    cr_assert_eq(entries(), 1);
}

Test(staging, an_abandoned_one_leaves_the_old_directory_and_nothing_else)
{
    struct staging *staging = staged("old");
    cr_assert_eq(staging_commit(&staging, NULL), 0);
    staging = staged("new");
    staging_abandon(&staging);
    cr_assert_null(staging);
    staging_abandon(&staging);
    holds("old");
    cr_assert_eq(entries(), 1);
}

Test(staging, a_signal_leaves_the_old_directory_and_nothing_else)
{
    struct staging *staging = staged("old");
    cr_assert_eq(staging_commit(&staging, NULL), 0);
    const pid_t child = fork();
    if (!child) {
        close(STDERR_FILENO); // the line that says so
        files_guard_signals("");
        if (staging_open(&staging, target, NULL))
            _exit(1);
        kill(getpid(), SIGTERM);
        for (;;)
            pause();
    }
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGTERM, "status %d", status);
    holds("old");
    cr_assert_eq(entries(), 1);
}

Test(staging, a_link_stays_a_link_to_the_new_directory)
{
    struct staging *staging = staged("old");
    const char *link = file_join(&arena, directory, "link");
    cr_assert_eq(staging_commit(&staging, NULL), 0);
    cr_assert_eq(symlink("bundle", link), 0);
    const char *real = target;
    target = link;
    staging = staged("new");
    cr_assert_eq(staging_commit(&staging, NULL), 0);
    target = real;
    holds("new");
    char text[16] = "";
    cr_assert_eq(readlink(link, text, sizeof text - 1), 6);
}

Test(staging, a_failure_inside_is_told_of_the_target)
{
    struct staging *staging = staged("new");
    struct output *output;
    struct error error = {0};
    const char *inside = file_join(&arena, staging_path(staging), "absent/file");
    cr_assert_neq(output_open(&output, inside, &error), 0);
    const int code = error.code;
    staging_rename_error(staging, &error);
    cr_assert_eq(error.code, code);
    cr_assert_not_null(strstr(error.text, "/bundle/absent/file"), "%s", error.text);
    cr_assert_null(strstr(error.text, ".part"));
    staging_abandon(&staging);
}

Test(staging, what_is_no_directory_is_refused)
{
    struct staging *staging;
    struct error error = {0};
    cr_assert_eq(staging_open(&staging, "/dev/null", &error), ERROR_USAGE);
    cr_assert_not_null(strstr(error.text, "is no directory"));
    cr_assert_null(staging);
    cr_assert_eq(staging_open(&staging, "/dev/null/below", &error), ERROR_USAGE);
    cr_assert_eq(staging_open(&staging, "", &error), ERROR_USAGE);
}
