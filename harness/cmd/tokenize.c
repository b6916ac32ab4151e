// assay tokenize: text to ids and back, as the model's own tokenizer does it.
#include "harness/model/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/json.h"
#include "harness/cmd/options.h"
#include "harness/run/suite.h"

static const struct option tokenize_options[] = {
    {"text", "TEXT", "print the ids of this text"},
    {"ids", "1,2,3|@FILE", "print the text of these ids"},
    {"no-special", NULL, "without the ids that the template adds (--text), without special tokens (--ids)"},
    {0},
};

static void print_json(struct arena *arena, struct tokenizer *tokenizer, const uint32_t *ids, size_t n, const char *text)
{
    printf("{\"ids\": [");
    for (size_t i = 0; i < n; i++)
        printf("%s%" PRIu32, i ? ", " : "", ids[i]);
    printf("], \"tokens\": [");
    for (size_t i = 0; i < n; i++) {
        const char *token = tokenizer_token(tokenizer, ids[i]);
        printf("%s%s", i ? ", " : "", token ? json_quote(arena, token) : "null");
    }
    printf("], \"text\": %s}\n", json_quote(arena, text));
}

static int tokenize(const struct options *options, struct arena *arena, struct tokenizer *tokenizer, struct error *error)
{
    const char *text = options_text(options, "text"), *list = options_text(options, "ids");
    const bool special = !options_flag(options, "no-special");
    // ids are checked against the tokenizer's own range; the model's vocabulary may be padded beyond it
    const struct config range = {.vocabulary = (uint32_t)tokenizer_size(tokenizer), .max_positions = UINT32_MAX};
    uint32_t *ids;
    size_t n, size;
    char *decoded;
    int code = list ? suite_parse_tokens(arena, list, &range, &ids, &n, error)
                    : tokenizer_encode(tokenizer, arena, text, strlen(text), special, &ids, &n, error);
    if (!code)
        code = tokenizer_decode(tokenizer, arena, ids, n, list && !special, &decoded, &size, error);
    if (code)
        return code;
    if (options->json) {
        print_json(arena, tokenizer, ids, n, decoded);
    } else if (list) {
        printf("%s\n", decoded);
    } else {
        for (size_t i = 0; i < n; i++)
            printf("%s%" PRIu32, i ? "," : "", ids[i]);
        printf("\n");
    }
    return 0;
}

static int run_tokenize(const struct options *options, struct error *error)
{
    struct arena arena = {0};
    struct tokenizer *tokenizer = NULL;
    if (!options_text(options, "text") == !options_text(options, "ids"))
        return error_set(error, ERROR_USAGE, "expected one of --text TEXT and --ids 1,2,3");
    const char *path = options->positional[0];
    if (file_is_directory(path))
        path = file_join(&arena, path, "tokenizer.json");
    int code = path ? tokenizer_open(&tokenizer, path, error) : error_set(error, ERROR_RUNTIME, "out of memory");
    if (!code)
        code = tokenize(options, &arena, tokenizer, error);
    tokenizer_close(&tokenizer);
    arena_close(&arena);
    return code;
}

const struct command command_tokenize = {
    "tokenize", "MODEL (--text TEXT | --ids IDS)", "text to token ids and back",
    "MODEL is a checkpoint directory, or a tokenizer.json.",
    "assay tokenize fixtures/models/lfm2-mini --text 'In the beginning'", tokenize_options, 1, 1, run_tokenize};
