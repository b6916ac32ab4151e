// The flow: repair > added tokens in the raw text > normalize > added tokens in that > split into words > merge >
// template.
#include "harness/model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "harness/model/tokenizer_parts.h"
#include "harness/model/tokens/nfc.h"

static int open_document(struct tokenizer **out, struct json_document *document, struct error *error)
{
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    int failed = tokenizer ? tokenizer_read(tokenizer, document, error)
                           : error_set(error, ERROR_RUNTIME, "%s: out of memory for a tokenizer", document->name);
    json_close(&document);
    if (failed)
        tokenizer_close(&tokenizer);
    *out = tokenizer;
    return failed;
}

int tokenizer_open(struct tokenizer **tokenizer, const char *path, struct error *error)
{
    enum { LIMIT = 256 << 20 }; // the largest published tokenizer.json has 33 MB
    struct json_document *document;
    *tokenizer = NULL;
    const int failed = json_open_file(&document, path, LIMIT, error);
    return failed ? failed : open_document(tokenizer, document, error);
}

int tokenizer_open_text(struct tokenizer **tokenizer, const char *name, const char *text, size_t size,
                        struct error *error)
{
    struct json_document *document;
    *tokenizer = NULL;
    const int failed = json_open_text(&document, name, text, size, error);
    return failed ? failed : open_document(tokenizer, document, error);
}

void tokenizer_close(struct tokenizer **tokenizer)
{
    if (!tokenizer || !*tokenizer)
        return;
    struct tokenizer *t = *tokenizer;
    added_close(&t->raw);
    added_close(&t->normalized);
    splitter_close(&t->splitter);
    text_close(&t->clean);
    text_close(&t->composed);
    text_close(&t->letters);
    bpe_word_close(&t->word);
    free(t->out.ids);
    arena_close(&t->arena);
    free(t);
    *tokenizer = NULL;
}

const char *tokenizer_token(const struct tokenizer *tokenizer, uint32_t id)
{
    const struct token *token = vocabulary_token(&tokenizer->vocabulary, id);
    return token ? token->text : NULL;
}

size_t tokenizer_size(const struct tokenizer *tokenizer)
{
    return tokenizer->vocabulary.n_ids;
}

// --- encoding

static int reserve_ids(struct ids *out, size_t more, struct error *error)
{
    if (more <= out->capacity - out->n)
        return 0;
    const size_t capacity = out->n + out->n / 2 + more + 64;
    uint32_t *grown = realloc(out->ids, capacity * sizeof *grown);
    if (!grown)
        return error_set(error, ERROR_RUNTIME, "out of memory for %zu token ids", capacity);
    out->ids = grown;
    out->capacity = capacity;
    return 0;
}

static int put_id(struct tokenizer *t, uint32_t id, struct error *error)
{
    const int failed = reserve_ids(&t->out, 1, error);
    if (!failed)
        t->out.ids[t->out.n++] = id;
    return failed;
}

static int put_ids(struct tokenizer *t, const uint32_t *ids, size_t n, struct error *error)
{
    int failed = 0;
    for (size_t i = 0; i < n && !failed; i++)
        failed = put_id(t, ids[i], error);
    return failed;
}

// The token that is this word as a whole, or VOCABULARY_NONE.
static int find_word(struct tokenizer *t, const char *word, size_t size, uint32_t *token, struct error *error)
{
    *token = VOCABULARY_NONE;
    if (size > t->vocabulary.longest)
        return 0;
    t->letters.size = 0;
    const int failed = text_reserve(&t->letters, 2 * size, error);
    if (failed)
        return failed;
    for (size_t i = 0; i < size; i++)
        t->letters.size += text_letter((unsigned char)word[i], t->letters.bytes + t->letters.size);
    *token = vocabulary_find(&t->vocabulary, t->letters.bytes, t->letters.size);
    return 0;
}

static int encode_word(struct tokenizer *t, const char *word, size_t size, struct error *error)
{
    if (t->ignore_merges) {
        uint32_t token;
        const int failed = find_word(t, word, size, &token, error);
        if (failed || token != VOCABULARY_NONE)
            return failed ? failed : put_id(t, t->vocabulary.tokens[token].id, error);
    }
    int failed = bpe_word_reserve(&t->word, size, error);
    if (failed)
        return failed;
    for (size_t i = 0; i < size; i++) {
        const unsigned char byte = (unsigned char)word[i];
        t->word.tokens[i] = t->byte_token[byte];
        if (t->byte_token[byte] == VOCABULARY_NONE)
            return error_set(
                error, ERROR_INPUT,
                "%s: the text has a byte 0x%02X and the vocabulary no token for it, expected one for each of the "
                "256 bytes (Hugging Face would drop it in silence)",
                t->path, byte);
    }
    const size_t n = bpe_merge_word(&t->bpe, &t->word, size);
    failed = reserve_ids(&t->out, n, error);
    for (size_t i = 0; i < n && !failed; i++)
        t->out.ids[t->out.n++] = t->vocabulary.tokens[t->word.tokens[i]].id;
    return failed;
}

