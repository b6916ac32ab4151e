#include "harness/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/utf8.h"

// Names come from hostile files: one sentence stays one line, and a terminal obeys none of it. In place.
static void make_printable(char *text)
{
    char *out = text;
    while (*text) {
        uint32_t code;
        const size_t bytes = utf8_character(text, &code), step = bytes ? bytes : 1;
        if (bytes && utf8_is_printable(code)) {
            memmove(out, text, bytes);
            out += bytes;
        } else {
            *out++ = '?';
        }
        text += step;
    }
    *out = '\0';
}

int error_set(struct error *error, int code, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        error->code = code;
        vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
        make_printable(error->text);
    }
    return code;
}

int error_exit_status(int code)
{
    switch (code) {
    case 0:
        return 0;
    case ERROR_RUNTIME:
        return 75;
    case ERROR_UNJUDGED:
        return 3;
    default:
        return 2;
    }
}
