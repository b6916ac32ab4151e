// audit: what a static comparison of a bundle with its checkpoint found. Facts only; runtime/audit.c fills it, gate judges.
#ifndef ASSAY_AUDIT_H
#define ASSAY_AUDIT_H

#include <stddef.h>
#include <stdint.h>

struct audit_finding {
    const char *object;   // tensor or metadata key
    const char *what;     // one sentence: found, expected, where
};

struct audit {
    uint32_t tensors;     // compared
    uint32_t equal;       // bit for bit
    uint64_t codes, wrong_codes;   // quantized elements, those that differ
    uint64_t scales, wrong_scales; // and entries of codebooks; wrong biases, too
    uint64_t clamped, subnormal_scales; // counted, not failed
    size_t n_findings;    // every difference in tensors, metadata and precision plan
    struct audit_finding *findings;
};

#endif
