// assay tokenize: text to ids, ids to text. Only tokenizer.json is opened.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/json.h"
#include "harness/cmd/options.h"
#include "harness/model/tokenizer.h"

static const struct option tokenize_options[] = {
    {"text", "TEXT", "print its ids, separated by commas"},
    {"ids", "1,2,3", "print the text that these ids stand for"},
    {"no-special", NULL, "with --text: without the ids that the tokenizer puts around a text (BOS)"},
    {0},
};

// MODEL/tokenizer.json, BUNDLE/tokenizer/tokenizer.json, or the file itself.
static int find_tokenizer(struct arena *arena, const char *model, const char **path, struct error *error)
{
    const char *inside = file_join(arena, model, "tokenizer.json");
    const char *bundled = file_join(arena, model, "tokenizer/tokenizer.json");
    if (!inside || !bundled)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    *path = !file_is_directory(model) ? model : file_exists(inside) ? inside : bundled;
    if (file_exists(*path))
        return 0;
    if (*path == model)
        return error_set(error, ERROR_INPUT,
                         "%s: there is no such file or directory, expected a checkpoint, a bundle or a "
                         "tokenizer.json",
                         model);
    return error_set(error, ERROR_INPUT,
                     "%s: has no tokenizer.json, expected one there or in its tokenizer/ directory", model);
}

static int parse_ids(struct arena *arena, const char *list, uint32_t **ids, size_t *n, struct error *error)
{
    *n = 0;
    *ids = arena_alloc(arena, strlen(list) / 2 + 1, sizeof **ids); // a digit and a comma each
    if (!*ids)
        return error_set(error, ERROR_RUNTIME, "out of memory for the ids");
    for (const char *at = list;; at++) {
        char *end;
        errno = 0;
        const unsigned long id = strtoul(at, &end, 10);
        if (*at < '0' || *at > '9' || errno || id > UINT32_MAX || (*end && *end != ','))
            return error_set(error, ERROR_USAGE,
                             "--ids %.60s: found \"%.20s\", expected whole numbers separated by commas", list, at);
        (*ids)[(*n)++] = (uint32_t)id;
        at = end;
        if (!*at)
            return 0;
    }
}

static void print_ids(const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        printf("%s%" PRIu32, i ? "," : "", ids[i]);
}

// A JSON string of a text that may hold NUL.
static void print_quoted(struct arena *arena, const char *text, size_t size)
{
    putchar('"');
    for (size_t at = 0; at <= size; at += strlen(text + at) + 1) {
        const char *quoted = json_quote(arena, text + at);
        printf("%s%.*s", at ? "\\u0000" : "", quoted ? (int)strlen(quoted) - 2 : 0, quoted ? quoted + 1 : "");
    }
    putchar('"');
}

static void print_json(struct arena *arena, const struct tokenizer *tokenizer, const uint32_t *ids, size_t n,
                       const char *text, size_t size)
{
    printf("{\"ids\":[");
    print_ids(ids, n);
    printf("],\"tokens\":[");
    for (size_t i = 0; i < n; i++) {
        const char *token = tokenizer_token(tokenizer, ids[i]);
        printf("%s", i ? "," : "");
        print_quoted(arena, token, strlen(token));
    }
    printf("],\"text\":");
    print_quoted(arena, text, size);
    printf("}\n");
}

static int tokenize(const struct options *options, struct tokenizer *tokenizer, struct arena *arena,
                    struct error *error)
{
    const char *given = options_text(options, "text"), *list = options_text(options, "ids");
    uint32_t *ids;
    size_t n, size;
    char *text;
    int code = given ? tokenizer_encode(tokenizer, arena, given, strlen(given), !options_flag(options, "no-special"),
                                        &ids, &n, error)
                     : parse_ids(arena, list, &ids, &n, error);
    if (!code) // ids without a token are found here
        code = tokenizer_decode(tokenizer, arena, ids, n, false, &text, &size, error);
    if (code)
        return code;
    if (options->json) {
        print_json(arena, tokenizer, ids, n, text, size);
    } else if (given) {
        print_ids(ids, n);
        putchar('\n');
    } else {
        fwrite(text, 1, size, stdout);
        putchar('\n');
    }
    return 0;
}

static int run_tokenize(const struct options *options, struct error *error)
{
    if (!options_text(options, "text") == !options_text(options, "ids"))
        return error_set(error, ERROR_USAGE, "expected either --text TEXT or --ids 1,2,3");
    struct arena arena = {0};
    struct tokenizer *tokenizer = NULL;
    const char *path = NULL;
    int code = find_tokenizer(&arena, options->positional[0], &path, error);
    if (!code)
        code = tokenizer_open(&tokenizer, path, error);
    if (!code)
        code = tokenize(options, tokenizer, &arena, error);
    tokenizer_close(&tokenizer);
    arena_close(&arena);
    return code;
}

const struct command command_tokenize = {"tokenize",
                                         "MODEL|BUNDLE (--text TEXT | --ids IDS)",
                                         "text to token ids, token ids to text",
                                         "Reads tokenizer.json of a checkpoint or a bundle (or the file itself). "
                                         "With --json: ids, the tokens as stored, and the text\n"
                                         "that the ids decode to.",
                                         "assay tokenize fixtures/models/lfm2-mini --text 'In the beginning'",
                                         tokenize_options,
                                         1,
                                         1,
                                         run_tokenize};
