// options: one table per command drives parsing, --help and error messages, so that they cannot disagree.
//
// A command is a file in this folder that defines `const struct command command_NAME`; main.c lists them.
#ifndef ASSAY_OPTIONS_H
#define ASSAY_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/isa.h"

struct option {
    const char *name;     // "suite": written --suite; "n": written -n
    const char *argument; // "FILE"; NULL: a flag
    const char *help;
};

struct options;

struct command {
    const char *name;
    const char *arguments;         // "MODEL --bundle DIR [options]"
    const char *summary;           // one line of `assay --help`
    const char *description;       // paragraph of `assay help NAME`
    const char *example;           // works on the fixtures, from the top of the source tree
    const struct option *options;  // ends with {0}; the common ones are added to every command
    unsigned least, most;          // positional arguments
    // An exit status >= 0 (0 pass, 1 fail, 3 not judged), or a negative enum error_code with its sentence.
    int (*run)(const struct options *options, struct error *error);
};

struct options {
    struct arena arena;
    const struct command *command;
    size_t n_positional;
    const char **positional;
    size_t n_given;
    const char **given;    // [2 n]: name, value ("" for a flag), in order
    // common to all commands
    unsigned threads;      // --threads N, default: all cores
    enum isa isa;          // --isa NAME, default: best
    bool json, quiet, verbose, help;
    const char *line;      // the whole command line, for reports
};

// argv[0] is the command's name. ERROR_USAGE names the argument and what is known. On success or failure the caller closes.
int options_parse(struct options *options, const struct command *command, int argc, char **argv, struct error *error);
void options_close(struct options *options);

const char *options_text(const struct options *options, const char *name); // last value given, or NULL
bool options_flag(const struct options *options, const char *name);
// --NAME as a whole number in [low, high]; `otherwise` when not given.
int options_number(const struct options *options, const char *name, long low, long high, long otherwise, long *out,
                   struct error *error);

// --mode: given tokens a call, as struct record says. ERROR_USAGE for anything but s1, batch and chunk:N, N >= 1.
int options_mode(const struct options *options, uint32_t otherwise, uint32_t *chunk, struct error *error);

void options_help(const struct command *command); // to standard output

#endif
