#include "runtime/metadata.h"

#include <ctype.h>
#include <string.h>

#include "harness/run/engine.h"

#define TRY(call)                                                                                                    \
    do {                                                                                                             \
        const int code_ = (call);                                                                                    \
        if (code_)                                                                                                   \
            return code_;                                                                                            \
    } while (0)

static int read_text(struct arena *arena, struct json value, const char **text, struct error *error)
{
    const char *found;
    TRY(json_need_string(value, &found, error));
    if (!*found)
        return error_set(error, ERROR_INPUT, "%s: an empty string, expected a name", json_where(value));
    *text = arena_print(arena, "%s", found);
    return *text ? 0 : error_set(error, ERROR_RUNTIME, "%s: no memory", json_where(value));
}

static int need_exactly(struct json value, const char *expected, struct error *error)
{
    const char *found;
    TRY(json_need_string(value, &found, error));
    if (!strcmp(found, expected))
        return 0;
    return error_set(error, ERROR_INPUT, "%s: found \"%.100s\", expected \"%s\"", json_where(value), found, expected);
}

static int read_hash(struct json value, char hex[HASH_HEX], struct error *error)
{
    const char *text;
    TRY(json_need_string(value, &text, error));
    const size_t digits = strspn(text, "0123456789abcdef");
    if (digits != HASH_HEX - 1 || text[digits])
        return error_set(error, ERROR_INPUT, "%s: found \"%.80s\", expected a SHA-256 in 64 lower-case digits",
                         json_where(value), text);
    memcpy(hex, text, HASH_HEX);
    return 0;
}

static int read_source(struct arena *arena, struct json source, struct metadata *metadata, struct error *error)
{
    TRY(json_need_object(source, error));
    TRY(read_hash(json_get(source, "weights_sha256"), metadata->weights_sha256, error));
    TRY(read_hash(json_get(source, "config_sha256"), metadata->config_sha256, error));
    const struct json tokenizer = json_get(source, "tokenizer_sha256");
    const char *text;
    if (json_present(tokenizer)) {
        TRY(json_need_string(tokenizer, &text, error));
        if (*text)
            TRY(read_hash(tokenizer, metadata->tokenizer_sha256, error));
    }
    metadata->model = metadata->model_type = "";
    if (json_present(json_get(source, "model")))
        TRY(read_text(arena, json_get(source, "model"), &metadata->model, error));
    if (json_present(json_get(source, "model_definition")))
        TRY(read_text(arena, json_get(source, "model_definition"), &metadata->model_type, error));
    return 0;
}

static int read_keep(struct arena *arena, struct json keep, struct metadata *metadata, struct error *error)
{
    if (!json_present(keep))
        return 0;
    TRY(json_need_array(keep, error));
    const char **patterns = arena_alloc(arena, json_length(keep), sizeof *patterns);
    metadata->keep = patterns;
    if (!patterns)
        return error_set(error, ERROR_RUNTIME, "%s: no memory", json_where(keep));
    for (struct json each = json_first(keep); each.item; each = json_next(each)) {
        const char *text;
        struct error why;
        TRY(read_text(arena, each, &text, error));
        if (quant_keep_check(text, &why))
            return error_set(error, ERROR_INPUT, "%s: %.600s", json_where(each), why.text);
        patterns[metadata->n_keep++] = text;
    }
    return 0;
}

static int read_plan(struct json plan, struct metadata *metadata, struct error *error)
{
    if (!json_present(plan))
        return 0;
    TRY(json_need_object(plan, error));
    for (struct json each = json_first(plan); each.item; each = json_next(each)) {
        int row = 0;
        while (row < PLAN_ROWS && strcmp(plan_row_name((enum plan_row)row), json_key(each)))
            row++;
        if (row == PLAN_ROWS)
            return error_set(error, ERROR_INPUT, "%s: no row of the precision plan has this name", json_where(each));
        const char *text;
        TRY(json_need_string(each, &text, error));
        const bool is_f32 = !strcmp(text, precision_name(PRECISION_F32));
        if (!is_f32 && strcmp(text, precision_name(PRECISION_F16)))
            return error_set(error, ERROR_INPUT, "%s: found \"%.40s\", expected \"f16\" or \"f32\"", json_where(each),
                             text);
        metadata->declared[row] = true;
        metadata->declared_as[row] = is_f32 ? PRECISION_F32 : PRECISION_F16;
    }
    return 0;
}

// null, a string or an object: all three are in use (zoo.md 4.1).
static int read_compression(struct arena *arena, struct json compression, struct metadata *metadata,
                            struct error *error)
{
    if (!json_present(compression))
        return error_set(error, ERROR_INPUT,
                         "%s: no scheme is declared, so there is nothing to check the weights against; add "
                         "\"compression\": {\"scheme\": NAME} with the scheme that the bundle was made with",
                         json_where(compression));
    struct json named = compression;
    if (!json_is_string(compression)) {
        static const char *const keys[] = {"scheme", "keep", "plan", NULL};
        TRY(json_need_object(compression, error));
        if (metadata->own)
            TRY(json_only(compression, keys, error));
        named = json_get(compression, "scheme");
        TRY(read_keep(arena, json_get(compression, "keep"), metadata, error));
        TRY(read_plan(json_get(compression, "plan"), metadata, error));
    }
    struct error why;
    TRY(read_text(arena, named, &metadata->scheme_name, error));
    if (scheme_find(metadata->scheme_name, &metadata->scheme, &why))
        return error_set(error, ERROR_INPUT, "%s: %.600s", json_where(named), why.text);
    return 0;
}

