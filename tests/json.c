// json: strict, typed, hostile input. Each refusal stands beside an accepted twin.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <time.h>

#include "harness/base/json.h"

static struct json_document *document;
static struct error error;

static struct json parse(const char *text)
{
    json_close(&document);
    cr_assert_eq(json_open_text(&document, "file.json", text, strlen(text), &error), 0, "%s", error.text);
    return json_root(document);
}

static void refuse(const char *text, size_t size, const char *because)
{
    struct json_document *none = (struct json_document *)&error; // must become NULL
    error = (struct error){0};
    cr_expect_eq(json_open_text(&none, "file.json", text, size, &error), ERROR_INPUT, "accepted: %s", text);
    cr_expect_null(none);
    cr_expect(strstr(error.text, "file.json") && strstr(error.text, because), "%s: %s", text, error.text);
}

static void done(void)
{
    json_close(&document);
    json_close(&document);
}

TestSuite(json, .fini = done);

Test(json, what_is_not_json_is_refused_with_its_place)
{
    static const char *const bad[] = {
        "{",       "}",         "[1,]",        "{\"a\":}", "{\"a\" 1}", "[1 2]", "nul",   "\"open",
        "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "{1:2}",    "--1",       "\\",    "[\"\\",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(bad[i], strlen(bad[i]), "line 1");
    refuse("{\n \"a\": 1,\n \"b\" 2}", 18, "line 3");
    refuse("", 0, "empty");
    parse(" \t\r\n{\"a\" : [ 1 , 2 ] }\n ");
}

Test(json, trailing_bytes_are_refused)
{
    refuse("{} {}", 5, "after the end");
    refuse("[1]x", 4, "after the end");
    refuse("1 \v", 3, "after the end");
    parse("[1]\n\n");
}

Test(json, bytes_beyond_the_given_size_are_not_read)
{
    char *exact = malloc(4); // not terminated: the address sanitizer sees a read past the end
    memcpy(exact, "[12]", 4);
    cr_assert_eq(json_open_text(&document, "f", exact, 4, &error), 0);
    json_close(&document);
    cr_assert_eq(json_open_text(&document, "f", exact, 3, &error), ERROR_INPUT);
    memcpy(exact, "[\"\\u", 4);
    cr_assert_eq(json_open_text(&document, "f", exact, 4, &error), ERROR_INPUT);
    free(exact);
}

Test(json, nul_bytes_raw_or_escaped_are_refused)
{
    refuse("\"a\\u0000b\"", 10, "u0000");
    refuse("{\"a\\u0000\":1,\"a\":2}", 19, "u0000");
    refuse("\"a\0b\"", 5, "NUL byte");
    refuse("[1]\0", 4, "NUL byte");
    const struct json value = parse("[\"\\\\u0000\", \"\\u0001\"]"); // a backslash, then the letters u0000
    const char *text;
    cr_assert_eq(json_need_string(json_at(value, 0), &text, &error), 0);
    cr_assert_str_eq(text, "\\u0000");
}

Test(json, duplicate_keys_are_refused_wherever_they_are)
{
    refuse("{\"a\":1,\"a\":2}", 13, "a: the key stands twice");
    refuse("{\"x\":[0,{\"b\":1,\"c\":2,\"b\":2}]}", 29, "x[1].b");
    refuse("{\"\\u0061\":1,\"a\":2}", 18, "twice");
    parse("{\"a\":1,\"A\":2,\"b\":{\"a\":3}}"); // case and depth make a difference
}

Test(json, keys_are_compared_exactly)
{
    const struct json root = parse("{\"Key\":1,\"key\":2}");
    uint32_t value;
    cr_assert_eq(json_need_u32(json_get(root, "key"), 0, 9, &value, &error), 0);
    cr_assert_eq(value, 2);
    cr_assert_null(json_get(root, "KEY").item);
}

Test(json, deep_nesting_is_an_error_and_no_crash)
{
    enum { DEPTH = 100000 };
    char *deep = malloc(2 * DEPTH);
    memset(deep, '[', DEPTH);
    memset(deep + DEPTH, ']', DEPTH);
    cr_assert_eq(json_open_text(&document, "f", deep, 2 * DEPTH, &error), ERROR_INPUT);
    const size_t legal = 900;
    memset(deep, '[', legal);
    memset(deep + legal, ']', legal);
    cr_assert_eq(json_open_text(&document, "f", deep, 2 * legal, &error), 0, "%s", error.text);
    struct json value = json_root(document);
    while (json_first(value).item)
        value = json_first(value);
    cr_assert_eq(json_need_object(value, &error), ERROR_INPUT); // the path of the deepest value is found, too
    free(deep);
}

// A path of every link to a value took a copy of all the links before it: 2 MB for each sentence at the legal depth.
Test(json, the_path_of_a_deep_value_is_cut_to_its_last_links)
{
    enum { DEPTH = 900 };
    char deep[2 * DEPTH];
    memset(deep, '[', DEPTH);
    memset(deep + DEPTH, ']', DEPTH);
    cr_assert_eq(json_open_text(&document, "f", deep, sizeof deep, &error), 0, "%s", error.text);
    struct json value = json_root(document);
    while (json_first(value).item)
        value = json_first(value);
    const size_t before = document->arena.bytes;
    cr_assert(strstr(json_where(value), "f: ...[0][0]"), "%s", json_where(value));
    cr_assert_lt(document->arena.bytes - before, 32768); // 2 x 33 texts of at most 103 bytes, each rounded up to 64
    cr_assert_eq(document->cursor.index, 0);
}

static const char *against_the_wall(const char *text)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = strlen(text);
    char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(memory, MAP_FAILED);
    cr_assert_eq(mprotect(memory + page, page, PROT_NONE), 0);
    return memcpy(memory + page - size, text, size);
}

// The header of a file that fills its last page ends where the mapping ends. cJSON before 1.7.18 looks one byte beyond a
// comma at the end.
Test(json, text_that_ends_with_readable_memory_is_not_overrun)
{
    static const char *const texts[] = {"{\"1\":1,", "[1,", "{\"a\":\"b", "[\"a\\", "{\"a\"", "[tru", "[1", "\"\\u12", ","};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *text = against_the_wall(texts[i]);
        cr_expect_eq(json_open_text(&document, "f", text, strlen(texts[i]), &error), ERROR_INPUT, "%s", texts[i]);
        cr_expect(strstr(error.text, "f: line 1"), "%s", error.text);
    }
    const char *sound = against_the_wall("{\"a\":1}");
    cr_assert_eq(json_open_text(&document, "f", sound, 7, &error), 0, "%s", error.text);
}

