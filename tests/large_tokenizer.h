// large_tokenizer: a tokenizer.json as large as a released one, made in a second from a seed, and what each of its
// words must become.
//
// Merges are added one at a time, and only when the merges before make exactly its two parts of their joint text. So
// each token's own text becomes that token, whatever is added later: a word's ids are known without the tokenizer
// that is tested. The way here (scan for the lowest rank, again and again) and the tables are this file's own.
#ifndef ASSAY_TESTS_LARGE_TOKENIZER_H
#define ASSAY_TESTS_LARGE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"

enum large_kind {
    LARGE_LFM2, // special tokens first, BOS 1, digits in groups of three, no normalizer
    LARGE_QWEN, // added tokens last, no BOS, digits one by one, marks join letters, NFC
};

enum { LARGE_BYTES = 24, LARGE_SPECIALS = 33 };

struct large_token {
    unsigned char bytes[LARGE_BYTES];
    uint8_t size;
    bool word; // letters, perhaps after one space: a word of its own between line ends
};

struct large_merge {
    uint32_t left, right; // tokens; of two made token 256 + rank
};

struct large {
    struct arena arena;
    enum large_kind kind;
    uint32_t n;                 // tokens of the merges, the 256 bytes first
    uint32_t first;             // id of token 0
    uint32_t first_added;       // id of the first of LARGE_SPECIALS added tokens
    struct large_token *tokens; // [n]
    struct large_merge *merges; // [n - 256] by rank
    struct large_slot *pairs;
    uint32_t mask, state; // of the table; of the random numbers
};

// All ids from 0 to n_ids - 1 have a token. On failure *large is NULL.
int large_open(struct large **large, enum large_kind kind, uint32_t n_ids, struct error *error);
void large_close(struct large **large);

// The content of added token i < LARGE_SPECIALS; some are not special.
const char *large_added(const struct large *large, uint32_t i, bool *special);

// tokenizer.json, without the merge of rank `left_out` (n: all of them).
int large_write(const struct large *large, const char *path, uint32_t left_out, struct error *error);

// A text and the ids that it must become, in the arena of `large`.
struct large_text {
    char *text;
    uint32_t *ids;
    size_t size, n;
};

// Every token that is a word, each on its own line. ids: the token's, the line end's.
int large_every_word(struct large *large, struct large_text *out, struct error *error);
// At least `size` bytes of words of one to three tokens each and, now and then, added tokens. `even`: all tokens are
// equally likely, so that hardly a table line is read twice; else early ones are likelier, as in a language.
int large_prose(struct large *large, size_t size, bool even, struct large_text *out, struct error *error);

#endif
