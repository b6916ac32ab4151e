// sheet: JSON as it is written, value by value. Objects and lists are indented; a row is an object on one line.
//
// Keys are C literals and written as they are; strings are escaped. `key` is NULL inside a list.
#ifndef ASSAY_SHEET_H
#define ASSAY_SHEET_H

#include <stdbool.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/files.h"

// {.output = ..., .first = true} is ready; arena_close(&sheet.arena) at the end.
struct sheet {
    struct output *output;
    struct arena arena; // of quoted strings
    int depth;
    int compact; // depth of the open row, below which everything stays on its line; 0: none
    bool first;  // nothing was written yet at this depth
};

void sheet_open(struct sheet *sheet, const char *key);
void sheet_open_row(struct sheet *sheet);
void sheet_close(struct sheet *sheet); // object or row
void sheet_open_list(struct sheet *sheet, const char *key);
void sheet_close_list(struct sheet *sheet);

void sheet_text(struct sheet *sheet, const char *key, const char *value); // NULL: null
void sheet_count(struct sheet *sheet, const char *key, uint64_t value);
void sheet_id(struct sheet *sheet, const char *key, int64_t value); // negative: null
void sheet_flag(struct sheet *sheet, const char *key, bool value);
// KEY as a decimal that reads back exactly (null when it is no finite number), and KEY_hex as a %a string.
void sheet_number(struct sheet *sheet, const char *key, double value);

#endif
