// linear: y = W x for one token, in the reference's order of summation (arithmetic.md 2).
//
// A row's output is one 32-lane dot product:
//   lane l takes k with k mod 32 = l, in increasing k: acc[l] = fma(w[k], x[k], acc[l]) from +0
//   then the tree (l, l+16), (l, l+8), (l, l+4), (l, l+2), (l, l+1)
// Weights widen to fp32 exactly, int8 and int4 codes times their fp16 scale included. The kernel named "scalar" is
// the definition; every other one gives its bits for every K (NaN payloads excepted: which of two NaNs an fma returns
// differs between machines).
#ifndef ASSAY_REFERENCE_LINEAR_H
#define ASSAY_REFERENCE_LINEAR_H

#include <stddef.h>
#include <stdint.h>

#include "harness/base/isa.h"
#include "harness/base/pool.h"
#include "harness/model/model.h"
#include "harness/run/profile.h"
#include "reference/linear_tile.h"

enum { LINEAR_LANES = 32, LINEAR_FORMATS = WEIGHT_FORMATS };

// A vector as the kernels read it: in natural order, and split by block of 32 into its 16 even, then its 16 odd
// elements, since two bf16 or two int4 weights share a word.
struct linear_input {
    uint32_t n;               // K
    const float *x;           // [n], borrowed
    float tail[LINEAR_LANES]; // its last n mod 32 elements, then +0
    float *split;             // [linear_split_size(n)], the owner's, +0 beyond n; NULL: not for BF16 and Q4
};

// K rounded up to whole blocks of 32.
size_t linear_split_size(uint32_t n);
// Points `input` at x [n] and fills tail and, unless it is NULL, split.
void linear_input_set(struct linear_input *input, const float *x, uint32_t n);

// y[r] = W[r] x for r in [first, end); y is indexed from row 0. input->n == weight->cols.
typedef void (*linear_fn)(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                          float *y);

struct linear_kernel {
    const char *name; // "scalar", "avx2"
    enum weight_format format;
    enum isa isa;
    linear_fn rows;
};
// Every kernel in this build, the scalar ones first, faster ones later; ends with name NULL.
extern const struct linear_kernel linear_kernels[];

// What a forward pass calls: one kernel for each format, and the threads to split rows over.
struct linear {
    linear_fn rows[LINEAR_FORMATS];
    const struct linear_tile *tile;     // for many tokens
    struct pool *pool;                  // borrowed; NULL: one thread
    const struct profile_hook *profile; // borrowed; NULL: none
};

// The last kernel of the table for each format that `isa` includes and this processor has.
void linear_open(struct linear *linear, enum isa isa, struct pool *pool);

// y [rows] = W x, then + bias [rows] (one addition per output) unless bias is NULL. Small matrices run on the caller.
void linear_run(const struct linear *linear, const struct weight *weight, const float *bias,
                const struct linear_input *input, float *y);
// Packs x [tokens, n] into the batch, whose memory is the owner's (linear_tile.h).
void linear_pack(const struct linear *linear, struct linear_batch *batch, const float *x, uint32_t n, uint32_t tokens);
// linear_run for every token of a batch; y [tokens, rows]. Tiles know no experts' codes (WEIGHT_A4, K8, K4): those
// tokens go one by one, and the x of the batch must still be there.
void linear_run_batch(const struct linear *linear, const struct weight *weight, const float *bias,
                      const struct linear_batch *batch, float *y);

#endif
