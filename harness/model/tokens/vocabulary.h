// vocabulary: tokens by text and by id.
#ifndef ASSAY_TOKENS_VOCABULARY_H
#define ASSAY_TOKENS_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"

#define VOCABULARY_NONE UINT32_MAX
// Four times the largest published vocabulary. It bounds the table of ids, which a hostile file could ask to be 16
// GB.
enum { VOCABULARY_IDS = 1 << 22 };

struct token {
    const char *text;   // as stored, NUL-terminated
    const char *spoken; // what decoding starts from: `text`, or its normalized form
    uint32_t size, spoken_size;
    uint32_t id;
    bool added;   // is in added_tokens
    bool special; // left out by skip_special
};

struct vocabulary {
    const char *where; // for messages
    uint32_t n, capacity;
    struct token *tokens; // in the order of the file; an index here is what bpe and added tokens use
    uint32_t n_ids;       // highest id + 1
    uint32_t *of_id;      // [n_ids] index or VOCABULARY_NONE; after vocabulary_seal
    uint32_t *slots;      // [slot_mask + 1] index or VOCABULARY_NONE
    uint32_t slot_mask;
    size_t longest; // bytes of the longest text
};

// An empty vocabulary for up to `capacity` tokens, in the arena. `where` stands in messages and outlives the
// vocabulary.
int vocabulary_open(struct vocabulary *vocabulary, struct arena *arena, uint32_t capacity, const char *where,
                    struct error *error);
// Adds a token; `text` (size bytes, NUL-terminated) must outlive the vocabulary. Refused: an id of VOCABULARY_IDS or
// more, a text that is there already, texts chosen to collide. At most `capacity` calls.
int vocabulary_add(struct vocabulary *vocabulary, const char *text, size_t size, uint32_t id, struct error *error);
// After the last add: the table of ids. Refused: two tokens of one id.
int vocabulary_seal(struct vocabulary *vocabulary, struct arena *arena, struct error *error);

// Index of a text, or VOCABULARY_NONE.
uint32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t size);
// The token of an id, or NULL.
static inline const struct token *vocabulary_token(const struct vocabulary *vocabulary, uint32_t id)
{
    return id < vocabulary->n_ids && vocabulary->of_id[id] != VOCABULARY_NONE
               ? &vocabulary->tokens[vocabulary->of_id[id]]
               : 0;
}

#endif
