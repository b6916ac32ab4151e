// nfc: Unicode canonical composition (UAX 15), as the NFC normalizer of Hugging Face `tokenizers` does it.
//
// Decomposition and composition are utf8proc's. Marks assigned after Unicode 9 stay where they are (unicode_data.h).
// Marks are put in order by a sort, so that a text of nothing but marks costs O(n log n), not the square.
#ifndef ASSAY_TOKENS_NFC_H
#define ASSAY_TOKENS_NFC_H

#include <stddef.h>

#include "harness/base/error.h"
#include "harness/model/tokens/text.h"

// Appends the NFC of text[0, size), which is valid UTF-8 and not part of `out`.
int nfc_append(struct text *out, const char *text, size_t size, struct error *error);

#endif
