// bpe: byte-pair merging of one word, as Hugging Face `tokenizers` orders it.
//
// The pair of the lowest rank is merged first, the leftmost first among equals (Sennrich et al. 2016, with the order
// of the merge list as rank). Candidates stand in a heap and are checked when they come to the top: O(n log n) for a
// word of n bytes, whatever they are.
#ifndef ASSAY_TOKENS_BPE_H
#define ASSAY_TOKENS_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"

struct bpe_merge {
    uint32_t left, right, merged; // tokens in [0, n_tokens)
};

struct bpe_pair;

struct bpe {
    struct bpe_pair *pairs; // [mask + 1] by hash
    uint32_t mask;
};

// `merges` in order of rank, fewer than 2^30; of a pair that stands there twice the last counts. The table is in the
// arena; `merges` is not kept. `where` stands in messages. Refused: pairs chosen to collide. ERROR_RUNTIME when
// memory is exhausted.
int bpe_open(struct bpe *bpe, struct arena *arena, uint32_t n_tokens, const struct bpe_merge *merges,
             uint32_t n_merges, const char *where, struct error *error);

// The word being merged and the memory for it; {0} to begin with, grown as needed, used again for the next word.
struct bpe_word {
    uint32_t *tokens; // [capacity]
    struct bpe_link *links;
    struct bpe_candidate *heap;
    size_t capacity, n_heap;
};

// Room for a word of n tokens (at most 2^31 - 1).
int bpe_word_reserve(struct bpe_word *word, size_t n, struct error *error);
void bpe_word_close(struct bpe_word *word);

// Merges word->tokens[0, n) in place; returns how many tokens are left. n > 0 needs a word reserved for n.
size_t bpe_merge_word(const struct bpe *bpe, struct bpe_word *word, size_t n);

#endif
