// linear_tile: y = W x for many tokens at once, with the bits that linear.h gives each of them alone.
//
// A tile is a few rows by a few tokens whose lanes stay in registers; a weight is widened there, once for all tokens
// of the tile. Lanes are independent, so the inputs may be cut into panels that stay in cache: between two panels
// the lanes rest in memory, which changes no bit.
#ifndef ASSAY_REFERENCE_LINEAR_TILE_H
#define ASSAY_REFERENCE_LINEAR_TILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/isa.h"
#include "harness/base/pool.h"
#include "harness/model/model.h"

enum {
    LINEAR_PANEL = 1024,      // inputs of a panel
    LINEAR_BLOCK_ROWS = 36,   // rows of a block: a multiple of every tile's rows
    LINEAR_BLOCK_TOKENS = 64, // tokens of a block
    LINEAR_TILE_TOKENS = 8,   // tokens of a tile at most
};

// What one call works through: some rows, one panel of inputs, one group of tokens.
struct linear_piece {
    const struct weight *weight;
    size_t row;         // the first of them
    uint32_t rows;      // 1 ... LINEAR_BLOCK_ROWS
    uint32_t k, blocks; // inputs k ... k + 32 blocks - 1, k a multiple of 32, all within the row
    const float *x;     // [32 / width, blocks of the panel, T, width]: part after part of the lanes
    size_t part;        // floats from one part of x to the next
    uint32_t tokens;    // of the group, T
    bool first;         // lanes begin at +0, whatever stands in `lanes`
    float *lanes;       // [LINEAR_BLOCK_ROWS, T, 32], aligned to 64; of rows that are not there: scratch
    // Memory that is asked into the cache meanwhile: ahead_step bytes for each row, 32 inputs and part of the lanes.
    // Speed only. 0: none.
    const unsigned char *ahead;
    size_t ahead_step;
};

struct linear_tile {
    const char *name; // "scalar", "avx2"
    enum isa isa;
    uint32_t tokens; // of the widest group: 4 or 8; it also takes groups of half as many, and so on down to 2
    uint32_t width;  // lanes of a part
    // lanes[r][t][l] = fma(w[r][k], x[t][k], lanes[r][t][l]), l = k mod 32, k increasing.
    void (*multiply)(const struct linear_piece *piece);
    // y[i] = the tree over the 32 floats at lanes + i step. Both aligned to 64 bytes; of lanes, n rounded up to 4 are
    // readable; of y, n are written.
    void (*sum)(const float *lanes, size_t step, uint32_t n, float *y);
};
// Every tile of this build, the scalar one first, faster ones later; ends with name NULL.
extern const struct linear_tile linear_tiles[];
// The last one that `isa` includes and this processor has.
const struct linear_tile *linear_tile_best(enum isa isa);

// The inputs of `tokens` tokens, packed: panel after panel, in it group after group, and a group as the tile reads
// them. Inputs and tokens that are not there are +0.
struct linear_batch {
    uint32_t n, tokens; // K
    const float *x;     // [tokens, n], borrowed: what was packed
    float *packed;      // [linear_batch_size(...)], the owner's, aligned to 64 bytes
};

// Floats of `packed` for K = n and that many tokens, with any tile.
size_t linear_batch_size(uint32_t n, uint32_t tokens);
// Takes x [tokens, n] and returns how many panels it has; all of them must be packed before the batch is used.
uint32_t linear_batch_set(struct linear_batch *batch, const float *x, uint32_t n, uint32_t tokens);
// Packs panels [first, end), disjoint ones at once if need be.
void linear_batch_pack(const struct linear_batch *batch, const struct linear_tile *tile, size_t first, size_t end);

// y[t][r] = W[r] x[t] for r in [first, end) and all tokens; y [tokens, rows] is indexed from row 0.
// batch->n == weight->cols.
void linear_tile_rows(const struct linear_tile *tile, const struct weight *weight, const struct linear_batch *batch,
                      size_t first, size_t end, float *y);

#endif
