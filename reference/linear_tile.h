// linear_tile: y = W x for many tokens at once, with the bits that linear.h gives each of them alone.
//
// A tile is a few rows by a few tokens whose lanes stay in registers. Lanes are independent, so that the inputs may be
// cut into panels that stay in cache: between two panels the lanes rest in memory, which changes no bit. Weights are
// widened once for each block of rows and all its tokens, in natural order and padded with -0 against +0 in x, as the
// tails of linear_kernels.h.
#ifndef ASSAY_REFERENCE_LINEAR_TILE_H
#define ASSAY_REFERENCE_LINEAR_TILE_H

#include <stddef.h>
#include <stdint.h>

#include "harness/base/isa.h"
#include "harness/base/pool.h"
#include "harness/model/model.h"

enum {
    LINEAR_PANEL = 2048,       // inputs of a panel
    LINEAR_BLOCK_ROWS = 12,   // rows of a block: a multiple of every tile's rows
    LINEAR_BLOCK_TOKENS = 64, // tokens of a block: a multiple of every tile's tokens
};

// Weights that will be widened soon: `lines` of 64 bytes.
struct linear_ahead {
    const unsigned char *from;
    size_t lines;
};

// A tile works through the lanes in parts of `width`. Its operands stand in the order in which it reads them: part
// after part, in a part by k, for each k the `width` lanes of every row (or token) of the tile:
//   w [32 / width, n / 32, R, width], x [32 / width, n / 32, T, width]
struct linear_tile {
    const char *name; // "scalar", "avx2"
    enum isa isa;
    uint32_t rows, tokens, width; // R, T
    // Elements k ... k+n-1 of a row, widened, into w as row r of the tile; n and k multiples of 32, k + n <= cols.
    // `blocks`: the n / 32 of w, which may have room for a tail.
    void (*widen)(const struct weight *weight, size_t row, uint32_t k, uint32_t n, uint32_t r, uint32_t blocks,
                  float *w);
    // lanes[r][t][l] = fma(w[r][k], x[t][k], lanes[r][t][l]), l = k mod 32, k increasing over `blocks` times 32.
    // lanes [R, T, 32]. All are aligned to 64 bytes. Meanwhile the cache is asked for the cache lines `ahead`; speed
    // only.
    void (*multiply)(const float *w, const float *x, uint32_t blocks, float *lanes, const struct linear_ahead *ahead);
    // y[i] = the tree over lanes[i]. lanes [n, 32], aligned to 64 bytes.
    void (*sum)(const float *lanes, uint32_t n, float *y);
};
// Every tile of this build, the scalar one first, faster ones later; ends with name NULL.
extern const struct linear_tile linear_tiles[];
// The last one that `isa` includes and this processor has.
const struct linear_tile *linear_tile_best(enum isa isa);

// The inputs of `tokens` tokens, packed: for each panel, for each T tokens, the x of a tile in LINEAR_PANEL T floats.
struct linear_batch {
    uint32_t n, tokens; // K
    const float *x;     // [tokens, n], borrowed: what was packed
    float *packed;      // [linear_batch_size(...)], the owner's, aligned to 64 bytes
};

// Floats of `packed` for K = n and that many tokens, with any tile.
size_t linear_batch_size(uint32_t n, uint32_t tokens);
// Packs x [tokens, n].
void linear_batch_set(struct linear_batch *batch, const struct linear_tile *tile, const float *x, uint32_t n,
                      uint32_t tokens);

// y[t][r] = W[r] x[t] for r in [first, end) and all tokens; y [tokens, rows] is indexed from row 0.
// batch->n == weight->cols.
void linear_tile_rows(const struct linear_tile *tile, const struct weight *weight, const struct linear_batch *batch,
                      size_t first, size_t end, float *y);

#endif
