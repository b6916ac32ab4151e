// Any text at all is either refused with a sentence or becomes metadata that bundle_open may rely on.
#include <assert.h>
#include <string.h>

#include "runtime/metadata.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_hash(const char *hex, bool may_be_empty)
{
    assert((may_be_empty && !*hex) ||
           (strlen(hex) == HASH_HEX - 1 && strspn(hex, "0123456789abcdef") == HASH_HEX - 1));
}

static void check(const struct metadata *metadata)
{
    assert(metadata->scheme && metadata->name && *metadata->name && metadata->tokenizer && *metadata->tokenizer);
    assert(metadata->model && metadata->model_type && metadata->vocabulary && metadata->max_context);
    check_hash(metadata->weights_sha256, false);
    check_hash(metadata->config_sha256, false);
    check_hash(metadata->tokenizer_sha256, true);
    for (size_t i = 0; i < metadata->n_keep; i++) {
        assert(!quant_keep_check(metadata->keep[i], NULL));
        (void)quant_keep_matches(metadata->keep[i], "model.layers.0.feed_forward.w1.weight");
    }
    for (int row = 0; row < PLAN_ROWS; row++)
        assert(!metadata->declared[row] || metadata->declared_as[row] == PRECISION_F16 ||
               metadata->declared_as[row] == PRECISION_F32);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_document *document;
    struct error error = {0};
    if (json_open_text(&document, "metadata.json", (const char *)data, size, &error))
        return 0;
    struct arena arena = {0};
    struct metadata metadata;
    const int status = metadata_read(&arena, json_root(document), &metadata, &error);
    if (status)
        assert(status == error.code && strlen(error.text));
    else
        check(&metadata);
    arena_close(&arena);
    json_close(&document);
    return 0;
}
