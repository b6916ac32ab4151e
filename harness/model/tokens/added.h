// added: tokens that are cut out of the text before it is split into words.
//
// Leftmost match, longest among those. `single_word` drops a match that touches a word character (the search goes on
// behind it); lstrip and rstrip take the white space beside it into the token.
#ifndef ASSAY_TOKENS_ADDED_H
#define ASSAY_TOKENS_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"

// Longest content. Each position of a text is compared with at most so many bytes, whatever the file says.
enum { ADDED_BYTES = 256 };

struct added_token {
    const char *content; // 1 to ADDED_BYTES bytes; of `normalized` tokens the normalized form
    uint32_t size;
    uint32_t token; // index in the vocabulary
    bool single_word, lstrip, rstrip;
};

struct added {
    struct added_token *tokens; // [n]
    size_t n;
    size_t first[257];    // tokens of first byte b are tokens[first[b], first[b + 1])
    struct pattern *word; // one character that ends a word search; needed (else NULL) when a token is single_word
};

// Sorts tokens[0, n), which the caller keeps alive, and builds `first`. Refused: two of the same content. `where`
// stands in messages.
int added_open(struct added *added, struct added_token *tokens, size_t n, const char *where, struct error *error);
void added_close(struct added *added);

struct added_cursor {
    size_t search; // where the next match may begin
    size_t done;   // end of what was given out
};
struct added_step {
    size_t plain, plain_size;        // text before the token; may be empty
    const struct added_token *token; // NULL: that was the rest of the text
};

// The next token of text[0, size) (valid UTF-8) and what stands before it. Begin with cursor {0}; 1: more may follow,
// 0: the last step, negative: an error.
int added_next(const struct added *added, const char *text, size_t size, struct added_cursor *cursor,
               struct added_step *step, struct error *error);

#endif
