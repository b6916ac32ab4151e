#include "reports/writer.h"

#include <stddef.h>

const struct writer *const writers[] = {&writer_json, &writer_text, &writer_positions, &writer_junit, NULL};

int writer_all(const struct report *report, const char *directory, struct error *error)
{
    struct arena arena = {0};
    int result = directory_make(directory, error);
    for (size_t i = 0; writers[i] && !result; i++) {
        struct output *output = NULL;
        const char *path = file_join(&arena, directory, writers[i]->file);
        result =
            path ? output_open(&output, path, error) : error_set(error, ERROR_RUNTIME, "%s: no memory", directory);
        if (result)
            break;
        writers[i]->write(output, report);
        result = output_commit(&output, error);
    }
    arena_close(&arena);
    return result;
}
