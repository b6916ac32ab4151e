#include "reports/page.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/utf8.h"

int page_open(struct page *page, bool colour)
{
    *page = (struct page){.colour = colour};
    page->file = open_memstream(&page->text, &page->size);
    return page->file ? 0 : ERROR_RUNTIME;
}

char *page_take(struct page *page, struct arena *arena)
{
    page_end(page);
    const bool failed = ferror(page->file), whole = !fclose(page->file) && !failed;
    char *text = whole ? arena_print(arena, "%s", page->text) : NULL;
    free(page->text);
    *page = (struct page){0};
    return text;
}

void page_end(struct page *page)
{
    if (page->column)
        fputc('\n', page->file);
    page->column = 0;
}

void page_gap(struct page *page)
{
    page_end(page);
    fputc('\n', page->file);
}

void page_to(struct page *page, int column)
{
    if (page->column >= column && column)
        page_end(page);
    fprintf(page->file, "%*s", column - page->column, "");
    page->column = column;
}

static bool is_blank(const char *text)
{
    return *text == ' ' || *text == '\n' || *text == '\t' || *text == '\r';
}

// Prints one character and returns its bytes: what is no printable UTF-8 (a terminal might obey it) as U+FFFD.
static size_t put_character(struct page *page, const char *text)
{
    uint32_t code;
    const size_t bytes = utf8_character(text, &code);
    if (bytes && utf8_is_printable(code))
        fwrite(text, 1, bytes, page->file);
    else
        fputs("\xEF\xBF\xBD", page->file);
    page->column++;
    return bytes ? bytes : 1;
}

static int word_width(const char *text)
{
    int width = 0;
    while (*text && !is_blank(text)) {
        uint32_t code;
        const size_t bytes = utf8_character(text, &code);
        text += bytes ? bytes : 1;
        width++;
    }
    return width;
}

int page_width(const char *text)
{
    int width = 0;
    for (; *text; width++) {
        uint32_t code;
        const size_t bytes = utf8_character(text, &code);
        text += bytes ? bytes : 1;
    }
    return width;
}

static void new_line(struct page *page, int indent)
{
    page_end(page);
    fprintf(page->file, "%*s", indent, "");
    page->column = indent;
}

void page_flow(struct page *page, int indent, const char *text)
{
    if (!page->column)
        page_to(page, indent);
    for (;;) {
        const bool parted = is_blank(text);
        while (is_blank(text))
            text++;
        if (!*text)
            return;
        const int gap = parted && page->column != indent;
        if (page->column > indent && page->column + gap + word_width(text) > PAGE_COLUMNS) {
            new_line(page, indent);
        } else if (gap) {
            fputc(' ', page->file);
            page->column++;
        }
        while (*text && !is_blank(text)) {
            if (page->column >= PAGE_COLUMNS)
                new_line(page, indent);
            text += put_character(page, text);
        }
    }
}

void page_print(struct page *page, int indent, const char *format, ...)
{
    char text[2048]; // longer ones are cut: they are one sentence of this program around a path or an id
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    page_flow(page, indent, text);
}

void page_verdict(struct page *page, enum verdict verdict)
{
    static const char *const colours[] = {
        [VERDICT_PASS] = "\033[32m",    [VERDICT_WARN] = "\033[33m",  [VERDICT_FAIL] = "\033[31m",
        [VERDICT_NOT_RUN] = "\033[33m", [VERDICT_ERROR] = "\033[31m",
    };
    const char *name = verdict_name(verdict);
    fprintf(page->file, "%s%s%s", page->colour ? colours[verdict] : "", name, page->colour ? "\033[0m" : "");
    page->column += (int)strlen(name);
}
