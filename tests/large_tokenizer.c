#include "tests/large_tokenizer.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/model/tokens/text.h"

enum { BYTES = 256, LETTERS = 26, CYRILLIC = 32, IDEOGRAPHS = 3000, SPACE = ' ', LINE = '\n' };

struct large_slot {
    uint32_t left, right, made; // made is 0 in a free slot
};

static uint32_t pick(struct large *large, uint32_t below)
{
    large->state ^= large->state << 13; // xorshift (Marsaglia 2003)
    large->state ^= large->state >> 17;
    large->state ^= large->state << 5;
    return (uint32_t)((uint64_t)large->state * below >> 32);
}

// --- merging, the plain way

static struct large_slot *find(const struct large *large, uint32_t left, uint32_t right)
{
    uint32_t at = (left * 0x9E3779B1u + right) * 0x85EBCA6Bu;
    for (at = (at ^ at >> 15) & large->mask;; at = (at + 1) & large->mask) {
        struct large_slot *slot = &large->pairs[at];
        if (!slot->made || (slot->left == left && slot->right == right))
            return slot;
    }
}

// Tokens of a word of `size` bytes, in place; returns their number. A made token's number is its rank, but for 256.
static size_t merge(const struct large *large, const unsigned char *bytes, size_t size, uint32_t *tokens)
{
    uint32_t made[4 * LARGE_BYTES]; // of token i and the one after it, 0: none
    assert(size <= sizeof made / sizeof *made);
    for (size_t i = 0; i < size; i++)
        tokens[i] = bytes[i];
    for (size_t i = 0; i + 1 < size; i++)
        made[i] = find(large, tokens[i], tokens[i + 1])->made;
    for (;;) {
        size_t best = size;
        for (size_t i = 0; i + 1 < size; i++)
            if (made[i] && (best == size || made[i] < made[best]))
                best = i;
        if (best == size)
            return size;
        tokens[best] = made[best];
        memmove(tokens + best + 1, tokens + best + 2, (size - best - 2) * sizeof *tokens);
        memmove(made + best, made + best + 1, (size - best - 2) * sizeof *made);
        size--;
        if (best)
            made[best - 1] = find(large, tokens[best - 1], tokens[best])->made;
        if (best + 1 < size)
            made[best] = find(large, tokens[best], tokens[best + 1])->made;
    }
}

// --- growing

// Whether the pair became a token: it must be short enough, and what the merges so far make of its text.
static bool add(struct large *large, uint32_t left, uint32_t right, bool word)
{
    const struct large_token *a = &large->tokens[left], *b = &large->tokens[right];
    if (a->size + b->size > LARGE_BYTES)
        return false;
    struct large_token joined = {.size = (uint8_t)(a->size + b->size), .word = word};
    memcpy(joined.bytes, a->bytes, a->size);
    memcpy(joined.bytes + a->size, b->bytes, b->size);
    uint32_t tokens[LARGE_BYTES];
    if (merge(large, joined.bytes, joined.size, tokens) != 2 || tokens[0] != left || tokens[1] != right)
        return false;
    large->merges[large->n - BYTES] = (struct large_merge){left, right};
    *find(large, left, right) = (struct large_slot){left, right, large->n};
    large->tokens[large->n++] = joined;
    return true;
}

// The characters that have more than one byte: Cyrillic of two, ideographs of three, whose first two come first.
static void add_characters(struct large *large)
{
    for (uint32_t i = 0; i < CYRILLIC; i++)
        add(large, i < 16 ? 0xD0 : 0xD1, i < 16 ? 0xB0 + i : 0x80 + i - 16, true);
    for (uint32_t i = 0; i < IDEOGRAPHS; i++) {
        const uint32_t code = 0x4E00 + i, first = 0xE0 | code >> 12, second = 0x80 | (code >> 6 & 0x3F);
        if (!(code & 0x3F))
            add(large, first, second, false);
        add(large, find(large, first, second)->made, 0x80 | (code & 0x3F), true);
    }
}

// A token that is a word, early ones likelier unless `even`; the letters are drawn as such, for they are few.
static uint32_t pick_word(struct large *large, bool even)
{
    for (;;) {
        const uint32_t from = large->n - BYTES;
        const uint32_t token = even || pick(large, 2) ? pick(large, from) : pick(large, 1 + pick(large, from));
        if (large->tokens[BYTES + token].word)
            return BYTES + token;
        if (!even && !pick(large, 8))
            return 'a' + pick(large, LETTERS);
    }
}

