// The writer: what it writes is what the reader reads, to the byte, or there is no file at all.
#include <criterion/criterion.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/model/safetensors.h"

static struct arena arena;
static char *scratch, *path;

static void make_scratch(void)
{
    struct error error;
    cr_assert_eq(directory_scratch(&arena, &scratch, &error), 0, "%s", error.text);
    path = file_join(&arena, scratch, "small.safetensors");
}

static void remove_scratch(void)
{
    directory_remove(scratch);
    arena_close(&arena);
}

TestSuite(safetensors_writer, .init = make_scratch, .fini = remove_scratch);

static const struct tensor_declaration declarations[] = {
    {"wide", DTYPE_F32, 2, {3, 5}},
    {"half", DTYPE_F16, 1, {7}},
    {"empty", DTYPE_F16, 2, {0, 4}},
    {"codes", DTYPE_I8, 3, {1, 2, 9}},
    {"scalar", DTYPE_U8, 0, {0}},
    {"last", DTYPE_U8, 1, {0}}, // empty: needs no pad, and none would be written behind the last byte
};
enum { N_DECLARATIONS = sizeof declarations / sizeof *declarations };
static const size_t sizes[N_DECLARATIONS] = {60, 14, 0, 18, 1, 0};
static const char *const metadata[] = {"schema", "assay \"test\"", "format", "pt"};
static const char *const metadata_sorted[] = {"format", "pt", "schema", "assay \"test\""};

// Writes the tensors last to first, each in two parts.
static int write_all(const char *const *pairs, uint64_t alignment, struct error *error)
{
    struct safetensors_writer *writer;
    unsigned char data[64];
    const int status = safetensors_create(&writer, path, declarations, N_DECLARATIONS, pairs, 2, alignment, error);
    if (status)
        return status;
    for (size_t i = N_DECLARATIONS; i-- > 0;) {
        memset(data, (int)i + 1, sizeof data);
        const uint64_t part = sizes[i] / 3;
        safetensors_write(writer, i, part, data, sizes[i] - part);
        safetensors_write(writer, i, 0, data, part);
    }
    return safetensors_commit(&writer, error);
}

static void check_written(uint64_t alignment)
{
    struct safetensors *file;
    struct error error = {0};
    cr_assert_eq(safetensors_open(&file, path, &error), 0, "%s", error.text);
    cr_assert_eq(file->n_metadata, 2);
    cr_assert_str_eq(file->metadata[0], "format");
    cr_assert_str_eq(safetensors_metadata(file, "schema"), "assay \"test\"");
    for (size_t i = 0; i < N_DECLARATIONS; i++) {
        const struct tensor *tensor = safetensors_find(file, declarations[i].name);
        cr_assert(tensor && tensor->dtype == declarations[i].dtype && tensor->rank == declarations[i].rank);
        cr_assert_eq(tensor->bytes, sizes[i]);
        cr_assert(!memcmp(tensor->shape, declarations[i].shape, tensor->rank * sizeof *tensor->shape));
        const unsigned char *data = tensor->data;
        for (size_t j = 0; j < tensor->bytes; j++)
            cr_assert_eq(data[j], i + 1);
        if (tensor->bytes && alignment > 8)
            cr_assert_eq((uint64_t)(data - file->map.bytes) % alignment, 0, "%s", tensor->name);
    }
    for (size_t i = 0; i < file->n_tensors; i++) { // the only others are pads, of zeros
        const struct tensor *tensor = &file->tensors[i];
        for (size_t j = 0; !strncmp(tensor->name, "pad.", 4) && j < tensor->bytes; j++)
            cr_assert_eq(((const unsigned char *)tensor->data)[j], 0);
    }
    cr_assert_eq(file->n_tensors, alignment > 8 ? N_DECLARATIONS + 3 : N_DECLARATIONS);
    safetensors_close(&file);
}

static void expect_file(const void *expected, size_t size)
{
    struct file_map map;
    cr_assert_eq(file_map_open(&map, path, NULL), 0);
    cr_assert(map.size == size && !memcmp(map.bytes, expected, size));
    file_map_close(&map);
}

Test(safetensors_writer, what_is_written_is_read_back_packed_and_aligned)
{
    struct error error = {0};
    cr_assert_eq(write_all(metadata, 8, &error), 0, "%s", error.text);
    check_written(8);
    cr_assert_eq(write_all(metadata, 256, &error), 0, "%s", error.text);
    check_written(256);
}

