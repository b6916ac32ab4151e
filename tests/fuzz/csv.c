// Any bytes at all are either refused with a sentence or become a table as wide as its header everywhere, which comes
// back the same when csv_put writes it and csv_read reads it again.
#include <assert.h>
#include <string.h>

#include "harness/base/csv.h"
#include "tests/fuzz/input.h"

enum { LIMIT = 1 << 20, WRITTEN = 2048 }; // bytes that are read; of inputs that are written and read again

static void write_row(struct output *output, const char *const *row, size_t n)
{
    for (size_t i = 0; i < n; i++)
        csv_put(output, row[i], i + 1 == n);
}

static void check_row(const char *const *row, const char *const *again, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert(!strcmp(row[i], again[i]));
}

// Through a pipe, which csv_put's output writes to directly, into the file in memory.
static const char *written(const struct csv_table *table)
{
    static char bytes[16 * WRITTEN], path[64];
    static int ends[2];
    struct output *output;
    if (!*path) {
        const int piped = pipe(ends);
        assert(!piped);
        snprintf(path, sizeof path, "/proc/self/fd/%d", ends[1]);
    }
    const int opened = output_open(&output, path, NULL);
    assert(!opened);
    write_row(output, table->header, table->n_columns);
    for (size_t i = 0; i < table->n_rows; i++)
        write_row(output, table->rows[i], table->n_columns);
    const int committed = output_commit(&output, NULL);
    const ssize_t size = read(ends[0], bytes, sizeof bytes);
    assert(!committed && size > 0 && size < (ssize_t)sizeof bytes);
    return input_path((const uint8_t *)bytes, (size_t)size);
}

static void check_written(struct arena *arena, const struct csv_table *table)
{
    struct csv_table again;
    const int read = csv_read(arena, written(table), LIMIT, NULL, &again, NULL);
    assert(!read && again.n_columns == table->n_columns && again.n_rows == table->n_rows);
    check_row(table->header, again.header, table->n_columns);
    for (size_t i = 0; i < table->n_rows; i++)
        check_row(table->rows[i], again.rows[i], table->n_columns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const required[] = {"id", NULL};
    struct arena arena = {0};
    struct csv_table table;
    struct error error = {0};
    const char *path = input_path(data, size);
    const int status = csv_read(&arena, path, LIMIT, NULL, &table, &error);
    if (status) {
        assert(status == error.code && strlen(error.text));
    } else {
        assert(table.n_columns && table.header);
        for (size_t i = 0; i < table.n_columns; i++) // the first of that name
            assert(csv_column(&table, table.header[i]) <= i);
        for (size_t i = 0; i < table.n_rows; i++)
            for (size_t j = 0; j < table.n_columns; j++)
                assert(strlen(table.rows[i][j]) <= size);
        struct csv_table named;
        if (!csv_read(&arena, path, LIMIT, required, &named, &error))
            assert(csv_column(&named, "id") < named.n_columns);
        else
            assert(error.code == ERROR_INPUT);
        if (size <= WRITTEN)
            check_written(&arena, &table);
    }
    arena_close(&arena);
    return 0;
}
