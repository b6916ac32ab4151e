#include "harness/base/json.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/utf8.h"

// Of a hostile key or string in a message, and of the links to a value: the last ones.
enum { SHOWN_BYTES = 60, SHOWN_LINKS = 32 };

// A printable piece of `text`, quoted.
static const char *shown(struct json_document *document, const char *text)
{
    char piece[SHOWN_BYTES + 1];
    const size_t length = strnlen(text, SHOWN_BYTES);
    memcpy(piece, text, length);
    piece[length] = '\0';
    const char *quoted = json_quote(&document->arena, piece);
    if (quoted && text[length])
        quoted = arena_print(&document->arena, "%s...", quoted);
    return quoted ? quoted : "\"?\"";
}

// --- where a value is

static bool is_plain_key(const char *key)
{
    const size_t length = strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return length && length <= SHOWN_BYTES && !key[length];
}

static const char *with_key(struct json_document *document, const char *path, const char *key)
{
    const char *joined = is_plain_key(key) ? arena_print(&document->arena, "%s%s%s", path, *path ? "." : "", key)
                                           : arena_print(&document->arena, "%s[%s]", path, shown(document, key));
    return joined ? joined : path;
}

// The path of `target` below `item`, whose own path is `path`; NULL when it is not there. Nesting is bounded by
// cJSON.
static const char *find_path(struct json_document *document, const cJSON *item, const cJSON *target)
{
    // the links from the root to `target`: walked depth first without building any path on the way
    const cJSON *trail[CJSON_NESTING_LIMIT + 2];
    size_t depth = 0;
    trail[0] = item;
    while (trail[depth] != target) {
        const cJSON *next = trail[depth]->child;
        if (next) {
            trail[++depth] = next;
            continue;
        }
        while (depth && !trail[depth]->next)
            depth--;
        if (!depth)
            return NULL;
        trail[depth] = trail[depth]->next;
    }
    const char *path = depth > SHOWN_LINKS ? "..." : "";
    for (size_t level = depth > SHOWN_LINKS ? depth - SHOWN_LINKS + 1 : 1; level <= depth; level++) {
        size_t index = 0;
        if (cJSON_IsObject(trail[level - 1])) {
            path = with_key(document, path, trail[level]->string);
            continue;
        }
        for (const cJSON *element = trail[level - 1]->child; element != trail[level]; element = element->next)
            index++;
        const char *joined = arena_print(&document->arena, "%s[%zu]", path, index);
        path = joined ? joined : path;
    }
    return path;
}

const char *json_where(struct json value)
{
    struct json_document *document = value.document;
    const cJSON *known = value.item ? value.item : value.container;
    const char *path = known ? find_path(document, document->root, known) : NULL;
    if (!path)
        path = "";
    if (!value.item && value.key)
        path = *value.key == '[' ? arena_print(&document->arena, "%s%s", path, value.key)
                                 : with_key(document, path, value.key);
    const char *where =
        path && *path ? arena_print(&document->arena, "%s: %s", document->name, path) : document->name;
    return where ? where : document->name;
}

// --- opening

// Without the trailing bytes and the NULs that cJSON would pass over in silence.
static int check_text(const char *name, const char *text, size_t size, struct error *error)
{
    if (!size)
        return error_set(error, ERROR_INPUT, "%s: is empty, expected JSON", name);
    const char *nul = memchr(text, '\0', size);
    if (nul)
        return error_set(error, ERROR_INPUT, "%s: a NUL byte at offset %zu, expected JSON text", name,
                         (size_t)(nul - text));
    const char *end = text + size;
    for (const char *at = text; (at = memchr(at, '\\', (size_t)(end - at))) != NULL; at += 2) {
        if (end - at < 2)
            return 0; // cut off inside an escape: the parser says so
        if (end - at >= 6 && !memcmp(at, "\\u0000", 6))
            return error_set(error, ERROR_INPUT, "%s: a string with \\u0000 at offset %zu, expected text without NUL",
                             name, (size_t)(at - text));
    }
    return 0;
}

static int compare_keys(const void *left, const void *right)
{
    const cJSON *const *a = left, *const *b = right;
    return strcmp((*a)->string, (*b)->string);
}

// The first member whose key stands twice in this object, or NULL. *failed when memory is exhausted.
static const cJSON *duplicate_in(const cJSON *object, bool *failed)
{
    size_t n = 0;
    for (const cJSON *member = object->child; member; member = member->next)
        n++;
    if (n < 2)
        return NULL;
    const cJSON **members = malloc(n * sizeof *members);
    if (!members) {
        *failed = true;
        return NULL;
    }
    n = 0;
    for (const cJSON *member = object->child; member; member = member->next)
        members[n++] = member;
    qsort(members, n, sizeof *members, compare_keys);
    const cJSON *found = NULL;
    for (size_t i = 1; i < n && !found; i++)
        if (!strcmp(members[i - 1]->string, members[i]->string))
            found = members[i];
    free(members);
    return found;
}

