// trace_parts: what trace.c and trace_state.c share; no other module needs it.
#ifndef ASSAY_TRACE_PARTS_H
#define ASSAY_TRACE_PARTS_H

#include "harness/run/trace.h"

// "NUMBER.rest" with a plain decimal number below 10^9: the rest. NULL when it is none.
const char *trace_parse_number(const char *text, uint32_t *number);

// The error of a misshapen tensor. size: what the dimension called `letter` must be; 0 for none in particular.
int trace_refuse_shape(const struct tensor *tensor, const char *expected, const char *letter, uint64_t size,
                       struct error *error);

// A tensor "state.*" or "snapshot.*": 0, also for a kind that this build does not know.
int trace_check_state(const struct trace *trace, const struct tensor *tensor, struct error *error);
int trace_check_snapshot(const struct trace *trace, const struct tensor *tensor, struct error *error);

#endif
