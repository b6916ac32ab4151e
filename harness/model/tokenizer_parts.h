// tokenizer_parts: what tokenizer_file.c and tokenizer_model.c read from tokenizer.json and tokenizer.c runs. For
// these files only.
#ifndef ASSAY_TOKENIZER_PARTS_H
#define ASSAY_TOKENIZER_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/json.h"
#include "harness/model/tokenizer.h"
#include "harness/model/tokens/added.h"
#include "harness/model/tokens/bpe.h"
#include "harness/model/tokens/splitter.h"
#include "harness/model/tokens/text.h"
#include "harness/model/tokens/vocabulary.h"

struct ids {
    uint32_t *ids;
    size_t n, capacity;
};

struct tokenizer {
    struct arena arena;
    const char *path; // for messages
    struct vocabulary vocabulary;
    struct added raw; // added tokens matched in the text as it is
    bool nfc;
    struct added normalized; // those matched after the normalizer
    struct splitter splitter;
    bool ignore_merges;       // a word that is a token is that token, whatever the merges would make of it
    uint32_t byte_token[256]; // index in the vocabulary, or VOCABULARY_NONE
    struct bpe bpe;
    const uint32_t *prefix, *suffix; // ids that the template puts around a text
    size_t n_prefix, n_suffix;
    bool byte_level, has_template, decodes; // seen while reading
    // memory of tokenizer_encode
    struct text clean, composed, letters;
    struct bpe_word word;
    struct ids out;
};

// Fills a zeroed tokenizer; on failure the caller closes what was opened.
int tokenizer_read(struct tokenizer *tokenizer, struct json_document *document, struct error *error);

// Vocabulary with room for n_added more tokens, and merges.
int tokenizer_read_model(struct tokenizer *tokenizer, struct json model, size_t n_added, struct error *error);
// After the normalizer and the model are known.
int tokenizer_read_added(struct tokenizer *tokenizer, struct json list, size_t n, struct error *error);

// ERROR_INPUT "FILE: path of value: FOUND, expected EXPECTED".
int tokenizer_refuse(struct json value, const char *found, const char *expected, struct error *error);

#endif