static const cJSON *duplicate_below(const cJSON *item, bool *failed)
{
    const cJSON *found = cJSON_IsObject(item) ? duplicate_in(item, failed) : NULL;
    for (const cJSON *child = item->child; child && !found && !*failed; child = child->next)
        if (child->child)
            found = duplicate_below(child, failed);
    return found;
}

// cJSON gives the same NULL for text that is no JSON and for memory that is exhausted; these tell them apart.
static _Thread_local bool exhausted;

static void *allocate(size_t size)
{
    void *memory = malloc(size);
    exhausted = exhausted || !memory;
    return memory;
}

static void set_hooks(void)
{
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = allocate, .free_fn = free});
}

static int parse(struct json_document *document, const char *text, size_t size, struct error *error)
{
    static pthread_once_t hooks = PTHREAD_ONCE_INIT;
    pthread_once(&hooks, set_hooks);
    exhausted = false;
    const char *end = text + size;
    if (text[size - 1] != ',') // cJSON before 1.7.18 reads the byte after it (CVE-2023-53154)
        document->root = cJSON_ParseWithLengthOpts(text, size, &end, false);
    if (exhausted)
        return error_set(error, ERROR_RUNTIME, "%s: no memory to read it", document->name);
    if (document->root)
        while (end < text + size && memchr(" \t\r\n", *end, 4))
            end++;
    if (!document->root || end < text + size) {
        size_t line = 1, column = 1;
        for (const char *at = text; at < end && at < text + size; at++) {
            column = *at == '\n' ? 1 : column + 1;
            line += *at == '\n';
        }
        return error_set(error, ERROR_INPUT, "%s: line %zu, column %zu: %s", document->name, line, column,
                         document->root ? "bytes after the end of the JSON value, expected none"
                                        : "no valid JSON here (or nested too deeply)");
    }
    bool failed = false;
    const cJSON *twice = duplicate_below(document->root, &failed);
    if (failed)
        return error_set(error, ERROR_RUNTIME, "%s: no memory to check its keys", document->name);
    if (twice)
        return error_set(error, ERROR_INPUT, "%s: the key stands twice, expected once",
                         json_where((struct json){.item = twice, .document = document}));
    return 0;
}

int json_open_text(struct json_document **document, const char *name, const char *text, size_t size,
                   struct error *error)
{
    *document = NULL;
    int result = check_text(name, text, size, error);
    if (result)
        return result;
    struct json_document *opened = calloc(1, sizeof *opened);
    if (!opened || !(opened->name = arena_print(&opened->arena, "%s", name)))
        result = error_set(error, ERROR_RUNTIME, "%s: no memory", name);
    else
        result = parse(opened, text, size, error);
    if (result)
        json_close(&opened);
    else
        *document = opened;
    return result;
}

int json_open_file(struct json_document **document, const char *path, uint64_t limit, struct error *error)
{
    *document = NULL;
    struct arena scratch = {0};
    char *text;
    uint64_t size;
    int result = file_read(&scratch, path, limit, &text, &size, error);
    if (!result)
        result = json_open_text(document, path, text, (size_t)size, error);
    arena_close(&scratch);
    return result;
}

void json_close(struct json_document **document)
{
    if (!document || !*document)
        return;
    cJSON_Delete((*document)->root);
    arena_close(&(*document)->arena);
    free(*document);
    *document = NULL;
}

// --- walking

struct json json_root(struct json_document *document)
{
    return (struct json){.item = document->root, .document = document};
}

static struct json absent(struct json container, const char *key)
{
    if (!container.item)
        return container;
    const char *copy = arena_print(&container.document->arena, "%s", key);
    return (struct json){.container = container.item, .key = copy, .document = container.document};
}

struct json json_get(struct json object, const char *key)
{
    const cJSON *item = cJSON_IsObject(object.item) ? cJSON_GetObjectItemCaseSensitive(object.item, key) : NULL;
    return item ? (struct json){.item = item, .document = object.document} : absent(object, key);
}

bool json_present(struct json value)
{
    return value.item && !cJSON_IsNull(value.item);
}

size_t json_length(struct json array)
{
    size_t n = 0;
    for (const cJSON *item = array.item ? array.item->child : NULL; item; item = item->next)
        n++;
    return n;
}

struct json json_at(struct json array, size_t index)
{
    struct json_document *document = array.document;
    const cJSON *item = array.item ? array.item->child : NULL;
    size_t at = 0;
    if (array.item && document->cursor.container == array.item && document->cursor.index <= index) {
        item = document->cursor.item;
        at = document->cursor.index;
    }
    for (; item && at < index; at++)
        item = item->next;
    if (!item) {
        char key[32];
        snprintf(key, sizeof key, "[%zu]", index);
        return absent(array, key);
    }
    document->cursor.container = array.item;
    document->cursor.item = item;
    document->cursor.index = index;
    return (struct json){.item = item, .document = document};
}

struct json json_first(struct json container)
{
    return (struct json){.item = container.item ? container.item->child : NULL, .document = container.document};
}