Test(json, typed_readers_refuse_other_types_and_name_the_place)
{
    const struct json root =
        parse("{\"cases\":[{\"n\":\"5\"},{\"n\":5},{\"a b\":null}],\"flag\":true,\"text\":\"t\"}");
    const struct json cases = json_get(root, "cases");
    uint32_t number;
    const char *text;
    bool flag = false;
    double real;
    cr_assert_eq(json_need_u32(json_get(json_at(cases, 0), "n"), 0, 9, &number, &error), ERROR_INPUT);
    cr_assert_str_eq(error.text, "file.json: cases[0].n: found the string \"5\", expected an integer from 0 to 9");
    cr_assert_eq(json_need_u32(json_get(json_at(cases, 1), "n"), 0, 9, &number, &error), 0);
    cr_assert_eq(number, 5);
    cr_assert_eq(json_need_u32(json_get(json_at(cases, 2), "n"), 0, 9, &number, &error), ERROR_INPUT);
    cr_assert_str_eq(error.text,
                     "file.json: cases[2].n: found nothing (the key is missing), expected an integer from 0 to 9");
    cr_assert_eq(json_need_string(json_get(json_at(cases, 2), "a b"), &text, &error), ERROR_INPUT);
    cr_assert_str_eq(error.text, "file.json: cases[2][\"a b\"]: found null, expected a string");
    cr_assert_eq(json_need_object(json_at(cases, 3), &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "cases[3]: found nothing"), "%s", error.text);
    cr_assert_eq(json_need_array(json_get(json_get(root, "none"), "deeper"), &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "file.json: none: found nothing"), "%s", error.text);
    cr_assert_eq(json_need_object(json_get(json_get(root, "text"), "member"), &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "text.member: found nothing"), "%s", error.text);
    cr_assert_eq(json_need_bool(json_get(root, "flag"), &flag, &error), 0);
    cr_assert(flag);
    cr_assert_eq(json_need_bool(json_get(root, "text"), &flag, &error), ERROR_INPUT);
    cr_assert_eq(json_need_number(json_get(root, "flag"), &real, &error), ERROR_INPUT);
    cr_assert_eq(json_need_array(root, &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "file.json: found an object of 3, expected an array"), "%s", error.text);
    cr_assert_not(json_present(json_get(json_at(cases, 2), "a b")));
    cr_assert(json_present(json_get(root, "text")));
}

Test(json, numbers_that_are_not_the_integer_asked_for_are_refused)
{
    static const char *const bad[] = {"-1",    "0.5",  "1e400", "-1e400", "4294967296", "1e300", "9007199254740993",
                                      "\"1\"", "true", "null",  "[1]"};
    uint32_t number = 7;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(json_need_u32(parse(bad[i]), 0, UINT32_MAX, &number, &error), ERROR_INPUT, "%s", bad[i]);
    cr_assert_eq(number, 7);
    cr_assert_eq(json_need_u32(parse("4294967295"), 0, UINT32_MAX, &number, &error), 0);
    cr_assert_eq(number, UINT32_MAX);
    cr_assert_eq(json_need_u32(parse("1e3"), 0, 1000, &number, &error), 0);
    cr_assert_eq(number, 1000);
    int64_t wide;
    // 2^53 + 1 is the first integer that a double does not hold: it reads as 2^53
    cr_assert_eq(json_need_integer(parse("9007199254740993"), INT64_MIN, INT64_MAX, &wide, &error), ERROR_INPUT);
    cr_assert_eq(json_need_integer(parse("9007199254740992"), INT64_MIN, INT64_MAX, &wide, &error), ERROR_INPUT);
    cr_assert_eq(json_need_integer(parse("-9007199254740991"), INT64_MIN, INT64_MAX, &wide, &error), 0);
    cr_assert_eq(wide, -INT64_C(9007199254740991));
    double real;
    cr_assert_eq(json_need_number(parse("1e400"), &real, &error), ERROR_INPUT);
    cr_assert_eq(json_need_number(parse("1e-5"), &real, &error), 0);
    cr_assert_eq(real, 1e-5);
}

