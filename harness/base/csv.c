#include "harness/base/csv.h"

#include <assert.h>
#include <csv.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *path;
    char *text;          // every field of the file with its NUL: never more than the file's bytes and one
    size_t room, used;   // of text
    const char **fields; // of the header and all rows so far, row after row
    size_t n_fields, field_room;
    size_t n_columns, n_rows; // columns of the header, 0 before it; rows without it
    int result;
    struct error *error;
};

static size_t row_start(const struct reader *reader)
{
    return reader->n_columns ? reader->n_columns * (reader->n_rows + 1) : 0;
}

static void take_field(void *bytes, size_t size, void *context)
{
    struct reader *reader = context;
    if (reader->result)
        return;
    if (reader->n_fields == reader->field_room) {
        const size_t wanted = reader->field_room ? 2 * reader->field_room : 64;
        void *larger = realloc((void *)reader->fields, wanted * sizeof *reader->fields);
        if (!larger) {
            reader->result = error_set(reader->error, ERROR_RUNTIME, "%s: no memory for its fields", reader->path);
            return;
        }
        reader->fields = larger;
        reader->field_room = wanted;
    }
    assert(size < reader->room - reader->used);
    char *field = reader->text + reader->used; // zeroed: the NUL is there
    if (size)
        memcpy(field, bytes, size);
    reader->used += size + 1;
    reader->fields[reader->n_fields++] = field;
}

static void take_row(int terminator, void *context)
{
    (void)terminator;
    struct reader *reader = context;
    if (reader->result)
        return;
    const size_t width = reader->n_fields - row_start(reader);
    if (!reader->n_columns)
        reader->n_columns = width;
    else if (width == reader->n_columns)
        reader->n_rows++;
    else
        reader->result =
            error_set(reader->error, ERROR_INPUT, "%s: row %zu has %zu fields, expected %zu as in the header",
                      reader->path, reader->n_rows + 1, width, reader->n_columns);
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
                          reader->path, reader->n_rows, csv_strerror(kind));
    }
    csv_free(&parser);
    return reader->result;
}

static int check_header(const struct csv_table *table, const char *path, const char *const *required,
                        struct error *error)
{
    if (!table->n_columns)
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

// Header and rows in the arena.
static int make_table(struct arena *arena, const struct reader *reader, struct csv_table *table)
{
    const char **fields = arena_alloc(arena, reader->n_fields, sizeof *fields);
    table->rows = arena_alloc(arena, reader->n_rows, sizeof *table->rows);
    if (!fields || !table->rows)
        return error_set(reader->error, ERROR_RUNTIME, "%s: no memory for its rows", reader->path);
    if (reader->n_fields)
        memcpy(fields, reader->fields, reader->n_fields * sizeof *fields);
    table->header = fields;
    table->n_columns = reader->n_columns;
    table->n_rows = reader->n_rows;
    for (size_t i = 0; i < table->n_rows; i++)
        table->rows[i] = fields + (i + 1) * table->n_columns;
    return 0;
}

int csv_read(struct arena *arena, const char *path, size_t limit, const char *const *required,
             struct csv_table *table, struct error *error)
{
    *table = (struct csv_table){0};
    struct csv_table read = {0};
    struct reader reader = {.path = path, .error = error};
    struct arena scratch = {0};
    char *text;
    uint64_t size;
    int result = file_read(&scratch, path, limit, &text, &size, error);
    const char *nul = result ? NULL : memchr(text, '\0', size);
    if (nul)
        result =
            error_set(error, ERROR_INPUT, "%s: a NUL byte at offset %zu, expected text", path, (size_t)(nul - text));
    reader.room = result ? 0 : (size_t)size + 2;
    if (!result && !(reader.text = arena_alloc(arena, reader.room, 1)))
        result = error_set(error, ERROR_RUNTIME, "%s: no memory for its fields", path);
    if (!result) { // spreadsheets write a byte order mark
        const size_t mark = size >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3) ? 3 : 0;
        result = parse(&reader, text + mark, (size_t)size - mark);
    }
    if (!result)
        result = make_table(arena, &reader, &read);
    if (!result)
        result = check_header(&read, path, required, error);
    if (!result)
        *table = read;
    free((void *)reader.fields);
    arena_close(&scratch);
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
