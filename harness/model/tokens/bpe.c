#include "harness/model/tokens/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX // no neighbour; as a token: merged into the one on its left

// The table is at most half full, where the pairs of a real vocabulary need about 20 steps in half a million; pairs
// chosen to collide would need one step for each pair before them.
enum { PROBES = 1024 };

// left is NONE in a free slot.
struct bpe_pair {
    uint32_t left, right, rank, merged;
};

struct bpe_link {
    uint32_t previous, next;
};

struct bpe_candidate {
    uint64_t order; // rank in the high half, position of the left token in the low half
    uint32_t left, right, merged;
};

// The slot that holds the pair, or the free one where it belongs; NULL when neither is near. One line of cache a
// look-up, as a rule: a merge list of 250,000 is far larger than the caches.
static inline struct bpe_pair *find_slot(struct bpe_pair *pairs, uint32_t mask, uint32_t left, uint32_t right)
{
    uint64_t hash = ((uint64_t)left << 32 | right) * UINT64_C(0x9E3779B97F4A7C15);
    hash = (hash ^ hash >> 32) * UINT64_C(0xD6E8FEB86659FD93);
    uint32_t slot = (uint32_t)(hash >> 32) & mask;
    for (uint32_t probe = 0; probe < PROBES; probe++) {
        struct bpe_pair *pair = &pairs[slot];
        if (pair->left == NONE || (pair->left == left && pair->right == right))
            return pair;
        slot = (slot + 1) & mask;
    }
    return NULL;
}

int bpe_open(struct bpe *bpe, struct arena *arena, uint32_t n_tokens, const struct bpe_merge *merges,
             uint32_t n_merges, const char *where, struct error *error)
{
    assert(n_merges <= INT32_MAX / 2);
    uint32_t n_slots = 16;
    while (n_slots < 2 * n_merges)
        n_slots *= 2;
    struct bpe_pair *pairs = arena_alloc(arena, n_slots, sizeof *pairs);
    if (!pairs)
        return error_set(error, ERROR_RUNTIME, "%s: out of memory for %u merges", where, n_merges);
    for (uint32_t slot = 0; slot < n_slots; slot++)
        pairs[slot].left = NONE;
    for (uint32_t rank = 0; rank < n_merges; rank++) {
        const struct bpe_merge merge = merges[rank];
        assert(merge.left < n_tokens && merge.right < n_tokens && merge.merged < n_tokens);
        struct bpe_pair *pair = find_slot(pairs, n_slots - 1, merge.left, merge.right);
        if (!pair)
            return error_set(error, ERROR_INPUT, "%s: merge %u (from 0) is one of more than %d chosen to collide",
                             where, rank, PROBES);
        *pair = (struct bpe_pair){merge.left, merge.right, rank, merge.merged};
    }
    bpe->pairs = pairs;
    bpe->mask = n_slots - 1;
    return 0;
}

// The last pair of that left and right token, or NULL.
static inline const struct bpe_pair *find_pair(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    const struct bpe_pair *pair = find_slot(bpe->pairs, bpe->mask, left, right);
    return pair && pair->left != NONE ? pair : NULL;
}

int bpe_word_reserve(struct bpe_word *word, size_t n, struct error *error)
{
    assert(n <= INT32_MAX);
    if (n <= word->capacity)
        return 0;
    const size_t capacity = n < 64 ? 64 : n + n / 2;
    bpe_word_close(word);
    word->tokens = malloc(capacity * sizeof *word->tokens);
    word->links = malloc(capacity * sizeof *word->links);
    // at most n - 1 candidates to begin with; each of at most n - 1 merges takes one and adds two
    word->heap = malloc(2 * capacity * sizeof *word->heap);
    if (!word->tokens || !word->links || !word->heap) {
        bpe_word_close(word);
        return error_set(error, ERROR_RUNTIME, "out of memory for a word of %zu bytes", n);
    }
    word->capacity = capacity;
    return 0;
}

void bpe_word_close(struct bpe_word *word)
{
    free(word->tokens);
    free(word->links);
    free(word->heap);
    *word = (struct bpe_word){0};
}

static void push(struct bpe_word *word, struct bpe_candidate candidate)
{
    size_t at = word->n_heap++;
    while (at) {
        const size_t parent = (at - 1) / 2;
        if (word->heap[parent].order <= candidate.order)
            break;
        word->heap[at] = word->heap[parent];
        at = parent;
    }
    word->heap[at] = candidate;
}

static struct bpe_candidate pop(struct bpe_word *word)
{
    const struct bpe_candidate top = word->heap[0];
    const struct bpe_candidate last = word->heap[--word->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= word->n_heap)
            break;
        if (child + 1 < word->n_heap && word->heap[child + 1].order < word->heap[child].order)
            child++;
        if (last.order <= word->heap[child].order)
            break;
        word->heap[at] = word->heap[child];
        at = child;
    }
    word->heap[at] = last;
    return top;
}

static void push_pair(const struct bpe *bpe, struct bpe_word *word, uint32_t left, uint32_t right)
{
    const struct bpe_pair *pair = find_pair(bpe, word->tokens[left], word->tokens[right]);
    if (pair)
        push(word, (struct bpe_candidate){(uint64_t)pair->rank << 32 | left, pair->left, pair->right, pair->merged});
}

size_t bpe_merge_word(const struct bpe *bpe, struct bpe_word *word, size_t n)
{
    assert(n <= word->capacity);
    uint32_t *tokens = word->tokens;
    struct bpe_link *links = word->links;
    word->n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        links[i] = (struct bpe_link){i ? i - 1 : NONE, i + 1 < n ? i + 1 : NONE};
        if (i)
            push_pair(bpe, word, i - 1, i);
    }
    while (word->n_heap) {
        const struct bpe_candidate top = pop(word);
        const uint32_t at = (uint32_t)top.order;
        const uint32_t next = links[at].next;
        if (tokens[at] == NONE || next == NONE)
            continue;
        if (tokens[at] != top.left || tokens[next] != top.right) {
            // one of the two has become part of another token since; the pair that stands there now may make the same
            const struct bpe_pair *now = find_pair(bpe, tokens[at], tokens[next]);
            if (!now || now->merged != top.merged)
                continue;
        }
        tokens[at] = top.merged;
        tokens[next] = NONE;
        links[at].next = links[next].next;
        if (links[at].next != NONE) {
            links[links[at].next].previous = at;
            push_pair(bpe, word, at, links[at].next);
        }
        if (links[at].previous != NONE)
            push_pair(bpe, word, links[at].previous, at);
    }
    size_t left = 0;
    for (size_t i = 0; i < n; i++)
        if (tokens[i] != NONE)
            tokens[left++] = tokens[i];
    return left;
}
