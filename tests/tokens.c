// The parts of the tokenizer, each against a slower or independent account of the same thing, and against hostile
// input.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "harness/base/files.h"
#include "harness/model/tokenizer_parts.h"
#include "harness/model/tokens/nfc.h"

#define LFM2 ASSAY_FIXTURES "/models/lfm2-mini/tokenizer.json"

static struct error error;

// --- text

static void expect_repaired(const char *bytes, size_t size, const char *expected)
{
    struct text text = {0};
    cr_assert_eq(text_append_repaired(&text, bytes, size, &error), 0);
    cr_expect(text.size == strlen(expected) && !memcmp(text.bytes, expected, text.size), "%.*s is not %s",
              (int)text.size, text.bytes, expected);
    cr_expect_eq(text_is_valid(bytes, size), text.size == size && !memcmp(text.bytes, bytes, size));
    text_close(&text);
}

#define REPLACED "\xEF\xBF\xBD"

// The table of Unicode 3.9, "U+FFFD substitution of maximal subparts", and its neighbours.
Test(tokens, one_replacement_for_each_maximal_invalid_part)
{
    expect_repaired("plain ascii of more than eight bytes", 36, "plain ascii of more than eight bytes");
    expect_repaired("\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80", 9, "\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80");
    expect_repaired("a\xF1\x80\x80\xE1\x80\xC2"
                    "b\x80"
                    "c\x80\xBF"
                    "d",
                    13, "a" REPLACED REPLACED REPLACED "b" REPLACED "c" REPLACED REPLACED "d");
    expect_repaired("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
                    "A",
                    9, REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED "A");
    expect_repaired("\xED\xA0\x80\xF4\x91\x92\x93\xFF"
                    "A",
                    9, REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED "A");
    expect_repaired("\xE2\x82", 2, REPLACED);
    expect_repaired("\xF4\x8F\xBF\xBF", 4, "\xF4\x8F\xBF\xBF");
}

Test(tokens, the_alphabet_has_256_letters_and_they_read_back)
{
    bool used[0x144] = {false};
    for (int byte = 0; byte < 256; byte++) {
        char letter[2];
        uint32_t code;
        const size_t size = text_letter((unsigned char)byte, letter);
        cr_expect_eq(text_character(letter, size, &code), size);
        cr_assert_lt(code, 0x144u);
        cr_expect(!used[code] && code > 0x20 && code != 0x7F && code != 0xA0);
        used[code] = true;
        cr_expect_eq(text_letter_byte(code), byte);
    }
    static const uint32_t none[] = {0, 0x20, 0x7F, 0x80, 0xA0, 0xAD, 0x144, 0x4E2D};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        cr_expect_eq(text_letter_byte(none[i]), -1, "U+%X", none[i]);
    struct text text = {0};
    cr_assert_eq(text_append_letters(&text, "\xC4\xA0the", 5, &error), 0);
    cr_assert_eq(text_append_letters(&text, "two words", 9, &error), 0); // a blank is no letter: the text itself
    cr_expect(text.size == 13 && !memcmp(text.bytes, " thetwo words", 13));
    text_close(&text);
}

Test(tokens, what_is_shown_in_messages_is_short_and_printable)
{
    char shown[TEXT_SHOWN];
    cr_expect_str_eq(text_shown(shown, "a\x1B[1m\xFF\xC2\x9B\xC3\xA9", 10), "a?[1m??\xC3\xA9");
    char large[1000];
    memset(large, 'x', sizeof large);
    cr_expect_eq(strlen(text_shown(shown, large, sizeof large)), TEXT_SHOWN - 1);
}

// --- NFC

static void expect_nfc(const char *text, const char *expected)
{
    struct text out = {0};
    cr_assert_eq(nfc_append(&out, text, strlen(text), &error), 0);
    cr_expect(out.size == strlen(expected) && (!out.size || !memcmp(out.bytes, expected, out.size)), "%s gives %.*s",
              text, (int)out.size, out.bytes);
    text_close(&out);
}

Test(tokens, marks_are_ordered_and_joined)
{
    expect_nfc("", "");
    expect_nfc("abc e\u0301 x", "abc \u00e9 x");
    expect_nfc("a\u0302\u0323", "\u1ead");
    expect_nfc("a\u0323\u0302", "\u1ead");
    expect_nfc("\u1112\u1161\u11ab", "\ud55c");
    expect_nfc("\u0958\u212b", "\u0915\u093c\u00c5"); // one is excluded from composition, one is not
    expect_nfc("\u0301\u0323", "\u0323\u0301");       // marks alone are ordered too
}

