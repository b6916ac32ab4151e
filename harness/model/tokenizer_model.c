// What tokenizer.json says of tokens: the vocabulary, the merges, the added tokens.
#include <string.h>

#include "harness/model/tokenizer_parts.h"
#include "harness/model/tokens/nfc.h"

int tokenizer_refuse(struct json value, const char *found, const char *expected, struct error *error)
{
    char shown[TEXT_SHOWN];
    return error_set(error, ERROR_INPUT, "%s: found %s, expected %s", json_where(value),
                     text_shown(shown, found, strlen(found)), expected);
}

static int read_vocabulary(struct tokenizer *t, struct json vocab, size_t n_added, struct error *error)
{
    int failed = json_need_object(vocab, error);
    if (failed)
        return failed;
    const size_t n = json_length(vocab);
    if (n > VOCABULARY_IDS - n_added)
        return tokenizer_refuse(vocab, "too many tokens", "less than 4,194,304", error);
    failed = vocabulary_open(&t->vocabulary, &t->arena, (uint32_t)(n + n_added), t->path, error);
    for (struct json entry = json_first(vocab); entry.item && !failed; entry = json_next(entry)) {
        uint32_t id;
        const char *key = json_key(entry);
        const size_t size = strlen(key);
        failed = json_need_u32(entry, 0, VOCABULARY_IDS - 1, &id, error);
        if (!failed && !text_is_valid(key, size))
            failed = tokenizer_refuse(entry, "a token that is no UTF-8", "the byte-level alphabet", error);
        char *text = failed ? NULL : arena_print(&t->arena, "%s", key);
        if (!failed && !text)
            failed = error_set(error, ERROR_RUNTIME, "out of memory for %zu tokens", n);
        if (!failed)
            failed = vocabulary_add(&t->vocabulary, text, size, id, error);
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char letter[2];
        const size_t size = text_letter((unsigned char)byte, letter);
        t->byte_token[byte] = failed ? VOCABULARY_NONE : vocabulary_find(&t->vocabulary, letter, size);
    }
    return failed;
}

// The two texts of a merge: ["a", "b"], or "a b" in older files.
static int merge_texts(struct json merge, const char **left, size_t *left_size, const char **right,
                       struct error *error)
{
    if (json_is_array(merge)) {
        const struct json second = json_next(json_first(merge));
        if (json_length(merge) != 2)
            return tokenizer_refuse(merge, "another number of texts", "[left, right]", error);
        int failed = json_need_string(json_first(merge), left, error);
        if (!failed)
            failed = json_need_string(second, right, error);
        if (failed)
            return failed;
        *left_size = strlen(*left);
        return 0;
    }
    const int failed = json_need_string(merge, left, error);
    if (failed)
        return failed;
    const char *space = strchr(*left, ' ');
    if (!space || strchr(space + 1, ' '))
        return tokenizer_refuse(merge, *left, "\"left right\" with one space", error);
    *left_size = (size_t)(space - *left);
    *right = space + 1;
    return 0;
}

static int find_token(const struct tokenizer *t, struct json merge, const char *text, size_t size, uint32_t *token,
                      struct error *error)
{
    *token = vocabulary_find(&t->vocabulary, text, size);
    if (*token != VOCABULARY_NONE)
        return 0;
    char shown[TEXT_SHOWN];
    return error_set(error, ERROR_INPUT,
                     "%s: makes or needs \"%s\", which is not in the vocabulary, expected a token", json_where(merge),
                     text_shown(shown, text, size));
}

static int read_merge(struct tokenizer *t, struct json merge, struct text *joined, struct bpe_merge *out,
                      struct error *error)
{
    const char *left = "", *right = "";
    size_t left_size = 0;
    int failed = merge_texts(merge, &left, &left_size, &right, error);
    const size_t right_size = strlen(right);
    joined->size = 0;
    if (!failed)
        failed = text_append(joined, left, left_size, error);
    if (!failed)
        failed = text_append(joined, right, right_size, error);
    if (!failed)
        failed = find_token(t, merge, left, left_size, &out->left, error);
    if (!failed)
        failed = find_token(t, merge, right, right_size, &out->right, error);
    return failed ? failed
                  : find_token(t, merge, joined->size ? joined->bytes : "", joined->size, &out->merged, error);
}

