// Ids equal to Hugging Face's on every golden, and proof that the goldens would notice.
#include "harness/model/tokenizer.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/hash.h"
#include "harness/base/json.h"
#include "harness/model/tokenizer_parts.h"
#include "harness/model/tokens/nfc.h"

#define GOLDENS ASSAY_FIXTURES "/tokenizers/goldens.json"
#define LFM2 ASSAY_FIXTURES "/models/lfm2-mini/tokenizer.json"
#define QWEN ASSAY_FIXTURES "/models/qwen35-mini/tokenizer.json"

enum { CORPUS = 91, CASES = 471, ODD = 27, ODD_TEXTS = 96 }; // a lost case is a failure, not a shorter test

static struct error error;
static struct arena arena;
static struct json_document *goldens;

static void open_goldens(void)
{
    cr_assert_eq(json_open_file(&goldens, GOLDENS, 1 << 24, &error), 0, "%s", error.text);
}

static void close_goldens(void)
{
    json_close(&goldens);
    arena_close(&arena);
}

TestSuite(tokenizer, .init = open_goldens, .fini = close_goldens);

static struct json golden(const char *key)
{
    return json_get(json_root(goldens), key);
}

static uint32_t need_u32(struct json value)
{
    uint32_t number;
    cr_assert_eq(json_need_u32(value, 0, UINT32_MAX, &number, &error), 0, "%s", error.text);
    return number;
}

static char *from_hex(struct json value, size_t *size)
{
    const char *hex;
    cr_assert_eq(json_need_string(value, &hex, &error), 0, "%s", error.text);
    *size = strlen(hex) / 2;
    char *bytes = arena_alloc(&arena, *size + 1, 1);
    cr_assert_not_null(bytes);
    for (size_t i = 0; i < *size; i++)
        bytes[i] = (char)strtoul((char[]){hex[2 * i], hex[2 * i + 1], 0}, NULL, 16);
    return bytes;
}

static bool equal_ids(struct json list, const uint32_t *ids, size_t n)
{
    size_t i = 0;
    for (struct json item = json_first(list); item.item; item = json_next(item), i++)
        if (i >= n || ids[i] != need_u32(item))
            return false;
    return i == n;
}

static uint32_t *encode(struct tokenizer *tokenizer, const char *text, size_t size, bool special, size_t *n)
{
    uint32_t *ids;
    cr_assert_eq(tokenizer_encode(tokenizer, &arena, text, size, special, &ids, n, &error), 0, "%s", error.text);
    return ids;
}

// The words that normalizer and pre-tokenizer make of a whole text, added tokens or not: their sizes.
static uint32_t *cut(struct tokenizer *tokenizer, const char *bytes, size_t size, size_t *n)
{
    struct text clean = {0}, composed = {0};
    struct splitter_words words;
    cr_assert_eq(text_append_repaired(&clean, bytes, size, &error), 0);
    cr_assert_eq(tokenizer->nfc ? nfc_append(&composed, clean.bytes, clean.size, &error)
                                : text_append(&composed, clean.bytes, clean.size, &error),
                 0, "%s", error.text);
    splitter_begin(&tokenizer->splitter, composed.size);
    cr_assert_eq(splitter_split(&tokenizer->splitter, composed.bytes, composed.size, &words, &error), 0, "%s",
                 error.text);
    uint32_t *sizes = arena_alloc(&arena, words.n, sizeof *sizes);
    cr_assert_not_null(sizes);
    for (size_t i = 0; i < words.n; i++)
        sizes[i] = words.spans[i].end - words.spans[i].start;
    *n = words.n;
    text_close(&clean);
    text_close(&composed);
    return sizes;
}

// Whether all five answers of a case are equal to the golden ones.
static bool agrees(struct tokenizer *tokenizer, struct json entry, const char *name)
{
    size_t size, n, whole_size, expected_size;
    char *whole, *bytes = from_hex(json_get(entry, "bytes"), &size);
    const struct json answer = json_get(entry, name);
    const uint32_t *ids = encode(tokenizer, bytes, size, false, &n);
    bool equal = equal_ids(json_get(answer, "ids"), ids, n);
    ids = encode(tokenizer, bytes, size, true, &n);
    equal &= equal_ids(json_get(answer, "special"), ids, n);
    size_t n_cuts;
    const uint32_t *cuts = cut(tokenizer, bytes, size, &n_cuts);
    equal &= equal_ids(json_get(answer, "cuts"), cuts, n_cuts);
    for (int skip = 0; skip < 2; skip++) {
        cr_assert_eq(tokenizer_decode(tokenizer, &arena, ids, n, skip, &whole, &whole_size, &error), 0, "%s",
                     error.text);
        const char *expected = from_hex(json_get(answer, skip ? "skipped" : "text"), &expected_size);
        equal &= whole_size == expected_size && !memcmp(whole, expected, whole_size) && !whole[whole_size];
    }
    return equal;
}

