// csv: strict reading, and writing that reads back.
#include "harness/base/csv.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct arena arena;
static char *directory, *path;
static struct error error;
static struct csv_table table;
static const char *const required[] = {"id", "text", NULL};

static void open_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
    path = file_join(&arena, directory, "t.csv");
}

static void close_directory(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

static int read_bytes(const char *text, size_t size)
{
    struct output *output;
    cr_assert_eq(output_open(&output, path, NULL), 0);
    output_append(output, text, size);
    cr_assert_eq(output_commit(&output, NULL), 0);
    error = (struct error){0};
    return csv_read(&arena, path, 1 << 20, required, &table, &error);
}

static int read_text(const char *text)
{
    return read_bytes(text, strlen(text));
}

TestSuite(csv, .init = open_directory, .fini = close_directory);

Test(csv, fields_arrive_as_they_are)
{
    cr_assert_eq(read_text("text,id\r\n\"a \"\"b\"\",\nc\", 1 \r\n,\n\xC3\xA4,x"), 0, "%s", error.text);
    cr_assert_eq(table.n_columns, 2);
    cr_assert_eq(table.n_rows, 3);
    const size_t id = csv_column(&table, "id"), text = csv_column(&table, "text");
    cr_assert_eq(id, 1);
    cr_assert_str_eq(table.rows[0][text], "a \"b\",\nc");
    cr_assert_str_eq(table.rows[0][id], " 1 "); // blanks belong to the field
    cr_assert_str_eq(table.rows[1][text], "");
    cr_assert_str_eq(table.rows[1][id], "");
    cr_assert_str_eq(table.rows[2][text], "\xC3\xA4");
    cr_assert_str_eq(table.rows[2][id], "x"); // the last row needs no newline
    cr_assert_eq(csv_column(&table, "none"), 2);
}

Test(csv, a_header_alone_is_a_table_without_rows)
{
    cr_assert_eq(read_text("\xEF\xBB\xBFid,text\n"), 0, "%s", error.text); // with a byte order mark
    cr_assert_eq(table.n_rows, 0);
}

Test(csv, what_is_no_table_is_refused)
{
    static const struct {
        const char *text, *because;
    } bad[] = {
        {"", "empty"},
        {"\n\n", "empty"},
        {"id\n1\n", "'text'"},
        {"id,text,id\n1,2,3\n", "2 times"},
        {"id,text\n1\n", "row 1 has 1 fields"},
        {"id,text\n1,2\n1,2,3\n", "row 2 has 3 fields"},
        {"id,text\n1,\"open\n", "row 0"},
        {"id,text\n1,\"open", "no CSV"},
        {"id,text\n1,a\"b\n", "no CSV"},
        {"id,text\n1,\"a\"b\n", "no CSV"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(read_text(bad[i].text), ERROR_INPUT, "accepted: %s", bad[i].text);
        cr_expect(strstr(error.text, bad[i].because), "%s: %s", bad[i].text, error.text);
    }
    cr_assert_eq(read_bytes("id,text\n1,\0\n", 12), ERROR_INPUT);
    cr_assert(strstr(error.text, "NUL"));
    cr_assert_eq(csv_read(&arena, path, 5, required, &table, &error), ERROR_INPUT);
    cr_assert_eq(csv_read(&arena, directory, 5, required, &table, &error), ERROR_INPUT);
}

Test(csv, many_rows_are_all_there)
{
    enum { N = 5000 };
    struct output *output;
    cr_assert_eq(output_open(&output, path, NULL), 0);
    output_print(output, "id,text\n");
    for (int i = 0; i < N; i++)
        output_print(output, "%d,t%d\n", i, i);
    cr_assert_eq(output_commit(&output, NULL), 0);
    cr_assert_eq(csv_read(&arena, path, 1 << 20, required, &table, &error), 0);
    cr_assert_eq(table.n_rows, N);
    cr_assert_str_eq(table.rows[N - 1][1], "t4999");
}

Test(csv, what_is_written_reads_back)
{
    char longer[1001];
    for (int i = 0; i < 1000; i++)
        longer[i] = i % 3 ? '"' : ',';
    longer[1000] = '\0';
    const char *const fields[] = {"",        "plain",   "a,b",  "say \"so\"", "two\nlines",
                                  " blank ", "-1.5e+3", "=1+1", longer};
    enum { N = sizeof fields / sizeof *fields };
    struct output *output;
    cr_assert_eq(output_open(&output, path, NULL), 0);
    csv_put(output, "id", 0);
    csv_put(output, "text", 1);
    for (int i = 0; i < N; i++) {
        csv_put(output, fields[i], 0);
        csv_put(output, fields[N - 1 - i], 1);
    }
    cr_assert_eq(output_commit(&output, NULL), 0);
    cr_assert_eq(csv_read(&arena, path, 1 << 20, required, &table, &error), 0, "%s", error.text);
    cr_assert_eq(table.n_rows, N);
    for (int i = 0; i < N; i++) {
        cr_assert_str_eq(table.rows[i][0], fields[i]);
        cr_assert_str_eq(table.rows[i][1], fields[N - 1 - i]);
    }
}

// Each field and each row took 64 bytes and more, whatever its length: a file of commas a hundred times its size.
Test(csv, empty_fields_take_no_more_memory_than_their_pointers)
{
    enum { ROWS = 20000 };
    char *text = malloc(8 + 2 * ROWS + 1);
    strcpy(text, "id,text\n");
    for (int i = 0; i < ROWS; i++)
        memcpy(text + 8 + 2 * i, ",\n", 3);
    const size_t before = arena.bytes;
    cr_assert_eq(read_text(text), 0, "%s", error.text);
    cr_assert_eq(table.n_rows, ROWS);
    cr_assert_str_eq(table.rows[ROWS - 1][1], "");
    cr_assert_lt(arena.bytes - before, ROWS * (2 * 8 + 8 + 2) + 1024); // two fields, a row, two bytes of text
    free(text);
}

// csv_put hands libcsv pieces of 200 bytes, and quotes double inside them.
Test(csv, a_field_with_quotes_at_the_edges_of_pieces_reads_back)
{
    char field[801];
    for (size_t quote = 195; quote < 205; quote++) {
        struct output *output;
        memset(field, 'x', sizeof field - 1);
        field[sizeof field - 1] = '\0';
        field[quote] = field[quote + 200] = field[799] = '"';
        cr_assert_eq(output_open(&output, path, NULL), 0);
        output_print(output, "id,text\n");
        csv_put(output, field, 0);
        csv_put(output, "", 1);
        cr_assert_eq(output_commit(&output, NULL), 0);
        cr_assert_eq(csv_read(&arena, path, 1 << 20, required, &table, &error), 0, "%s", error.text);
        cr_assert_str_eq(table.rows[0][0], field);
    }
}
