// floating: the floating-point environment is set and tested, not assumed (arithmetic.md 1).
//
// Linking one shared library built with -Ofast switches flush-to-zero on for the whole process, so every worker
// thread at its start and every engine call enters this environment and leaves it again: round to nearest even, no
// flushing of subnormals, exceptions masked (x86 MXCSR 0x1F80, aarch64 FPCR 0).
#ifndef ASSAY_FLOATING_H
#define ASSAY_FLOATING_H

#include <float.h>
#include <stdbool.h>
#include <stdint.h>

#include "harness/base/error.h"

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error                                                                                                               \
    "assay's numbers are a specification: build without -ffast-math, -Ofast, -fassociative-math, -ffinite-math-only"
#endif
_Static_assert(FLT_EVAL_METHOD == 0, "float expressions must be evaluated in float");
_Static_assert(sizeof(float) == 4 && sizeof(double) == 8, "IEEE-754 binary32 and binary64");

struct floating {
    uint64_t control; // the register as it was found
};

// Saves the register in *saved and sets the environment above.
void floating_enter(struct floating *saved);
void floating_leave(const struct floating *saved);

// Subnormal product, single rounding of fma, nearest-even in +, x and half ties, a contraction probe. ERROR_RUNTIME
// names the first that is wrong. Takes microseconds; main runs it before anything else.
int floating_selftest(struct error *error);

// Whether fma is an instruction here. Without it fmaf() of libm gives the same bits, slowly.
bool floating_has_fma(void);

#endif
