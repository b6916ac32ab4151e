// error: what went wrong, in one sentence that a person can act on.
//
// Every function that can fail returns 0 or one of the negative codes below and takes a `struct error *` as its last
// argument. The text names the object, what was found, what was expected and, where there is one, the next command.
// A NULL `struct error *` is allowed: the code is still returned. NaN is data, never an error.
#ifndef ASSAY_ERROR_H
#define ASSAY_ERROR_H

#if defined(__GNUC__)
#define PRINTF_LIKE(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#else
#define PRINTF_LIKE(format_index, first_argument)
#endif

enum error_code {
    ERROR_USAGE = -1,    // the command line asks for something that does not exist
    ERROR_INPUT = -2,    // a file is missing, unreadable, corrupt, or of another kind
    ERROR_CONTRACT = -3, // two things that were to be compared or combined do not belong together
    ERROR_RUNTIME = -4,  // memory, disk, thread, environment: the same command may succeed later
    ERROR_UNJUDGED = -5, // the input is sound, but nothing (or too little) was compared
};

struct error {
    int code; // 0 or the first failure's enum error_code
    char text[1024];
};

// Stores code and sentence in `error` (when not NULL; a longer sentence is cut) and returns `code`.
int error_set(struct error *error, int code, const char *format, ...) PRINTF_LIKE(3, 4);

// The process exit status of an error: 2 for usage, input and contract, 75 for runtime trouble, 3 for not judged.
int error_exit_status(int code);

#endif
