// Any text at all, for tokenizers that are sound: it is encoded to ids that exist, and what a byte-level tokenizer
// makes of them again is that text, U+FFFD in place of what was no UTF-8. The first byte chooses the tokenizer; only
// those that drop or compose nothing give the text back, the others have to survive it.
#include <assert.h>
#include <string.h>

#include "harness/base/utf8.h"
#include "harness/model/tokenizer.h"
#include "tests/fuzz/input.h"

static const struct {
    const char *path;
    bool gives_back;
} files[] = {
    {ASSAY_FIXTURES "/models/lfm2-mini/tokenizer.json", true},
    {ASSAY_FIXTURES "/models/qwen35-mini/tokenizer.json", false}, // NFC
    {ASSAY_FIXTURES "/tokenizers/odd/added.json", false},         // strips around added tokens
    {ASSAY_FIXTURES "/tokenizers/odd/added-nfc.json", false},
    {ASSAY_FIXTURES "/tokenizers/odd/gpt2.json", false}, // adds a space in front
};

enum { N_FILES = sizeof files / sizeof *files };

static bool is_utf8(const char *text, size_t size)
{
    uint32_t code;
    for (size_t i = 0; i < size;) {
        const size_t step = text[i] ? utf8_character(text + i, &code) : 1;
        if (!step)
            return false;
        i += step;
    }
    return true;
}

static void check_ids(const struct tokenizer *tokenizer, const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert(ids[i] < tokenizer_size(tokenizer) && tokenizer_token(tokenizer, ids[i]));
}

// `text` is NUL-terminated beyond its size.
static void check_text(struct tokenizer *tokenizer, bool gives_back, const char *text, size_t size)
{
    struct arena arena = {0};
    struct error error = {0};
    uint32_t *ids, *with;
    size_t n, n_with, n_again;
    char *again, *skipped;
    const int status = tokenizer_encode(tokenizer, &arena, text, size, false, &ids, &n, &error);
    if (status) {
        assert(status == error.code && strlen(error.text) && !gives_back);
        arena_close(&arena);
        return;
    }
    check_ids(tokenizer, ids, n);
    const int special = tokenizer_encode(tokenizer, &arena, text, size, true, &with, &n_with, &error);
    assert(!special && n_with >= n);
    check_ids(tokenizer, with, n_with);
    const int decoded = tokenizer_decode(tokenizer, &arena, ids, n, false, &again, &n_again, &error);
    assert(!decoded && !again[n_again] && is_utf8(again, n_again));
    if (gives_back && is_utf8(text, size))
        assert(n_again == size && !memcmp(again, text, size));
    const int short_one = tokenizer_decode(tokenizer, &arena, ids, n, true, &skipped, &n_again, &error);
    assert(!short_one && !skipped[n_again] && is_utf8(skipped, n_again));
    arena_close(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *tokenizers[N_FILES];
    for (size_t i = 0; !tokenizers[N_FILES - 1] && i < N_FILES; i++) {
        const int opened = tokenizer_open(&tokenizers[i], files[i].path, NULL);
        assert(!opened);
    }
    if (!size)
        return 0;
    const size_t which = *data % N_FILES;
    char *text = calloc(size, 1); // without the first byte, with a NUL
    assert(text);
    memcpy(text, data + 1, size - 1);
    check_text(tokenizers[which], files[which].gives_back, text, size - 1);
    free(text);
    return 0;
}