// Cases that differ; with `report`, each is a failed expectation.
static size_t count_differences(struct tokenizer *tokenizer, const char *name, bool report)
{
    size_t differences = 0, cases = 0;
    for (struct json entry = json_first(golden("cases")); entry.item; entry = json_next(entry), cases++) {
        if (agrees(tokenizer, entry, name))
            continue;
        const char *group, *bytes;
        differences++;
        json_need_string(json_get(entry, "group"), &group, &error);
        json_need_string(json_get(entry, "bytes"), &bytes, &error);
        cr_expect(!report, "%s: case %zu (%s) differs, bytes %.200s", name, cases, group, bytes);
    }
    cr_assert_eq(cases, CASES);
    return differences;
}

static struct tokenizer *open_file(const char *path)
{
    struct tokenizer *tokenizer;
    cr_assert_eq(tokenizer_open(&tokenizer, path, &error), 0, "%s", error.text);
    return tokenizer;
}

static void check_goldens(const char *path, const char *name)
{
    char hex[HASH_HEX];
    const char *expected;
    cr_assert_eq(json_need_string(json_get(json_get(golden("files"), name), "sha256"), &expected, &error), 0);
    cr_assert_eq(hash_file(path, hex, &error), 0, "%s", error.text);
    cr_assert_str_eq(hex, expected, "%s is not the file the goldens were made with", path);
    struct tokenizer *tokenizer = open_file(path);
    cr_assert_eq(tokenizer_size(tokenizer), 4096);
    count_differences(tokenizer, name, true);
    tokenizer_close(&tokenizer);
    cr_assert_null(tokenizer);
}

Test(tokenizer, all_goldens_of_the_lfm2_rules_are_equal)
{
    check_goldens(LFM2, "lfm2-mini");
}

Test(tokenizer, all_goldens_of_the_qwen_rules_are_equal)
{
    check_goldens(QWEN, "qwen35-mini");
}

// --- one unusual feature each

static size_t count_odd(struct tokenizer *tokenizer, struct json answers, const char *name, bool report)
{
    size_t differences = 0, texts = 0;
    struct json answer = json_first(answers);
    for (struct json hex = json_first(golden("odd_texts")); hex.item;
         hex = json_next(hex), answer = json_next(answer), texts++) {
        size_t size, n, n_cuts, back_size, expected_size;
        char *back, *bytes = from_hex(hex, &size);
        const uint32_t *ids = encode(tokenizer, bytes, size, true, &n), *cuts = cut(tokenizer, bytes, size, &n_cuts);
        cr_assert_eq(tokenizer_decode(tokenizer, &arena, ids, n, true, &back, &back_size, &error), 0, "%s",
                     error.text);
        const char *expected = from_hex(json_get(answer, "skipped"), &expected_size);
        const bool equal = equal_ids(json_get(answer, "ids"), ids, n) &&
                           equal_ids(json_get(answer, "cuts"), cuts, n_cuts) && back_size == expected_size &&
                           !memcmp(back, expected, back_size);
        differences += !equal;
        cr_expect(equal || !report, "%s: \"%s\" differs", name, bytes);
    }
    cr_assert_eq(texts, ODD_TEXTS);
    return differences;
}

static struct tokenizer *open_odd(const char *name)
{
    const char *path = arena_print(&arena, "%s/tokenizers/odd/%s.json", ASSAY_FIXTURES, name);
    struct tokenizer *tokenizer;
    cr_assert_eq(tokenizer_open(&tokenizer, path, &error), 0, "%s", error.text);
    return tokenizer;
}

Test(tokenizer, all_odd_tokenizers_give_hugging_faces_ids)
{
    size_t n = 0;
    for (struct json odd = json_first(golden("odd")); odd.item; odd = json_next(odd), n++) {
        const char *name;
        cr_assert_eq(json_need_string(json_get(odd, "name"), &name, &error), 0);
        struct tokenizer *tokenizer = open_odd(name);
        count_odd(tokenizer, json_get(odd, "answers"), name, true);
        tokenizer_close(&tokenizer);
    }
    cr_assert_eq(n, ODD);
}

