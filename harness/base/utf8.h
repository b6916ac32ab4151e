// utf8: is this UTF-8? For what goes into a report or a message: bytes that are not are shown as U+FFFD, never passed
// on.
#ifndef ASSAY_UTF8_H
#define ASSAY_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Bytes (1 to 4) of the well-formed character at `text`, its code point in *code; 0 when it is none (then skip one
// byte). `text` is NUL-terminated and not at its end. Surrogates, overlong forms and what lies over U+10FFFF are
// none.
static inline size_t utf8_character(const char *text, uint32_t *code)
{
    const unsigned char *bytes = (const unsigned char *)text;
    const uint32_t first = bytes[0];
    *code = first;
    if (first < 0x80)
        return 1;
    const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    uint32_t value = first & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xC0) != 0x80)
            return 0;
        value = value << 6 | (bytes[i] & 0x3F);
    }
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < smallest[length] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
        return 0;
    *code = value;
    return length;
}

// Whether a terminal may be given this character. Not controls, C1 among them (U+009B begins what ESC [ begins), nor
// what changes the direction of the text around it.
static inline bool utf8_is_printable(uint32_t code)
{
    return code >= 0x20 && (code < 0x7F || code > 0x9F) && (code < 0x200E || code > 0x200F) &&
           (code < 0x2028 || code > 0x202E) && (code < 0x2066 || code > 0x2069);
}

#endif