struct json json_next(struct json value)
{
    return (struct json){.item = value.item ? value.item->next : NULL, .document = value.document};
}

const char *json_key(struct json value)
{
    return value.item && value.item->string ? value.item->string : "";
}

bool json_is_object(struct json value)
{
    return cJSON_IsObject(value.item);
}

bool json_is_array(struct json value)
{
    return cJSON_IsArray(value.item);
}

bool json_is_string(struct json value)
{
    return cJSON_IsString(value.item);
}

bool json_is_number(struct json value)
{
    return cJSON_IsNumber(value.item);
}

// --- typed values

static const char *found(struct json value)
{
    struct arena *arena = &value.document->arena;
    const char *text = NULL;
    if (!value.item)
        return "nothing (the key is missing)";
    if (cJSON_IsNull(value.item))
        return "null";
    if (cJSON_IsBool(value.item))
        return cJSON_IsTrue(value.item) ? "true" : "false";
    if (cJSON_IsNumber(value.item))
        text = arena_print(arena, "%.17g", value.item->valuedouble);
    else if (cJSON_IsString(value.item))
        text = arena_print(arena, "the string %s", shown(value.document, value.item->valuestring));
    else
        text =
            arena_print(arena, "%s of %zu", cJSON_IsArray(value.item) ? "an array" : "an object", json_length(value));
    return text ? text : "something else";
}

static int refuse(struct json value, const char *expected, struct error *error)
{
    return error_set(error, ERROR_INPUT, "%s: found %s, expected %s", json_where(value), found(value), expected);
}

int json_need_object(struct json value, struct error *error)
{
    return cJSON_IsObject(value.item) ? 0 : refuse(value, "an object", error);
}

int json_need_array(struct json value, struct error *error)
{
    return cJSON_IsArray(value.item) ? 0 : refuse(value, "an array", error);
}

int json_need_string(struct json value, const char **text, struct error *error)
{
    if (!cJSON_IsString(value.item))
        return refuse(value, "a string", error);
    *text = value.item->valuestring;
    return 0;
}

int json_need_bool(struct json value, bool *out, struct error *error)
{
    if (!cJSON_IsBool(value.item))
        return refuse(value, "true or false", error);
    *out = cJSON_IsTrue(value.item);
    return 0;
}

int json_need_number(struct json value, double *out, struct error *error)
{
    if (!cJSON_IsNumber(value.item) || !isfinite(value.item->valuedouble))
        return refuse(value, "a finite number", error);
    *out = value.item->valuedouble;
    return 0;
}

int json_need_integer(struct json value, int64_t low, int64_t high, int64_t *out, struct error *error)
{
    assert(low <= high);
    const double exact = 9007199254740991.0; // 2^53 - 1: beyond it a double no longer tells two integers apart
    const double number = cJSON_IsNumber(value.item) ? value.item->valuedouble : NAN;
    // a NaN fails every comparison; only after this check is the conversion defined
    const bool ok = number >= -exact && number <= exact && number == floor(number) && (int64_t)number >= low &&
                    (int64_t)number <= high;
    if (!ok) {
        char expected[96];
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)low, (long long)high);
        return refuse(value, expected, error);
    }
    *out = (int64_t)number;
    return 0;
}

int json_need_u32(struct json value, uint32_t low, uint32_t high, uint32_t *out, struct error *error)
{
    int64_t number;
    const int result = json_need_integer(value, low, high, &number, error);
    if (!result)
        *out = (uint32_t)number;
    return result;
}

int json_only(struct json object, const char *const *keys, struct error *error)
{
    for (struct json member = json_first(object); member.item; member = json_next(member)) {
        size_t i = 0;
        while (keys[i] && strcmp(keys[i], json_key(member)))
            i++;
        if (keys[i])
            continue;
        char known[512] = "";
        for (i = 0; keys[i] && strlen(known) + strlen(keys[i]) + 3 < sizeof known; i++) {
            strcat(known, i ? ", " : "");
            strcat(known, keys[i]);
        }
        return error_set(error, ERROR_INPUT, "%s: unknown key, expected one of: %s", json_where(member), known);
    }
    return 0;
}

// --- writing

char *json_quote(struct arena *arena, const char *text)
{
    const size_t length = strlen(text);
    char *quoted = arena_alloc(arena, length + 1, 6); // at most \u1234 for a byte; room for the quotes and the NUL
    if (!quoted)
        return NULL;
    char *out = quoted;
    *out++ = '"';
    while (*text) {
        uint32_t code;
        const size_t bytes = utf8_character(text, &code);
        if (!bytes || code < 0x20 || (code >= 0x7F && code <= 0x9F)) {
            out += snprintf(out, 7, "\\u%04x", bytes ? (unsigned)code : 0xFFFDu);
            text += bytes ? bytes : 1;
            continue;
        }
        if (code == '"' || code == '\\')
            *out++ = '\\';
        memcpy(out, text, bytes);
        out += bytes;
        text += bytes;
    }
    *out++ = '"';
    *out = '\0';
    return quoted;
}
