// splitter: the pre-tokenizer: text to words. A list of steps, each cutting every piece of the one before.
#ifndef ASSAY_TOKENS_SPLITTER_H
#define ASSAY_TOKENS_SPLITTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"
#include "harness/model/tokens/pattern.h"
#include "harness/model/tokens/text.h"

enum splitter_behavior { // what becomes of a match; `tokenizers` calls them Removed, Isolated, ...
    SPLITTER_REMOVED,
    SPLITTER_ISOLATED,
    SPLITTER_MERGED_WITH_PREVIOUS,
    SPLITTER_MERGED_WITH_NEXT,
    SPLITTER_CONTIGUOUS,
    SPLITTER_BEHAVIORS
};
const char *splitter_behavior_name(enum splitter_behavior behavior);

struct splitter_step {
    struct pattern *pattern; // owned. NULL: put a space before each piece that does not begin with one
    enum splitter_behavior behavior;
    bool invert; // what lies between the matches counts as the matches
};

struct splitter_span {
    uint32_t start, end;
};
struct splitter_spans {
    struct splitter_span *spans;
    size_t n, capacity;
};

enum { SPLITTER_STEPS = 16 };

struct splitter { // {0} has no steps: one word
    struct splitter_step steps[SPLITTER_STEPS];
    size_t n_steps;
    struct splitter_spans now, next; // memory of splitter_split
    struct text spaced[2];
    double deadline; // CPU seconds of this thread
};

// Takes ownership of `pattern`. At most SPLITTER_STEPS calls.
void splitter_add(struct splitter *splitter, struct pattern *pattern, enum splitter_behavior behavior, bool invert);
void splitter_close(struct splitter *splitter);

// Before the pieces of a text of `size` bytes are split: no expression may take more CPU time than a hundred times
// what a sane one takes for such a text.
void splitter_begin(struct splitter *splitter, size_t size);

struct splitter_words {
    const char *text;                  // may be another than the one that was split: with spaces put in
    const struct splitter_span *spans; // [n], none of them empty
    size_t n;
};

// Words of text[0, size), valid UTF-8 of less than 2^31 bytes; valid until the next call and while `text` is.
int splitter_split(struct splitter *splitter, const char *text, size_t size, struct splitter_words *words,
                   struct error *error);

#endif
