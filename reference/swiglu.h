// swiglu: what stands between two linear layers of a feed-forward (architecture.md 1.4):
//
//   gate[i] = fl32(silu(gate[i])) up[i]
//
// silu in double (math_inline.h). Elements are independent, so one body is compiled for several instruction sets and
// every one has the same bits (NaN payloads excepted).
#ifndef ASSAY_REFERENCE_SWIGLU_H
#define ASSAY_REFERENCE_SWIGLU_H

#include <stdint.h>

#include "harness/base/isa.h"

// gate, up [n], not the same.
typedef void (*swiglu_fn)(float *gate, const float *up, uint32_t n);

struct swiglu_kernel {
    const char *name; // "scalar", "avx2"
    enum isa isa;
    swiglu_fn run;
};
// Every one in this build, the scalar one first, faster ones later; ends with name NULL.
extern const struct swiglu_kernel swiglu_kernels[];
// The last one that `isa` includes and this processor has.
swiglu_fn swiglu_best(enum isa isa);

#endif