static struct json odd_answers(const char *name)
{
    for (struct json odd = json_first(golden("odd")); odd.item; odd = json_next(odd)) {
        const char *found;
        cr_assert_eq(json_need_string(json_get(odd, "name"), &found, &error), 0);
        if (!strcmp(found, name))
            return json_get(odd, "answers");
    }
    cr_assert_fail("no answers of %s", name);
    return (struct json){0};
}

// The answers of the first are not those of the second, which differs in the feature alone.
Test(tokenizer, each_odd_feature_has_an_effect)
{
    static const char *const pairs[][2] = {
        {"ignore-merges", "no-ignore-merges"},
        {"merge-twice", "no-ignore-merges"},
        {"gpt2", "no-ignore-merges"},
        {"gpt2", "prefix-regex"},
        {"split-removed", "split-removed-invert"},
        {"split-isolated", "split-removed"},
        {"split-mergedwithnext", "split-mergedwithprevious"},
        {"split-mergedwithnext", "split-mergedwithnext-invert"},
        {"split-mergedwithprevious", "split-mergedwithprevious-invert"},
        {"split-next-single", "split-previous-single"},
        {"split-empty", "split-empty-contiguous"},
        {"added", "added-nfc"},
        {"added", "no-ignore-merges"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct tokenizer *tokenizer = open_odd(pairs[i][1]);
        cr_expect_gt(count_odd(tokenizer, odd_answers(pairs[i][0]), pairs[i][0], false), 0, "%s and %s are one",
                     pairs[i][0], pairs[i][1]);
        tokenizer_close(&tokenizer);
    }
}

// --- every assigned code point

static size_t put(char *text, uint32_t code)
{
    if (code < 0x80) {
        text[0] = (char)code;
        return 1;
    }
    const size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = length; --i; code >>= 6)
        text[i] = (char)(0x80 | (code & 0x3F));
    text[0] = (char)(0xF0u << (4 - length) | code);
    return length;
}

// The text of tokenizer_goldens.py: "a<c>1<c> <c>'<c>\n" for each c of 64.
static size_t plane_text(char *text, const uint32_t *codes, size_t n)
{
    static const char between[] = "a1 '";
    size_t size = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < 4; j++) {
            text[size++] = between[j];
            size += put(text + size, codes[i]);
        }
        text[size++] = '\n';
    }
    return size;
}

static void hash_block(struct tokenizer *tokenizer, uint32_t start, char hex[HASH_HEX])
{
    uint32_t codes[4096];
    size_t n = 0, n_bytes = 0;
    for (uint32_t code = start; code < start + 4096; code++)
        if (code < 0xD800 || code > 0xDFFF)
            codes[n++] = code;
    unsigned char *bytes = malloc(4096 * 21 * 4); // at most a word for each byte of each text
    cr_assert_not_null(bytes);
    for (size_t i = 0; i < n; i += 64) {
        char text[64 * 21];
        size_t n_cuts;
        const uint32_t *cuts = cut(tokenizer, text, plane_text(text, codes + i, n - i < 64 ? n - i : 64), &n_cuts);
        for (size_t j = 0; j < n_cuts; j++)
            for (int byte = 0; byte < 4; byte++)
                bytes[n_bytes++] = (unsigned char)(cuts[j] >> 8 * byte);
        arena_close(&arena);
    }
    cr_assert_eq(hash_bytes(bytes, n_bytes, hex, &error), 0);
    free(bytes);
}

// Blocks of 4,096 code points whose words differ from Hugging Face's; with `report`, each is a failed expectation.
static size_t count_blocks(struct tokenizer *tokenizer, const char *name, bool report)
{
    size_t blocks = 0, differences = 0;
    for (struct json entry = json_first(json_get(golden("planes"), name)); entry.item;
         entry = json_next(entry), blocks++) {
        const char *expected;
        char hex[HASH_HEX];
        const uint32_t start = (uint32_t)strtoul(json_key(entry), NULL, 16);
        cr_assert_eq(json_need_string(entry, &expected, &error), 0);
        hash_block(tokenizer, start, hex);
        differences += strcmp(hex, expected) != 0;
        cr_expect(!report || !strcmp(hex, expected), "%s: words differ for a code point in U+%X..U+%X", name, start,
                  start + 4095);
    }
    cr_assert_eq(blocks, 80); // five planes of sixteen
    return differences;
}

