// equal_traces: rows and end states of two traces of the fake engine, by their bytes.
#ifndef ASSAY_TESTS_EQUAL_TRACES_H
#define ASSAY_TESTS_EQUAL_TRACES_H

#include <criterion/criterion.h>
#include <string.h>

#include "harness/run/trace.h"
#include "tests/fake_engine.h"

static inline bool equal_rows(const struct trace *a, uint32_t from_a, const struct trace *b, uint32_t from_b, uint32_t n)
{
    float x[V], y[V];
    bool equal = true;
    for (uint32_t t = 0; t < n; t++)
        equal = equal && memcmp(trace_logits(a, from_a + t, x), trace_logits(b, from_b + t, y), sizeof x) == 0;
    return equal;
}

static inline bool equal_states(struct arena *arena, const struct trace *a, const struct trace *b)
{
    struct state x, y;
    cr_assert_eq(trace_state(a, arena, &x, NULL), 0);
    cr_assert_eq(trace_state(b, arena, &y, NULL), 0);
    cr_assert_eq(x.n, 3);
    cr_assert_eq(y.n, 3);
    bool equal = x.position == y.position;
    for (size_t i = 0; i < 3 && equal; i++)
        equal = memcmp(x.tensors[i].data, y.tensors[i].data, x.tensors[i].elements * sizeof(float)) == 0;
    return equal;
}

#endif
