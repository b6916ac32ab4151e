#include "harness/base/csv.h"

#include <csv.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    struct arena *arena;
    const char *path;
    struct csv_table *table;
    const char **fields; // of the row that is being read
    size_t n_fields, field_room;
    size_t row_room;
    int result;
    struct error *error;
};

static bool grow(struct reader *reader, void **memory, size_t *room, size_t needed, size_t size)
{
    if (needed <= *room)
        return true;
    const size_t wanted = *room ? 2 * *room : 64;
    void *larger = realloc(*memory, wanted * size);
    if (!larger) {
        reader->result = error_set(reader->error, ERROR_RUNTIME, "%s: no memory for its rows", reader->path);
        return false;
    }
    *memory = larger;
    *room = wanted;
    return true;
}

static void take_field(void *bytes, size_t size, void *context)
{
    struct reader *reader = context;
    void *fields = (void *)reader->fields;
    if (reader->result || !grow(reader, &fields, &reader->field_room, reader->n_fields + 1, sizeof *reader->fields))
        return;
    reader->fields = fields;
    char *field = arena_alloc(reader->arena, size + 1, 1);
    if (!field) {
        reader->result = error_set(reader->error, ERROR_RUNTIME, "%s: no memory for its fields", reader->path);
        return;
    }
    if (size)
        memcpy(field, bytes, size);
    reader->fields[reader->n_fields++] = field;
}

static void take_row(int terminator, void *context)
{
    (void)terminator;
    struct reader *reader = context;
    struct csv_table *table = reader->table;
    if (reader->result)
        return;
    if (table->header && reader->n_fields != table->n_columns) {
        reader->result =
            error_set(reader->error, ERROR_INPUT, "%s: row %zu has %zu fields, expected %zu as in the header",
                      reader->path, table->n_rows + 1, reader->n_fields, table->n_columns);
        return;
    }
    const char **row = arena_alloc(reader->arena, reader->n_fields, sizeof *row);
    void *rows = table->rows;
    if (!row || !grow(reader, &rows, &reader->row_room, table->n_rows + 1, sizeof *table->rows)) {
        if (!reader->result)
            reader->result = error_set(reader->error, ERROR_RUNTIME, "%s: no memory for its rows", reader->path);
        return;
    }
    table->rows = rows;
    memcpy(row, reader->fields, reader->n_fields * sizeof *row);
    if (!table->header) {
        table->header = row;
        table->n_columns = reader->n_fields;
    } else {
        table->rows[table->n_rows++] = row;
    }
    reader->n_fields = 0;
}

static int no_space(unsigned char byte)
{
    (void)byte; // RFC 4180: blanks belong to the field; libcsv would strip them
    return 0;
}

static int parse(struct reader *reader, const char *text, size_t size)
{
    struct csv_parser parser;
    if (csv_init(&parser, CSV_STRICT | CSV_STRICT_FINI))
        return error_set(reader->error, ERROR_RUNTIME, "%s: no memory for the CSV parser", reader->path);
    csv_set_space_func(&parser, no_space);
    const bool whole = csv_parse(&parser, text, size, take_field, take_row, reader) == size;
    if (!whole || csv_fini(&parser, take_field, take_row, reader)) {
        const int kind = csv_error(&parser);
        if (!reader->result)
            reader->result =
                error_set(reader->error, kind == CSV_ENOMEM ? ERROR_RUNTIME : ERROR_INPUT,
                          "%s: no CSV after row %zu (%s), expected RFC 4180: quotes doubled inside quoted fields, "
                          "every quote closed",
                          reader->path, reader->table->n_rows, csv_strerror(kind));
    }
    csv_free(&parser);
    return reader->result;
}

static int check_header(const struct csv_table *table, const char *path, const char *const *required,
                        struct error *error)
{
    if (!table->header)
        return error_set(error, ERROR_INPUT, "%s: is empty, expected a header row", path);
    for (size_t i = 0; required && required[i]; i++) {
        size_t times = 0;
        for (size_t column = 0; column < table->n_columns; column++)
            times += !strcmp(table->header[column], required[i]);
        if (times != 1)
            return error_set(error, ERROR_INPUT, "%s: column '%s' stands %zu times in the header row, expected once",
                             path, required[i], times);
    }
    return 0;
}

int csv_read(struct arena *arena, const char *path, size_t limit, const char *const *required,
             struct csv_table *table, struct error *error)
{
    *table = (struct csv_table){0};
    struct csv_table read = {0};
    struct reader reader = {.arena = arena, .path = path, .table = &read, .error = error};
    char *text;
    uint64_t size;
    int result = file_read(arena, path, limit, &text, &size, error);
    if (result)
        return result;
    const char *nul = memchr(text, '\0', size);
    if (nul)
        return error_set(error, ERROR_INPUT, "%s: a NUL byte at offset %zu, expected text", path,
                         (size_t)(nul - text));
    const size_t mark = size >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3) ? 3 : 0; // spreadsheets write a byte order mark
    result = parse(&reader, text + mark, (size_t)size - mark);
    if (!result)
        result = check_header(&read, path, required, error);
    const char ***rows = result ? NULL : arena_alloc(arena, read.n_rows, sizeof *rows);
    if (!result && !rows)
        result = error_set(error, ERROR_RUNTIME, "%s: no memory for its rows", path);
    if (!result) {
        if (read.n_rows)
            memcpy(rows, read.rows, read.n_rows * sizeof *rows);
        *table = read;
        table->rows = rows;
    }
    free(read.rows);
    free((void *)reader.fields);
    return result;
}

size_t csv_column(const struct csv_table *table, const char *name)
{
    size_t column = 0;
    while (column < table->n_columns && strcmp(table->header[column], name))
        column++;
    return column;
}

void csv_put(struct output *output, const char *field, int last)
{
    const size_t length = strlen(field);
    const size_t bare = strspn(field, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-");
    if (length && bare == length) {
        output_append(output, field, length);
    } else {
        char quoted[512];
        for (size_t at = 0; at < length || !at;
             at += 200) { // libcsv quotes a piece; the quotes between pieces are dropped
            const size_t piece = length - at < 200 ? length - at : 200;
            const size_t size = csv_write(quoted, sizeof quoted, field + at, piece);
            const size_t first = at ? 1 : 0, end = at + piece < length ? 1 : 0;
            output_append(output, quoted + first, size - first - end);
        }
    }
    output_append(output, last ? "\n" : ",", 1);
}
