#include "harness/base/error.h"

#include <stdarg.h>
#include <stdio.h>

int error_set(struct error *error, int code, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        error->code = code;
        vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
        for (char *c = error->text; *c; c++) // names come from hostile files: one sentence stays one line
            if ((unsigned char)*c < 0x20 || *c == 0x7F)
                *c = '?';
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
