#include <string.h>

#include "harness/base/files.h"
#include "harness/run/suite.h"

enum { TOKENS_BYTES = 64 << 20 };

int suite_parse_tokens(struct arena *arena, const char *argument, const struct config *config, uint32_t **tokens,
                       size_t *n, struct error *error)
{
    char *text = NULL;
    uint64_t size = 0;
    if (*argument == '@') {
        const int result = file_read(arena, argument + 1, TOKENS_BYTES, &text, &size, error);
        if (result)
            return result;
        if (strlen(text) != size)
            return error_set(error, ERROR_INPUT, "%s: a NUL byte at offset %zu, expected token ids", argument + 1,
                             strlen(text));
    }
    const char *at = text ? text : argument;
    const size_t room = strlen(at) / 2 + 1; // a digit and a separator each
    uint32_t *ids = arena_alloc(arena, room, sizeof *ids);
    if (!ids)
        return error_set(error, ERROR_RUNTIME, "no memory for the token ids of --tokens");
    size_t count = 0;
    for (;;) {
        const char *end = at; // of the id before
        at += strspn(at, " \t\r\n");
        const bool comma = count && *at == ',';
        if (comma)
            at += 1 + strspn(at + 1, " \t\r\n");
        if (!*at && !comma) // white space may end the list, a comma may not
            break;
        const size_t digits = strspn(at, "0123456789");
        uint64_t id = 0;
        for (size_t i = 0; i < digits && id < UINT32_MAX; i++)
            id = 10 * id + (uint64_t)(at[i] - '0');
        if (!digits || (count && at == end))
            return error_set(error, ERROR_USAGE,
                             "--tokens: found '%.20s' after %zu ids, expected ids separated by commas or "
                             "white space, like 1,2,3",
                             at, count);
        if (id >= config->vocabulary)
            return error_set(error, ERROR_USAGE, "--tokens: id %.20s at index %zu, the model has ids 0 to %u", at,
                             count, config->vocabulary - 1);
        ids[count++] = (uint32_t)id;
        at += digits;
    }
    if (!count || count > config->max_positions)
        return error_set(error, ERROR_USAGE, "--tokens: %zu ids, expected 1 to %u", count, config->max_positions);
    *tokens = ids;
    *n = count;
    return 0;
}
