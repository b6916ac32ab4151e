#include "harness/model/tokens/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX // no neighbour; as a token: merged into the one on its left

struct bpe_pair {
    uint32_t right, rank, merged;
};

struct bpe_link {
    uint32_t previous, next;
};

struct bpe_candidate {
    uint64_t order;  // rank in the high half, position of the left token in the low half
    uint32_t merged; // the token that it makes
};

static int compare_pairs(const void *left, const void *right)
{
    const struct bpe_pair *a = left, *b = right;
    if (a->right != b->right)
        return a->right < b->right ? -1 : 1;
    return a->rank < b->rank ? -1 : a->rank > b->rank;
}

int bpe_open(struct bpe *bpe, struct arena *arena, uint32_t n_tokens, const struct bpe_merge *merges,
             uint32_t n_merges, struct error *error)
{
    uint32_t *first = arena_alloc(arena, (size_t)n_tokens + 2, sizeof *first);
    struct bpe_pair *pairs = arena_alloc(arena, n_merges, sizeof *pairs);
    if (!first || !pairs)
        return error_set(error, ERROR_RUNTIME, "out of memory for %u merges", n_merges);
    uint32_t *end = first + 1; // counts, then where the next pair of each token goes; at last its end
    for (uint32_t rank = 0; rank < n_merges; rank++) {
        assert(merges[rank].left < n_tokens && merges[rank].right < n_tokens && merges[rank].merged < n_tokens);
        end[merges[rank].left + 1]++;
    }
    for (uint32_t token = 0; token < n_tokens; token++)
        end[token + 1] += end[token];
    for (uint32_t rank = 0; rank < n_merges; rank++)
        pairs[end[merges[rank].left]++] = (struct bpe_pair){merges[rank].right, rank, merges[rank].merged};
    for (uint32_t token = 0; token < n_tokens; token++) {
        const uint32_t n = first[token + 1] - first[token];
        if (n > 1)
            qsort(pairs + first[token], n, sizeof *pairs, compare_pairs);
    }
    bpe->first = first;
    bpe->pairs = pairs;
    return 0;
}

// The last pair of that left and right token, or NULL.
static const struct bpe_pair *find_pair(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    const uint32_t begin = bpe->first[left];
    uint32_t low = begin, high = bpe->first[left + 1];
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (bpe->pairs[middle].right <= right)
            low = middle + 1;
        else
            high = middle;
    }
    return low > begin && bpe->pairs[low - 1].right == right ? &bpe->pairs[low - 1] : NULL;
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
        push(word, (struct bpe_candidate){(uint64_t)pair->rank << 32 | left, pair->merged});
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
        const struct bpe_pair *now = find_pair(bpe, tokens[at], tokens[next]);
        if (!now || now->merged != top.merged)
            continue; // one of the two has become part of another token since
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