static void check_planes(const char *path, const char *name)
{
    struct tokenizer *tokenizer = open_file(path);
    count_blocks(tokenizer, name, true);
    tokenizer_close(&tokenizer);
}

Test(tokenizer, every_code_point_of_the_assigned_planes_by_the_lfm2_rules)
{
    check_planes(LFM2, "lfm2-mini");
}

Test(tokenizer, every_code_point_of_the_assigned_planes_by_the_qwen_rules)
{
    check_planes(QWEN, "qwen35-mini");
}

// --- wrong on purpose: the goldens must see it

// The file's text with the first `from` replaced by `to`.
static struct tokenizer *open_changed(const char *path, const char *from, const char *to)
{
    char *text;
    uint64_t size;
    cr_assert_eq(file_read(&arena, path, 1 << 24, &text, &size, &error), 0, "%s", error.text);
    const char *at = strstr(text, from);
    cr_assert_not_null(at, "%s has no %s", path, from);
    char *changed = arena_print(&arena, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    cr_assert_not_null(changed);
    struct tokenizer *tokenizer;
    cr_assert_eq(tokenizer_open_text(&tokenizer, "changed", changed, strlen(changed), &error), 0, "%s", error.text);
    return tokenizer;
}

static void expect_differences(const char *path, const char *name, const char *from, const char *to)
{
    struct tokenizer *tokenizer = open_changed(path, from, to);
    cr_expect_gt(count_differences(tokenizer, name, false), 0, "%s: nobody notices %s instead of %s", name, to, from);
    tokenizer_close(&tokenizer);
}

Test(tokenizer, goldens_notice_a_missing_merge)
{
    const char *merge = "      [\n        \"h\",\n        \"e\"\n      ],\n";
    expect_differences(LFM2, "lfm2-mini", merge, "");
    expect_differences(QWEN, "qwen35-mini", merge, "");
}

Test(tokenizer, goldens_notice_two_merges_exchanged)
{
    const char *order = "        \"\u0120\",\n        \"t\"\n      ],\n      [\n        \"h\",\n        \"e\"\n";
    const char *other = "        \"h\",\n        \"e\"\n      ],\n      [\n        \"\u0120\",\n        \"t\"\n";
    const char *same = "        \"\u0120\",\n        \"t\"\n      ],\n      [\n        \"h\",\n        \"e\"\n";
    struct tokenizer *tokenizer = open_changed(QWEN, order, same); // the control: put in its own place
    cr_expect_eq(count_differences(tokenizer, "qwen35-mini", true), 0);
    tokenizer_close(&tokenizer);
    tokenizer = open_changed(QWEN, order, other); // ranks 1 and 2 never compete in a word: equal, and rightly so
    cr_expect_eq(count_differences(tokenizer, "qwen35-mini", true), 0);
    tokenizer_close(&tokenizer);
}

Test(tokenizer, goldens_notice_another_expression)
{
    expect_differences(LFM2, "lfm2-mini", "\\\\p{N}{1,3}", "\\\\p{N}");
    expect_differences(LFM2, "lfm2-mini", "(?i:'s", "(?:'s");
    expect_differences(LFM2, "lfm2-mini", "\\\\s+(?!\\\\S)|", "");
    expect_differences(LFM2, "lfm2-mini", "\\\\s*[\\\\r\\\\n]+|", "");
    expect_differences(QWEN, "qwen35-mini", "[\\\\p{L}\\\\p{M}]+", "\\\\p{L}+");
    expect_differences(QWEN, "qwen35-mini", "[^\\\\s\\\\p{L}\\\\p{M}\\\\p{N}]+", "[^\\\\s\\\\p{L}\\\\p{N}]+");
}

Test(tokenizer, goldens_notice_a_missing_normalizer_template_or_flag)
{
    expect_differences(QWEN, "qwen35-mini", "\"normalizer\": {\n    \"type\": \"NFC\"\n  }", "\"normalizer\": null");
    expect_differences(LFM2, "lfm2-mini", "\"ids\": [\n              1\n", "\"ids\": [\n              2\n");
    expect_differences(LFM2, "lfm2-mini", "\"special\": true", "\"special\": false");
    expect_differences(LFM2, "lfm2-mini", "\"add_prefix_space\": false", "\"add_prefix_space\": true");
    const char *token = "\"content\": \"Mathias\",\n      \"single_word\": false";
    expect_differences(LFM2, "lfm2-mini", token, "\"content\": \"Mathias\",\n      \"single_word\": true");
}

Test(tokenizer, planes_notice_a_character_in_the_wrong_class)
{
    struct tokenizer *tokenizer = open_changed(LFM2, "|\\\\p{N}{1,3}|", "|\\\\p{Nd}{1,3}|");
    cr_expect_gt(count_blocks(tokenizer, "lfm2-mini", false), 0);
    tokenizer_close(&tokenizer);
    tokenizer = open_changed(QWEN, "{\n    \"type\": \"NFC\"\n  }", "null");
    cr_expect_gt(count_blocks(tokenizer, "qwen35-mini", false), 0);
    tokenizer_close(&tokenizer);
    // the control: the same class in other words, from the tables of the parts
    tokenizer = open_changed(LFM2, "?\\\\p{L}+|", "?[\\\\p{Lu}\\\\p{Ll}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}]+|");
    cr_expect_eq(count_blocks(tokenizer, "lfm2-mini", true), 0);
    tokenizer_close(&tokenizer);
}

// --- hostile files

Test(tokenizer, bad_files_are_refused_by_name_and_sound_ones_open)
{
    struct dirent **entries;
    const char *directory = ASSAY_FIXTURES "/fuzz/tokenizer";
    const int n = scandir(directory, &entries, NULL, alphasort);
    int tried = 0;
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        if (*name == '.') {
            free(entries[i]);
            continue;
        }
        struct tokenizer *tokenizer = NULL;
        error = (struct error){0};
        const int code = tokenizer_open(&tokenizer, file_join(&arena, directory, name), &error);
        const bool bad = !strncmp(name, "bad-", 4);
        cr_expect(bad || !strncmp(name, "sound-", 6), "%s: a bad- or a sound- file?", name);
        cr_expect_eq(code, bad ? ERROR_INPUT : 0, "%s: %s", name, error.text);
        cr_expect(!bad || (!tokenizer && strstr(error.text, name)), "%s: %s", name, error.text);
        tokenizer_close(&tokenizer);
        free(entries[i]);
        tried++;
    }
    free(entries);
    cr_assert_eq(tried, CORPUS);
}

