// assay: how much of an fp32 model is left in an int8 bundle?
//
//  checkpoint > model > engines (reference, runtime, foreign traces) > compare > gate > report
//
// The commands in the order of that flow; each is one file in harness/cmd. Only this file exits.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/error.h"
#include "harness/base/files.h"
#include "harness/base/floating.h"
#include "harness/cmd/options.h"
#include "harness/run/engine.h"

extern const struct command command_inspect, command_tokenize, command_quantize, command_validate, command_trace,
    command_compare, command_gate, command_synth, command_bench;

static const struct command *const commands[] = {&command_inspect, &command_tokenize, &command_quantize, &command_validate,
                                                 &command_trace, &command_compare, &command_gate,
                                                 &command_synth, &command_bench};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static const struct command *find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i]->name, name))
            return commands[i];
    return NULL;
}

static int usage(FILE *stream, int status)
{
    fprintf(stream, "assay %s: judges int8 bundles of language models against their fp32 checkpoints\n\nassay COMMAND ...\n",
            ASSAY_VERSION);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(stream, "  %-9s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(stream, "  %-9s %s\n\nfamilies, by config.json's model_type:\n  %s\n\nexample:\n  %s\n", "help",
            "one command's options and an example: assay help gate",
            "lfm2, lfm2_moe, qwen3_5, qwen3_5_text, qwen3_5_moe, qwen3_5_moe_text", command_gate.example);
    return status;
}

static int fail(const char *name, const struct error *error)
{
    fprintf(stderr, "assay %s: %s\n", name, error->text);
    return error_exit_status(error->code);
}

static int run(const struct command *command, int argc, char **argv)
{
    struct error error = {0};
    struct options options;
    int status = options_parse(&options, command, argc, argv, &error);
    if (!status && options.help)
        options_help(command);
    else if (!status)
        status = command->run(&options, &error);
    options_close(&options);
    errno = 0;
    if (status >= 0 && (fflush(stdout) != 0 || ferror(stdout))) {
        if (errno == EPIPE) // the reader has seen enough and needs no sentence
            return error_exit_status(ERROR_RUNTIME);
        status = error_set(&error, ERROR_RUNTIME, "standard output: cannot write; is the disk full?");
    }
    return status < 0 ? fail(command->name, &error) : status;
}

int main(int argc, char **argv)
{
    struct error error = {0};
    signal(SIGPIPE, SIG_IGN); // a reader that goes away is an exit status, not a death
    files_guard_maps();
    if (floating_selftest(&error))
        return fail("self-test", &error);
    if (argc < 2)
        return usage(stderr, 2);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || (!strcmp(argv[1], "help") && argc == 2))
        return usage(stdout, 0);
    if (!strcmp(argv[1], "--version")) {
        puts("assay " ASSAY_VERSION);
        return 0;
    }
    const bool help = !strcmp(argv[1], "help");
    const char *name = argv[help ? 2 : 1];
    const struct command *command = find(name);
    if (!command) {
        fprintf(stderr, "assay: '%s' is no command. See: assay --help\n", name);
        return 2;
    }
    if (help) {
        options_help(command);
        return 0;
    }
    return run(command, argc - 1, argv + 1);
}
