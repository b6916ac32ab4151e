// The tokenizers of the models in the fixtures: each has goldens (tests/tokenizer.c), and a chat comes out as its
// template means it.
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/hash.h"
#include "harness/base/json.h"
#include "harness/model/tokenizer.h"

#define QWEN ASSAY_FIXTURES "/models/qwen35-mini/tokenizer.json"

static struct error error;
static struct arena arena;

static void close_arena(void)
{
    arena_close(&arena);
}

TestSuite(tokenizer_models, .fini = close_arena);

// Each model's tokenizer is one of the two that have goldens, byte for byte: no fixture stands aside.
Test(tokenizer_models, every_model_of_the_fixtures_has_a_tokenizer_with_goldens)
{
    struct json_document *goldens;
    cr_assert_eq(json_open_file(&goldens, ASSAY_FIXTURES "/tokenizers/goldens.json", 1 << 24, &error), 0, "%s",
                 error.text);
    const struct json files = json_get(json_root(goldens), "files");
    const char *lfm2, *qwen;
    cr_assert_eq(json_need_string(json_get(json_get(files, "lfm2-mini"), "sha256"), &lfm2, &error), 0);
    cr_assert_eq(json_need_string(json_get(json_get(files, "qwen35-mini"), "sha256"), &qwen, &error), 0);
    struct dirent **entries;
    const int n = scandir(ASSAY_FIXTURES "/models", &entries, NULL, alphasort);
    int with_tokenizer = 0;
    cr_assert_gt(n, 0);
    for (int i = 0; i < n; i++) {
        const char *path = arena_print(&arena, ASSAY_FIXTURES "/models/%s/tokenizer.json", entries[i]->d_name);
        char hex[HASH_HEX];
        if (file_exists(path) && *entries[i]->d_name != '.') {
            cr_assert_eq(hash_file(path, hex, &error), 0, "%s", error.text);
            cr_expect(!strcmp(hex, lfm2) || !strcmp(hex, qwen), "%s has no goldens", path);
            with_tokenizer++;
        }
        free(entries[i]);
    }
    free(entries);
    json_close(&goldens);
    cr_assert_gt(with_tokenizer, 0);
}

// Qwen's tokenizer as it is; or wrong on purpose, its ordinary added tokens special too.
static struct tokenizer *open_qwen(bool as_it_is)
{
    static const char ordinary[] = "\"special\": false", other[] = "\"special\": true ";
    char *text;
    uint64_t size;
    cr_assert_eq(file_read(&arena, QWEN, 1 << 24, &text, &size, &error), 0, "%s", error.text);
    for (char *at = text; !as_it_is && (at = strstr(at, ordinary)) != NULL; at++)
        memcpy(at, other, strlen(other));
    struct tokenizer *tokenizer;
    cr_assert_eq(tokenizer_open_text(&tokenizer, QWEN, text, (size_t)size, &error), 0, "%s", error.text);
    return tokenizer;
}

static uint32_t *encode(struct tokenizer *tokenizer, const char *text, size_t *n)
{
    uint32_t *ids;
    cr_assert_eq(tokenizer_encode(tokenizer, &arena, text, strlen(text), true, &ids, n, &error), 0, "%s", error.text);
    return ids;
}

// A chat as Qwen3.5's template writes it: the turn's tokens are special, those of thoughts and tools are not and
// stay.
Test(tokenizer_models, a_chat_of_the_qwen_rules)
{
    struct tokenizer *tokenizer = open_qwen(true);
    const char *chat = "<|im_start|>user\n12<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<tool_call>";
    size_t n, size;
    char *back;
    const uint32_t *ids = encode(tokenizer, chat, &n);
    static const struct {
        const char *token;
        unsigned times;
        uint32_t id;
    } expected[] = {{"<|im_start|>", 2, 4071},
                    {"<|im_end|>", 1, 4072},
                    {"<think>", 1, 4094},
                    {"</think>", 1, 4095},
                    {"<tool_call>", 1, 4084},
                    {"1", 1, 16},
                    {"2", 1, 17}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        unsigned times = 0;
        for (size_t j = 0; j < n; j++)
            times += ids[j] == expected[i].id;
        cr_expect_str_eq(tokenizer_token(tokenizer, expected[i].id), expected[i].token);
        cr_expect_eq(times, expected[i].times, "%s", expected[i].token);
    }
    cr_expect_eq(ids[0], 4071); // no BOS
    cr_assert_eq(tokenizer_decode(tokenizer, &arena, ids, n, true, &back, &size, &error), 0, "%s", error.text);
    cr_expect_str_eq(back, "user\n12\nassistant\n<think>\n\n</think>\n\n<tool_call>");
    tokenizer_close(&tokenizer);

    // the control: with all added tokens special, none of them stays
    tokenizer = open_qwen(false);
    ids = encode(tokenizer, chat, &n);
    cr_assert_eq(tokenizer_decode(tokenizer, &arena, ids, n, true, &back, &size, &error), 0, "%s", error.text);
    cr_expect_str_eq(back, "user\n12\nassistant\n\n\n\n\n");
    tokenizer_close(&tokenizer);
}