static int read_language(struct arena *arena, struct json language, struct metadata *metadata, struct error *error)
{
    TRY(json_need_object(language, error));
    TRY(read_text(arena, json_get(language, "tokenizer"), &metadata->tokenizer, error));
    TRY(json_need_u32(json_get(language, "vocab_size"), 1, UINT32_MAX, &metadata->vocabulary, error));
    return json_need_u32(json_get(language, "max_context_length"), 1, UINT32_MAX, &metadata->max_context, error);
}

// Length of `name` if `mode` begins with it, alone or with a tag behind; else 0.
static size_t begins_with(const char *mode, const char *name)
{
    const size_t n = name ? strlen(name) : 0;
    return n && !strncmp(mode, name, n) && (!mode[n] || mode[n] == '_') ? n : 0;
}

// The scheme that a bundle's name ends in, a tag behind it allowed; NULL when the name says none of ours.
static const struct scheme *scheme_in_name(const char *name)
{
    const char *mode = NULL, *next = name;
    while ((next = strstr(next, "_decode_")))
        mode = next += strlen("_decode_");
    const struct scheme *longest = NULL;
    size_t most = 0;
    for (const struct scheme *scheme = schemes; mode && scheme->name; scheme++) {
        const size_t by_name = begins_with(mode, scheme->name), by_alias = begins_with(mode, scheme->alias);
        const size_t n = by_name > by_alias ? by_name : by_alias;
        if (n > most) {
            most = n;
            longest = scheme;
        }
    }
    return longest;
}

int metadata_read(struct arena *arena, struct json root, struct metadata *metadata, struct error *error)
{
    *metadata = (struct metadata){0};
    TRY(json_need_object(root, error));
    TRY(need_exactly(json_get(root, "metadata_version"), METADATA_VERSION, error));
    TRY(need_exactly(json_get(root, "kind"), "llm", error));
    metadata->own = json_present(json_get(root, "assay"));
    TRY(read_text(arena, json_get(root, "name"), &metadata->name, error));
    TRY(read_language(arena, json_get(root, "language"), metadata, error));
    TRY(read_source(arena, json_get(root, "source"), metadata, error));
    TRY(read_compression(arena, json_get(root, "compression"), metadata, error));
    const struct scheme *named = scheme_in_name(metadata->name);
    if (named && named != metadata->scheme)
        return error_set(
            error, ERROR_CONTRACT,
            "%s: name \"%.200s\" says scheme %s, compression.scheme says %s; one of them is wrong, and a "
            "bundle whose name lies is not judged",
            json_where(root), metadata->name, named->name, metadata->scheme_name);
    return 0;
}

char *metadata_name(struct arena *arena, const char *model, const struct scheme *scheme)
{
    char *name = arena_print(arena, "%s_decode_%s", model, scheme->name);
    for (char *c = name; name && c < name + strlen(model); c++)
        *c = *c == '.' || *c == '-' ? '_' : (char)tolower((unsigned char)*c);
    return name;
}

static void write_compression(struct output *output, const char *const *keep, const struct metadata *metadata)
{
    output_print(output, "  \"compression\": {\n    \"scheme\": \"%s\",\n    \"keep\": [", metadata->scheme_name);
    for (size_t i = 0; i < metadata->n_keep; i++)
        output_print(output, "%s%s", i ? ", " : "", keep[i]);
    output_print(output, "],\n    \"plan\": {");
    const char *separator = "";
    for (int row = 0; row < PLAN_ROWS; row++) {
        if (!metadata->declared[row])
            continue;
        output_print(output, "%s\"%s\": \"%s\"", separator, plan_row_name((enum plan_row)row),
                     precision_name(metadata->declared_as[row]));
        separator = ", ";
    }
    output_print(output, "}\n  }");
}

int metadata_write(struct output *output, struct arena *arena, const struct metadata *metadata, struct error *error)
{
    const char **keep = arena_alloc(arena, metadata->n_keep, sizeof *keep);
    const char *name = json_quote(arena, metadata->name), *tokenizer = json_quote(arena, metadata->tokenizer);
    const char *model = json_quote(arena, metadata->model), *model_type = json_quote(arena, metadata->model_type);
    bool complete = keep && name && tokenizer && model && model_type;
    for (size_t i = 0; complete && i < metadata->n_keep; i++)
        complete = (keep[i] = json_quote(arena, metadata->keep[i])) != NULL;
    if (!complete)
        return error_set(error, ERROR_RUNTIME, "no memory for the metadata of bundle %s", metadata->name);
    output_print(output, "{\n  \"metadata_version\": \"%s\",\n  \"kind\": \"llm\",\n  \"name\": %s,\n",
                 METADATA_VERSION, name);
    output_print(
        output,
        "  \"language\": {\n    \"tokenizer\": %s,\n    \"vocab_size\": %u,\n    \"max_context_length\": %u,\n"
        "    \"embedded_tokenizer\": %s\n  },\n",
        tokenizer, metadata->vocabulary, metadata->max_context, *metadata->tokenizer_sha256 ? "true" : "false");
    output_print(
        output,
        "  \"source\": {\n    \"model\": %s,\n    \"model_definition\": %s,\n    \"weights_sha256\": \"%s\",\n"
        "    \"config_sha256\": \"%s\",\n    \"tokenizer_sha256\": \"%s\"\n  },\n",
        model, model_type, metadata->weights_sha256, metadata->config_sha256, metadata->tokenizer_sha256);
    write_compression(output, keep, metadata);
    if (metadata->own)
        output_print(output, ",\n  \"assay\": {\n    \"producer\": \"assay quantize\",\n    \"version\": \"%s\"\n  }",
                     ASSAY_VERSION);
    output_print(output, "\n}\n");
    return 0;
}
