// text: growable bytes, UTF-8, and the byte alphabet of byte-level BPE.
//
// The alphabet (GPT-2's) gives each of the 256 bytes one visible character: printable Latin-1 stands for itself, the
// 68 other bytes are U+0100..U+0143 in ascending order. Tokens are stored in it: " the" is "Ġthe".
#ifndef ASSAY_TOKENS_TEXT_H
#define ASSAY_TOKENS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"

// {0} is an empty text. Not NUL-terminated.
struct text {
    char *bytes;
    size_t size, capacity;
};

// Room for `more` bytes after the present ones. ERROR_RUNTIME when memory is exhausted; the text stays as it was.
int text_reserve(struct text *text, size_t more, struct error *error);
int text_append(struct text *text, const char *bytes, size_t size, struct error *error);
void text_close(struct text *text);

// The first character of bytes[0, size), size > 0: its length and, in *code, its code point. When it is not
// well-formed UTF-8, *code is TEXT_INVALID and the length is that of the maximal part that is replaced by one U+FFFD
// (Unicode 3.9, table 3-7; as Python's errors="replace" and Rust's from_utf8_lossy).
#define TEXT_INVALID UINT32_MAX
size_t text_character(const char *bytes, size_t size, uint32_t *code);
bool text_is_valid(const char *bytes, size_t size);
// Appends `bytes`, invalid parts as U+FFFD.
int text_append_repaired(struct text *text, const char *bytes, size_t size, struct error *error);

// White_Space of Unicode: 25 code points, unchanged since Unicode 6.3.
bool text_is_space(uint32_t code);

// The letter of `byte` as UTF-8: 1 or 2 bytes in `letter`.
size_t text_letter(unsigned char byte, char letter[2]);
// The byte of a letter, or -1 when `code` is no letter of the alphabet.
int text_letter_byte(uint32_t code);
// Appends the bytes that `letters` (valid UTF-8) stands for; when any character is no letter, `letters` itself.
int text_append_letters(struct text *text, const char *letters, size_t size, struct error *error);

// `text` for a message: cut to TEXT_SHOWN - 4 bytes ("..."), what is no printable character shown as '?'. Returns
// `shown`.
enum { TEXT_SHOWN = 68 };
const char *text_shown(char shown[TEXT_SHOWN], const char *text, size_t size);

#endif
