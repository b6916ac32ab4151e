// wrong: the tables of kernels that are wrong on purpose.
#ifndef ASSAY_TESTS_KERNELS_WRONG_H
#define ASSAY_TESTS_KERNELS_WRONG_H

#include "tests/kernels/check.h"

struct wrong {
    const char *subject, *fault; // a pattern; NULL: right, must pass
    linear_fn rows;
    struct linear_tile tile; // what is set replaces the definition
    struct delta_kernel delta;
    swiglu_fn swiglu;
    struct kernels kernels; // what is set replaces the definition
};

extern const struct wrong wrong_tile[];  // ends with subject NULL
extern const struct wrong wrong_delta[]; // the delta net's, the experts', swiglu's; ends with subject NULL

#endif
