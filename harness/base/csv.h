// csv: libcsv (RFC 4180, strict) behind a table with a named header row, and the matching writer.
#ifndef ASSAY_CSV_H
#define ASSAY_CSV_H

#include <stddef.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/files.h"

struct csv_table {
    size_t n_columns, n_rows; // without the header
    const char **header;      // [n_columns]
    const char ***rows;       // [n_rows][n_columns], all in the arena
};

// Reads a whole file of at most `limit` bytes. Refused: no header, a row of another width, a column of `required`
// (NULL- terminated) that is missing or stands twice, a NUL byte, a quote that is never closed.
int csv_read(struct arena *arena, const char *path, size_t limit, const char *const *required,
             struct csv_table *table, struct error *error);
// Index of a column, or n_columns.
size_t csv_column(const struct csv_table *table, const char *name);

// One field: bare when it holds only letters, digits and "._+-", else quoted by libcsv. `last` ends the row with a
// newline, otherwise a comma follows. (Not csv_write: that name is libcsv's.)
void csv_put(struct output *output, const char *field, int last);

#endif