Test(json, unknown_keys_of_our_own_formats_are_named)
{
    static const char *const keys[] = {"id", "text", NULL};
    cr_assert_eq(json_only(parse("{\"id\":1,\"txet\":2}"), keys, &error), ERROR_INPUT);
    cr_assert_str_eq(error.text, "file.json: txet: unknown key, expected one of: id, text");
    cr_assert_eq(json_only(parse("{\"id\":1,\"text\":2}"), keys, &error), 0);
}

Test(json, walking_gives_every_member_in_order)
{
    const struct json root = parse("{\"b\":1,\"a\":[10,11,12],\"\":3}");
    const char *const keys[] = {"b", "a", ""};
    size_t i = 0;
    for (struct json member = json_first(root); member.item; member = json_next(member))
        cr_assert_str_eq(json_key(member), keys[i++]);
    cr_assert_eq(i, 3);
    cr_assert_eq(json_length(root), 3);
    const struct json array = json_get(root, "a");
    const size_t order[] = {2, 0, 1, 1, 2};
    for (i = 0; i < 5; i++) {
        uint32_t number;
        cr_assert_eq(json_need_u32(json_at(array, order[i]), 0, 99, &number, &error), 0);
        cr_assert_eq(number, 10 + order[i]);
    }
    cr_assert_null(json_at(array, 3).item);
    cr_assert_null(json_first(json_at(array, 0)).item);
}

Test(json, a_hostile_key_does_not_fill_the_message)
{
    char text[5000];
    memset(text, 'k', sizeof text);
    memcpy(text, "{\"\\u001b[2J", 11);
    memcpy(text + sizeof text - 6, "\": 1}", 6);
    const struct json root = parse(text);
    cr_assert_eq(json_need_object(json_first(root), &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "expected an object") && !strchr(error.text, '\033'), "%s", error.text);
}

Test(json, quote_escapes_everything_that_could_break_out)
{
    struct arena arena = {0};
    cr_assert_str_eq(json_quote(&arena, "a\"b\\c\n\x01\x7f"), "\"a\\\"b\\\\c\\u000a\\u0001\\u007f\"");
    cr_assert_str_eq(json_quote(&arena, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"),
                     "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"");
    // stray continuation, overlong, surrogate, beyond U+10FFFF, cut off
    cr_assert_str_eq(json_quote(&arena, "\x80|\xc0\xaf|\xed\xa0\x80|\xf4\x90\x80\x80|\xe2\x82"),
                     "\"\\ufffd|\\ufffd\\ufffd|\\ufffd\\ufffd\\ufffd|\\ufffd\\ufffd\\ufffd\\ufffd|\\ufffd\\ufffd\"");
    cr_assert_str_eq(json_quote(&arena, "\xc2\x9b\xc2\xa0"), "\"\\u009b\xc2\xa0\""); // C1 is a control, too
    cr_assert_str_eq(json_quote(&arena, ""), "\"\"");
    arena_close(&arena);
}

// The size of a released tokenizer.json's vocabulary. Quadratic search for duplicates would take minutes; the limit
// is 20 times what was measured (0.1 s) so that a busy machine does not fail it.
Test(json, a_vocabulary_of_250000_is_opened_and_walked_quickly)
{
    enum { N = 250000, ROOM = 24 };
    char *text = malloc((size_t)N * ROOM + 16), *at = text;
    *at++ = '{';
    for (int i = 0; i < N; i++)
        at += snprintf(at, ROOM, "%s\"t%dx\":%d", i ? "," : "", (i * 7919) % N, i);
    at += snprintf(at, 8, "}");
    const clock_t start = clock();
    cr_assert_eq(json_open_text(&document, "vocab", text, (size_t)(at - text), &error), 0, "%s", error.text);
    uint32_t expected = 0;
    for (struct json member = json_first(json_root(document)); member.item; member = json_next(member)) {
        uint32_t id;
        cr_assert_eq(json_need_u32(member, 0, N, &id, &error), 0);
        cr_assert_eq(id, expected++);
    }
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    cr_assert_eq(expected, N);
    cr_log_info("250,000 members: %.3f s", seconds);
    cr_assert(seconds <= 2.0, "%.3f s", seconds);
    free(text);
}
