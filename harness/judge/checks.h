// checks: one function per check of design.md 5: measurements and limits in, lines of the report out.
#ifndef ASSAY_CHECKS_H
#define ASSAY_CHECKS_H

#include "harness/judge/gate.h"

// Appends the suite-wide line of `check` to report->checks (room for it is there) and the lines of its cases to `per_case`.
int checks_judge(struct report *report, const struct gate_input *input, enum check check, struct report_check *per_case,
                 size_t *n_per_case, struct error *error);

#endif
