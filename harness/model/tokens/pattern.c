#include "harness/model/tokens/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <assert.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

// A sane expression counts a handful of steps for each character of a match. The limit is for one match, in PCRE2's
// own steps; about 0.1 s. It grows with the text, since the interpreter counts every character given back.
enum { MATCH_STEPS = 10000000, STACK_START = 32 * 1024, STACK_MOST = 64 * 1024 * 1024, HEAP_KIBIBYTES = 256 * 1024 };

struct pattern {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    char *where;
};

static int compile(struct pattern *pattern, const struct text *syntax, const char *expression, struct error *error)
{
    int code;
    PCRE2_SIZE offset;
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return error_set(error, ERROR_RUNTIME, "%s: out of memory for a regular expression", pattern->where);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF); // as Ruby's; PCRE2's default is chosen when it is built
    pattern->code = pcre2_compile((PCRE2_SPTR)syntax->bytes, syntax->size, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!pattern->code && code == PCRE2_ERROR_HEAP_FAILED)
        return error_set(error, ERROR_RUNTIME, "%s: out of memory for a regular expression", pattern->where);
    if (!pattern->code) {
        char reason[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        char shown[TEXT_SHOWN];
        return error_set(error, ERROR_INPUT, "%s: \"%s\" is no regular expression that PCRE2 accepts: %s",
                         pattern->where, text_shown(shown, expression, strlen(expression)), reason);
    }
    const bool fast = !pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); // else interpreted: slower, equal
    pattern->match = pcre2_match_data_create(1, NULL);
    pattern->context = pcre2_match_context_create(NULL);
    pattern->stack = fast ? pcre2_jit_stack_create(STACK_START, STACK_MOST, NULL) : NULL;
    if (!pattern->match || !pattern->context || (fast && !pattern->stack))
        return error_set(error, ERROR_RUNTIME, "%s: out of memory for a regular expression", pattern->where);
    pcre2_set_heap_limit(pattern->context, HEAP_KIBIBYTES);
    if (fast)
        pcre2_jit_stack_assign(pattern->context, NULL, pattern->stack);
    return 0;
}

static int open_syntax(struct pattern **out, const struct text *syntax, const char *expression, const char *where,
                       struct error *error)
{
    struct pattern *pattern = calloc(1, sizeof *pattern);
    if (pattern)
        pattern->where = strdup(where);
    int failed = !pattern || !pattern->where
                     ? error_set(error, ERROR_RUNTIME, "%s: out of memory for a regular expression", where)
                     : 0;
    if (!failed)
        failed = compile(pattern, syntax, expression, error);
    if (failed)
        pattern_close(&pattern);
    *out = pattern;
    return failed;
}

int pattern_open(struct pattern **pattern, const char *expression, const char *where, struct error *error)
{
    *pattern = NULL;
    struct text syntax = {0};
    int failed = pattern_translate(&syntax, expression, where, error);
    if (!failed)
        failed = open_syntax(pattern, &syntax, expression, where, error);
    text_close(&syntax);
    return failed;
}

int pattern_open_literal(struct pattern **pattern, const char *literal, const char *where, struct error *error)
{
    *pattern = NULL;
    const size_t size = strlen(literal);
    if (size > PATTERN_BYTES || !text_is_valid(literal, size))
        return error_set(error, ERROR_INPUT, "%s: %zu bytes, expected at most %d of valid UTF-8", where, size,
                         PATTERN_BYTES);
    struct text syntax = {0};
    int failed = text_reserve(&syntax, 2 * size + 1, error); // PCRE2 wants a pointer even for no bytes
    for (size_t i = 0; i < size && !failed; i++) {
        const bool is_syntax = strchr("\\^$.[|()?*+{", literal[i]) != NULL;
        failed = is_syntax ? text_append(&syntax, "\\", 1, error) : 0;
        if (!failed)
            failed = text_append(&syntax, &literal[i], 1, error);
    }
    if (!failed)
        failed = open_syntax(pattern, &syntax, literal, where, error);
    text_close(&syntax);
    return failed;
}

int pattern_open_word(struct pattern **pattern, struct error *error)
{
    *pattern = NULL;
    struct text syntax = {0};
    int failed = pattern_translate(&syntax, "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}]", "word character", error);
    const char *rest = "|\\p{Alphabetic}|\\p{Join_Control}"; // Alphabetic adds circled letters to L, M and Nl
    if (!failed)
        failed = text_append(&syntax, rest, strlen(rest), error);
    if (!failed)
        failed = open_syntax(pattern, &syntax, rest, "word character", error);
    text_close(&syntax);
    return failed;
}

void pattern_close(struct pattern **pattern)
{
    if (!pattern || !*pattern)
        return;
    pcre2_code_free((*pattern)->code);
    pcre2_match_data_free((*pattern)->match);
    pcre2_match_context_free((*pattern)->context);
    pcre2_jit_stack_free((*pattern)->stack);
    free((*pattern)->where);
    free(*pattern);
    *pattern = NULL;
}

static int match(struct pattern *pattern, const char *text, size_t size, size_t from, uint32_t options,
                 struct error *error)
{
    const size_t steps = size < MATCH_STEPS ? MATCH_STEPS + 16 * size : (size_t)17 * MATCH_STEPS;
    pcre2_set_match_limit(pattern->context, (uint32_t)steps);
    // the text was checked once; checking it at every match would be quadratic
    const int found = pcre2_match(pattern->code, (PCRE2_SPTR)text, size, from, options | PCRE2_NO_UTF_CHECK,
                                  pattern->match, pattern->context);
    if (found >= 0)
        return 1;
    if (found == PCRE2_ERROR_NOMATCH)
        return 0;
    char reason[128];
    pcre2_get_error_message(found, (PCRE2_UCHAR *)reason, sizeof reason);
    return error_set(
        error, found == PCRE2_ERROR_NOMEMORY ? ERROR_RUNTIME : ERROR_INPUT,
        "%s: the regular expression gives up at byte %zu of %zu (%s): it backtracks without end, expected one "
        "that reads each character a few times",
        pattern->where, from, size, reason);
}

int pattern_find(struct pattern *pattern, const char *text, size_t size, size_t from, size_t *start, size_t *end,
                 struct error *error)
{
    assert(from <= size);
    const int found = match(pattern, text, size, from, 0, error);
    if (found <= 0)
        return found;
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(pattern->match);
    *start = span[0];
    *end = span[1];
    if (*start < from || *end < *start)
        return error_set(error, ERROR_INPUT, "%s: the regular expression matches backwards at byte %zu",
                         pattern->where, from);
    return 1;
}

int pattern_matches(struct pattern *pattern, const char *text, size_t size, struct error *error)
{
    return match(pattern, text, size, 0, PCRE2_ANCHORED, error);
}
