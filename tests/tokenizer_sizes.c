// The tokenizer at the sizes of the released vocabularies: each word of a vocabulary becomes its own token, and one
// merge less is noticed. How fast it is: tokenizer_speed.c.
#include <criterion/criterion.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/model/tokenizer.h"
#include "tests/large_tokenizer.h"

static struct arena arena;
static char *directory;
static struct error error;
static struct large *large;

static void open_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
}

static void close_all(void)
{
    large_close(&large);
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(tokenizer_sizes, .init = open_directory, .fini = close_all);

static struct tokenizer *open_without(uint32_t rank)
{
    const char *path = file_join(&arena, directory, "tokenizer.json");
    struct tokenizer *tokenizer;
    cr_assert_eq(large_write(large, path, rank, &error), 0, "%s", error.text);
    cr_assert_eq(tokenizer_open(&tokenizer, path, &error), 0, "%s", error.text);
    return tokenizer;
}

// Whether the text becomes those ids, and they the text.
static bool agrees(struct tokenizer *tokenizer, const struct large_text *text)
{
    uint32_t *ids;
    size_t n, size;
    char *back;
    cr_assert_eq(tokenizer_encode(tokenizer, &arena, text->text, text->size, false, &ids, &n, &error), 0, "%s",
                 error.text);
    cr_assert_eq(tokenizer_decode(tokenizer, &arena, ids, n, false, &back, &size, &error), 0, "%s", error.text);
    cr_expect(size == text->size && !memcmp(back, text->text, size), "the ids are not those of the text");
    return n == text->n && !memcmp(ids, text->ids, n * sizeof *ids);
}

static void check_size(enum large_kind kind, uint32_t n_ids, uint32_t missing)
{
    struct large_text words, prose, even;
    cr_assert_eq(large_open(&large, kind, n_ids, &error), 0, "%s", error.text);
    cr_assert_eq(large_every_word(large, &words, &error), 0);
    cr_assert_eq(large_prose(large, 300000, false, &prose, &error), 0);
    cr_assert_eq(large_prose(large, 300000, true, &even, &error), 0);
    cr_assert_gt(words.n, 2 * (n_ids - 400)); // all but the bytes, the added tokens and the beginnings of ideographs
    struct tokenizer *tokenizer = open_without(large->n);
    cr_expect_eq(tokenizer_size(tokenizer), n_ids);
    for (uint32_t id = 0; id < n_ids; id++)
        cr_assert_not_null(tokenizer_token(tokenizer, id));
    cr_expect(agrees(tokenizer, &words));
    cr_expect(agrees(tokenizer, &prose));
    cr_expect(agrees(tokenizer, &even));
    tokenizer_close(&tokenizer);

    // wrong on purpose: one merge of many is missing, and a single line shows it
    tokenizer = open_without(missing);
    cr_expect_not(agrees(tokenizer, &words), "nobody notices that merge %u is missing", missing);
    tokenizer_close(&tokenizer);
}

Test(tokenizer_sizes, every_word_of_65536_ids_by_the_lfm2_rules)
{
    check_size(LARGE_LFM2, 65536, 65536 - LARGE_SPECIALS - 256 - 1); // the last
}

Test(tokenizer_sizes, every_word_of_128000_ids_by_the_lfm2_rules)
{
    check_size(LARGE_LFM2, 128000, 64000);
}

Test(tokenizer_sizes, every_word_of_248320_ids_by_the_qwen_rules)
{
    check_size(LARGE_QWEN, 248320, 200000);
}

static size_t encode(struct tokenizer *tokenizer, const char *text, bool special, uint32_t **ids)
{
    size_t n;
    cr_assert_eq(tokenizer_encode(tokenizer, &arena, text, strlen(text), special, ids, &n, &error), 0, "%s",
                 error.text);
    return n;
}

// Each added token inside words, and what skip_special leaves of it.
static void check_added(struct tokenizer *tokenizer)
{
    for (uint32_t i = 0; i < LARGE_SPECIALS; i++) {
        bool special;
        uint32_t *ids;
        char *text;
        size_t size;
        const char *content = large_added(large, i, &special);
        const size_t n = encode(tokenizer, arena_print(&arena, "a%sb", content), false, &ids);
        cr_assert_eq(n, 3, "%s", content);
        cr_expect_eq(ids[1], large->first_added + i, "%s", content);
        cr_assert_eq(tokenizer_decode(tokenizer, &arena, ids, n, true, &text, &size, &error), 0, "%s", error.text);
        cr_expect_str_eq(text, special ? "ab" : arena_print(&arena, "a%sb", content));
    }
}

Test(tokenizer_sizes, special_tokens_of_the_lfm2_rules_and_bos)
{
    cr_assert_eq(large_open(&large, LARGE_LFM2, 8192, &error), 0, "%s", error.text);
    struct tokenizer *tokenizer = open_without(large->n);
    check_added(tokenizer);
    uint32_t *ids;
    cr_expect_eq(encode(tokenizer, "<|im_start|>x<|im_end|>", true, &ids), 4);
    cr_expect(ids[0] == 1 && ids[1] == 6 && ids[3] == 7);
    cr_expect_eq(encode(tokenizer, "<|im_start|>x<|im_end|>", false, &ids), 3);
    tokenizer_close(&tokenizer);
}

// As in Qwen3.5: the turn's tokens are special, those of tools and thoughts are not and stay in the text.
Test(tokenizer_sizes, special_and_ordinary_added_tokens_of_the_qwen_rules)
{
    cr_assert_eq(large_open(&large, LARGE_QWEN, 248077, &error), 0, "%s", error.text); // as many as the release has
    struct tokenizer *tokenizer = open_without(large->n);
    check_added(tokenizer);
    uint32_t *ids;
    char *text;
    size_t size;
    const size_t n =
        encode(tokenizer, "<|im_start|><think>\n</think><tool_call></tool_call><|im_end|><|endoftext|>", true, &ids);
    static const uint32_t expected[] = {248045, 248068, 10, 248069, 248058, 248059, 248046, 248044};
    cr_assert_eq(n, sizeof expected / sizeof *expected);
    cr_expect_eq(memcmp(ids, expected, sizeof expected), 0); // no BOS; the ids of the release
    cr_assert_eq(tokenizer_decode(tokenizer, &arena, ids, n, true, &text, &size, &error), 0, "%s", error.text);
    cr_expect_str_eq(text, "<think>\n</think><tool_call></tool_call>");
    tokenizer_close(&tokenizer);
}
