// check: what the checks of kernels share: random and shaped inputs, memory with fences and guards, one comparison.
//
// The whole program depends on libc, the kernels and the operators only, so that any compiler for any machine builds
// it from source; it prints TAP. A candidate is compared with the definition (the scalar kernel) bit for bit.
#ifndef ASSAY_TESTS_KERNELS_CHECK_H
#define ASSAY_TESTS_KERNELS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reference/delta.h"
#include "reference/linear.h"
#include "reference/linear_tile.h"
#include "reference/swiglu.h"
#include "runtime/kernels.h"

// What is compared: one linear kernel of the reference, or one operator out of a table of the runtime.
struct candidate {
    enum weight_format format;        // of a linear kernel
    linear_fn rows;                   // the reference's
    const struct linear_tile *tile;   // the reference's
    const struct delta_kernel *delta; // the reference's
    swiglu_fn swiglu;                 // the reference's
    const struct kernels *kernels;    // the runtime's
};

struct check {
    uint64_t random;               // splitmix64's state
    bool is_control;               // the first wrong output settles it
    unsigned long compared, wrong; // outputs
    char first[320];               // the first wrong one: where, expected, found
};

typedef void (*check_fn)(struct check *check, const struct candidate *candidate);
void check_reference_linear(struct check *check, const struct candidate *candidate);
void check_reference_tile(struct check *check, const struct candidate *candidate);
void check_delta(struct check *check, const struct candidate *candidate);
void check_reference_swiglu(struct check *check, const struct candidate *candidate);
void check_runtime_linear(struct check *check, const struct candidate *candidate);
void check_round(struct check *check, const struct candidate *candidate);
void check_rms_norm(struct check *check, const struct candidate *candidate);
void check_rope(struct check *check, const struct candidate *candidate);
void check_short_conv(struct check *check, const struct candidate *candidate);
void check_swiglu(struct check *check, const struct candidate *candidate);
void check_product(struct check *check, const struct candidate *candidate);
void check_add(struct check *check, const struct candidate *candidate);
void check_attention(struct check *check, const struct candidate *candidate);
void check_rms_norm_centred(struct check *check, const struct candidate *candidate);
void check_rms_norm_gated(struct check *check, const struct candidate *candidate);
void check_attention_gate(struct check *check, const struct candidate *candidate);
void check_silu(struct check *check, const struct candidate *candidate);
void check_l2_norm(struct check *check, const struct candidate *candidate);
void check_delta_step(struct check *check, const struct candidate *candidate);
void check_expert_sum(struct check *check, const struct candidate *candidate);

// The definition of a reference kernel, and the runtime's table of them.
linear_fn check_definition(enum weight_format format);
const struct kernels *check_definitions(void);

// --- inputs

uint64_t check_random(struct check *check);
float check_unit(struct check *check); // [-1, 1)

// Each has a way to be wrong that the others do not show.
enum regime {
    REGIME_ORDINARY,   // about one: the order of a sum shows in its last bits
    REGIME_WIDE,       // all magnitudes: one term may swallow the rest
    REGIME_CANCELLING, // large terms of either sign whose sum is small
    REGIME_SUBNORMAL,  // flushing to zero shows
    REGIME_UNDERFLOW,  // fp32: every product rounds to -0, and +0 x +0 in a tail turns it; halves: the smallest ones
    REGIME_ZEROS,      // mostly +0 and -0
    REGIME_INFINITE,   // a rare Inf: 0 x Inf in a tail shows
    REGIME_NAN,        // a rare NaN with a payload: it must arrive, and leave an operator as the canonical one
    REGIMES
};
const char *check_regime_name(enum regime regime);

// A pair that is multiplied somewhere: a weight and an input. halves: values that a half holds.
void check_pair(struct check *check, enum regime regime, bool halves, float *w, float *x);

// Lengths: 1 ... `every`, then some longer ones up to CHECK_LONGEST; 0 after the last, and when a control is settled.
enum { CHECK_LONGEST = 1000 };
uint32_t check_length(const struct check *check, size_t i, uint32_t every);
bool check_settled(const struct check *check);

// --- memory

// `bytes` that end where the page ends: reading one byte further is a fault. One block for each number, its contents
// undefined.
enum { CHECK_FENCES = 8, CHECK_FENCED = 1 << 22 };
void *check_fenced(unsigned number, size_t bytes);

// Poisoned room for n <= CHECK_LONGEST floats with guards around; each call gives the same place.
float *check_output(void);

// One output; `where` and `at` name it. exact: as below.
void check_value(struct check *check, float expected, float found, bool exact, const char *where, ptrdiff_t at);

// Compares y [first, end) with the definition's, and everything around it in the output's place with the poison.
// exact: a NaN must be the canonical one, as it leaves an operator; otherwise a NaN equals a NaN. `format`, and what
// follows, names the case.
void check_compare(struct check *check, const float *expected, const float *y, size_t first, size_t end, bool exact,
                   const char *format, ...) PRINTF_LIKE(7, 8);

// --- negative controls and traces; each prints its TAP lines through `result`

typedef void (*check_result_fn)(bool ok, const char *name, const char *detail);

struct subject {
    const char *name; // "reference.linear.bf16", "runtime.swiglu"
    check_fn check;
    enum weight_format format; // of linear kernels
};
extern const struct subject check_subjects[]; // ends with name NULL

// Kernels that are wrong on purpose, each of which the check of its subject must catch, and the definitions, which
// must pass. Those whose name matches the pattern; `result` NULL only prints the names.
void check_wrong_kernels(const char *pattern, uint64_t seed, check_result_fn result);

// FNV-1a, 64 bits, of the floats' bytes, little-endian, NaNs canonical.
#define CHECK_HASH_START UINT64_C(0xCBF29CE484222325)
void check_hash(uint64_t *hash, const float *values, uint64_t n);

// The reference's operators that no trace covers, against committed hashes. NULL result: only the names.
void check_operators(const char *pattern, check_result_fn result);

// Whole traces of the model in `path` (model_file.h): every instruction set of this build and processor, 1, 2, 3 and
// 7 threads, against the committed hash. NULL result: only the names.
void check_traces(const char *path, const char *pattern, check_result_fn result);

#endif
