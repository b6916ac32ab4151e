#include "reference/linear_tile.h"

#include <math.h>
#include <stdalign.h>
#include <stdbool.h>
#include <string.h>

#include "reference/linear.h"
#include "reference/linear_kernels.h"

// --- the definition: linear.c's lanes and tree, a tile at a time

enum { ROWS = 2, TOKENS = 4 };

static void widen(const struct weight *weight, size_t row, uint32_t k, uint32_t n, uint32_t r, uint32_t blocks,
                  float *w)
{
    (void)blocks; // one part
    for (uint32_t at = 0; at < n; at += LINEAR_LANES)
        linear_widen(weight, row, k + at, LINEAR_LANES, w + (size_t)at * ROWS + (size_t)r * LINEAR_LANES);
}

static void multiply(const float *w, const float *x, uint32_t blocks, float *lanes, const struct linear_ahead *ahead)
{
    (void)ahead;
    for (size_t block = 0; block < blocks; block++)
        for (size_t r = 0; r < ROWS; r++)
            for (size_t t = 0; t < TOKENS; t++) {
                const float *a = w + (block * ROWS + r) * LINEAR_LANES, *b = x + (block * TOKENS + t) * LINEAR_LANES;
                float *acc = lanes + (r * TOKENS + t) * LINEAR_LANES;
                for (size_t l = 0; l < LINEAR_LANES; l++)
                    acc[l] = fmaf(a[l], b[l], acc[l]);
            }
}

static void sum(const float *lanes, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) {
        float acc[LINEAR_LANES];
        memcpy(acc, lanes + (size_t)i * LINEAR_LANES, sizeof acc);
        y[i] = linear_sum_of_lanes(acc);
    }
}

const struct linear_tile linear_tiles[] = {
    {"scalar", ISA_SCALAR, ROWS, TOKENS, LINEAR_LANES, widen, multiply, sum},
#if defined(__x86_64__)
    {"avx2", ISA_AVX2, 3, 4, 8, linear_widen_avx2, linear_multiply_avx2, linear_sum_avx2},
    {"avx512", ISA_AVX512, 6, 4, 16, linear_widen_avx512, linear_multiply_avx512, linear_sum_avx512},
#endif
    {.name = NULL},
};

const struct linear_tile *linear_tile_best(enum isa isa)
{
    const struct linear_tile *best = linear_tiles;
    for (const struct linear_tile *tile = linear_tiles; tile->name; tile++)
        if (linear_isa_includes(isa, tile->isa) && isa_available(tile->isa))
            best = tile;
    return best;
}

// --- the inputs

static uint32_t round_up(uint32_t n, uint32_t step)
{
    return (n + step - 1) / step * step;
}

static uint32_t panel_blocks(uint32_t n, uint32_t k)
{
    const uint32_t left = n - k;
    return (left < LINEAR_PANEL ? left + LINEAR_LANES - 1 : LINEAR_PANEL) / LINEAR_LANES;
}

size_t linear_batch_size(uint32_t n, uint32_t tokens)
{
    return (size_t)round_up(n, LINEAR_PANEL) * round_up(tokens, LINEAR_BLOCK_TOKENS);
}

// The 32 lanes of one block into the operand of a tile, as row or token `slot` of `slots`.
static void place(const struct linear_tile *tile, const float lanes[LINEAR_LANES], uint32_t block, uint32_t blocks,
                  uint32_t slot, uint32_t slots, float *operand)
{
    for (uint32_t part = 0; part < LINEAR_LANES / tile->width; part++)
        memcpy(operand + (((size_t)part * blocks + block) * slots + slot) * tile->width, lanes + part * tile->width,
               tile->width * sizeof *lanes);
}

void linear_batch_set(struct linear_batch *batch, const struct linear_tile *tile, const float *x, uint32_t n,
                      uint32_t tokens)
{
    float *out = batch->packed;
    batch->x = x;
    batch->n = n;
    batch->tokens = tokens;
    for (uint32_t k = 0; k < n; k += LINEAR_PANEL)
        for (uint32_t t = 0; t < round_up(tokens, tile->tokens); t++) {
            const uint32_t blocks = panel_blocks(n, k), slot = t % tile->tokens;
            for (uint32_t block = 0; block < blocks; block++) {
                const uint32_t at = k + block * LINEAR_LANES, left = n - at;
                float lanes[LINEAR_LANES] = {0};
                if (t < tokens)
                    memcpy(lanes, x + (size_t)t * n + at, (left < LINEAR_LANES ? left : LINEAR_LANES) * sizeof *x);
                place(tile, lanes, block, blocks, slot, tile->tokens, out);
            }
            if (slot == tile->tokens - 1)
                out += (size_t)tile->tokens * LINEAR_PANEL;
        }
}

// --- a block of rows, all tokens

