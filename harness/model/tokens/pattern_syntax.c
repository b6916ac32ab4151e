// From Oniguruma's Ruby syntax to PCRE2's: one pass over the expression, one function for each kind of construct.
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "harness/model/tokens/pattern.h"
#include "harness/model/tokens/unicode_data.h"

enum { GROUPS = 64 }; // deepest nesting

struct translation {
    struct text *out;
    const char *expression, *at, *end, *where;
    bool caseless[GROUPS + 1]; // of the group at each depth; [0] is the whole expression
    unsigned depth;
    char letter; // the ASCII letter just read inside (?i: ), in lower case, or 0
    struct error *error;
};

static int refuse(struct translation *t, const char *what, size_t length)
{
    char shown[TEXT_SHOWN];
    return error_set(
        t->error, ERROR_INPUT,
        "%s: the regular expression has \"%s\" at byte %zu, which Oniguruma and PCRE2 may read differently; expected "
        "the syntax listed in harness/model/tokens/pattern.h",
        t->where, text_shown(shown, what, length), (size_t)(what - t->expression));
}

static int emit(struct translation *t, const char *syntax)
{
    return text_append(t->out, syntax, strlen(syntax), t->error);
}

static size_t left(const struct translation *t)
{
    return (size_t)(t->end - t->at);
}

static bool is_hex(char c)
{
    return c && strchr("0123456789abcdefABCDEF", c);
}

// --- characters and escapes

// A literal inside (?i: ): one that folds to itself alone, or an ASCII letter that no ligature joins to the one
// before.
static int check_caseless(struct translation *t, const char *what, size_t length, uint32_t code)
{
    if (!t->caseless[t->depth])
        return 0;
    const char before = t->letter;
    t->letter = 0;
    if (code < 0x80) {
        const char letter = (char)(code | 0x20);
        if (letter < 'a' || letter > 'z')
            return 0;
        t->letter = letter;
        const char pair[] = {before, letter, 0};
        return before && strstr("ss st ff fi fl", pair) ? refuse(t, what, length) : 0;
    }
    const utf8proc_int32_t c = (utf8proc_int32_t)code;
    const bool has_case = utf8proc_tolower(c) != c || utf8proc_toupper(c) != c || utf8proc_totitle(c) != c;
    return has_case || utf8proc_category(c) == UTF8PROC_CATEGORY_LL ? refuse(t, what, length) : 0;
}

static int translate_literal(struct translation *t)
{
    uint32_t code;
    const size_t length = text_character(t->at, left(t), &code);
    const int failed = check_caseless(t, t->at, length, code);
    if (failed)
        return failed;
    const char *literal = t->at;
    t->at += length;
    return text_append(t->out, literal, length, t->error);
}

// A general category, or its complement, outside a class or as a part of one.
static int emit_category(struct translation *t, const char *name, size_t length, bool complement, bool in_class,
                         const char *what)
{
    const struct unicode_category *category = unicode_categories;
    while (category->name && (strlen(category->name) != length || memcmp(category->name, name, length)))
        category++;
    const size_t whole = (size_t)(t->at - what);
    if (!category->name || t->caseless[t->depth] || (complement && in_class && *category->gained))
        return refuse(t, what, whole);
    char property[16];
    snprintf(property, sizeof property, "\\%c{%s}", complement && in_class ? 'P' : 'p', category->name);
    int failed = in_class ? 0 : emit(t, complement ? "[^" : "[");
    if (!failed)
        failed = emit(t, property);
    if (!failed && !(complement && in_class))
        failed = emit(t, category->gained);
    return failed || in_class ? failed : emit(t, "]");
}

// \p{NAME}; t->at stands behind the p.
static int translate_property(struct translation *t, bool complement, bool in_class, const char *what)
{
    const char *close = left(t) && *t->at == '{' ? memchr(t->at, '}', left(t)) : NULL;
    if (!close)
        return refuse(t, what, (size_t)(t->at - what));
    const char *name = t->at + 1;
    t->at = close + 1;
    return emit_category(t, name, (size_t)(close - name), complement, in_class, what);
}

