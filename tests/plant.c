// plant BUNDLE FAULT --out DIR: the faults of planting.h for scripts. plant --list names them.
#include <stdio.h>
#include <string.h>

#include "tests/planting.h"

int main(int argc, char **argv)
{
    struct error error = {0};
    if (argc == 2 && !strcmp(argv[1], "--list")) {
        plant_list(stdout);
        return 0;
    }
    if (argc != 5 || strcmp(argv[3], "--out")) {
        fprintf(stderr, "usage: plant BUNDLE FAULT --out DIR, or plant --list\n");
        return 2;
    }
    const int code = plant_fault(argv[1], argv[2], argv[4], &error);
    if (code)
        fprintf(stderr, "plant: %s\n", error.text);
    return code ? error_exit_status(code) : 0;
}
