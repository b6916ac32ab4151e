// Any text at all is either refused with a sentence or becomes a document whose values can be reached, named and
// read. The text ends where readable memory ends: a parser that looks one byte further crashes.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/base/json.h"
#include "tests/fuzz/input.h"

enum { ROOM = 1 << 20 };

// The input before a page that cannot be read.
static const char *against_the_wall(const uint8_t *data, size_t size)
{
    static char *room;
    if (!room) {
        room = mmap(NULL, ROOM + (1 << 16), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert(room != MAP_FAILED);
        const int walled = mprotect(room + ROOM, 1 << 16, PROT_NONE);
        assert(!walled);
    }
    memcpy(room + ROOM - size, data, size);
    return room + ROOM - size;
}

static void check_scalars(struct json value)
{
    struct error error = {0};
    const char *text;
    bool flag;
    double number;
    int64_t integer;
    uint32_t small;
    if (!json_need_integer(value, -5, 1000, &integer, &error))
        assert(integer >= -5 && integer <= 1000 && !json_need_number(value, &number, NULL) &&
               number == (double)integer);
    else
        assert(error.code == ERROR_INPUT && strlen(error.text));
    if (!json_need_u32(value, 1, UINT32_MAX, &small, &error))
        assert(small >= 1 && !json_need_integer(value, 1, UINT32_MAX, &integer, NULL) && integer == small);
    if (!json_need_number(value, &number, &error))
        assert(isfinite(number) && json_is_number(value));
    assert(!json_need_bool(value, &flag, &error) || error.code == ERROR_INPUT);
    if (!json_need_string(value, &text, &error)) {
        assert(json_is_string(value) && strlen(text) <= ROOM);
        struct arena arena = {0};
        struct json_document *again;
        const char *quoted = json_quote(&arena, text);
        assert(quoted && !json_open_text(&again, "quoted", quoted, strlen(quoted), NULL));
        json_close(&again);
        arena_close(&arena);
    }
}

// `named`: how many more values are asked what and where they are; each refusal is a search through the document.
static void check_members(struct json container, int *named)
{
    const size_t n = json_length(container);
    size_t i = 0;
    for (struct json member = json_first(container); member.item; member = json_next(member), i++) {
        assert(i < n && json_at(container, i).item == member.item);
        if (json_is_object(container) && n < 64) // found by its key, so no other has the same
            assert(json_get(container, json_key(member)).item == member.item);
        if (*named && (*named)--) {
            assert(!strncmp(json_where(member), "input.json", strlen("input.json")));
            check_scalars(member);
        }
        check_members(member, named);
    }
    assert(i == n && !json_at(container, n).item);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_document *document;
    struct error error = {0};
    if (size > ROOM)
        return 0;
    const int status = json_open_text(&document, "input.json", against_the_wall(data, size), size, &error);
    if (status) {
        assert(!document && status == error.code && strlen(error.text));
        return 0;
    }
    static const char *const known[] = {"a", "schema", NULL};
    const struct json root = json_root(document);
    check_scalars(root);
    check_members(root, &(int){32});
    uint32_t none;
    const int absent = json_need_u32(json_get(json_get(root, "no such key"), "nor this"), 0, 1, &none, &error);
    assert(absent == ERROR_INPUT && strlen(error.text));
    assert(!json_only(root, known, &error) || error.code == ERROR_INPUT);
    json_close(&document);
    return 0;
}
