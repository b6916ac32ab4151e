#include "harness/model/tokens/splitter.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

// A sane expression reads more than 10 MB/s.
static const double SECONDS = 10, SECONDS_PER_BYTE = 1e-5;
enum { MATCHES_PER_CLOCK = 64 }; // the clock costs as much as a few matches

const char *splitter_behavior_name(enum splitter_behavior behavior)
{
    static const char *const names[SPLITTER_BEHAVIORS] = {"Removed", "Isolated", "MergedWithPrevious",
                                                          "MergedWithNext", "Contiguous"};
    return names[behavior];
}

void splitter_add(struct splitter *splitter, struct pattern *pattern, enum splitter_behavior behavior, bool invert)
{
    assert(splitter->n_steps < SPLITTER_STEPS);
    splitter->steps[splitter->n_steps++] = (struct splitter_step){pattern, behavior, invert};
}

void splitter_close(struct splitter *splitter)
{
    for (size_t i = 0; i < splitter->n_steps; i++)
        pattern_close(&splitter->steps[i].pattern);
    free(splitter->now.spans);
    free(splitter->next.spans);
    text_close(&splitter->spaced[0]);
    text_close(&splitter->spaced[1]);
    *splitter = (struct splitter){0};
}

static double cpu_seconds(void)
{
    struct timespec now;
    return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) ? 0 : (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void splitter_begin(struct splitter *splitter, size_t size)
{
    splitter->deadline = cpu_seconds() + SECONDS + SECONDS_PER_BYTE * (double)size;
}

static int add_span(struct splitter_spans *spans, size_t start, size_t end, struct error *error)
{
    if (spans->n == spans->capacity) {
        const size_t capacity = 2 * spans->capacity + 256;
        struct splitter_span *grown = realloc(spans->spans, capacity * sizeof *grown);
        if (!grown)
            return error_set(error, ERROR_RUNTIME, "out of memory for %zu words", capacity);
        spans->spans = grown;
        spans->capacity = capacity;
    }
    spans->spans[spans->n++] = (struct splitter_span){(uint32_t)start, (uint32_t)end};
    return 0;
}

// The pieces of one span, from left to right, as they are cut.
struct cutter {
    struct splitter_spans *out;
    size_t base;  // of the span
    size_t first; // index in `out` of its first piece
    enum splitter_behavior behavior;
    bool after_match;
};

// Takes the next part, a match or what lies between two: joins it to the piece before, begins a new one, or drops it.
static int cut(struct cutter *cutter, size_t start, size_t end, bool is_match, struct error *error)
{
    struct splitter_spans *out = cutter->out;
    const bool has_piece = out->n > cutter->first, after_match = cutter->after_match;
    cutter->after_match = is_match;
    bool join = false;
    switch (cutter->behavior) {
    case SPLITTER_REMOVED:
        if (is_match)
            return 0;
        break;
    case SPLITTER_CONTIGUOUS:
        join = is_match == after_match;
        break;
    case SPLITTER_MERGED_WITH_PREVIOUS:
        join = is_match && !after_match;
        break;
    case SPLITTER_MERGED_WITH_NEXT: // of several matches in a row only the last one goes with what follows
        join = after_match && !is_match;
        break;
    default:
        break;
    }
    if (join && has_piece) {
        out->spans[out->n - 1].end = (uint32_t)(cutter->base + end);
        return 0;
    }
    return add_span(out, cutter->base + start, cutter->base + end, error);
}

static int check_time(const struct splitter *splitter, size_t matches, size_t at, struct error *error)
{
    if (matches % MATCHES_PER_CLOCK || cpu_seconds() <= splitter->deadline)
        return 0;
    return error_set(
        error, ERROR_INPUT,
        "pre_tokenizer: the regular expression is at byte %zu of its piece when the time allowed is over (%g s "
        "and %g s per MB): it backtracks, expected one that reads each character a few times",
        at, SECONDS, SECONDS_PER_BYTE * 1e6);
}

// Cuts text[0, size), which begins at `base` of the whole, by the matches of the step's pattern.
static int cut_piece(const struct splitter *splitter, const struct splitter_step *step, const char *text, size_t size,
                     size_t base, struct splitter_spans *out, struct error *error)
{
    struct cutter cutter = {out, base, out->n, step->behavior, false};
    size_t from = 0, done = 0, last_end = SIZE_MAX;
    for (size_t matches = 1; from <= size; matches++) {
        size_t start, end;
        const int found = pattern_find(step->pattern, text, size, from, &start, &end, error);
        if (found < 0)
            return found;
        if (!found)
            break;
        int failed = check_time(splitter, matches, start, error);
        from = end;
        if (start == end && end == last_end) { // an empty match where the last one ended: look one character on
            uint32_t code;
            from += from < size ? text_character(text + from, size - from, &code) : 1;
            if (failed)
                return failed;
            continue;
        }
        if (!failed && done != start)
            failed = cut(&cutter, done, start, step->invert, error);
        if (!failed)
            failed = cut(&cutter, start, end, !step->invert, error);
        if (failed)
            return failed;
        done = last_end = end;
    }
    return done != size ? cut(&cutter, done, size, step->invert, error) : 0;
}

// Each span once more, with a space in front where there is none, one after the other in `out`.
static int put_spaces(const char *text, const struct splitter_spans *spans, struct text *out,
                      struct splitter_spans *next, struct error *error)
{
    out->size = 0;
    int failed = 0;
    for (size_t i = 0; i < spans->n && !failed; i++) {
        const struct splitter_span span = spans->spans[i];
        const size_t start = out->size;
        if (text[span.start] != ' ')
            failed = text_append(out, " ", 1, error);
        if (!failed)
            failed = text_append(out, text + span.start, span.end - span.start, error);
        if (!failed && out->size > INT32_MAX)
            failed = error_set(error, ERROR_INPUT,
                               "a text of %zu bytes once spaces are put in, expected less than 2 GiB", out->size);
        if (!failed)
            failed = add_span(next, start, out->size, error);
    }
    return failed;
}

static void drop_empty(struct splitter_spans *spans)
{
    size_t n = 0;
    for (size_t i = 0; i < spans->n; i++)
        if (spans->spans[i].start < spans->spans[i].end)
            spans->spans[n++] = spans->spans[i];
    spans->n = n;
}

int splitter_split(struct splitter *splitter, const char *text, size_t size, struct splitter_words *words,
                   struct error *error)
{
    assert(size <= INT32_MAX);
    splitter->now.n = 0;
    int failed = size ? add_span(&splitter->now, 0, size, error) : 0;
    for (size_t i = 0; i < splitter->n_steps && !failed; i++) {
        const struct splitter_step *step = &splitter->steps[i];
        const struct splitter_spans *now = &splitter->now;
        struct splitter_spans *next = &splitter->next;
        next->n = 0;
        if (step->pattern) {
            for (size_t j = 0; j < now->n && !failed; j++)
                failed = cut_piece(splitter, step, text + now->spans[j].start,
                                   now->spans[j].end - now->spans[j].start, now->spans[j].start, next, error);
        } else {
            struct text *out = &splitter->spaced[text == splitter->spaced[0].bytes];
            failed = put_spaces(text, now, out, next, error);
            text = out->bytes;
        }
        drop_empty(next);
        const struct splitter_spans swap = *now;
        splitter->now = *next;
        splitter->next = swap;
    }
    *words = (struct splitter_words){text, splitter->now.spans, failed ? 0 : splitter->now.n};
    return failed;
}
