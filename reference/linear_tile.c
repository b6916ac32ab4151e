#include "reference/linear_tile.h"

#include <math.h>
#include <stdalign.h>
#include <string.h>

#include "reference/linear.h"
#include "reference/linear_kernels.h"

// --- the definition: linear.c's lanes and tree, a row at a time

static void multiply(const struct linear_piece *piece)
{
    const size_t rows = piece->rows, tokens = piece->tokens;
    if (piece->first)
        memset(piece->lanes, 0, rows * tokens * LINEAR_LANES * sizeof *piece->lanes);
    for (size_t r = 0; r < rows; r++)
        for (uint32_t block = 0; block < piece->blocks; block++) {
            float w[LINEAR_LANES];
            linear_widen(piece->weight, piece->row + r, piece->k + block * LINEAR_LANES, LINEAR_LANES, w);
            for (size_t t = 0; t < tokens; t++) {
                const float *x = piece->x + (block * tokens + t) * LINEAR_LANES;
                float *acc = piece->lanes + (r * tokens + t) * LINEAR_LANES;
                for (size_t l = 0; l < LINEAR_LANES; l++)
                    acc[l] = fmaf(w[l], x[l], acc[l]);
            }
        }
}

static void sum(const float *lanes, size_t step, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) {
        float acc[LINEAR_LANES];
        memcpy(acc, lanes + i * step, sizeof acc);
        y[i] = linear_sum_of_lanes(acc);
    }
}

