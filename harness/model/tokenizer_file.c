// tokenizer.json, checked once: what is known is read, what has no effect on ids is passed over, the rest is refused
// by name.
#include <string.h>

#include "harness/model/tokenizer_parts.h"

// GPT-2's own expression, which ByteLevel uses when asked to.
static const char BYTE_LEVEL[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static bool is(const char *text, const char *other)
{
    return !strcmp(text, other);
}

// The steps of a normalizer, pre-tokenizer, post-processor or decoder: `read` is called for it, or for each element
// of `key` when it is a Sequence. Sequences inside are for `read` to refuse.
struct reader {
    const char *key;
    int (*read)(struct tokenizer *t, struct json step, const char *type, struct error *error);
};

static int read_steps(struct tokenizer *t, struct json value, const struct reader *reader, struct error *error)
{
    const char *type;
    int failed = json_need_object(value, error);
    if (!failed)
        failed = json_need_string(json_get(value, "type"), &type, error);
    if (failed)
        return failed;
    if (!is(type, "Sequence"))
        return reader->read(t, value, type, error);
    const struct json list = json_get(value, reader->key);
    failed = json_need_array(list, error);
    for (struct json step = json_first(list); step.item && !failed; step = json_next(step)) {
        failed = json_need_object(step, error);
        if (!failed)
            failed = json_need_string(json_get(step, "type"), &type, error);
        if (!failed)
            failed = reader->read(t, step, type, error);
    }
    return failed;
}

// --- normalizer

static int read_normalizer(struct tokenizer *t, struct json step, const char *type, struct error *error)
{
    if (!is(type, "NFC"))
        return tokenizer_refuse(step, type, "NFC, a Sequence of it, or null", error);
    t->nfc = true;
    return 0;
}

// --- pre-tokenizer

static int read_behavior(struct json value, enum splitter_behavior *behavior, struct error *error)
{
    const char *name;
    const int failed = json_need_string(value, &name, error);
    if (failed)
        return failed;
    for (int i = 0; i < SPLITTER_BEHAVIORS; i++)
        if (is(name, splitter_behavior_name((enum splitter_behavior)i))) {
            *behavior = (enum splitter_behavior)i;
            return 0;
        }
    return tokenizer_refuse(value, name, "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous",
                            error);
}

static int read_split(struct tokenizer *t, struct json step, struct error *error)
{
    const struct json pattern = json_get(step, "pattern");
    const struct json regex = json_get(pattern, "Regex"), literal = json_get(pattern, "String");
    const bool is_regex = json_present(regex);
    enum splitter_behavior behavior = SPLITTER_ISOLATED;
    bool invert = false;
    const char *text;
    int failed = json_need_object(pattern, error);
    if (!failed)
        failed = json_need_string(is_regex ? regex : literal, &text, error);
    if (!failed && is_regex && json_present(literal))
        failed = tokenizer_refuse(pattern, "both Regex and String", "one of them", error);
    if (!failed)
        failed = read_behavior(json_get(step, "behavior"), &behavior, error);
    if (!failed)
        failed = json_need_bool(json_get(step, "invert"), &invert, error);
    if (failed)
        return failed;
    struct pattern *compiled;
    failed = is_regex ? pattern_open(&compiled, text, json_where(regex), error)
                      : pattern_open_literal(&compiled, text, json_where(literal), error);
    if (!failed)
        splitter_add(&t->splitter, compiled, behavior, invert);
    return failed;
}

static int read_byte_level(struct tokenizer *t, struct json step, struct error *error)
{
    bool add_prefix_space = false, use_regex = true;
    const struct json given = json_get(step, "use_regex"); // absent in older files
    int failed = json_need_bool(json_get(step, "add_prefix_space"), &add_prefix_space, error);
    if (!failed && json_present(given))
        failed = json_need_bool(given, &use_regex, error);
    if (!failed && add_prefix_space)
        splitter_add(&t->splitter, NULL, SPLITTER_ISOLATED, false);
    if (failed || !use_regex)
        return failed;
    struct pattern *compiled;
    failed = pattern_open(&compiled, BYTE_LEVEL, "ByteLevel", error);
    if (!failed)
        splitter_add(&t->splitter, compiled, SPLITTER_ISOLATED, false);
    return failed;
}

static int read_pre_tokenizer(struct tokenizer *t, struct json step, const char *type, struct error *error)
{
    if (t->byte_level)
        return tokenizer_refuse(step, type,
                                "ByteLevel to be the last step: behind it the text is in another alphabet", error);
    if (t->splitter.n_steps + 2 > SPLITTER_STEPS) // ByteLevel may be two
        return tokenizer_refuse(step, "too many steps", "at most 15", error);
    if (is(type, "Split"))
        return read_split(t, step, error);
    if (!is(type, "ByteLevel"))
        return tokenizer_refuse(step, type, "Split and ByteLevel, or a Sequence of them", error);
    t->byte_level = true;
    return read_byte_level(t, step, error);
}

// --- post-processor

// Appends the ids of a special token of the template.
static int put_special(struct tokenizer *t, struct json piece, struct json table, struct ids *ids,
                       struct error *error)
{
    const char *name;
    int failed = json_need_string(json_get(piece, "id"), &name, error);
    const struct json list = json_get(json_get(table, failed ? "" : name), "ids");
    if (!failed)
        failed = json_need_array(list, error);
    for (struct json id = json_first(list); id.item && !failed; id = json_next(id)) {
        failed =
            ids->n < ids->capacity ? 0 : tokenizer_refuse(list, "too many ids", "at most 64 around a text", error);
        if (!failed)
            failed = json_need_u32(id, 0, t->vocabulary.n_ids - 1, &ids->ids[ids->n], error);
        if (!failed && !vocabulary_token(&t->vocabulary, ids->ids[ids->n++]))
            failed = tokenizer_refuse(id, "an id without a token", "one of the vocabulary", error);
    }
    return failed;
}

static int read_template(struct tokenizer *t, struct json step, struct error *error)
{
    enum { MOST = 64 };
    struct ids around[2] = {{arena_alloc(&t->arena, MOST, sizeof(uint32_t)), 0, MOST},
                            {arena_alloc(&t->arena, MOST, sizeof(uint32_t)), 0, MOST}};
    if (!around[0].ids || !around[1].ids)
        return error_set(error, ERROR_RUNTIME, "out of memory for a template");
    const struct json single = json_get(step, "single"), table = json_get(step, "special_tokens");
    int failed = json_need_array(single, error);
    if (!failed)
        failed = json_need_object(table, error);
    int sequences = 0;
    for (struct json piece = json_first(single); piece.item && !failed; piece = json_next(piece)) {
        const struct json special = json_get(piece, "SpecialToken"), sequence = json_get(piece, "Sequence");
        const char *name = "";
        if (json_present(special))
            failed = put_special(t, special, table, &around[sequences > 0], error);
        else
            failed = json_need_string(json_get(sequence, "id"), &name, error);
        if (!failed && !json_present(special) && (!is(name, "A") || sequences++))
            failed = tokenizer_refuse(piece, name, "sequence A, once", error);
    }
    if (!failed && !sequences)
        failed = tokenizer_refuse(single, "no sequence", "sequence A, once", error);
    if (!failed && t->has_template)
        failed = tokenizer_refuse(step, "a second TemplateProcessing", "one", error);
    t->has_template = true;
    t->prefix = around[0].ids;
    t->n_prefix = around[0].n;
    t->suffix = around[1].ids;
    t->n_suffix = around[1].n;
    return failed;
}

static int read_post_processor(struct tokenizer *t, struct json step, const char *type, struct error *error)
{
    if (is(type, "ByteLevel")) // trims offsets, not ids
        return 0;
    if (is(type, "TemplateProcessing"))
        return read_template(t, step, error);
    return tokenizer_refuse(step, type, "TemplateProcessing, ByteLevel, a Sequence of them, or null", error);
}

// --- decoder

static int read_decoder(struct tokenizer *t, struct json step, const char *type, struct error *error)
{
    if (!is(type, "ByteLevel") || t->decodes)
        return tokenizer_refuse(step, type, "one ByteLevel, alone or in a Sequence", error);
    t->decodes = true;
    return 0;
}

// --- the whole file

static int refuse_present(struct json root, const char *key, struct error *error)
{
    const struct json value = json_get(root, key);
    return json_present(value) ? tokenizer_refuse(value, "a value", "null: it would change the ids of a text", error)
                               : 0;
}

static int read_root(struct tokenizer *t, struct json root, struct error *error)
{
    static const struct reader normalizer = {"normalizers", read_normalizer},
                               pre = {"pretokenizers", read_pre_tokenizer},
                               post = {"processors", read_post_processor}, decoder = {"decoders", read_decoder};
    const struct json added = json_get(root, "added_tokens"), normal = json_get(root, "normalizer");
    const struct json after = json_get(root, "post_processor"), version = json_get(root, "version");
    const char *number = "1.0";
    int failed = json_need_object(root, error);
    if (!failed && json_present(version))
        failed = json_need_string(version, &number, error);
    if (!failed && !is(number, "1.0"))
        failed = tokenizer_refuse(version, number, "1.0", error);
    if (!failed)
        failed = refuse_present(root, "truncation", error);
    if (!failed)
        failed = refuse_present(root, "padding", error);
    if (!failed && json_present(normal))
        failed = read_steps(t, normal, &normalizer, error);
    if (!failed && json_present(added))
        failed = json_need_array(added, error);
    const size_t n_added = failed ? 0 : json_length(added);
    if (!failed && n_added > VOCABULARY_IDS)
        failed = tokenizer_refuse(added, "too many tokens", "less than 4,194,304", error);
    if (!failed)
        failed = tokenizer_read_model(t, json_get(root, "model"), n_added, error);
    if (!failed)
        failed = tokenizer_read_added(t, added, n_added, error);
    if (!failed)
        failed = vocabulary_seal(&t->vocabulary, &t->arena, error);
    if (!failed)
        failed = read_steps(t, json_get(root, "pre_tokenizer"), &pre, error);
    if (!failed && !t->byte_level)
        failed = tokenizer_refuse(json_get(root, "pre_tokenizer"), "no ByteLevel", "byte-level BPE", error);
    if (!failed && json_present(after))
        failed = read_steps(t, after, &post, error);
    if (!failed)
        failed = read_steps(t, json_get(root, "decoder"), &decoder, error);
    if (!failed && !t->decodes)
        failed = tokenizer_refuse(json_get(root, "decoder"), "an empty Sequence", "one ByteLevel", error);
    return failed;
}

int tokenizer_read(struct tokenizer *tokenizer, struct json_document *document, struct error *error)
{
    tokenizer->path = arena_print(&tokenizer->arena, "%s", document->name);
    return tokenizer->path ? read_root(tokenizer, json_root(document), error)
                           : error_set(error, ERROR_RUNTIME, "%s: out of memory for a tokenizer", document->name);
}
