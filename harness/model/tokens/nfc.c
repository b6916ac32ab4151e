#include "harness/model/tokens/nfc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "harness/model/tokens/unicode_data.h"

// The first character that is a mark or joins one. All below it are in NFC, whatever surrounds them, except that
// those after them may join them.
enum { FIRST_MARK = 0x300, FIRST_MARK_BYTE = 0xCC };

struct characters {
    utf8proc_int32_t *codes; // [capacity], one more than is ever used: utf8proc writes a NUL behind them
    uint64_t *keys;          // [capacity]
    size_t n, capacity;
};

static int reserve(struct characters *characters, size_t more, struct error *error)
{
    if (characters->capacity - characters->n > more)
        return 0;
    const size_t capacity = 2 * (characters->n + more) + 64;
    utf8proc_int32_t *codes = realloc(characters->codes, capacity * sizeof *codes);
    if (codes)
        characters->codes = codes;
    uint64_t *keys = realloc(characters->keys, capacity * sizeof *keys);
    if (keys)
        characters->keys = keys;
    if (!codes || !keys)
        return error_set(error, ERROR_RUNTIME, "out of memory for %zu characters", capacity);
    characters->capacity = capacity;
    return 0;
}

static unsigned combining_class(utf8proc_int32_t code)
{
    return (unsigned)utf8proc_get_property(code)->combining_class;
}

static int compare_keys(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

// Sorts each run of marks by combining class; equal classes keep their order (UAX 15, canonical ordering).
static void order_marks(struct characters *characters)
{
    for (size_t i = 0; i < characters->n; i++) {
        size_t n = 0;
        unsigned before = 0;
        bool in_order = true;
        for (unsigned class; i + n < characters->n && (class = combining_class(characters->codes[i + n])) != 0; n++) {
            in_order &= class >= before;
            before = class;
            // class, place in the run, code point: 8 + 31 + 21 bits
            characters->keys[n] = (uint64_t) class << 52 | (uint64_t)n << 21 | (uint64_t)characters->codes[i + n];
        }
        if (!in_order) {
            qsort(characters->keys, n, sizeof *characters->keys, compare_keys);
            for (size_t j = 0; j < n; j++)
                characters->codes[i + j] = (utf8proc_int32_t)(characters->keys[j] & 0x1FFFFF);
        }
        i += n;
    }
}

static bool is_inert(uint32_t code)
{
    unsigned low = 0, high = unicode_n_inert;
    while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        if (unicode_inert[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < unicode_n_inert && unicode_inert[low].first <= code;
}

// Orders and joins what was collected, and appends it.
static int flush(struct text *out, struct characters *characters, struct error *error)
{
    order_marks(characters);
    const utf8proc_ssize_t n = utf8proc_normalize_utf32(characters->codes, (utf8proc_ssize_t)characters->n,
                                                        UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (n < 0)
        return error_set(error, ERROR_RUNTIME, "NFC: %s", utf8proc_errmsg(n));
    const int failed = text_reserve(out, 4 * (size_t)n, error);
    for (utf8proc_ssize_t i = 0; i < n && !failed; i++)
        out->size += (size_t)utf8proc_encode_char(characters->codes[i], (utf8proc_uint8_t *)out->bytes + out->size);
    characters->n = 0;
    return failed;
}

// A stretch that begins with the last character before a mark: text[0, size).
static int append_stretch(struct text *out, struct characters *characters, const char *text, size_t size,
                          struct error *error)
{
    int failed = 0;
    for (size_t at = 0; at < size && !failed;) {
        uint32_t code;
        const size_t length = text_character(text + at, size - at, &code);
        if (is_inert(code)) {
            failed = flush(out, characters, error);
            if (!failed)
                failed = text_append(out, text + at, length, error);
        } else {
            enum { LONGEST = 8 }; // canonical decompositions have at most 4
            failed = reserve(characters, LONGEST, error);
            int boundary = 0;
            if (!failed)
                characters->n +=
                    (size_t)utf8proc_decompose_char((utf8proc_int32_t)code, characters->codes + characters->n,
                                                    LONGEST, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
        }
        at += length;
    }
    return failed ? failed : flush(out, characters, error);
}

int nfc_append(struct text *out, const char *text, size_t size, struct error *error)
{
    struct characters characters = {0};
    int failed = reserve(&characters, 0, error);
    size_t done = 0, base = 0; // what is appended; the last character below FIRST_MARK
    for (size_t at = 0; at < size && !failed;) {
        if ((unsigned char)text[at] < FIRST_MARK_BYTE) {
            if (((unsigned char)text[at] & 0xC0) != 0x80)
                base = at;
            at++;
            continue;
        }
        size_t end = at;
        while (end < size) { // continuation bytes are below FIRST_MARK_BYTE too
            uint32_t code;
            const size_t length = text_character(text + end, size - end, &code);
            if (code < FIRST_MARK)
                break;
            end += length;
        }
        failed = text_append(out, text + done, base - done, error);
        if (!failed)
            failed = append_stretch(out, &characters, text + base, end - base, error);
        at = done = base = end;
    }
    free(characters.codes);
    free(characters.keys);
    return failed ? failed : text_append(out, text + done, size - done, error);
}
