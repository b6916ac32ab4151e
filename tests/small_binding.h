// small_binding: writes a small model to a scratch directory and binds it. One per test program: the state is static.
#ifndef ASSAY_TESTS_SMALL_BINDING_H
#define ASSAY_TESTS_SMALL_BINDING_H

#include "harness/base/files.h"
#include "harness/model/model.h"
#include "tests/small_model.h"

static struct arena arena;
static char *scratch, *path;
static struct safetensors *file;

static inline void make_scratch(void)
{
    struct error error;
    cr_assert_eq(directory_scratch(&arena, &scratch, &error), 0, "%s", error.text);
    path = file_join(&arena, scratch, "model.safetensors");
}

static inline void remove_scratch(void)
{
    safetensors_close(&file);
    directory_remove(scratch);
    arena_close(&arena);
}

// Writes the list, opens it and binds it.
static inline int bind(const struct small_model *small, bool quantized, struct model *model, const char **note,
                       struct error *error)
{
    safetensors_close(&file);
    small_write(small, 0, small->n, 256, path);
    cr_assert_eq(safetensors_open(&file, path, error), 0, "%s", error->text);
    const struct tensor **tensors = arena_alloc(&arena, file->n_tensors, sizeof *tensors);
    for (size_t i = 0; i < file->n_tensors; i++)
        tensors[i] = &file->tensors[i];
    const struct tensor_table table = {file->n_tensors, tensors};
    return model_bind(&arena, &small->config, &table, quantized, model, note, error);
}

static inline void expect_bound(const char *name, const struct small_model *small)
{
    struct model model;
    const char *note;
    struct error error = {0};
    cr_assert_eq(bind(small, false, &model, &note, &error), 0, "%s: %s", name, error.text);
    cr_assert_null(note, "%s", name);
    cr_assert_eq(model.n_weights, small->n, "%s", name);
}

static inline void expect_refused(const char *name, const struct small_model *small, bool quantized,
                                  const char *expected)
{
    struct model model;
    struct error error = {0};
    cr_expect_eq(bind(small, quantized, &model, NULL, &error), ERROR_INPUT, "%s: accepted", name);
    cr_expect(strstr(error.text, expected), "%s: found '%s', expected it to say '%s'", name, error.text, expected);
}

#endif
