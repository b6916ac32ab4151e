// tokenizer: byte-level BPE from tokenizer.json, as Hugging Face `tokenizers` computes it.
//
// Normalizer none or NFC (utf8proc); pre-tokenizer Split regex (PCRE2) + ByteLevel; BPE with merges and
// ignore_merges; added tokens (special or not, normalized, lstrip, rstrip, single_word); post-processor
// TemplateProcessing (BOS/EOS) and ByteLevel; decoder ByteLevel. Anything else in the file that would change ids is
// refused by name. What counts as a letter, digit, mark or white space is what `tokenizers` 0.23 says (Unicode 16;
// NFC of Unicode 9), whichever PCRE2 is installed. Bytes that are not UTF-8 are replaced by U+FFFD, one for each
// maximal invalid part, as Python and Rust decode them.
#ifndef ASSAY_TOKENIZER_H
#define ASSAY_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"

struct tokenizer;

// Refused, naming file and value: what is listed above as refused, ids of 4,194,304 or more, an id or a text of two
// tokens, a merge of texts that are no tokens, an expression that Oniguruma and PCRE2 may read differently
// (tokens/pattern.h). On failure *tokenizer is NULL.
int tokenizer_open(struct tokenizer **tokenizer, const char *path, struct error *error);
// The same from the text of a tokenizer.json; `name` stands in messages.
int tokenizer_open_text(struct tokenizer **tokenizer, const char *name, const char *text, size_t size,
                        struct error *error);
void tokenizer_close(struct tokenizer **tokenizer);

// Ids of `text` (size bytes, at most 227 MiB). add_special: apply the post-processor's template (BOS). Ids in the
// arena. One call at a time for a tokenizer: it keeps its memory from call to call. ERROR_INPUT when the split
// expression backtracks without end, or the text has a byte that the vocabulary lacks.
int tokenizer_encode(struct tokenizer *tokenizer, struct arena *arena, const char *text, size_t size,
                     bool add_special, uint32_t **ids, size_t *n, struct error *error);

// UTF-8 text of the ids (invalid sequences become U+FFFD), NUL-terminated, in the arena. An id without a token is an
// error.
int tokenizer_decode(const struct tokenizer *tokenizer, struct arena *arena, const uint32_t *ids, size_t n,
                     bool skip_special, char **text, size_t *size, struct error *error);

// The token's own text as stored (byte-level alphabet for ordinary tokens); NULL when the id has none.
const char *tokenizer_token(const struct tokenizer *tokenizer, uint32_t id);
size_t tokenizer_size(const struct tokenizer *tokenizer); // highest id + 1

#endif
