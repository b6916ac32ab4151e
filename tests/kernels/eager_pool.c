// Threads for every range of rows, however small: the models here are, and would otherwise run on the caller alone.
// The linker puts this in pool_run's place (--wrap).
#include "harness/base/pool.h"

void __real_pool_run(struct pool *pool, size_t n, size_t grain, pool_fn run, void *context);
void __wrap_pool_run(struct pool *pool, size_t n, size_t grain, pool_fn run, void *context);

void __wrap_pool_run(struct pool *pool, size_t n, size_t grain, pool_fn run, void *context)
{
    (void)grain;
    __real_pool_run(pool, n, 1, run, context);
}
