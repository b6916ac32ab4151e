#include "harness/model/tokens/added.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "harness/model/tokens/pattern.h"
#include "harness/model/tokens/text.h"

static int compare_contents(const void *left, const void *right)
{
    const struct added_token *a = left, *b = right;
    const size_t shorter = a->size < b->size ? a->size : b->size;
    const int order = memcmp(a->content, b->content, shorter);
    return order ? order : (a->size > b->size) - (a->size < b->size);
}

int added_open(struct added *added, struct added_token *tokens, size_t n, const char *where, struct error *error)
{
    *added = (struct added){.tokens = tokens, .n = n};
    if (n)
        qsort(tokens, n, sizeof *tokens, compare_contents);
    bool words = false;
    for (size_t i = 0; i < n; i++) {
        assert(tokens[i].size && tokens[i].size <= ADDED_BYTES);
        char shown[TEXT_SHOWN];
        if (i && !compare_contents(&tokens[i - 1], &tokens[i]))
            return error_set(error, ERROR_INPUT,
                             "%s: added token \"%s\" stands twice (once normalized), expected once", where,
                             text_shown(shown, tokens[i].content, tokens[i].size));
        added->first[(unsigned char)tokens[i].content[0] + 1]++;
        words |= tokens[i].single_word;
    }
    for (size_t byte = 0; byte < 256; byte++)
        added->first[byte + 1] += added->first[byte];
    return words ? pattern_open_word(&added->word, error) : 0;
}

void added_close(struct added *added)
{
    pattern_close(&added->word);
}

// First of tokens[low, high), all with equal bytes before `at`, whose byte at `at` is `byte` or more. A content that
// ends at `at` sorts before all bytes.
static size_t lower_bound(const struct added *added, size_t low, size_t high, size_t at, unsigned byte)
{
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const struct added_token *token = &added->tokens[middle];
        if (token->size > at && (unsigned char)token->content[at] >= byte)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// The longest token that the text begins with, or NULL.
static const struct added_token *longest(const struct added *added, const char *text, size_t size)
{
    size_t low = added->first[(unsigned char)text[0]], high = added->first[(unsigned char)text[0] + 1];
    const struct added_token *best = NULL;
    for (size_t at = 1; low < high; at++) {
        if (added->tokens[low].size == at)
            best = &added->tokens[low];
        if (at == size)
            break;
        const unsigned byte = (unsigned char)text[at];
        low = lower_bound(added, low, high, at, byte);
        high = lower_bound(added, low, high, at, byte + 1);
    }
    return best;
}

// Start of the character that ends before `end` > 0.
static size_t character_before(const char *text, size_t end)
{
    do
        end--;
    while (end && ((unsigned char)text[end] & 0xC0) == 0x80);
    return end;
}

// Whether text[start, stop) stands alone: 1, 0, or an error.
static int stands_alone(const struct added *added, const char *text, size_t size, size_t start, size_t stop,
                        struct error *error)
{
    int touches = 0;
    if (start) {
        const size_t before = character_before(text, start);
        touches = pattern_matches(added->word, text + before, start - before, error);
    }
    if (!touches && stop < size) {
        uint32_t code;
        touches = pattern_matches(added->word, text + stop, text_character(text + stop, size - stop, &code), error);
    }
    return touches < 0 ? touches : !touches;
}

static size_t skip_space_left(const char *text, size_t start)
{
    while (start) {
        const size_t before = character_before(text, start);
        uint32_t code;
        text_character(text + before, start - before, &code);
        if (!text_is_space(code))
            break;
        start = before;
    }
    return start;
}

static size_t skip_space_right(const char *text, size_t size, size_t stop)
{
    while (stop < size) {
        uint32_t code;
        const size_t length = text_character(text + stop, size - stop, &code);
        if (!text_is_space(code))
            break;
        stop += length;
    }
    return stop;
}

int added_next(const struct added *added, const char *text, size_t size, struct added_cursor *cursor,
               struct added_step *step, struct error *error)
{
    for (size_t at = cursor->search; added->n && at < size; at++) {
        const struct added_token *token = longest(added, text + at, size - at);
        if (!token)
            continue;
        size_t start = at, stop = at + token->size;
        at = stop - 1;
        if (token->single_word) {
            const int alone = stands_alone(added, text, size, start, stop, error);
            if (alone < 0)
                return alone;
            if (!alone)
                continue;
        }
        cursor->search = stop;
        if (token->lstrip)
            start = skip_space_left(text, start);
        if (token->rstrip)
            stop = skip_space_right(text, size, stop);
        // an rstrip before may have taken more than the space between: a token of white space itself
        const size_t plain_size = start > cursor->done ? start - cursor->done : 0;
        *step = (struct added_step){cursor->done, plain_size, token};
        cursor->done = stop;
        return 1;
    }
    *step = (struct added_step){cursor->done, size - cursor->done, NULL};
    return 0;
}
