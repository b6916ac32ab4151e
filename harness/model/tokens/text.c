#include "harness/model/tokens/text.h"

#include <stdlib.h>
#include <string.h>

int text_reserve(struct text *text, size_t more, struct error *error)
{
    if (more <= text->capacity - text->size)
        return 0;
    const size_t half_more = text->capacity / 2;
    if (more > SIZE_MAX / 2 - text->size - half_more)
        return error_set(error, ERROR_RUNTIME, "text of more than %zu bytes: out of memory", text->size);
    const size_t capacity = text->size + more + half_more;
    char *bytes = realloc(text->bytes, capacity);
    if (!bytes)
        return error_set(error, ERROR_RUNTIME, "out of memory for a text of %zu bytes", capacity);
    text->bytes = bytes;
    text->capacity = capacity;
    return 0;
}

int text_append(struct text *text, const char *bytes, size_t size, struct error *error)
{
    const int failed = text_reserve(text, size, error);
    if (!failed && size) {
        memcpy(text->bytes + text->size, bytes, size);
        text->size += size;
    }
    return failed;
}

void text_close(struct text *text)
{
    free(text->bytes);
    *text = (struct text){0};
}

size_t text_character(const char *bytes, size_t size, uint32_t *code)
{
    const unsigned char *at = (const unsigned char *)bytes;
    const uint32_t first = at[0];
    if (first < 0x80) {
        *code = first;
        return 1;
    }
    *code = TEXT_INVALID;
    if (first < 0xC2 || first > 0xF4)
        return 1;
    const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    // overlong forms, surrogates and what lies over U+10FFFF end before their second byte
    const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (size < 2 || at[1] < low || at[1] > high)
        return 1;
    uint32_t value = first & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (i == size || (at[i] & 0xC0) != 0x80)
            return i;
        value = value << 6 | (at[i] & 0x3F);
    }
    *code = value;
    return length;
}

// Bytes of the longest valid prefix.
static size_t valid_prefix(const char *bytes, size_t size)
{
    size_t at = 0;
    while (at < size) {
        uint64_t eight;
        if (size - at >= sizeof eight) { // eight ASCII bytes at once: most text is
            memcpy(&eight, bytes + at, sizeof eight);
            if (!(eight & UINT64_C(0x8080808080808080))) {
                at += sizeof eight;
                continue;
            }
        }
        uint32_t code;
        const size_t length = text_character(bytes + at, size - at, &code);
        if (code == TEXT_INVALID)
            return at;
        at += length;
    }
    return at;
}

bool text_is_valid(const char *bytes, size_t size)
{
    return valid_prefix(bytes, size) == size;
}

int text_append_repaired(struct text *text, const char *bytes, size_t size, struct error *error)
{
    for (;;) {
        const size_t valid = valid_prefix(bytes, size);
        int failed = text_append(text, bytes, valid, error);
        if (failed || valid == size)
            return failed;
        uint32_t code;
        const size_t invalid = text_character(bytes + valid, size - valid, &code);
        failed = text_append(text, "\xEF\xBF\xBD", 3, error);
        if (failed)
            return failed;
        bytes += valid + invalid;
        size -= valid + invalid;
    }
}

const char *text_shown(char shown[TEXT_SHOWN], const char *text, size_t size)
{
    enum { MOST = TEXT_SHOWN - 4 };
    size_t n = 0;
    for (size_t at = 0; at < size;) {
        uint32_t code;
        const size_t length = text_character(text + at, size - at, &code);
        const bool printable = code >= 0x20 && code != TEXT_INVALID && (code < 0x7F || code > 0x9F);
        const size_t needed = printable ? length : 1;
        if (n + needed > MOST) {
            memcpy(shown + n, "...", 3);
            n += 3;
            break;
        }
        memcpy(shown + n, printable ? text + at : "?", needed);
        n += needed;
        at += length;
    }
    shown[n] = '\0';
    return shown;
}

bool text_is_space(uint32_t code)
{
    return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
           code == 0x205F || code == 0x3000;
}

size_t text_letter(unsigned char byte, char letter[2])
{
    uint32_t code = byte;
    if (byte <= 0x20)
        code = 0x100u + byte;
    else if (byte >= 0x7F && byte <= 0xA0)
        code = 0x121u + byte - 0x7F;
    else if (byte == 0xAD)
        code = 0x143;
    if (code < 0x80) {
        letter[0] = (char)code;
        return 1;
    }
    letter[0] = (char)(0xC0 | code >> 6);
    letter[1] = (char)(0x80 | (code & 0x3F));
    return 2;
}

int text_letter_byte(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD))
        return (int)code;
    if (code >= 0x100 && code <= 0x120)
        return (int)code - 0x100;
    if (code >= 0x121 && code <= 0x142)
        return (int)code - 0x121 + 0x7F;
    return code == 0x143 ? 0xAD : -1;
}

int text_append_letters(struct text *text, const char *letters, size_t size, struct error *error)
{
    const int failed = text_reserve(text, size, error); // the bytes are at most as many as their letters'
    if (failed)
        return failed;
    char *out = text->bytes + text->size;
    for (size_t at = 0; at < size;) {
        uint32_t code;
        at += text_character(letters + at, size - at, &code);
        const int byte = text_letter_byte(code);
        if (byte < 0)
            return text_append(text, letters, size, error);
        *out++ = (char)byte;
    }
    text->size = (size_t)(out - text->bytes);
    return 0;
}