static int read_merges(struct tokenizer *t, struct json merges, struct error *error)
{
    int failed = json_need_array(merges, error);
    const size_t n = failed ? 0 : json_length(merges);
    struct arena scratch = {0};
    struct bpe_merge *list = arena_alloc(&scratch, n, sizeof *list);
    if (!failed && (!list || n > INT32_MAX / 2))
        failed = error_set(error, ERROR_RUNTIME, "out of memory for %zu merges", n);
    struct text joined = {0};
    uint32_t rank = 0;
    for (struct json merge = json_first(merges); merge.item && !failed; merge = json_next(merge)) {
        const char *line;
        // the header line of a merges.txt that was copied into the array
        if (json_is_string(merge) && !json_need_string(merge, &line, NULL) && !strncmp(line, "#version", 8))
            continue;
        failed = read_merge(t, merge, &joined, &list[rank++], error);
    }
    text_close(&joined);
    if (!failed)
        failed = bpe_open(&t->bpe, &t->arena, t->vocabulary.n, list, rank, t->path, error);
    arena_close(&scratch);
    return failed;
}

// Options of BPE that change ids when they are set.
static int refuse_options(struct json model, struct error *error)
{
    static const char *const off[] = {"unk_token",          "dropout",  "continuing_subword_prefix",
                                      "end_of_word_suffix", "fuse_unk", "byte_fallback"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        const struct json value = json_get(model, off[i]);
        if (!json_present(value))
            continue;
        const char *text;
        bool on = true;
        const bool is_empty = json_is_string(value) && !json_need_string(value, &text, NULL) && !*text;
        const bool is_false = !json_need_bool(value, &on, NULL) && !on;
        if (!is_empty && !is_false)
            return tokenizer_refuse(value, "a value", "null or false: byte-level BPE needs none of it", error);
    }
    return 0;
}

int tokenizer_read_model(struct tokenizer *t, struct json model, size_t n_added, struct error *error)
{
    int failed = json_need_object(model, error);
    const struct json type = json_get(model, "type");
    const char *name = "BPE"; // older files have no type
    if (!failed && json_present(type))
        failed = json_need_string(type, &name, error);
    if (!failed && strcmp(name, "BPE"))
        failed = tokenizer_refuse(type, name, "BPE", error);
    if (!failed)
        failed = refuse_options(model, error);
    const struct json ignore_merges = json_get(model, "ignore_merges");
    if (!failed && json_present(ignore_merges))
        failed = json_need_bool(ignore_merges, &t->ignore_merges, error);
    if (!failed)
        failed = read_vocabulary(t, json_get(model, "vocab"), n_added, error);
    return failed ? failed : read_merges(t, json_get(model, "merges"), error);
}

// --- added tokens

struct added_flags {
    bool single_word, lstrip, rstrip, normalized, special;
};

static int read_flags(struct json entry, struct added_flags *flags, struct error *error)
{
    int failed = json_need_bool(json_get(entry, "single_word"), &flags->single_word, error);
    if (!failed)
        failed = json_need_bool(json_get(entry, "lstrip"), &flags->lstrip, error);
    if (!failed)
        failed = json_need_bool(json_get(entry, "rstrip"), &flags->rstrip, error);
    if (!failed)
        failed = json_need_bool(json_get(entry, "normalized"), &flags->normalized, error);
    return failed ? failed : json_need_bool(json_get(entry, "special"), &flags->special, error);
}

