// A checkpoint directory: one file or shards, and every way in which its files do not belong together.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness/model/checkpoint.h"
#include "tests/small_model.h"

static struct arena arena;
static char *directory;
static struct small_model small;

// shards at these places of the small model's list
enum { FIRST = 10, SECOND = 20 };

static char *in_directory(const char *name)
{
    return file_join(&arena, directory, name);
}

static void write_text(const char *name, const char *text)
{
    FILE *file = fopen(in_directory(name), "wb");
    cr_assert(file && fputs(text, file) >= 0 && !fclose(file));
}

static void make_directory(void)
{
    struct error error;
    cr_assert_eq(directory_scratch(&arena, &directory, &error), 0, "%s", error.text);
    setenv("ASSAY_NO_CACHE", "1", 1);
    small_config(&small);
    small_tensors(&small, DTYPE_BF16);
    write_text("config.json", "{\"model_type\":\"lfm2\"}");
}

static void remove_directory(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(checkpoint, .init = make_directory, .fini = remove_directory);

// The index of the three shards; tensor `changed` is named `name` (NULL: left out) and placed in `shard`.
static void write_index(size_t changed, const char *name, const char *shard)
{
    const char *map = "";
    for (size_t i = 0; i < small.n; i++) {
        const char *key = i == changed ? name : small.tensors[i].name;
        const char *file = i < FIRST    ? "model-1.safetensors"
                           : i < SECOND ? "model-2.safetensors"
                                        : "model-3.safetensors";
        if (key)
            map = arena_print(&arena, "%s%s\"%s\":\"%s\"", map, *map ? "," : "", key, i == changed ? shard : file);
    }
    write_text("model.safetensors.index.json",
               arena_print(&arena, "{\"metadata\":{\"total_size\":1},\"weight_map\":{%s}}", map));
}

static void write_shards(void)
{
    small_write(&small, 0, FIRST, 8, in_directory("model-1.safetensors"));
    small_write(&small, FIRST, SECOND, 8, in_directory("model-2.safetensors"));
    small_write(&small, SECOND, small.n, 8, in_directory("model-3.safetensors"));
    write_index(small.n, NULL, NULL);
}

static void refuse(const char *expected)
{
    struct checkpoint *checkpoint = NULL;
    struct error error = {0};
    cr_expect_eq(checkpoint_open(&checkpoint, directory, &error), ERROR_INPUT, "accepted: %s", expected);
    cr_expect(!checkpoint && strstr(error.text, expected), "found '%s', expected it to say '%s'", error.text,
              expected);
    checkpoint_close(&checkpoint);
}

static struct checkpoint *accept(const char *path)
{
    struct checkpoint *checkpoint;
    struct error error = {0};
    cr_assert_eq(checkpoint_open(&checkpoint, path, &error), 0, "%s", error.text);
    return checkpoint;
}

Test(checkpoint, the_fixture_opens_with_its_hashes)
{
    struct checkpoint *checkpoint = accept(ASSAY_FIXTURES "/models/lfm2-mini/");
    struct checkpoint_hashes hashes;
    struct error error = {0};
    cr_assert_str_eq(checkpoint->name, "lfm2-mini");
    cr_assert(checkpoint->n_files == 1 && checkpoint->table.n == 75 && checkpoint->tokenizer_path);
    cr_assert_eq(checkpoint_hash(checkpoint, &hashes, &error), 0, "%s", error.text);
    // sha256sum of the files
    cr_assert_str_eq(hashes.weights, "35db957b3c16f887c3d6a60b7a0747b58e5b48c8b29058b7001245b251d26218");
    cr_assert_str_eq(hashes.config, "1ab6a1b24653d26ccaaed44f3dad6d90845a5914f236a4552b7011ceb4ce8978");
    cr_assert_str_eq(hashes.tokenizer, "910f158a353701f6ff57b4f1c042185f9286a469fd543d0a8d28a048c9e0e27d");
    checkpoint_close(&checkpoint);
    cr_assert_null(checkpoint);
}

Test(checkpoint, shards_are_one_table_sorted_by_name)
{
    write_shards();
    struct checkpoint *checkpoint = accept(directory);
    const struct tensor_table *table = &checkpoint->table;
    size_t n = 0;
    for (size_t i = 0; i < table->n; i++) {
        cr_assert(!i || strcmp(table->tensors[i - 1]->name, table->tensors[i]->name) < 0);
        cr_assert_eq(tensor_table_index(table, table->tensors[i]->name), i);
    }
    for (size_t i = 0; i < small.n; i++) {
        const struct tensor *tensor = tensor_table_find(table, small.tensors[i].name);
        cr_assert(tensor && tensor->shape[0] == small.tensors[i].shape[0]);
        n += strstr(tensor->file, "model-2.safetensors") != NULL;
    }
    cr_assert_eq(n, SECOND - FIRST);
    cr_assert_null(tensor_table_find(table, "model"));
    cr_assert_eq(tensor_table_index(table, "zzz"), table->n);
    cr_assert_eq(checkpoint->n_files, 3);
    cr_assert_null(checkpoint->tokenizer_path);
    checkpoint_close(&checkpoint);
}

Test(checkpoint, shards_are_hashed_in_ascending_file_name)
{
    write_shards();
    struct checkpoint *checkpoint = accept(directory);
    struct checkpoint_hashes hashes;
    struct error error = {0};
    char expected[HASH_HEX], *all = arena_alloc(&arena, 1 << 20, 1);
    size_t size = 0;
    for (int i = 1; i <= 3; i++) {
        struct file_map map;
        cr_assert_eq(file_map_open(&map, in_directory(arena_print(&arena, "model-%d.safetensors", i)), &error), 0);
        cr_assert_leq(size + map.size, 1 << 20);
        memcpy(all + size, map.bytes, map.size);
        size += map.size;
        file_map_close(&map);
    }
    cr_assert_eq(checkpoint_hash(checkpoint, &hashes, &error), 0, "%s", error.text);
    cr_assert_eq(hash_bytes(all, size, expected, &error), 0);
    cr_assert_str_eq(hashes.weights, expected);
    cr_assert_str_eq(hashes.tokenizer, "");
    checkpoint_close(&checkpoint);
}

Test(checkpoint, a_single_file_wins_over_an_index)
{
    write_text("model.safetensors.index.json", "not even JSON");
    small_write(&small, 0, small.n, 8, in_directory("model.safetensors"));
    struct checkpoint *checkpoint = accept(directory);
    cr_assert_eq(checkpoint->n_files, 1);
    checkpoint_close(&checkpoint);
}

Test(checkpoint, the_name_is_that_of_the_directory_however_it_is_given)
{
    small_write(&small, 0, small.n, 8, in_directory("model.safetensors"));
    const char *name = strrchr(directory, '/') + 1;
    const char *const suffixes[] = {"", "/", "//", "/."};
    for (size_t i = 0; i < 4; i++) {
        struct checkpoint *checkpoint = accept(arena_print(&arena, "%s%s", directory, suffixes[i]));
        cr_expect_str_eq(checkpoint->name, name, "%s", suffixes[i]);
        checkpoint_close(&checkpoint);
    }
    cr_assert_eq(chdir(directory), 0);
    struct checkpoint *checkpoint = accept(".");
    cr_expect_str_eq(checkpoint->name, name);
    checkpoint_close(&checkpoint);
}

Test(checkpoint, what_is_no_checkpoint_is_refused)
{
    struct checkpoint *checkpoint;
    struct error error;
    refuse("neither model.safetensors nor model.safetensors.index.json");
    write_text("metadata.json", "{}");
    refuse("is a bundle");
    unlink(in_directory("metadata.json"));
    small_write(&small, 0, small.n, 8, in_directory("model.safetensors"));
    checkpoint = accept(directory); // the control
    checkpoint_close(&checkpoint);
    unlink(in_directory("config.json"));
    refuse("no config.json");
    cr_assert_eq(checkpoint_open(&checkpoint, in_directory("model.safetensors"), &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "is no directory"), "%s", error.text);
    cr_assert_eq(checkpoint_open(&checkpoint, in_directory("absent"), &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "does not exist"), "%s", error.text);
    write_text("config.json", "{}");
    write_text("model.safetensors", "12345678");
    refuse("header length");
}

Test(checkpoint, an_index_that_disagrees_with_its_shards_is_refused)
{
    write_shards();
    struct checkpoint *checkpoint = accept(directory); // the control
    checkpoint_close(&checkpoint);
    write_index(3, small.tensors[3].name, "model-2.safetensors");
    refuse("stored here; expected it in model-2.safetensors");
    write_index(3, NULL, NULL);
    refuse(arena_print(&arena, "tensor %s is not named in", small.tensors[3].name));
    write_index(3, "model.layers.9.ffn_norm.weight", "model-1.safetensors");
    refuse("is not named in");
    write_index(3, small.tensors[3].name, "model-4.safetensors");
    refuse("model-4.safetensors: does not exist");
    write_index(small.n, NULL, NULL);
    small_write(&small, FIRST - 1, SECOND, 8,
                in_directory("model-2.safetensors")); // one tensor of the first shard too
    refuse("in two shards, here and in model-1.safetensors");
    small_write(&small, FIRST + 1, SECOND, 8, in_directory("model-2.safetensors")); // one too few
    refuse(arena_print(&arena, "tensor %s: expected in model-2.safetensors, found in no shard",
                       small.tensors[FIRST].name));
    write_text("model-2.safetensors", "");
    refuse("model-2.safetensors: 0 bytes");
    unlink(in_directory("model-2.safetensors"));
    refuse("model-2.safetensors: does not exist");
}

Test(checkpoint, a_spoilt_index_is_refused)
{
    static const struct {
        const char *text, *expected;
    } rows[] = {
        {"", "index.json"},
        {"{", "JSON"},
        {"[]", "weight_map"},
        {"{}", "weight_map"},
        {"{\"weight_map\":[]}", "expected an object"},
        {"{\"weight_map\":{}}", "weight_map is empty"},
        {"{\"weight_map\":{\"a\":1}}", "weight_map.a: found 1, expected a string"},
        {"{\"weight_map\":{\"a\":null}}", "weight_map.a: found null"},
        {"{\"weight_map\":{\"a\":\"\"}}", "the name of a file in the same directory"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "found '..', expected the name of a file"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "found '/etc/passwd', expected the name of a file"},
        {"{\"weight_map\":{\"a\":\"../model-1.safetensors\"}}", "expected the name of a file"},
        {"{\"weight_map\":{\"a\":\"x\\\\y\"}}", "expected the name of a file"},
        {"{\"weight_map\":{\"a\":\"model-1.safetensors\",\"a\":\"model-1.safetensors\"}}", "twice"},
        {"{\"weight_map\":{\"a\":\"model-1.safetensors\\u0000\"}}", "u0000"},
    };
    write_shards();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        write_text("model.safetensors.index.json", rows[i].text);
        refuse(rows[i].expected);
    }
}
