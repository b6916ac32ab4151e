#include "reports/page.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/utf8.h"

// A memory stream of libc drops what it has no memory for and says nothing.
static void put(struct page *page, const char *bytes, size_t size)
{
    if (size >= page->room - page->size) {
        const size_t wanted = 2 * (page->size + size + 1);
        char *larger = page->failed ? NULL : realloc(page->text, wanted);
        if (!larger) {
            page->failed = true;
            return;
        }
        page->text = larger;
        page->room = wanted;
    }
    memcpy(page->text + page->size, bytes, size);
    page->size += size;
    page->text[page->size] = '\0';
}

static void put_text(struct page *page, const char *text)
{
    put(page, text, strlen(text));
}

static void put_blanks(struct page *page, int n)
{
    while (n-- > 0)
        put(page, " ", 1);
}

int page_open(struct page *page, bool colour)
{
    *page = (struct page){.colour = colour};
    put_text(page, "");
    return page->failed ? ERROR_RUNTIME : 0;
}

char *page_take(struct page *page, struct arena *arena)
{
    page_end(page);
    char *text = page->failed ? NULL : arena_print(arena, "%s", page->text);
    free(page->text);
    *page = (struct page){0};
    return text;
}

void page_end(struct page *page)
{
    if (page->column)
        put_text(page, "\n");
    page->column = 0;
}

void page_gap(struct page *page)
{
    page_end(page);
    put_text(page, "\n");
}

void page_to(struct page *page, int column)
{
    if (page->column >= column && column)
        page_end(page);
    put_blanks(page, column - page->column);
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
        put(page, text, bytes);
    else
        put_text(page, "\xEF\xBF\xBD");
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
    put_blanks(page, indent);
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
            put_blanks(page, 1);
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
    put_text(page, page->colour ? colours[verdict] : "");
    put_text(page, name);
    put_text(page, page->colour ? "\033[0m" : "");
    page->column += (int)strlen(name);
}
