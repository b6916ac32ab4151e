// pattern: the regular expressions of tokenizer.json, on PCRE2.
//
// They are written for Oniguruma (Ruby syntax). What both engines mean alike is passed on, what they mean differently
// is rewritten, everything else is refused by name:
//   \s \S          White_Space (PCRE2's own \s also has U+180E)
//   \d \p{Nd} ...  general categories, completed to Unicode 16 (unicode_data.h)
//   ^ $            at every line, as always in Ruby
//   (?i:...)       ASCII letters and caseless characters; no pair that one ligature folds to ("ss", "st", "ff", "fi",
//   "fl")
// Also understood: | ( ) (?: (?= (?! (?<= (?<! (?>  * + ? {n} {n,} {n,m}, lazy ? and possessive + after * + ?,
// classes with ranges, \n \r \t \f \v \xHH \x{H} \uHHHH and escaped punctuation.
#ifndef ASSAY_TOKENS_PATTERN_H
#define ASSAY_TOKENS_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "harness/base/error.h"
#include "harness/model/tokens/text.h"

struct pattern;

// Longest expression; the longest published one has about 500 bytes.
enum { PATTERN_BYTES = 16384 };

// `expression` is NUL-terminated. `where` stands in messages. Closed by pattern_close.
int pattern_open(struct pattern **pattern, const char *expression, const char *where, struct error *error);
// Exactly these characters.
int pattern_open_literal(struct pattern **pattern, const char *literal, const char *where, struct error *error);
// One word character as Rust's `regex` has it: Alphabetic, marks, decimal digits, connectors, joiners.
int pattern_open_word(struct pattern **pattern, struct error *error);
void pattern_close(struct pattern **pattern);

// The first match of text[0, size) (valid UTF-8) that begins at `from` or later: 1 and [*start, *end), 0 when there
// is none. ERROR_INPUT when the expression needs more than the match limit or the stack: it backtracks without end.
int pattern_find(struct pattern *pattern, const char *text, size_t size, size_t from, size_t *start, size_t *end,
                 struct error *error);
// Whether text[0, size) begins with a match: 1, 0 or an error.
int pattern_matches(struct pattern *pattern, const char *text, size_t size, struct error *error);

// The translation alone: PCRE2 syntax appended to `out`.
int pattern_translate(struct text *out, const char *expression, const char *where, struct error *error);

#endif