static void grow(struct large *large, uint32_t n)
{
    for (uint32_t i = 0; i < LETTERS; i++)
        large->tokens['a' + i].word = true;
    add_characters(large);
    while (large->n < n) {
        const uint32_t left = pick(large, 4) ? pick_word(large, false) : SPACE, right = pick_word(large, false);
        if (large->tokens[right].bytes[0] != SPACE)
            add(large, left, right, true);
    }
}

int large_open(struct large **out, enum large_kind kind, uint32_t n_ids, struct error *error)
{
    struct large *large = calloc(1, sizeof *large);
    *out = large;
    if (!large)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    const uint32_t n = n_ids - LARGE_SPECIALS;
    large->kind = kind;
    large->first = kind == LARGE_LFM2 ? LARGE_SPECIALS : 0;
    large->first_added = kind == LARGE_LFM2 ? 0 : n;
    large->state = n_ids;
    large->mask = 1;
    while (large->mask < 2 * n)
        large->mask = 2 * large->mask + 1;
    large->tokens = arena_alloc(&large->arena, n, sizeof *large->tokens);
    large->merges = arena_alloc(&large->arena, n, sizeof *large->merges);
    large->pairs = arena_alloc(&large->arena, (size_t)large->mask + 1, sizeof *large->pairs);
    if (!large->tokens || !large->merges || !large->pairs) {
        large_close(out);
        return error_set(error, ERROR_RUNTIME, "out of memory for %u tokens", n);
    }
    for (large->n = 0; large->n < BYTES; large->n++)
        large->tokens[large->n] = (struct large_token){.bytes = {(unsigned char)large->n}, .size = 1};
    grow(large, n);
    return 0;
}

void large_close(struct large **large)
{
    if (!*large)
        return;
    arena_close(&(*large)->arena);
    free(*large);
    *large = NULL;
}

// --- tokenizer.json

static const char *const specials[2][LARGE_SPECIALS] = {
    {"<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|fim_pre|>", "<|fim_mid|>", "<|fim_suf|>", "<|im_start|>",
     "<|im_end|>", "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>", "<|tool_call_end|>",
     "<|tool_response_start|>", "<|tool_response_end|>"},
    {"<|endoftext|>",  "<|im_start|>",   "<|im_end|>",      "<|object_ref_start|>", "<|object_ref_end|>",
     "<|box_start|>",  "<|box_end|>",    "<|quad_start|>",  "<|quad_end|>",         "<|vision_start|>",
     "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",   "<|video_pad|>",        "<tool_call>",
     "</tool_call>",   "<|fim_prefix|>", "<|fim_middle|>",  "<|fim_suffix|>",       "<|fim_pad|>",
     "<|repo_name|>",  "<|file_sep|>",   "<tool_response>", "</tool_response>",     "<think>",
     "</think>"}};
static const char *const reserved[] = {"<|reserved_a|>", "<|reserved_b|>", "<|reserved_c|>", "<|reserved_d|>",
                                       "<|reserved_e|>", "<|reserved_f|>", "<|reserved_g|>", "<|reserved_h|>",
                                       "<|reserved_i|>", "<|reserved_j|>", "<|reserved_k|>", "<|reserved_l|>",
                                       "<|reserved_m|>", "<|reserved_n|>", "<|reserved_o|>", "<|reserved_p|>",
                                       "<|reserved_q|>", "<|reserved_r|>", "<|reserved_s|>"};

const char *large_added(const struct large *large, uint32_t i, bool *special)
{
    const char *name = specials[large->kind][i];
    *special = large->kind == LARGE_LFM2 || i < 14 || !name; // in Qwen's order, the tools' and thoughts' are not
    return name ? name : reserved[i - 14];
}

// The token's letters, as they stand in a JSON string.
static size_t letters(const struct large_token *token, char out[4 * LARGE_BYTES])
{
    size_t size = 0;
    for (size_t i = 0; i < token->size; i++) {
        if (token->bytes[i] == '"' || token->bytes[i] == '\\')
            out[size++] = '\\';
        size += text_letter(token->bytes[i], out + size);
    }
    return size;
}

static void print_token(struct output *output, const struct large *large, uint32_t token, const char *after)
{
    char text[4 * LARGE_BYTES];
    output_append(output, "\"", 1);
    output_append(output, text, letters(&large->tokens[token], text));
    output_print(output, "\"%s", after);
}

