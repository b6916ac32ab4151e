// page: text of at most 100 columns, with hanging indents. Whatever a file put into a string, no control character
// and no broken UTF-8 reaches the terminal.
#ifndef ASSAY_PAGE_H
#define ASSAY_PAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "harness/base/error.h"
#include "harness/judge/report.h"

enum { PAGE_COLUMNS = 100 };

struct page {
    bool colour, failed; // failed: memory was exhausted
    int column;          // characters on the current line
    char *text;          // [room], NUL-terminated
    size_t size, room;
};

int page_open(struct page *page, bool colour); // 0, or ERROR_RUNTIME
// The text, in the arena; NULL when memory is exhausted. The page is closed.
char *page_take(struct page *page, struct arena *arena);

void page_end(struct page *page);            // ends the line, if anything stands on it
void page_gap(struct page *page);            // ends the line and leaves one empty
void page_to(struct page *page, int column); // blanks up to a column, at least one; a new line when it is too late

// Words, broken between columns `indent` and PAGE_COLUMNS; a word that is too long for a line is cut. Begins where
// the page stands (at `indent` on a new line), after a blank if the text begins with one.
void page_flow(struct page *page, int indent, const char *text);
void page_print(struct page *page, int indent, const char *format, ...) PRINTF_LIKE(3, 4);
// PASS in green, WARN and NOT_RUN in yellow, FAIL and ERROR in red where there is colour.
void page_verdict(struct page *page, enum verdict verdict);

// Characters that page_flow would print for `text`.
int page_width(const char *text);

#endif