struct block {
    const struct linear_tile *tile;
    const struct weight *weight;
    const struct linear_batch *batch;
    size_t first, end;          // rows
    uint32_t token, last_token; // of this block
    struct linear_ahead ahead;
    alignas(64) float w[LINEAR_BLOCK_ROWS * LINEAR_PANEL];                           // tile after tile
    alignas(64) float lanes[LINEAR_BLOCK_ROWS * LINEAR_BLOCK_TOKENS * LINEAR_LANES]; // tile after tile
};

// The panel at k of every row; rows that are not there keep what was there, and their results are dropped.
static void widen_panel(struct block *block, uint32_t k)
{
    const struct linear_tile *tile = block->tile;
    const struct weight *weight = block->weight;
    const uint32_t blocks = panel_blocks(weight->cols, k), left = weight->cols - k;
    const uint32_t n = left < LINEAR_PANEL ? left : LINEAR_PANEL, whole = n - n % LINEAR_LANES;
    for (uint32_t i = 0; i < LINEAR_BLOCK_ROWS && block->first + i < block->end; i++) {
        const uint32_t r = i % tile->rows;
        const size_t row = block->first + i;
        float *w = block->w + (size_t)(i - r) * LINEAR_PANEL, tail[LINEAR_LANES];
        tile->widen(weight, row, k, whole, r, blocks, w);
        if (whole < n) {
            linear_tail(weight, row, false, tail);
            place(tile, tail, blocks - 1, blocks, r, tile->rows, w);
        }
    }
}

static void multiply_panel(struct block *block, uint32_t k)
{
    const struct linear_tile *tile = block->tile;
    const size_t room = round_up(block->batch->tokens, tile->tokens);
    const float *x = block->batch->packed + k * room;
    const uint32_t blocks = panel_blocks(block->weight->cols, k);
    const size_t step = (size_t)tile->rows * tile->tokens * LINEAR_LANES;
    float *lanes = block->lanes;
    for (uint32_t t = block->token; t < block->last_token; t += tile->tokens)
        for (uint32_t r = 0; r < LINEAR_BLOCK_ROWS && block->first + r < block->end; r += tile->rows, lanes += step) {
            tile->multiply(block->w + (size_t)r * LINEAR_PANEL, x + (size_t)t * LINEAR_PANEL, blocks, lanes,
                           &block->ahead);
            block->ahead.from += block->ahead.lines * 64;
        }
}

// The next block of rows, in equal shares for all tiles of this one: row after row, as it lies in memory.
static void look_ahead(struct block *block)
{
    const struct linear_tile *tile = block->tile;
    const size_t bytes = LINEAR_BLOCK_ROWS * (size_t)weight_row_bytes(block->weight);
    const size_t next = block->first + LINEAR_BLOCK_ROWS;
    const size_t tiles = (size_t)round_up(block->weight->cols, LINEAR_PANEL) / LINEAR_PANEL *
                         (LINEAR_BLOCK_ROWS / tile->rows) *
                         (round_up(block->last_token - block->token, tile->tokens) / tile->tokens);
    block->ahead.from = (const unsigned char *)block->weight->data + next * (size_t)weight_row_bytes(block->weight);
    block->ahead.lines = next < block->end ? bytes / 64 / tiles + 1 : 0;
}

static void sum_block(const struct block *block, float *y)
{
    const struct linear_tile *tile = block->tile;
    const uint32_t n = tile->rows * tile->tokens;
    const float *lanes = block->lanes;
    float sums[LINEAR_BLOCK_ROWS * LINEAR_BLOCK_TOKENS];
    for (uint32_t t = block->token; t < block->last_token; t += tile->tokens)
        for (uint32_t r = 0; r < LINEAR_BLOCK_ROWS && block->first + r < block->end;
             r += tile->rows, lanes += (size_t)n * LINEAR_LANES) {
            tile->sum(lanes, n, sums);
            for (uint32_t i = 0; i < n; i++) {
                const size_t row = block->first + r + i / tile->tokens, token = t + i % tile->tokens;
                if (row < block->end && token < block->last_token)
                    y[token * block->weight->rows + row] = sums[i];
            }
        }
}

void linear_tile_rows(const struct linear_tile *tile, const struct weight *weight, const struct linear_batch *batch,
                      size_t first, size_t end, float *y)
{
    struct block block = {.tile = tile, .weight = weight, .batch = batch};
    for (size_t row = first; row < end; row += LINEAR_BLOCK_ROWS)
        for (uint32_t t = 0; t < batch->tokens; t += LINEAR_BLOCK_TOKENS) {
            const uint32_t left = batch->tokens - t;
            block.first = row;
            block.end = end;
            block.token = t;
            block.last_token = t + (left < LINEAR_BLOCK_TOKENS ? left : LINEAR_BLOCK_TOKENS);
            look_ahead(&block);
            memset(block.lanes, 0,
                   (size_t)LINEAR_BLOCK_ROWS * round_up(block.last_token - t, tile->tokens) * LINEAR_LANES *
                       sizeof *block.lanes);
            for (uint32_t k = 0; k < weight->cols; k += LINEAR_PANEL) {
                widen_panel(&block, k);
                multiply_panel(&block, k);
            }
            sum_block(&block, y);
        }
}
