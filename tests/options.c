// options: what a command line says, what is refused of it, and the line that a report prints to be pasted.
#include "harness/cmd/options.h"

#include <criterion/criterion.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const struct option known[] = {{"suite", "FILE", "cases"}, {"force", NULL, "flag"}, {0}};
static const struct command command = {.name = "gate", .arguments = "MODEL", .options = known, .most = 1000000};

static struct options options;
static struct error error;

static int parse(int n, const char *const *arguments)
{
    static char *copies[64];
    cr_assert_lt(n, 64);
    for (int i = 0; i < n; i++)
        copies[i] = (char *)(uintptr_t)arguments[i];
    options_close(&options);
    error = (struct error){0};
    return options_parse(&options, &command, n, copies, &error);
}

static void done(void)
{
    options_close(&options);
}

TestSuite(options, .fini = done);

Test(options, values_flags_and_positional_arguments)
{
    const char *const line[] = {"gate", "--suite", "a",   "m", "--suite=b=c", "--force", "--threads",
                                "3",    "--",      "--x", "-"};
    cr_assert_eq(parse(11, line), 0, "%s", error.text);
    cr_assert_eq(options.n_positional, 3);
    cr_assert_str_eq(options.positional[1], "--x");
    cr_assert_str_eq(options_text(&options, "suite"), "b=c"); // the last one
    cr_assert(options_flag(&options, "force") && !options.quiet);
    cr_assert_eq(options.threads, 3);
}

Test(options, what_is_not_known_is_refused)
{
    static const char *const bad[][3] = {
        {"gate", "--siute", "x"},      {"gate", "--suit", "x"},     {"gate", "--", NULL},
        {"gate", "m", "--suite"},      {"gate", "--force=1", "m"},  {"gate", "-x", "m"},
        {"gate", "--threads=0", "m"},  {"gate", "--threads=", "m"}, {"gate", "--threads=9999999999999999999999", "m"},
        {"gate", "--threads=2x", "m"}, {"gate", "--isa=mmx", "m"},  {"gate", "--=", "m"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const int n = bad[i][2] ? 3 : 2;
        const int expected = bad[i][2] ? ERROR_USAGE : 0; // "--" alone is the control
        cr_expect_eq(parse(n, bad[i]), expected, "%s %s: %s", bad[i][1], n > 2 ? bad[i][2] : "", error.text);
    }
}

// What a shell makes of the line is what was given: no word of a file's name or a text becomes a command of its own.
Test(options, a_quote_in_a_name_does_not_leave_the_quotes_of_the_line)
{
    const char *const line[] = {"gate", "it's; touch owned #'$(id)`id`", "", "plain/name_1.json", "~", "*", "a\\b"};
    char script[512], output[512];
    cr_assert_eq(parse(7, line), 0, "%s", error.text);
    cr_assert_eq(strncmp(options.line, "assay gate ", 11), 0);
    snprintf(script, sizeof script, "printf '%%s\\n' %s", options.line + strlen("assay "));
    FILE *shell = popen(script, "r");
    const size_t size = fread(output, 1, sizeof output - 1, shell);
    output[size] = '\0';
    cr_assert_eq(pclose(shell), 0);
    cr_assert_str_eq(output, "gate\nit's; touch owned #'$(id)`id`\n\nplain/name_1.json\n~\n*\na\\b\n");
    cr_assert(strstr(options.line, " plain/name_1.json "), "%s", options.line); // not quoted without need
}

// Each argument once more copied the whole line: 20,000 file names took 20,000 x 0.5 MB.
Test(options, the_line_of_many_arguments_takes_memory_once)
{
    enum { N = 20000 };
    static char *names[N];
    names[0] = "gate";
    for (int i = 1; i < N; i++)
        names[i] = "fixtures/models/lfm2";
    cr_assert_eq(options_parse(&options, &command, N, names, &error), 0, "%s", error.text);
    cr_assert_lt(options.arena.bytes, 200 * (size_t)N);
}
