#include "harness/cmd/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/pool.h"
#include "harness/run/record.h"

static const struct option common[] = {
    {"threads", "N", "threads; the bits do not depend on it (default: all cores)"},
    {"isa", "NAME", "scalar, avx2, avx512 or neon; the bits do not depend on it (default: the best here)"},
    {"json", NULL, "print the result as JSON"},
    {"quiet", NULL, "no progress on standard error"},
    {"verbose", NULL, "say what is done (also -v)"},
    {"help", NULL, "this page"},
    {0},
};

static const struct option *find(const struct option *table, const char *name, size_t length)
{
    for (; table && table->name; table++)
        if (strlen(table->name) == length && !strncmp(table->name, name, length))
            return table;
    return NULL;
}

static int unknown(const struct command *command, const char *argument, struct error *error)
{
    return error_set(error, ERROR_USAGE, "%s: unknown option for `assay %s`. See: assay help %s", argument, command->name,
                     command->name);
}

static int read_common(struct options *options, struct error *error)
{
    long threads;
    int code = options_number(options, "threads", 1, 1024, (long)pool_default_threads(), &threads, error);
    if (code)
        return code;
    options->threads = (unsigned)threads;
    options->isa = isa_best();
    if (options_text(options, "isa") && (code = isa_parse(options_text(options, "isa"), &options->isa, error)))
        return code;
    options->json = options_flag(options, "json");
    options->quiet = options_flag(options, "quiet");
    options->verbose = options_flag(options, "verbose");
    options->help = options_flag(options, "help");
    return 0;
}

// As a shell needs it, so that the line can be pasted whatever a file or a text is called. Returns the new end.
static char *put_quoted(char *out, const char *argument)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=,@+-";
    if (*argument && !argument[strspn(argument, plain)])
        return stpcpy(out, argument);
    *out++ = '\'';
    for (; *argument; argument++)
        if (*argument == '\'')
            out = stpcpy(out, "'\\''");
        else
            *out++ = *argument;
    *out++ = '\'';
    *out = '\0';
    return out;
}

static char *command_line(struct arena *arena, int argc, char **argv)
{
    size_t room = sizeof "assay";
    for (int i = 0; i < argc; i++)
        room += strlen(" ''") + strlen("'\\''") * strlen(argv[i]);
    char *line = arena_alloc(arena, room, 1);
    char *end = line ? stpcpy(line, "assay") : NULL;
    for (int i = 0; i < argc && line; i++) {
        *end++ = ' ';
        end = put_quoted(end, argv[i]);
    }
    return line;
}

int options_parse(struct options *options, const struct command *command, int argc, char **argv, struct error *error)
{
    memset(options, 0, sizeof *options);
    options->command = command;
    options->positional = arena_alloc(&options->arena, (size_t)argc, sizeof *options->positional);
    options->given = arena_alloc(&options->arena, 2 * (size_t)argc, sizeof *options->given);
    options->line = command_line(&options->arena, argc, argv);
    if (!options->positional || !options->given || !options->line)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    bool only_positional = false;
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (only_positional || argument[0] != '-' || !argument[1]) {
            options->positional[options->n_positional++] = argument;
            continue;
        }
        if (!strcmp(argument, "--")) {
            only_positional = true;
            continue;
        }
        if (!strcmp(argument, "-v") || !strcmp(argument, "-h"))
            argument = argument[1] == 'v' ? "--verbose" : "--help";
        const bool letter = argument[1] != '-'; // -n 9: an option whose whole name is one letter
        if (letter && argument[2])
            return unknown(command, argument, error);
        const char *name = argument + (letter ? 1 : 2), *equals = strchr(name, '=');
        const size_t length = equals ? (size_t)(equals - name) : strlen(name);
        const struct option *option = (length == 1) == letter ? find(command->options, name, length) : NULL;
        if (!option && !letter)
            option = find(common, name, length);
        if (!option)
            return unknown(command, argument, error);
        if (!option->argument && equals)
            return error_set(error, ERROR_USAGE, "--%s takes no value, found '%s'", option->name, equals + 1);
        if (option->argument && !equals && i + 1 == argc)
            return error_set(error, ERROR_USAGE, "%s: expected %s after it, found the end of the command", argument,
                             option->argument);
        options->given[2 * options->n_given] = option->name;
        options->given[2 * options->n_given++ + 1] = !option->argument ? "" : equals ? equals + 1 : argv[++i];
    }
    const int code = read_common(options, error);
    if (code || options->help)
        return code;
    if (options->n_positional < command->least || options->n_positional > command->most)
        return error_set(error, ERROR_USAGE, "expected: assay %s %s; found %zu argument%s before the options. See: assay help %s",
                         command->name, command->arguments, options->n_positional, options->n_positional == 1 ? "" : "s",
                         command->name);
    return 0;
}

void options_close(struct options *options)
{
    arena_close(&options->arena);
    memset(options, 0, sizeof *options);
}

const char *options_text(const struct options *options, const char *name)
{
    for (size_t i = options->n_given; i-- > 0;)
        if (!strcmp(options->given[2 * i], name))
            return options->given[2 * i + 1];
    return NULL;
}

bool options_flag(const struct options *options, const char *name)
{
    return options_text(options, name) != NULL;
}

int options_number(const struct options *options, const char *name, long low, long high, long otherwise, long *out,
                   struct error *error)
{
    const char *text = options_text(options, name);
    *out = otherwise;
    if (!text)
        return 0;
    char *end;
    errno = 0;
    const long value = strtol(text, &end, 10);
    if (!*text || *end || errno || value < low || value > high)
        return error_set(error, ERROR_USAGE, "%s%s: expected a whole number from %ld to %ld, found '%s'",
                         name[1] ? "--" : "-", name, low, high, text);
    *out = value;
    return 0;
}

static void print_options(const struct option *option)
{
    for (; option && option->name; option++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s", option->name[1] ? "--" : "-", option->name,
                 option->argument ? " " : "",
                 option->argument ? option->argument : "");
        printf("  %-22s %s\n", left, option->help);
    }
}

int options_mode(const struct options *options, uint32_t otherwise, uint32_t *chunk, struct error *error)
{
    const char *mode = options_text(options, "mode");
    *chunk = otherwise;
    if (!mode)
        return 0;
    if (!strcmp(mode, "s1") || !strcmp(mode, "batch")) {
        *chunk = mode[0] == 's' ? 1 : RECORD_BATCH;
        return 0;
    }
    char *end = NULL;
    const bool counted = !strncmp(mode, "chunk:", 6) && mode[6] >= '1' && mode[6] <= '9' && strlen(mode) <= 15;
    const unsigned long n = counted ? strtoul(mode + 6, &end, 10) : 0;
    if (!n || *end || n >= RECORD_BATCH)
        return error_set(error, ERROR_USAGE, "--mode %s: expected s1, batch or chunk:N with N of 1 or more", mode);
    *chunk = (uint32_t)n;
    return 0;
}

void options_help(const struct command *command)
{
    printf("assay %s %s\n\n%s\n\n", command->name, command->arguments, command->description);
    print_options(command->options);
    print_options(common);
    printf("\nexample:\n  %s\n", command->example);
}