static void print_head(struct output *output, const struct large *large)
{
    static const char *const split[] = {"\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+",
                                        "[\\\\p{L}\\\\p{M}]+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{M}\\\\p{N}]+"};
    static const char *const around[] = {
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<|startoftext|>\",\"type_id\":0}},"
        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<|startoftext|>\":"
        "{\"id\":\"<|startoftext|>\",\"ids\":[1],\"tokens\":[\"<|startoftext|>\"]}}}",
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,\"use_regex\":true}"};
    output_print(output, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    for (uint32_t i = 0; i < LARGE_SPECIALS; i++) {
        bool special;
        const char *content = large_added(large, i, &special);
        output_print(output,
                     "%s\n{\"id\":%" PRIu32
                     ",\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                     "\"normalized\":false,\"special\":%s}",
                     i ? "," : "", large->first_added + i, content, special ? "true" : "false");
    }
    output_print(
        output,
        "],\n\"normalizer\":%s,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
        "\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?%s[\\\\r\\\\n]*|"
        "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":false}]},"
        "\"post_processor\":%s,\"decoder\":{\"type\":\"ByteLevel\"},\n",
        large->kind == LARGE_QWEN ? "{\"type\":\"NFC\"}" : "null", split[large->kind], around[large->kind]);
}

int large_write(const struct large *large, const char *path, uint32_t left_out, struct error *error)
{
    struct output *output;
    const int failed = output_open(&output, path, error);
    if (failed)
        return failed;
    print_head(output, large);
    output_print(output, "\"model\":{\"type\":\"BPE\",\"ignore_merges\":false,\"vocab\":{");
    for (uint32_t i = 0; i < LARGE_SPECIALS && large->kind == LARGE_LFM2; i++) {
        bool special;
        output_print(output, "\"%s\":%" PRIu32 ",\n", large_added(large, i, &special), i);
    }
    for (uint32_t token = 0; token < large->n; token++) {
        print_token(output, large, token, ":");
        output_print(output, "%" PRIu32 "%s", large->first + token,
                     token + 1 < large->n ? ",\n" : "},\n\"merges\":[");
    }
    for (uint32_t rank = 0, printed = 0; rank < large->n - BYTES; rank++) {
        if (rank == left_out)
            continue;
        output_print(output, printed++ ? ",\n[" : "[");
        print_token(output, large, large->merges[rank].left, ",");
        print_token(output, large, large->merges[rank].right, "]");
    }
    output_print(output, "]}}\n");
    return output_commit(&output, error);
}

// --- texts

static int text_room(struct large *large, struct large_text *out, size_t size, struct error *error)
{
    *out = (struct large_text){.text = arena_alloc(&large->arena, size, 1),
                               .ids = arena_alloc(&large->arena, size, sizeof *out->ids)};
    return out->text && out->ids ? 0 : error_set(error, ERROR_RUNTIME, "out of memory for a text");
}

static void put(struct large_text *out, const void *bytes, size_t size)
{
    memcpy(out->text + out->size, bytes, size);
    out->size += size;
}

int large_every_word(struct large *large, struct large_text *out, struct error *error)
{
    const int failed = text_room(large, out, (size_t)large->n * (LARGE_BYTES + 1), error);
    for (uint32_t token = 0; token < large->n && !failed; token++) {
        if (!large->tokens[token].word)
            continue;
        put(out, large->tokens[token].bytes, large->tokens[token].size);
        put(out, "\n", 1);
        out->ids[out->n++] = large->first + token;
        out->ids[out->n++] = large->first + LINE;
    }
    return failed;
}

// A word of up to three tokens, the first with a space in front.
static void put_word(struct large *large, struct large_text *out, bool even)
{
    unsigned char word[3 * LARGE_BYTES + 1] = {SPACE};
    uint32_t tokens[sizeof word];
    size_t size = 1;
    for (uint32_t parts = 1 + pick(large, 2) * pick(large, 3); parts; parts--) {
        const struct large_token *token = &large->tokens[pick_word(large, even)];
        const size_t space = token->bytes[0] == SPACE;
        memcpy(word + size, token->bytes + space, token->size - space);
        size += token->size - space;
    }
    put(out, word, size);
    const size_t n = merge(large, word, size, tokens);
    for (size_t i = 0; i < n; i++)
        out->ids[out->n++] = large->first + tokens[i];
}

int large_prose(struct large *large, size_t size, bool even, struct large_text *out, struct error *error)
{
    const int failed = text_room(large, out, size + 4 * LARGE_BYTES, error);
    for (uint32_t words = 1; out->size < size && !failed; words++) {
        put_word(large, out, even);
        if (words % 200)
            continue;
        bool special;
        const uint32_t i = pick(large, LARGE_SPECIALS);
        const char *content = large_added(large, i, &special);
        put(out, content, strlen(content));
        out->ids[out->n++] = large->first_added + i;
    }
    return failed;
}
