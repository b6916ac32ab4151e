// config_text: config.json given as text, accepted or refused.
#ifndef ASSAY_TESTS_CONFIG_TEXT_H
#define ASSAY_TESTS_CONFIG_TEXT_H

#include <criterion/criterion.h>
#include <string.h>

#include "harness/model/config.h"

static struct arena arena;

static inline void close_arena(void)
{
    arena_close(&arena);
}

static inline int read(const char *text, struct config *config, struct error *error)
{
    struct json_document *document;
    int status = json_open_text(&document, "config.json", text, strlen(text), error);
    if (!status)
        status = config_read(&arena, json_root(document), config, error);
    json_close(&document);
    return status;
}

static inline struct config accept(const char *text)
{
    struct config config;
    struct error error = {0};
    cr_assert_eq(read(text, &config, &error), 0, "%s\n%s", error.text, text);
    return config;
}

static inline void refuse(const char *text, const char *expected)
{
    struct config config;
    struct error error = {0};
    cr_expect_eq(read(text, &config, &error), ERROR_INPUT, "accepted: %s", text);
    cr_expect(strstr(error.text, expected), "found '%s', expected it to say '%s'", error.text, expected);
    cr_expect(strstr(error.text, "config.json"), "no file in '%s'", error.text);
}

#endif