// \xHH, \x{H...} and \uHHHH; t->at stands behind the letter.
static int translate_code(struct translation *t, bool is_long, const char *what)
{
    uint32_t code = 0;
    size_t digits = 0;
    const bool braces = !is_long && left(t) && *t->at == '{';
    const size_t most = braces ? 6 : is_long ? 4 : 2;
    for (t->at += braces; left(t) && digits < most && is_hex(*t->at); t->at++, digits++)
        code = code * 16 + (uint32_t)(*t->at <= '9' ? *t->at - '0' : (*t->at | 0x20) - 'a' + 10);
    const bool closed = !braces || (left(t) && *t->at++ == '}');
    // two digits after \x are a byte to Oniguruma: the same character only in ASCII
    const bool whole = braces ? digits > 0 : digits == most && (is_long || code < 0x80);
    if (!closed || !whole || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return refuse(t, what, (size_t)(t->at - what));
    const int failed = check_caseless(t, what, (size_t)(t->at - what), code);
    char syntax[16];
    snprintf(syntax, sizeof syntax, "\\x{%x}", (unsigned)code);
    return failed ? failed : emit(t, syntax);
}

// Whatever follows a backslash. *is_set: it stands for several characters.
static int translate_escape(struct translation *t, bool in_class, bool *is_set)
{
    const char *what = t->at++;
    *is_set = false;
    if (!left(t))
        return refuse(t, what, 1);
    const char kind = *t->at++;
    const bool caseless = t->caseless[t->depth];
    switch (kind) {
    case 'p':
    case 'P':
        *is_set = true;
        return translate_property(t, kind == 'P', in_class, what);
    case 's':
    case 'S':
        *is_set = true;
        return caseless ? refuse(t, what, 2) : emit(t, kind == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
    case 'd':
    case 'D':
        *is_set = true;
        return emit_category(t, "Nd", 2, kind == 'D', in_class, what);
    case 'n':
    case 'r':
    case 't':
    case 'f':
        t->letter = 0;
        return text_append(t->out, what, 2, t->error);
    case 'v':
        t->letter = 0;
        return emit(t, "\\x{b}"); // PCRE2's \v is a set
    case 'x':
    case 'u':
        return translate_code(t, kind == 'u', what);
    default:
        t->letter = 0;
        if (kind > ' ' && kind < 0x7F && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", kind))
            return text_append(t->out, what, 2, t->error);
        return refuse(t, what, 2);
    }
}

// --- classes

static int translate_class(struct translation *t)
{
    const char *what = t->at++;
    int failed = emit(t, "[");
    if (!failed && left(t) && *t->at == '^') {
        t->at++;
        failed = emit(t, "^");
    }
    bool empty = true, after_set = false;
    for (; !failed; empty = false) {
        t->letter = 0; // members stand alone
        if (!left(t) || (empty && *t->at == ']') || *t->at == '[' ||
            (left(t) > 1 && t->at[0] == '&' && t->at[1] == '&'))
            return refuse(t, what, (size_t)(t->at - what) + (left(t) > 0)); // open, empty, nested, intersection
        if (*t->at == ']')
            break;
        const bool is_dash = *t->at == '-';
        const bool is_range = is_dash && !empty && !after_set && left(t) > 1 && t->at[1] != ']';
        if (is_range && t->at[1] == '\\' && left(t) > 2 && strchr("sSdDpP", t->at[2]))
            return refuse(t, t->at, 3); // a range that ends with a set
        if (is_dash && !is_range) {
            t->at++;
            failed = emit(t, "\\-");
            after_set = false;
        } else if (*t->at == '\\') {
            failed = translate_escape(t, true, &after_set);
        } else {
            after_set = false;
            failed = translate_literal(t);
        }
    }
    if (failed)
        return failed;
    t->at++;
    t->letter = 0;
    return emit(t, "]");
}

// --- groups and repeats

static int translate_group(struct translation *t)
{
    static const char *const openings[] = {"(?i:", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    const char *opening = NULL;
    for (size_t i = 0; i < sizeof openings / sizeof *openings && !opening; i++) {
        const size_t length = strlen(openings[i]);
        if (left(t) >= length && !memcmp(t->at, openings[i], length))
            opening = openings[i];
    }
    if (!opening) {
        if (left(t) > 1 && (t->at[1] == '?' || t->at[1] == '*'))
            return refuse(t, t->at, left(t) < 4 ? left(t) : 4);
        opening = "(";
    }
    if (t->depth == GROUPS)
        return error_set(t->error, ERROR_INPUT,
                         "%s: the regular expression has more than %d groups one in the other, expected "
                         "at most that",
                         t->where, GROUPS);
    const bool caseless = t->caseless[t->depth] || !strcmp(opening, "(?i:");
    t->caseless[++t->depth] = caseless;
    t->letter = 0;
    t->at += strlen(opening);
    return emit(t, opening);
}

// {n}, {n,}, {n,m}, with a lazy ? after the last two.
static int translate_interval(struct translation *t)
{
    const char *what = t->at++;
    unsigned long digits = 0, commas = 0;
    for (; left(t) && (*t->at == ',' || (*t->at >= '0' && *t->at <= '9')); t->at++) {
        commas += *t->at == ',';
        digits += *t->at != ',' && !commas;
    }
    if (!left(t) || *t->at != '}' || !digits || commas > 1)
        return refuse(t, what, (size_t)(t->at - what));
    t->at++;
    // to Oniguruma {n}? is optional, not lazy, and {n,m}+ repeats, not possessive
    if (left(t) && ((*t->at == '?' && !commas) || *t->at == '+'))
        return refuse(t, what, (size_t)(t->at - what) + 1);
    if (left(t) && *t->at == '?')
        t->at++;
    return text_append(t->out, what, (size_t)(t->at - what), t->error);
}

static int translate_one(struct translation *t)
{
    bool is_set;
    switch (*t->at) {
    case '\\':
        return translate_escape(t, false, &is_set);
    case '[':
        return translate_class(t);
    case '(':
        return translate_group(t);
    case ')':
        if (!t->depth)
            return refuse(t, t->at, 1);
        t->depth--;
        t->letter = 0;
        t->at++;
        return emit(t, ")");
    case '{':
        t->letter = 0;
        return translate_interval(t);
    case '^':
    case '$':
        t->letter = 0;
        return emit(t, *t->at++ == '^' ? "(?m:^)" : "(?m:$)");
    default:
        return translate_literal(t);
    }
}

int pattern_translate(struct text *out, const char *expression, const char *where, struct error *error)
{
    const size_t size = strlen(expression);
    if (!size || size > PATTERN_BYTES || !text_is_valid(expression, size))
        return error_set(error, ERROR_INPUT, "%s: a regular expression of %zu bytes, expected 1 to %d of valid UTF-8",
                         where, size, PATTERN_BYTES);
    struct translation t = {.out = out,
                            .expression = expression,
                            .at = expression,
                            .end = expression + size,
                            .where = where,
                            .error = error};
    int failed = 0;
    while (!failed && t.at < t.end)
        failed = translate_one(&t);
    if (!failed && t.depth)
        failed = error_set(error, ERROR_INPUT,
                           "%s: the regular expression has %u groups still open at its end, expected none", where,
                           t.depth);
    return failed;
}