// Index of the token; a content that the model does not know gets the next id after its vocabulary, as `tokenizers`
// counts: by the number of entries, and whatever the file says.
static int find_added(struct tokenizer *t, struct json entry, const char *content, uint32_t id, uint32_t *index,
                      struct error *error)
{
    char shown[TEXT_SHOWN];
    const size_t size = strlen(content);
    *index = vocabulary_find(&t->vocabulary, content, size);
    const uint32_t given = *index != VOCABULARY_NONE ? t->vocabulary.tokens[*index].id : t->vocabulary.n;
    if (id != given)
        return error_set(error, ERROR_INPUT,
                         "%s: \"%s\" has id %u, but Hugging Face's loader gives it %u (%s); expected both to agree",
                         json_where(entry), text_shown(shown, content, size), id, given,
                         *index != VOCABULARY_NONE ? "its id in model.vocab" : "the next after model.vocab");
    if (*index != VOCABULARY_NONE)
        return t->vocabulary.tokens[*index].added ? tokenizer_refuse(entry, content, "each content once", error) : 0;
    *index = t->vocabulary.n;
    char *text = arena_print(&t->arena, "%s", content);
    return text ? vocabulary_add(&t->vocabulary, text, size, id, error)
                : error_set(error, ERROR_RUNTIME, "out of memory for an added token");
}

static int read_added_token(struct tokenizer *t, struct json entry, struct added_token *out, bool *normalized,
                            struct error *error)
{
    const char *content;
    uint32_t id, index;
    struct added_flags flags;
    int failed = json_need_object(entry, error);
    if (!failed)
        failed = json_need_string(json_get(entry, "content"), &content, error);
    if (!failed)
        failed = json_need_u32(json_get(entry, "id"), 0, VOCABULARY_IDS - 1, &id, error);
    if (!failed)
        failed = read_flags(entry, &flags, error);
    if (failed)
        return failed;
    const size_t size = strlen(content);
    if (!size || size > ADDED_BYTES || !text_is_valid(content, size))
        return error_set(error, ERROR_INPUT, "%s: content of %zu bytes, expected 1 to %d of valid UTF-8",
                         json_where(entry), size, ADDED_BYTES);
    failed = find_added(t, entry, content, id, &index, error);
    if (failed)
        return failed;
    struct token *token = &t->vocabulary.tokens[index];
    token->added = true;
    token->special = flags.special;
    if (flags.normalized && t->nfc) {
        struct text composed = {0};
        failed = nfc_append(&composed, content, size, error);
        char *spoken = failed ? NULL : arena_alloc(&t->arena, composed.size + 1, 1);
        if (!failed && (!spoken || composed.size > ADDED_BYTES))
            failed = tokenizer_refuse(entry, "content too long once normalized", "at most 256 bytes", error);
        if (!failed) {
            memcpy(spoken, composed.bytes, composed.size);
            token->spoken = spoken;
            token->spoken_size = (uint32_t)composed.size;
        }
        text_close(&composed);
    }
    *normalized = flags.normalized;
    *out =
        (struct added_token){token->spoken, token->spoken_size, index, flags.single_word, flags.lstrip, flags.rstrip};
    return failed;
}

int tokenizer_read_added(struct tokenizer *t, struct json list, size_t n, struct error *error)
{
    struct added_token *raw = arena_alloc(&t->arena, n, sizeof *raw);
    struct added_token *normalized = arena_alloc(&t->arena, n, sizeof *normalized);
    if (!raw || !normalized)
        return error_set(error, ERROR_RUNTIME, "out of memory for %zu added tokens", n);
    size_t n_raw = 0, n_normalized = 0;
    int failed = 0;
    for (struct json entry = json_first(list); entry.item && !failed; entry = json_next(entry)) {
        struct added_token token;
        bool is_normalized = false;
        failed = read_added_token(t, entry, &token, &is_normalized, error);
        if (!failed && is_normalized)
            normalized[n_normalized++] = token;
        else if (!failed)
            raw[n_raw++] = token;
    }
    // what skip_special compares is the text that a token decodes to
    for (size_t i = 0; i < n_normalized && !failed; i++) {
        const uint32_t same = vocabulary_find(&t->vocabulary, normalized[i].content, normalized[i].size);
        t->vocabulary.tokens[normalized[i].token].special =
            same != VOCABULARY_NONE && t->vocabulary.tokens[same].special;
    }
    if (!failed)
        failed = added_open(&t->raw, raw, n_raw, t->path, error);
    return failed ? failed : added_open(&t->normalized, normalized, n_normalized, t->path, error);
}
