#include "harness/model/tokens/vocabulary.h"

#include <assert.h>
#include <string.h>

#include "harness/model/tokens/text.h"

// The table is at most half full, where random keys need about 30 steps in a million; texts chosen to collide would
// need one step for each token before them.
enum { PROBES = 1024 };

static uint32_t hash(const char *text, size_t size)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325); // FNV-1a, then mixed: its low bits alone are weak
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001B3);
    hash ^= hash >> 32;
    hash *= UINT64_C(0xD6E8FEB86659FD93);
    return (uint32_t)(hash >> 32);
}

// The slot that holds `text`, or the free one where it belongs; VOCABULARY_NONE when neither is near.
static uint32_t find_slot(const struct vocabulary *vocabulary, const char *text, size_t size)
{
    uint32_t slot = hash(text, size) & vocabulary->slot_mask;
    for (uint32_t probe = 0; probe < PROBES; probe++) {
        const uint32_t index = vocabulary->slots[slot];
        if (index == VOCABULARY_NONE)
            return slot;
        const struct token *token = &vocabulary->tokens[index];
        if (token->size == size && !memcmp(token->text, text, size))
            return slot;
        slot = (slot + 1) & vocabulary->slot_mask;
    }
    return VOCABULARY_NONE;
}

int vocabulary_open(struct vocabulary *vocabulary, struct arena *arena, uint32_t capacity, const char *where,
                    struct error *error)
{
    assert(capacity <= VOCABULARY_IDS);
    uint32_t n_slots = 16;
    while (n_slots < 2 * capacity)
        n_slots *= 2;
    *vocabulary = (struct vocabulary){
        .where = where,
        .capacity = capacity,
        .slot_mask = n_slots - 1,
        .tokens = arena_alloc(arena, capacity, sizeof(struct token)),
        .slots = arena_alloc(arena, n_slots, sizeof(uint32_t)),
    };
    if (!vocabulary->tokens || !vocabulary->slots)
        return error_set(error, ERROR_RUNTIME, "%s: out of memory for a vocabulary of %u tokens", where, capacity);
    memset(vocabulary->slots, 0xFF, (size_t)n_slots * sizeof(uint32_t));
    return 0;
}

int vocabulary_add(struct vocabulary *vocabulary, const char *text, size_t size, uint32_t id, struct error *error)
{
    char shown[TEXT_SHOWN];
    assert(vocabulary->n < vocabulary->capacity);
    if (id >= VOCABULARY_IDS || size > INT32_MAX)
        return error_set(error, ERROR_INPUT, "%s: token \"%s\" has id %u, expected less than %d", vocabulary->where,
                         text_shown(shown, text, size), id, VOCABULARY_IDS);
    const uint32_t slot = find_slot(vocabulary, text, size);
    if (slot == VOCABULARY_NONE)
        return error_set(error, ERROR_INPUT, "%s: token \"%s\" (id %u) is one of more than %d chosen to collide",
                         vocabulary->where, text_shown(shown, text, size), id, PROBES);
    if (vocabulary->slots[slot] != VOCABULARY_NONE)
        return error_set(error, ERROR_INPUT, "%s: token \"%s\" stands twice, with ids %u and %u", vocabulary->where,
                         text_shown(shown, text, size), vocabulary->tokens[vocabulary->slots[slot]].id, id);
    vocabulary->slots[slot] = vocabulary->n;
    vocabulary->tokens[vocabulary->n++] =
        (struct token){.text = text, .spoken = text, .size = (uint32_t)size, .spoken_size = (uint32_t)size, .id = id};
    if (id >= vocabulary->n_ids)
        vocabulary->n_ids = id + 1;
    if (size > vocabulary->longest)
        vocabulary->longest = size;
    return 0;
}

int vocabulary_seal(struct vocabulary *vocabulary, struct arena *arena, struct error *error)
{
    vocabulary->of_id = arena_alloc(arena, vocabulary->n_ids, sizeof(uint32_t));
    if (!vocabulary->of_id)
        return error_set(error, ERROR_RUNTIME, "%s: out of memory for %u ids", vocabulary->where, vocabulary->n_ids);
    memset(vocabulary->of_id, 0xFF, (size_t)vocabulary->n_ids * sizeof(uint32_t));
    for (uint32_t index = 0; index < vocabulary->n; index++) {
        const struct token *token = &vocabulary->tokens[index];
        const uint32_t other = vocabulary->of_id[token->id];
        char shown[2][TEXT_SHOWN];
        if (other != VOCABULARY_NONE)
            return error_set(error, ERROR_INPUT,
                             "%s: id %u belongs to \"%s\" and to \"%s\", expected one token an id", vocabulary->where,
                             token->id,
                             text_shown(shown[0], vocabulary->tokens[other].text, vocabulary->tokens[other].size),
                             text_shown(shown[1], token->text, token->size));
        vocabulary->of_id[token->id] = index;
    }
    return 0;
}

uint32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t size)
{
    const uint32_t slot = find_slot(vocabulary, text, size);
    return slot == VOCABULARY_NONE ? VOCABULARY_NONE : vocabulary->slots[slot];
}
