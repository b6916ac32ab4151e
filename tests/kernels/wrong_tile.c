// Tiles that are wrong on purpose: the definition's, with the lanes that rest between panels, groups of tokens, and a
// tree of its own to get wrong.
#include <string.h>

#include "tests/kernels/wrong.h"

static void forgets_the_parked_lanes(const struct linear_piece *piece)
{
    struct linear_piece fresh = *piece;
    fresh.first = true;
    linear_tiles->multiply(&fresh);
}

static void takes_the_lanes_of_the_block_before(const struct linear_piece *piece)
{
    struct linear_piece parked = *piece;
    parked.first = false;
    linear_tiles->multiply(&parked);
}

static void loses_the_last_block(const struct linear_piece *piece)
{
    struct linear_piece shorter = *piece;
    shorter.blocks--;
    linear_tiles->multiply(&shorter);
}

static void rounds_the_product(const struct linear_piece *piece)
{
    struct linear_piece products = *piece; // one block at a time from lanes of its own, so that no sum is fused
    float rounded[LINEAR_BLOCK_ROWS * LINEAR_TILE_TOKENS * LINEAR_LANES];
    const size_t n = (size_t)piece->rows * piece->tokens * LINEAR_LANES;
    products.lanes = rounded;
    products.first = true;
    products.blocks = 1;
    for (size_t i = 0; piece->first && i < n; i++)
        piece->lanes[i] = 0;
    for (uint32_t block = 0; block < piece->blocks; block++) {
        linear_tiles->multiply(&products);
        for (size_t i = 0; i < n; i++)
            piece->lanes[i] += rounded[i];
        products.k += LINEAR_LANES;
        products.x += (size_t)piece->tokens * LINEAR_LANES;
    }
}

static void takes_the_neighbours_token(const struct linear_piece *piece)
{
    linear_tiles->multiply(piece);
    float first[LINEAR_LANES], *lanes = piece->lanes;
    for (size_t r = 0; r < piece->rows; r++, lanes += (size_t)piece->tokens * LINEAR_LANES) {
        memcpy(first, lanes, sizeof first); // tokens 0 and 1 change places at every panel
        memcpy(lanes, lanes + LINEAR_LANES, sizeof first);
        memcpy(lanes + LINEAR_LANES, first, sizeof first);
    }
}

static void adds_neighbours_first(const float *lanes, size_t step_of_outputs, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) {
        float acc[LINEAR_LANES];
        memcpy(acc, lanes + i * step_of_outputs, sizeof acc);
        for (size_t step = 1; step < LINEAR_LANES; step *= 2)
            for (size_t lane = 0; lane < LINEAR_LANES; lane += 2 * step)
                acc[lane] += acc[lane + step];
        y[i] = acc[0];
    }
}

const struct wrong wrong_tile[] = {
    {"reference.tile.*", NULL, .tile = {.name = "the definition"}},
    {"reference.tile.*", "lanes forgotten between panels", .tile.multiply = forgets_the_parked_lanes},
    {"reference.tile.*", "lanes of the block before", .tile.multiply = takes_the_lanes_of_the_block_before},
    {"reference.tile.*", "the last 32 inputs lost", .tile.multiply = loses_the_last_block},
    {"reference.tile.*", "a product and a sum for fma", .tile.multiply = rounds_the_product},
    {"reference.tile.*", "two tokens in each other's place", .tile.multiply = takes_the_neighbours_token},
    {"reference.tile.*", "the tree from neighbours on", .tile.sum = adds_neighbours_first},
    {.subject = NULL},
};
