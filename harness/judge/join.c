#include "harness/judge/join.h"

static int full_logits(const struct trace *trace, struct error *error)
{
    if (!trace || trace->logits)
        return 0;
    return error_set(error, ERROR_CONTRACT, "%s: full logits [N, V] are needed to compare, found topk only",
                     trace->file->path);
}

int join_open(struct joined *joined, const char *reference, const char *const arms[ARM_COUNT], struct error *error)
{
    *joined = (struct joined){0};
    int code = trace_open(&joined->reference, reference, error);
    if (!code)
        code = full_logits(joined->reference, error);
    for (int arm = 0; !code && arm < ARM_COUNT; arm++) {
        if (!arms[arm] || !file_exists(arms[arm]))
            continue;
        code = trace_open(&joined->arms[arm], arms[arm], error);
        // modes may differ: the reference's batch rows are its S=1 rows (design.md 5)
        if (!code)
            code = trace_comparable(joined->reference, joined->arms[arm], false, error);
        if (!code)
            code = full_logits(joined->arms[arm], error);
    }
    if (code)
        join_close(joined);
    return code;
}

void join_close(struct joined *joined)
{
    trace_close(&joined->reference);
    for (int arm = 0; arm < ARM_COUNT; arm++)
        trace_close(&joined->arms[arm]);
}
