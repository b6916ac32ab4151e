// json: cJSON behind one typed, strict reader. All input is hostile.
//
// cJSON itself ignores the case of keys, accepts trailing bytes, keeps duplicate keys, stores every number as a
// double and cuts strings at \u0000. This reader compares keys exactly and refuses trailing bytes, duplicate keys,
// \u0000 and integers that a double cannot hold. Every message names the file, the path of the value inside it
// ("cases[3].tokens"), what was expected and what was found. Opening and walking are linear in the text (duplicate
// keys: n log n), so that a vocabulary of 250,000 members is read in a fraction of a second.
#ifndef ASSAY_JSON_H
#define ASSAY_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"

struct cJSON;

// A value inside a document. Copied freely; valid until json_close.
struct json {
    const struct cJSON *item;      // NULL: absent
    const struct cJSON *container; // of an absent value: where it was looked for
    const char *key;               // of an absent value
    struct json_document *document;
};

struct json_document {
    struct cJSON *root;
    struct arena arena;
    const char *name; // file name, for messages
    struct {          // where json_at stands
        const struct cJSON *container, *item;
        size_t index;
    } cursor;
};

// Parses `size` bytes. `name` stands in messages. On success json_close frees; on failure nothing is held.
int json_open_text(struct json_document **document, const char *name, const char *text, size_t size,
                   struct error *error);
// The same from a file of at most `limit` bytes.
int json_open_file(struct json_document **document, const char *path, uint64_t limit, struct error *error);
void json_close(struct json_document **document);

struct json json_root(struct json_document *document);

// "FILE: path.of.the.value" for messages, absent values included; of a value more than 32 levels down the last 32,
// after "...". Lives in the document's arena. It is found by a search through the document: for the way to an error,
// not for a loop.
const char *json_where(struct json value);

// Members and elements. An absent key, or a member of what is no object, has item NULL (no error); a member of an
// absent value is that absent value again. json_get is linear in the members: large objects are walked.
struct json json_get(struct json object, const char *key);
bool json_present(struct json value);  // there and not null
size_t json_length(struct json array); // elements of an array, members of an object, else 0; linear: call it once
struct json json_at(struct json array, size_t index); // steps on from the last call on this array, O(1) in sequence
struct json json_first(struct json container);
struct json json_next(struct json value); // sibling; item NULL at the end
const char *json_key(struct json value);  // key of a member of an object, else ""

bool json_is_object(struct json value);
bool json_is_array(struct json value);
bool json_is_string(struct json value);
bool json_is_number(struct json value);

// Required values. A missing, null or wrong one is ERROR_INPUT with the sentence described above.
int json_need_object(struct json value, struct error *error);
int json_need_array(struct json value, struct error *error);
int json_need_string(struct json value, const char **text, struct error *error); // text lives in the document
int json_need_bool(struct json value, bool *out, struct error *error);
int json_need_number(struct json value, double *out, struct error *error); // finite
int json_need_integer(struct json value, int64_t low, int64_t high, int64_t *out, struct error *error);
int json_need_u32(struct json value, uint32_t low, uint32_t high, uint32_t *out, struct error *error);

// ERROR_INPUT naming the first key of `object` that is not in the NULL-terminated list (files of our own formats
// only).
int json_only(struct json object, const char *const *keys, struct error *error);

// Writes `text` as a JSON string, quotes included, into the arena (control characters and quotes escaped; bytes that
// are not UTF-8 become \ufffd).
char *json_quote(struct arena *arena, const char *text);

#endif