Test(safetensors_writer, the_same_tensors_give_the_same_bytes_whatever_the_order_of_metadata)
{
    struct error error = {0};
    struct file_map map;
    cr_assert_eq(write_all(metadata, 256, &error), 0, "%s", error.text);
    cr_assert_eq(file_map_open(&map, path, NULL), 0);
    unsigned char *first = arena_alloc(&arena, map.size, 1);
    const size_t size = map.size;
    memcpy(first, map.bytes, size);
    file_map_close(&map);
    cr_assert_eq(write_all(metadata_sorted, 256, &error), 0, "%s", error.text);
    expect_file(first, size);
}

Test(safetensors_writer, the_bytes_of_a_small_file_are_these)
{
    static const unsigned char expected[] =
        "\x50\0\0\0\0\0\0\0{\"__metadata__\":{\"k\":\"v\"},"
        "\"x\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]}}  \x07\xF9";
    const struct tensor_declaration x = {"x", DTYPE_I8, 1, {2}};
    const char *const pair[] = {"k", "v"};
    struct safetensors_writer *writer;
    struct error error = {0};
    cr_assert_eq(safetensors_create(&writer, path, &x, 1, pair, 1, 8, &error), 0, "%s", error.text);
    safetensors_write(writer, 0, 0, (const signed char[]){7, -7}, 2);
    cr_assert_eq(safetensors_commit(&writer, &error), 0, "%s", error.text);
    cr_assert_null(writer);
    expect_file(expected, sizeof expected - 1);
}

Test(safetensors_writer, no_tensors_and_no_metadata_make_a_legal_file)
{
    struct safetensors_writer *writer;
    struct safetensors *file;
    struct error error = {0};
    cr_assert_eq(safetensors_create(&writer, path, NULL, 0, NULL, 0, 256, &error), 0, "%s", error.text);
    cr_assert_eq(safetensors_commit(&writer, &error), 0, "%s", error.text);
    cr_assert_eq(safetensors_open(&file, path, &error), 0, "%s", error.text);
    cr_assert_eq(file->n_tensors + file->n_metadata, 0);
    safetensors_close(&file);
}

Test(safetensors_writer, an_unfinished_or_abandoned_file_leaves_nothing)
{
    struct safetensors_writer *writer;
    struct error error = {0};
    const unsigned char data[60] = {0};
    cr_assert_eq(safetensors_create(&writer, path, declarations, 1, NULL, 0, 8, &error), 0);
    safetensors_write(writer, 0, 0, data, 59);
    cr_assert_eq(safetensors_commit(&writer, &error), ERROR_RUNTIME);
    cr_assert(strstr(error.text, "tensor wide: 59 of 60 bytes"), "%s", error.text);
    cr_assert_null(writer);
    cr_assert_not(file_exists(path));
    cr_assert_eq(safetensors_create(&writer, path, declarations, 1, NULL, 0, 8, &error), 0);
    safetensors_abandon(&writer);
    cr_assert_null(writer);
    safetensors_abandon(&writer);
    cr_assert_not(file_exists(path));
}

Test(safetensors_writer, a_full_disk_is_reported_by_commit)
{
    struct safetensors_writer *writer;
    struct error error = {0};
    const unsigned char data[60] = {0};
    cr_assert_eq(safetensors_create(&writer, "/dev/full", declarations, 1, NULL, 0, 8, &error), 0, "%s", error.text);
    safetensors_write(writer, 0, 0, data, sizeof data);
    cr_assert_eq(safetensors_commit(&writer, &error), ERROR_RUNTIME);
    cr_assert(strstr(error.text, "/dev/full"), "%s", error.text);
}

Test(safetensors_writer, what_the_format_cannot_hold_is_refused_before_anything_is_written)
{
    const struct tensor_declaration huge = {"huge", DTYPE_F32, 2, {UINT64_C(1) << 32, UINT64_C(1) << 32}};
    struct safetensors_writer *writer;
    struct error error = {0};
    cr_assert_eq(safetensors_create(&writer, path, &huge, 1, NULL, 0, 8, &error), ERROR_INPUT);
    cr_assert(!writer && strstr(error.text, "tensor huge"), "%s", error.text);
    const char *missing = file_join(&arena, scratch, "no/such/directory");
    cr_assert_neq(safetensors_create(&writer, missing, declarations, 1, NULL, 0, 8, &error), 0);
    cr_assert_null(writer);
    cr_assert_not(file_exists(path));
}
