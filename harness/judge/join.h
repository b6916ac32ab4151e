// join: the traces of one case and purpose, reference and arms, opened together and found comparable.
#ifndef ASSAY_JOIN_H
#define ASSAY_JOIN_H

#include "harness/judge/compare.h"

// The reference's trace is always there; an arm's is NULL when its directory or file is absent.
struct joined {
    struct trace *reference, *arms[ARM_COUNT];
};

// A path that is NULL, or that does not exist for an arm, leaves that trace NULL. ERROR_CONTRACT when an arm's trace is not
// comparable with the reference's, or when one that is to be compared row by row holds topk only.
int join_open(struct joined *joined, const char *reference, const char *const arms[ARM_COUNT], struct error *error);
void join_close(struct joined *joined);

#endif