// --- there and back

Test(tokenizer, valid_text_without_special_tokens_comes_back_from_its_ids)
{
    struct tokenizer *tokenizer = open_file(LFM2);
    size_t tried = 0;
    for (struct json entry = json_first(golden("cases")); entry.item; entry = json_next(entry)) {
        const char *group;
        cr_assert_eq(json_need_string(json_get(entry, "group"), &group, &error), 0);
        if (!strcmp(group, "invalid") || !strcmp(group, "bytes"))
            continue;
        size_t size, n, back_size;
        char *back, *bytes = from_hex(json_get(entry, "bytes"), &size);
        const uint32_t *ids = encode(tokenizer, bytes, size, false, &n);
        cr_assert_eq(tokenizer_decode(tokenizer, &arena, ids, n, false, &back, &back_size, &error), 0, "%s",
                     error.text);
        cr_expect(back_size == size && !memcmp(back, bytes, size), "%s: %s is not %s", group, back, bytes);
        tried++;
    }
    cr_assert_gt(tried, 400);
    tokenizer_close(&tokenizer);
}

Test(tokenizer, ids_without_a_token_are_an_error)
{
    struct tokenizer *tokenizer = open_file(LFM2);
    char *text;
    size_t size;
    cr_expect_eq(tokenizer_decode(tokenizer, &arena, (uint32_t[]){24, 4096}, 2, false, &text, &size, &error),
                 ERROR_INPUT);
    cr_expect_not_null(strstr(error.text, "id 4096 at place 1"), "%s", error.text);
    cr_expect_null(text);
    cr_expect_null(tokenizer_token(tokenizer, 4096));
    cr_expect_null(tokenizer_token(tokenizer, UINT32_MAX));
    cr_expect_str_eq(tokenizer_token(tokenizer, 6), "<|im_start|>");
    tokenizer_close(&tokenizer);
}

Test(tokenizer, a_file_that_is_not_there_is_named)
{
    struct tokenizer *tokenizer = (struct tokenizer *)&error;
    cr_expect_eq(tokenizer_open(&tokenizer, ASSAY_FIXTURES "/no/tokenizer.json", &error), ERROR_INPUT);
    cr_expect_null(tokenizer);
    cr_expect_not_null(strstr(error.text, "no/tokenizer.json"), "%s", error.text);
}
