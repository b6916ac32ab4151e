// pool: threads that split the rows of an output, never a sum, so the number of threads cannot change a bit.
#ifndef ASSAY_POOL_H
#define ASSAY_POOL_H

#include <stddef.h>

#include "harness/base/error.h"

struct pool;

// `threads` >= 1 counts the caller: 1 starts none. Workers enter the floating environment at their start.
int pool_open(struct pool **pool, unsigned threads, struct error *error);
void pool_close(struct pool **pool);
unsigned pool_threads(const struct pool *pool); // 1 for NULL
unsigned pool_default_threads(void);            // online processors

// Calls run(context, first, end) for disjoint ranges that cover [0, n), on all threads, and returns when all are
// done. Ranges start at multiples of `grain` (>= 1). A NULL pool, or n <= grain, runs inline. Not reentrant.
typedef void (*pool_fn)(void *context, size_t first, size_t end);
void pool_run(struct pool *pool, size_t n, size_t grain, pool_fn run, void *context);

#endif
