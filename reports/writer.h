// writer: one renderer per format behind one const table: `struct report` in, bytes out. No counts, no verdicts of
// its own.
#ifndef ASSAY_WRITER_H
#define ASSAY_WRITER_H

#include <stdbool.h>

#include "harness/base/error.h"
#include "harness/base/files.h"
#include "harness/judge/report.h"

struct writer {
    const char *name; // "json"
    const char *file; // "report.json"
    void (*write)(struct output *output, const struct report *report);
};

extern const struct writer writer_json;      // assay-report/1: the contract; every other format is a rendering of it
extern const struct writer writer_text;      // report.txt
extern const struct writer writer_positions; // positions.csv
extern const struct writer writer_junit;     // junit.xml
extern const struct writer *const writers[]; // NULL-terminated

// Writes every format into `directory` (made when missing), each file whole or not at all.
int writer_all(const struct report *report, const char *directory, struct error *error);

// The text report as it stands on a terminal: at most 100 columns, worst first, verdict last; colour when asked.
char *writer_text_render(struct arena *arena, const struct report *report, bool colour);

#endif
