// unicode_data: where Hugging Face `tokenizers` 0.23 knows another Unicode than our libraries.
//
// Ids depend on what is a letter. PCRE2 10.42 has the tables of Unicode 14, the regex engine of `tokenizers` those of
// 16, its NFC those of 9, and each distribution ships other versions. These two tables close the gap, so that ids are
// the same everywhere; adding to a class what it holds already changes nothing, so newer libraries are welcome up to
// Unicode 16.
#ifndef ASSAY_TOKENS_UNICODE_DATA_H
#define ASSAY_TOKENS_UNICODE_DATA_H

#include <stdint.h>

// A general category of one or two letters, and the characters it has gained from Unicode 14 to 16 in the syntax of a
// character class ("" when none). Ends with {0}.
struct unicode_category {
    const char *name, *gained;
};
extern const struct unicode_category unicode_categories[];

// Characters that NFC neither moves nor joins: marks assigned after Unicode 9. Ascending, both ends included.
struct unicode_range {
    uint32_t first, last;
};
extern const struct unicode_range unicode_inert[];
extern const unsigned unicode_n_inert;

#endif
