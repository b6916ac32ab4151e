// replay: feeds every file of the directories given to a fuzz target, so that its corpus runs in every `meson test`,
// without clang. A crash or a failed assertion is the finding; an empty corpus is a failure too.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness/base/files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_directory(const char *path)
{
    struct dirent **entries;
    struct arena arena = {0};
    int replayed = 0;
    const int n = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char *name = file_join(&arena, path, entries[i]->d_name);
        struct file_map map;
        if (name && entries[i]->d_name[0] != '.' && !file_map_open(&map, name, NULL)) {
            LLVMFuzzerTestOneInput(map.bytes, (size_t)map.size);
            file_map_close(&map);
            replayed++;
        }
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    arena_close(&arena);
    printf("%s: %d inputs replayed\n", path, replayed);
    return replayed;
}

int main(int n_arguments, char **arguments)
{
    int status = n_arguments > 1 ? EXIT_SUCCESS : EXIT_FAILURE;
    for (int i = 1; i < n_arguments; i++) {
        if (!replay_directory(arguments[i]))
            status = EXIT_FAILURE;
    }
    return status;
}
