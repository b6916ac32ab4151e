// Any text at all is either refused with a sentence or becomes a tokenizer that encodes, and decodes what it encoded.
#include <assert.h>
#include <string.h>

#include "harness/model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char TEXT[] = "<|im_start|>It's  a1 12345 caf\xC3\xA9 e\xCC\xA3\xCC\x81 "
                           "\xE4\xB8\xAD\xE6\x96\x87\r\n\n\t aaaaaaaaaaaaaaaaaaaaaaaaaaaa!\xFF\0end ";

static void use(struct tokenizer *tokenizer)
{
    struct error error = {0};
    struct arena arena = {0};
    uint32_t *ids;
    char *text;
    size_t n, size;
    const int status = tokenizer_encode(tokenizer, &arena, TEXT, sizeof TEXT - 1, true, &ids, &n, &error);
    if (status) {
        assert(status == error.code && strlen(error.text));
    } else {
        for (size_t i = 0; i < n; i++)
            assert(ids[i] < tokenizer_size(tokenizer) && tokenizer_token(tokenizer, ids[i]));
        assert(!tokenizer_decode(tokenizer, &arena, ids, n, false, &text, &size, &error) && !text[size]);
    }
    arena_close(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error error = {0};
    struct tokenizer *tokenizer;
    const int status = tokenizer_open_text(&tokenizer, "tokenizer.json", (const char *)data, size, &error);
    if (status) {
        assert(status == error.code && strlen(error.text) && !tokenizer);
        return 0;
    }
    use(tokenizer);
    tokenizer_close(&tokenizer);
    return 0;
}
