// bundle_fixture: a checkpoint, a directory that is removed afterwards, and bundles made in it.
#ifndef ASSAY_TESTS_BUNDLE_FIXTURE_H
#define ASSAY_TESTS_BUNDLE_FIXTURE_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "runtime/bundle.h"
#include "runtime/quantize.h"

struct source {
    struct arena arena;
    struct checkpoint *checkpoint;
    struct config config;
    struct model model;
    char *scratch;
};

static inline void must(int code, const struct error *error)
{
    cr_assert_eq(code, 0, "%s", error->text);
}

// The sentence names what it should: a refusal for another reason is no refusal.
static inline void refused(int code, int expected, const struct error *error, const char *naming)
{
    cr_assert_eq(code, expected, "found code %d: %s", code, code ? error->text : "success");
    cr_assert_not_null(strstr(error->text, naming), "'%s' does not name '%s'", error->text, naming);
}

static inline void source_open_at(struct source *source, const char *path)
{
    struct error error = {0};
    must(checkpoint_open(&source->checkpoint, path, &error), &error);
    must(config_open(&source->arena, source->checkpoint->config_path, &source->config, &error), &error);
    must(model_bind(&source->arena, &source->config, &source->checkpoint->table, false, &source->model, NULL, &error),
         &error);
}

// name NULL: only the directory.
static inline void source_open(struct source *source, const char *name)
{
    struct error error = {0};
    setenv("ASSAY_NO_CACHE", "1", 1); // nothing is written outside of the scratch directory
    memset(source, 0, sizeof *source);
    must(directory_scratch(&source->arena, &source->scratch, &error), &error);
    if (name)
        source_open_at(source, arena_print(&source->arena, "%s/models/%s", ASSAY_FIXTURES, name));
}

static inline void source_close(struct source *source)
{
    checkpoint_close(&source->checkpoint);
    directory_remove(source->scratch);
    arena_close(&source->arena);
}

static inline const char *in_scratch(struct source *source, const char *name)
{
    return file_join(&source->arena, source->scratch, name);
}

static inline const struct scheme *scheme_named(const char *name)
{
    const struct scheme *scheme;
    struct error error = {0};
    must(scheme_find(name, &scheme, &error), &error);
    return scheme;
}

// The scheme after `last` (NULL: the first) that the family has; NULL at the end.
static inline const struct scheme *next_scheme(const struct scheme *last, enum family family)
{
    const struct scheme *scheme = last ? last + 1 : schemes;
    while (scheme->name && !scheme_fits(scheme, family))
        scheme++;
    return scheme->name ? scheme : NULL;
}

static inline int try_quantize(struct source *source, const char *scheme, const char *keep, const char *out,
                               struct coverage *coverage, struct error *error)
{
    const struct quantize_request request = {
        .checkpoint = source->checkpoint,
        .model = &source->model,
        .scheme = scheme_named(scheme),
        .keep = &keep,
        .n_keep = keep ? 1 : 0,
        .out = out,
        .quiet = true,
    };
    return quantize_bundle(&request, coverage, error);
}

// The path of a new bundle, named after its scheme.
static inline const char *quantized(struct source *source, const char *scheme)
{
    struct error error = {0};
    const char *out = in_scratch(source, scheme);
    must(try_quantize(source, scheme, NULL, out, NULL, &error), &error);
    return out;
}

static inline struct bundle *opened(const char *path)
{
    struct error error = {0};
    struct bundle *bundle;
    must(bundle_open(&bundle, path, &error), &error);
    return bundle;
}

static inline void write_text(const char *path, const char *text)
{
    struct output *output;
    struct error error = {0};
    must(output_open(&output, path, &error), &error);
    output_append(output, text, strlen(text));
    must(output_commit(&output, &error), &error);
}

// The file's text with `from`, which must stand in it, replaced once.
static inline void edit_text(struct source *source, const char *path, const char *from, const char *to)
{
    char *text;
    uint64_t size;
    struct error error = {0};
    must(file_read(&source->arena, path, 1 << 20, &text, &size, &error), &error);
    const char *at = strstr(text, from);
    cr_assert_not_null(at, "%s does not hold %s", path, from);
    write_text(path, arena_print(&source->arena, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)));
}

#endif
