// line: one line of the report as it is being written. What checks.c and checks_routing.c share; no other module needs it.
#ifndef ASSAY_LINE_H
#define ASSAY_LINE_H

#include "harness/judge/gate.h"

enum { LINE_NUMBERS = 20 };

// The line being written, with what it is written from.
struct judging {
    const struct gate_input *input;
    const struct comparison *comparison; // may be NULL
    struct report *report;
    struct report_check *line;
    bool out_of_memory;
};

// `text`, or "" and a note that memory is exhausted.
const char *line_kept(struct judging *j, const char *text);
#define LINE_PRINT(j, ...) line_kept(j, arena_print(&(j)->report->arena, __VA_ARGS__))

// A line's verdict only gets worse: PASS, WARN, NOT_RUN, FAIL. What made it worst stands first.
void line_rule(struct judging *j, enum verdict verdict, const char *why);
// Stands on a line that passes; a line that does not says why instead.
void line_remark(struct judging *j, const char *text);
// A value beside its limit; outside it (a NaN is) the line fails. `where` says of what the value is, "" when the name does.
void line_number(struct judging *j, const char *name, double value, enum limit limit, bool at_least, const char *where);
// The same with a bound that is computed from the limit and what was compared.
void line_number_within(struct judging *j, const char *name, double value, double bound, enum limit limit, const char *where);

const char *line_case(const struct judging *j, uint32_t case_index);

// 1 for equal numbers, 0 of 0 included; infinite over nothing.
double line_ratio(double candidate, double expected);
// Is `value` further out than the worst so far? A NaN is further out than every number, and stays.
bool line_exceeds(double value, double worst);

#endif