const struct linear_tile linear_tiles[] = {
    {"scalar", ISA_SCALAR, 4, LINEAR_LANES, multiply, sum},
#if defined(__x86_64__)
    {"avx2", ISA_AVX2, 4, 8, linear_multiply_avx2, linear_sum_avx2},
    {"avx512", ISA_AVX512, 8, 16, linear_multiply_avx512, linear_sum_avx512},
#elif defined(__aarch64__)
    {"neon", ISA_NEON, 8, 4, linear_multiply_neon, linear_sum_neon},
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

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t blocks_of(uint32_t n)
{
    return n / LINEAR_LANES + (n % LINEAR_LANES != 0);
}

// The first group of `left` tokens: the widest in which at most one is missing.
static uint32_t group_of(const struct linear_tile *tile, uint32_t left)
{
    uint32_t tokens = tile->tokens;
    while (tokens > 2 && left + 1 < tokens)
        tokens /= 2;
    return tokens;
}

// Tokens with those that fill the last group.
static uint32_t padded(const struct linear_tile *tile, uint32_t tokens)
{
    uint32_t t = 0;
    while (t < tokens)
        t += group_of(tile, tokens - t);
    return t;
}

static uint32_t groups_of(const struct linear_tile *tile, uint32_t tokens)
{
    uint32_t n = 0;
    for (uint32_t t = 0; t < tokens; t += group_of(tile, tokens - t))
        n++;
    return n;
}

size_t linear_batch_size(uint32_t n, uint32_t tokens)
{
    return (size_t)blocks_of(n) * LINEAR_LANES * (((size_t)tokens + 7) / 8 * 8);
}

// 32 inputs of one token, into the parts of its group; four at a time, which every width is a multiple of.
static void place(const struct linear_tile *tile, const float *lanes, float *x, size_t part)
{
    for (uint32_t at = 0; at < LINEAR_LANES; at += tile->width, x += part)
        for (uint32_t i = 0; i < tile->width; i += 4)
            memcpy(x + i, lanes + at + i, 4 * sizeof *x);
}

uint32_t linear_batch_set(struct linear_batch *batch, const float *x, uint32_t n, uint32_t tokens)
{
    batch->x = x;
    batch->n = n;
    batch->tokens = tokens;
    return n / LINEAR_PANEL + (n % LINEAR_PANEL != 0);
}

void linear_batch_pack(const struct linear_batch *batch, const struct linear_tile *tile, size_t first_panel,
                       size_t end)
{
    const uint32_t n = batch->n, tokens = batch->tokens;
    const float *x = batch->x;
    for (size_t panel = first_panel; panel < end; panel++) {
        const uint32_t k = (uint32_t)panel * LINEAR_PANEL;
        const uint32_t width = smaller(n - k, LINEAR_PANEL), blocks = blocks_of(width);
        float *out = batch->packed + (size_t)k * padded(tile, tokens);
        for (uint32_t first = 0, group; first < tokens; first += group) {
            group = group_of(tile, tokens - first);
            const size_t part = (size_t)blocks * group * tile->width;
            for (uint32_t t = 0; t < group; t++)
                for (uint32_t block = 0; block < blocks; block++) {
                    const uint32_t at = block * LINEAR_LANES;
                    const size_t from = (size_t)(first + t) * n + k + at;
                    float padding[LINEAR_LANES] = {0};
                    const bool whole = first + t < tokens && width - at >= LINEAR_LANES;
                    if (first + t < tokens && !whole)
                        memcpy(padding, x + from, (width - at) * sizeof *x);
                    place(tile, whole ? x + from : padding, out + ((size_t)block * group + t) * tile->width, part);
                }
            out += (size_t)blocks * group * LINEAR_LANES;
        }
    }
}

// --- a block of rows and tokens

struct block {
    const struct linear_tile *tile;
    const struct weight *weight;
    const struct linear_batch *batch;
    size_t row, end;            // its first row; the end of all blocks
    uint32_t token, tokens;     // its first token, and how many
    const unsigned char *ahead; // as in struct linear_piece
    size_t ahead_step;
    alignas(64) float tails[LINEAR_BLOCK_ROWS * LINEAR_LANES];
    alignas(64) float lanes[LINEAR_BLOCK_ROWS * LINEAR_BLOCK_TOKENS * LINEAR_LANES]; // group after group
};

static uint32_t rows_of(const struct block *block)
{
    const size_t left = block->end - block->row;
    return left < LINEAR_BLOCK_ROWS ? (uint32_t)left : LINEAR_BLOCK_ROWS;
}

// The next block of rows, as it lies in memory, in equal shares for all that is done for this one.
static void look_ahead(struct block *block)
{
    const size_t row_bytes = weight_row_bytes(block->weight), next = block->row + LINEAR_BLOCK_ROWS;
    const size_t steps = (size_t)(block->weight->cols / LINEAR_LANES) * (LINEAR_LANES / block->tile->width) *
                         groups_of(block->tile, block->tokens);
    block->ahead = (const unsigned char *)block->weight->data + (next < block->end ? next : 0) * row_bytes;
    block->ahead_step = next < block->end && steps ? (row_bytes + steps - 1) / steps : 0;
}

// The inputs of a panel that fill no block of 32, as a weight of their own.
static void multiply_tails(const struct block *block, struct linear_piece piece)
{
    const struct weight tails = {
        .format = WEIGHT_F32, .rows = piece.rows, .cols = LINEAR_LANES, .data = block->tails};
    piece.first = piece.first && !piece.blocks;
    piece.x += (size_t)piece.blocks * piece.tokens * block->tile->width;
    piece.weight = &tails;
    piece.row = piece.k = 0;
    piece.blocks = 1;
    piece.ahead_step = 0;
    block->tile->multiply(&piece);
}

static void put_sums(const struct block *block, const struct linear_piece *piece, uint32_t token, float *y)
{
    for (uint32_t t = 0; t < piece->tokens && token + t < block->batch->tokens; t++)
        block->tile->sum(piece->lanes + (size_t)t * LINEAR_LANES, (size_t)piece->tokens * LINEAR_LANES, piece->rows,
                         y + (size_t)(token + t) * block->weight->rows + piece->row);
}

static void run_panel(struct block *block, uint32_t k, float *y)
{
    const struct linear_tile *tile = block->tile;
    const uint32_t left = block->weight->cols - k, width = smaller(left, LINEAR_PANEL), blocks = blocks_of(width);
    struct linear_piece piece = {.weight = block->weight,
                                 .row = block->row,
                                 .rows = rows_of(block),
                                 .k = k,
                                 .blocks = width / LINEAR_LANES,
                                 .first = k == 0,
                                 .lanes = block->lanes,
                                 .ahead_step = block->ahead_step};
    piece.x = block->batch->packed + (size_t)k * padded(tile, block->batch->tokens) +
              (size_t)blocks * LINEAR_LANES * block->token;
    for (uint32_t t = 0; t < block->tokens; t += piece.tokens) {
        piece.tokens = group_of(tile, block->tokens - t);
        piece.part = (size_t)blocks * piece.tokens * tile->width;
        piece.ahead = block->ahead;
        if (piece.blocks)
            tile->multiply(&piece);
        block->ahead += piece.ahead_step * piece.rows * piece.blocks * (LINEAR_LANES / tile->width);
        if (piece.blocks < blocks)
            multiply_tails(block, piece);
        if (width == left)
            put_sums(block, &piece, block->token + t, y);
        piece.x += (size_t)blocks * piece.tokens * LINEAR_LANES;
        piece.lanes += (size_t)LINEAR_BLOCK_ROWS * piece.tokens * LINEAR_LANES;
    }
}

void linear_tile_rows(const struct linear_tile *tile, const struct weight *weight, const struct linear_batch *batch,
                      size_t first, size_t end, float *y)
{
    struct block block;
    block.tile = tile;
    block.weight = weight;
    block.batch = batch;
    block.end = end;
    for (block.row = first; block.row < end; block.row += LINEAR_BLOCK_ROWS) {
        for (uint32_t r = 0; weight->cols % LINEAR_LANES && r < rows_of(&block); r++)
            linear_tail(weight, block.row + r, false, block.tails + (size_t)r * LINEAR_LANES);
        for (block.token = 0; block.token < batch->tokens; block.token += LINEAR_BLOCK_TOKENS) {
            block.tokens = smaller(batch->tokens - block.token, LINEAR_BLOCK_TOKENS);
            look_ahead(&block);
            for (uint32_t k = 0; k < weight->cols; k += LINEAR_PANEL)
                run_panel(&block, k, y);
        }
    }
}