// utf8proc as a whole is the second account; it differs only where newer marks are kept in place.
Test(tokens, nfc_is_that_of_utf8proc_but_for_marks_newer_than_unicode_9)
{
    unsigned different = 0;
    for (utf8proc_int32_t code = 1; code < 0x30000; code++) {
        if (code >= 0xD800 && code < 0xE000)
            continue;
        char text[32];
        size_t size = 0;
        const utf8proc_int32_t codes[] = {'a', code, 0x323, code, 'e', 0x301, 0x334};
        for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
            size += (size_t)utf8proc_encode_char(codes[i], (utf8proc_uint8_t *)text + size);
        utf8proc_uint8_t *whole;
        const utf8proc_ssize_t n = utf8proc_map((utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &whole,
                                                UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        struct text out = {0};
        cr_assert_eq(nfc_append(&out, text, size, &error), 0);
        different += (size_t)n != out.size || memcmp(whole, out.bytes, out.size);
        free(whole);
        text_close(&out);
    }
    // 80 with utf8proc 2.8 (Unicode 15.0); later versions give classes to some more of the marks listed
    cr_expect(different >= 80 && different <= 200, "%u characters differ", different);
}

// --- merging

enum { MOST = 256 };

// The obvious way: look at all pairs, merge the leftmost of the lowest rank, start again.
static size_t merge_slowly(const struct bpe_merge *merges, uint32_t n_merges, uint32_t *tokens, size_t n)
{
    for (;;) {
        uint32_t best = n_merges;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (uint32_t rank = 0; rank < best; rank++)
                if (merges[rank].left == tokens[i] && merges[rank].right == tokens[i + 1]) {
                    best = rank;
                    at = i;
                }
        if (best == n_merges)
            return n;
        tokens[at] = merges[best].merged;
        memmove(tokens + at + 1, tokens + at + 2, (n - at - 2) * sizeof *tokens);
        n--;
    }
}

static uint32_t state = 12345; // fixed: the same words in every run

static uint32_t pick(uint32_t below)
{
    state = state * 1664525 + 1013904223;
    return (state >> 8) % below;
}

// Letters 0 to 3; merge i makes token 4 + i, so no two pairs make the same.
Test(tokens, merging_with_a_heap_is_merging_by_looking_at_all_pairs)
{
    enum { MERGES = 40, LETTERS = 4 };
    struct bpe_merge merges[MERGES];
    struct arena arena = {0};
    struct bpe_word word = {0};
    size_t shortened = 0;
    for (int round = 0; round < 200; round++) {
        uint32_t n_merges = 0;
        while (n_merges < MERGES) {
            const struct bpe_merge merge = {pick(LETTERS + n_merges), pick(LETTERS + n_merges), LETTERS + n_merges};
            bool known = false;
            for (uint32_t i = 0; i < n_merges; i++)
                known |= merges[i].left == merge.left && merges[i].right == merge.right;
            if (!known)
                merges[n_merges++] = merge;
        }
        struct bpe bpe;
        cr_assert_eq(bpe_open(&bpe, &arena, LETTERS + MERGES, merges, MERGES, "here", &error), 0);
        const size_t n = 1 + pick(MOST - 1);
        uint32_t slow[MOST];
        cr_assert_eq(bpe_word_reserve(&word, n, &error), 0);
        for (size_t i = 0; i < n; i++)
            word.tokens[i] = slow[i] = pick(LETTERS);
        const size_t n_slow = merge_slowly(merges, MERGES, slow, n), n_fast = bpe_merge_word(&bpe, &word, n);
        cr_expect_eq(n_fast, n_slow);
        cr_expect(!memcmp(word.tokens, slow, n_slow * sizeof *slow), "round %d", round);
        shortened += n_slow < n;
        arena_close(&arena);
    }
    cr_assert_gt(shortened, 150); // the words did get merged
    bpe_word_close(&word);
}

Test(tokens, of_a_pair_that_stands_twice_the_last_rank_counts)
{
    const struct bpe_merge merges[] = {{0, 1, 2}, {1, 1, 3}, {0, 1, 2}};
    struct arena arena = {0};
    struct bpe bpe;
    struct bpe_word word = {0};
    cr_assert_eq(bpe_open(&bpe, &arena, 4, merges, 3, "here", &error), 0);
    cr_assert_eq(bpe_word_reserve(&word, 3, &error), 0);
    memcpy(word.tokens, (uint32_t[]){0, 1, 1}, 3 * sizeof *word.tokens);
    cr_expect_eq(bpe_merge_word(&bpe, &word, 3), 2);
    cr_expect(word.tokens[0] == 0 && word.tokens[1] == 3, "the first rank was taken");
    cr_assert_eq(bpe_open(&bpe, &arena, 4, merges, 2, "here", &error), 0); // the control: without the second time
    memcpy(word.tokens, (uint32_t[]){0, 1, 1}, 3 * sizeof *word.tokens);
    cr_expect_eq(bpe_merge_word(&bpe, &word, 3), 2);
    cr_expect(word.tokens[0] == 2 && word.tokens[1] == 1);
    bpe_word_close(&word);
    arena_close(&arena);
}

// The hash of bpe.c, to find pairs that fall into one slot of its table.
static uint32_t slot_of(struct bpe_merge merge, uint32_t mask)
{
    uint64_t hash = ((uint64_t)merge.left << 32 | merge.right) * UINT64_C(0x9E3779B97F4A7C15);
    hash = (hash ^ hash >> 32) * UINT64_C(0xD6E8FEB86659FD93);
    return (uint32_t)(hash >> 32) & mask;
}

// Else a file of a few MB could make each look-up walk through all its merges.
Test(tokens, merges_chosen_to_collide_are_refused)
{
    enum { MERGES = 1025, MASK = 4095, TOKENS = 1 << 16 };
    static struct bpe_merge merges[MERGES];
    struct arena arena = {0};
    struct bpe bpe;
    uint32_t n = 0;
    for (uint32_t i = 0; n < MERGES; i++) {
        const struct bpe_merge merge = {i / TOKENS, i % TOKENS, TOKENS};
        if (slot_of(merge, MASK) == 7)
            merges[n++] = merge;
    }
    cr_expect_eq(bpe_open(&bpe, &arena, TOKENS + 1, merges, MERGES, "here", &error), ERROR_INPUT);
    cr_expect_not_null(strstr(error.text, "here: merge 1024 (from 0) is one of more than 1024"), "%s", error.text);
    // the control: one less, which still walks, and any of them is found
    cr_assert_eq(bpe_open(&bpe, &arena, TOKENS + 1, merges, MERGES - 1, "here", &error), 0);
    struct bpe_word word = {0};
    cr_assert_eq(bpe_word_reserve(&word, 2, &error), 0);
    word.tokens[0] = merges[MERGES - 2].left;
    word.tokens[1] = merges[MERGES - 2].right;
    cr_expect_eq(bpe_merge_word(&bpe, &word, 2), 1);
    word.tokens[0] = merges[MERGES - 1].left;
    word.tokens[1] = merges[MERGES - 1].right;
    cr_expect_eq(bpe_merge_word(&bpe, &word, 2), 2); // this one was left out
    bpe_word_close(&word);
    arena_close(&arena);
}

// --- vocabulary

Test(tokens, ids_and_texts_are_unique_and_bounded)
{
    struct arena arena = {0};
    struct vocabulary vocabulary;
    cr_assert_eq(vocabulary_open(&vocabulary, &arena, 8, "file", &error), 0);
    cr_expect_eq(vocabulary_add(&vocabulary, "a", 1, 5, &error), 0);
    cr_expect_eq(vocabulary_add(&vocabulary, "", 0, 6, &error), 0);
    cr_expect_eq(vocabulary_add(&vocabulary, "a", 1, 7, &error), ERROR_INPUT);
    cr_expect_not_null(strstr(error.text, "stands twice"), "%s", error.text);
    cr_expect_eq(vocabulary_add(&vocabulary, "b", 1, VOCABULARY_IDS, &error), ERROR_INPUT);
    cr_expect_eq(vocabulary_add(&vocabulary, "c", 1, UINT32_MAX, &error), ERROR_INPUT);
    cr_expect_eq(vocabulary_add(&vocabulary, "d", 1, 2, &error), 0);
    cr_assert_eq(vocabulary_seal(&vocabulary, &arena, &error), 0);
    cr_expect_eq(vocabulary.n_ids, 7);
    cr_expect_str_eq(vocabulary_token(&vocabulary, 2)->text, "d");
    cr_expect_null(vocabulary_token(&vocabulary, 3));
    cr_expect_null(vocabulary_token(&vocabulary, 7));
    cr_expect_eq(vocabulary_find(&vocabulary, "a", 1), 0);
    cr_expect_eq(vocabulary_find(&vocabulary, "z", 1), VOCABULARY_NONE);
    cr_assert_eq(vocabulary_add(&vocabulary, "e", 1, 5, &error), 0);
    cr_expect_eq(vocabulary_seal(&vocabulary, &arena, &error), ERROR_INPUT);
    cr_expect_not_null(strstr(error.text, "id 5 belongs to"), "%s", error.text);
    arena_close(&arena);
}

// --- patterns

static void expect_refused(const char *expression, const char *because)
{
    struct pattern *pattern = NULL;
    error = (struct error){0};
    cr_expect_eq(pattern_open(&pattern, expression, "here", &error), ERROR_INPUT, "accepted: %s", expression);
    cr_expect(strstr(error.text, because) && strstr(error.text, "here"), "%s: %s", expression, error.text);
    cr_expect_null(pattern);
}

Test(tokens, what_two_engines_read_differently_is_refused_by_name)
{
    static const char *const unlike[][2] = {
        {"\\w+", "\\w"},
        {"\\bx", "\\b"},
        {"\\h", "\\h"},
        {"\\R", "\\R"},
        {"(a)\\1", "\\1"},
        {"\\p{Han}", "\\p{Han}"},
        {"\\pL", "\\p"},
        {"\\p{^L}", "\\p{^L}"},
        {"[\\P{L}]", "\\P{L}"},
        {"\\xe9", "\\xe9"},
        {"\\x{110000}", "\\x{110000}"},
        {"[[:alpha:]]", "[["},
        {"[a&&b]", "[a&"},
        {"[]a]", "[]"},
        {"[a", "[a"},
        {"(?i)a", "(?i)"},
        {"(?i:ss)", "s"},
        {"(?i:\xC3\xA9)", "\xC3\xA9"},
        {"(?m:.)", "(?m:"},
        {"(?<n>a)", "(?<n"},
        {"(*UCP)a", "(*UC"},
        {"a{,2}", "{,2"},
        {"a{2}?", "{2}?"},
        {"a{1,2}+", "{1,2}+"},
        {"a{x}", "{"},
        {"a)", ")"},
        {"(a", "still open"},
        {"", "0 bytes"},
        {"a\\", "\\"},
        {"\xFF", "UTF-8"},
        {"a**", "PCRE2 accepts"},
        {"(?<=a+)b", "PCRE2 accepts"},
    };
    for (size_t i = 0; i < sizeof unlike / sizeof *unlike; i++)
        expect_refused(unlike[i][0], unlike[i][1]);
    static const char *const alike[] = {
        "\\s+(?!\\S)|\\s+",
        "[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        "(?i:[sdmt]|ll|ve|re)",
        "\\P{L}",
        "[-a]",
        "[a-]",
        "[\\-\\]\\[]",
        "a{2}|a{2,}|a{2,3}|a{2,3}?",
        "(?<=a)b|(?<!a)c|(?>d|e)",
        "\\x41\\x{e9}\\u4e2d",
        "^a$",
        "\\d\\D[\\d]",
        "\\.\\*\\\\",
    };
    for (size_t i = 0; i < sizeof alike / sizeof *alike; i++) {
        struct pattern *pattern;
        cr_expect_eq(pattern_open(&pattern, alike[i], "here", &error), 0, "%s", error.text);
        pattern_close(&pattern);
    }
}

Test(tokens, white_space_is_that_of_unicode_and_not_the_mongolian_vowel_separator)
{
    struct pattern *space, *letter;
    cr_assert_eq(pattern_open(&space, "\\s", "here", &error), 0);
    cr_assert_eq(pattern_open(&letter, "\\p{L}", "here", &error), 0);
    int n = 0;
    for (utf8proc_int32_t code = 0; code < 0x110000; code++) {
        char text[4];
        if (code >= 0xD800 && code < 0xE000)
            continue;
        const size_t size = (size_t)utf8proc_encode_char(code, (utf8proc_uint8_t *)text);
        const int found = pattern_matches(space, text, size, &error);
        cr_assert_eq(found, text_is_space((uint32_t)code), "U+%X", code);
        n += found;
    }
    cr_expect_eq(n, 25);
    cr_expect_eq(pattern_matches(letter, "\xF0\x96\xB5\x80", 4, &error), 1); // U+16D40, a letter since Unicode 16
    pattern_close(&space);
    pattern_close(&letter);
}

// --- hostile files and texts

static int encode_with(const char *expression, const char *text, size_t size, double *seconds)
{
    struct splitter splitter = {0};
    struct splitter_words words;
    struct pattern *pattern;
    cr_assert_eq(pattern_open(&pattern, expression, "here", &error), 0, "%s", error.text);
    splitter_add(&splitter, pattern, SPLITTER_ISOLATED, false);
    error = (struct error){0};
    const clock_t start = clock();
    splitter_begin(&splitter, size);
    const int status = splitter_split(&splitter, text, size, &words, &error);
    *seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    splitter_close(&splitter);
    return status;
}

Test(tokens, an_expression_that_backtracks_without_end_is_stopped)
{
    char text[64];
    double seconds;
    memset(text, 'a', sizeof text);
    memcpy(text + sizeof text - 2, "!b", 2); // PCRE2 does not even try when there is no b at all
    cr_expect_eq(encode_with("(?:a+)+b", text, sizeof text, &seconds), ERROR_INPUT);
    cr_expect_not_null(strstr(error.text, "backtracks without end"), "%s", error.text);
    cr_expect_eq(encode_with("(?:a|a)*b", text, sizeof text, &seconds), ERROR_INPUT);
    cr_expect_lt(seconds, 10.0);                                                                 // ten million steps
    cr_expect_eq(encode_with("(?:a|c)*b|a+", text, sizeof text, &seconds), 0, "%s", error.text); // the control
}

Test(tokens, an_expression_that_takes_the_square_of_the_text_runs_out_of_time)
{
    const size_t size = 4000000; // each match reads the rest of the text: 8e12 steps, hours
    char *text = malloc(size);
    double seconds;
    cr_assert_not_null(text);
    memset(text, 'a', size);
    struct splitter splitter = {0};
    struct splitter_words words;
    struct pattern *pattern;
    cr_assert_eq(pattern_open(&pattern, ".*x|.", "here", &error), 0);
    splitter_add(&splitter, pattern, SPLITTER_ISOLATED, false);
    splitter_begin(&splitter, size);
    splitter.deadline -= 49; // a second is enough for this test
    cr_expect_eq(splitter_split(&splitter, text, size, &words, &error), ERROR_INPUT);
    cr_expect_not_null(strstr(error.text, "time allowed"), "%s", error.text);
    splitter_close(&splitter);
    cr_expect_eq(encode_with("a", text, 400000, &seconds), 0, "%s",
                 error.text); // the control: many matches, each short
    free(text);
}

static size_t encode_file(struct tokenizer *tokenizer, const char *text, size_t size)
{
    struct arena arena = {0};
    uint32_t *ids;
    size_t n;
    cr_assert_eq(tokenizer_encode(tokenizer, &arena, text, size, false, &ids, &n, &error), 0, "%s", error.text);
    arena_close(&arena);
    return n;
}

// A million bytes of one kind; a quadratic step anywhere would take minutes.
Test(tokens, a_long_text_of_one_kind_takes_no_longer_than_prose)
{
    static const char *const units[] = {" ",
                                        "a",
                                        "\n",
                                        "1",
                                        "!",
                                        "e\xCC\x81",
                                        "\xCC\x81\xCC\xA3",
                                        "\xFF",
                                        "<|im_start|>",
                                        "<|im_start",
                                        "\xE4\xB8\xAD",
                                        "Mathias",
                                        "\t ",
                                        " \n",
                                        "it's "};
    struct tokenizer *tokenizers[2];
    cr_assert_eq(tokenizer_open(&tokenizers[0], LFM2, &error), 0, "%s", error.text);
    cr_assert_eq(tokenizer_open(&tokenizers[1], ASSAY_FIXTURES "/models/qwen35-mini/tokenizer.json", &error), 0);
    struct text text = {0};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        text.size = 0;
        while (text.size < 500000)
            cr_assert_eq(text_append(&text, units[i], strlen(units[i]), &error), 0);
        const clock_t start = clock();
        for (int j = 0; j < 2; j++)
            cr_expect_gt(encode_file(tokenizers[j], text.bytes, text.size), 0);
        const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        cr_expect_lt(seconds, 5.0, "%s: %g s", units[i],
                     seconds); // measured 0.02 to 0.4 s; 30 times that under sanitizers
    }
    text_close(&text);
    tokenizer_close(&tokenizers[0]);
    tokenizer_close(&tokenizers[1]);
}