// Text without added tokens.
static int encode_plain(struct tokenizer *t, const char *text, size_t size, struct error *error)
{
    struct splitter_words words;
    int failed = splitter_split(&t->splitter, text, size, &words, error);
    for (size_t i = 0; i < words.n && !failed; i++)
        failed = encode_word(t, words.text + words.spans[i].start, words.spans[i].end - words.spans[i].start, error);
    return failed;
}

// Text without those added tokens that are matched as they stand.
static int encode_normalized(struct tokenizer *t, const char *text, size_t size, struct error *error)
{
    if (t->nfc) {
        t->composed.size = 0;
        const int failed = nfc_append(&t->composed, text, size, error);
        if (failed)
            return failed;
        text = t->composed.bytes;
        size = t->composed.size;
    }
    struct added_cursor cursor = {0};
    struct added_step step;
    for (;;) {
        const int more = added_next(&t->normalized, text, size, &cursor, &step, error);
        int failed = more < 0 ? more : 0;
        if (!failed && step.plain_size)
            failed = encode_plain(t, text + step.plain, step.plain_size, error);
        if (!failed && step.token)
            failed = put_id(t, t->vocabulary.tokens[step.token->token].id, error);
        if (failed || !more)
            return failed;
    }
}

static int encode_text(struct tokenizer *t, const char *text, size_t size, struct error *error)
{
    struct added_cursor cursor = {0};
    struct added_step step;
    for (;;) {
        const int more = added_next(&t->raw, text, size, &cursor, &step, error);
        int failed = more < 0 ? more : 0;
        if (!failed && step.plain_size)
            failed = encode_normalized(t, text + step.plain, step.plain_size, error);
        if (!failed && step.token)
            failed = put_id(t, t->vocabulary.tokens[step.token->token].id, error);
        if (failed || !more)
            return failed;
    }
}

int tokenizer_encode(struct tokenizer *t, struct arena *arena, const char *text, size_t size, bool add_special,
                     uint32_t **ids, size_t *n, struct error *error)
{
    *ids = NULL;
    *n = 0;
    // an invalid byte becomes three, NFC makes at most three of one: all offsets stay below 2^31 after both
    if (size > INT32_MAX / 9)
        return error_set(error, ERROR_INPUT, "a text of %zu bytes, expected at most %d", size, INT32_MAX / 9);
    int failed = 0;
    if (!text_is_valid(text, size)) {
        t->clean.size = 0;
        failed = text_append_repaired(&t->clean, text, size, error);
        text = t->clean.bytes;
        size = t->clean.size;
    }
    splitter_begin(&t->splitter, size);
    t->out.n = 0;
    if (!failed && add_special)
        failed = put_ids(t, t->prefix, t->n_prefix, error);
    if (!failed)
        failed = encode_text(t, text, size, error);
    if (!failed && add_special)
        failed = put_ids(t, t->suffix, t->n_suffix, error);
    if (failed)
        return failed;
    *ids = arena_alloc(arena, t->out.n, sizeof **ids);
    if (!*ids)
        return error_set(error, ERROR_RUNTIME, "out of memory for %zu token ids", t->out.n);
    if (t->out.n)
        memcpy(*ids, t->out.ids, t->out.n * sizeof **ids);
    *n = t->out.n;
    return 0;
}

// --- decoding

int tokenizer_decode(const struct tokenizer *tokenizer, struct arena *arena, const uint32_t *ids, size_t n,
                     bool skip_special, char **text, size_t *size, struct error *error)
{
    *text = NULL;
    *size = 0;
    struct text bytes = {0}, clean = {0};
    int failed = 0;
    for (size_t i = 0; i < n && !failed; i++) {
        const struct token *token = vocabulary_token(&tokenizer->vocabulary, ids[i]);
        if (!token)
            failed = error_set(error, ERROR_INPUT, "%s: id %u at place %zu has no token, expected ids below %u",
                               tokenizer->path, ids[i], i, tokenizer->vocabulary.n_ids);
        else if (!skip_special || !token->special)
            failed = text_append_letters(&bytes, token->spoken, token->spoken_size, error);
    }
    if (!failed && bytes.size)
        failed = text_append_repaired(&clean, bytes.bytes, bytes.size, error);
    if (!failed)
        *text = arena_alloc(arena, clean.size + 1, 1);
    if (!failed && !*text)
        failed = error_set(error, ERROR_RUNTIME, "out of memory for a text of %zu bytes", clean.size);
    if (!failed && clean.size) {
        memcpy(*text, clean.bytes, clean.size);
        *size = clean.size;
    }
    text_close(&bytes);
    text_close(&clean);
    return failed;
}
