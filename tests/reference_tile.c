// Tiles of reference/linear_tile: each against the scalar kernel of one token, bit for bit, for every format, width and
// tail; and tiles that are wrong on purpose, which the same comparison must catch.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/linear.h"

static const uint32_t LENGTHS[] = {1, 31, 32, 33, 191, 192, 1000, 1024, 1056, 2079};
static const uint32_t WIDTHS[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 33, 64, 65, 257};
enum {
    N_LENGTHS = sizeof LENGTHS / sizeof *LENGTHS,
    N_WIDTHS = sizeof WIDTHS / sizeof *WIDTHS,
    K_MAX = 2079,
    T_MAX = 257,
    FIRST = 1,
    END = FIRST + LINEAR_BLOCK_ROWS + 2, // a block and a rest
    ROWS = END + 1
};

static uint64_t seed(void)
{
    const char *text = getenv("ASSAY_TEST_SEED");
    const uint64_t value = text ? strtoull(text, NULL, 0) : 20251121;
    fprintf(stderr, "# ASSAY_TEST_SEED=%llu\n", (unsigned long long)value);
    return value;
}

static uint32_t next(uint64_t *random)
{
    uint64_t z = *random += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    return (uint32_t)((z ^ z >> 27) >> 32);
}

// Mostly about one, so that the order of summation shows; rarely what an order or a padding with zeros would lose.
static float value(uint64_t *random)
{
    static const float rare[] = {-0.0f, 0x1p-149f, -0x1p-140f, 0x1p15f, INFINITY, NAN};
    const uint32_t bits = next(random);
    return bits % 4096 < 6 ? rare[bits % 4096] : (float)(int32_t)bits * 0x1p-31f;
}

struct store {
    float w[ROWS * K_MAX];
    uint16_t halves[ROWS * K_MAX], scale[ROWS * (K_MAX / 32 + 1)];
    uint8_t codes[ROWS * (K_MAX + 1)];
    float x[T_MAX * K_MAX], expected[T_MAX * ROWS], y[T_MAX * ROWS];
};

static struct weight make_weight(struct store *store, enum weight_format format, uint32_t k, uint64_t *random)
{
    const bool quantized = format == WEIGHT_Q8 || format == WEIGHT_Q4;
    for (size_t i = 0; i < (size_t)ROWS * k; i++) {
        const float w = value(random);
        store->w[i] = w;
        store->halves[i] = format == WEIGHT_BF16 ? (uint16_t)(float_to_bits(w) >> 16) : half_from_float(w);
        store->codes[i] = (uint8_t)next(random);
    }
    for (size_t i = 0; quantized && i < (size_t)ROWS * (k / 32); i++)
        store->scale[i] = half_from_float(0.01f * value(random));
    return (struct weight){.name = "w",
                           .format = format,
                           .rows = ROWS,
                           .cols = k,
                           .data = quantized              ? (const void *)store->codes
                                   : format == WEIGHT_F32 ? (const void *)store->w
                                                          : (const void *)store->halves,
                           .scale = quantized ? store->scale : NULL,
                           .block = quantized ? 32 : 0};
}

static uint32_t canonical(float y)
{
    return isnan(y) ? FLOAT_NAN_BITS : float_to_bits(y);
}

// One token at a time, by the definition.
static void expect(struct store *store, const struct weight *weight, uint32_t tokens)
{
    struct linear scalar;
    linear_open(&scalar, ISA_SCALAR, NULL);
    for (size_t t = 0; t < tokens; t++) {
        struct linear_input input = {.split = NULL};
        linear_input_set(&input, store->x + t * weight->cols, weight->cols);
        scalar.rows[weight->format](weight, &input, 0, ROWS, store->expected + t * ROWS);
    }
}

// Outputs that are not the definition's bits, and those outside [FIRST, END) that were written.
static unsigned differences(struct store *store, const struct linear_tile *tile, const struct weight *weight,
                            uint32_t tokens)
{
    const uint32_t poison = 0x4B1D4B1D;
    const size_t floats = (linear_batch_size(weight->cols, tokens) + 15) / 16 * 16;
    unsigned wrong = 0;
    struct linear_batch batch = {.packed = aligned_alloc(64, floats * sizeof(float))};
    cr_assert(batch.packed);
    for (size_t i = 0; i < floats; i++)
        batch.packed[i] = NAN; // what is not packed must not be read
    linear_batch_pack(&batch, tile, 0, linear_batch_set(&batch, store->x, weight->cols, tokens));
    for (size_t i = 0; i < (size_t)tokens * ROWS; i++)
        store->y[i] = float_from_bits(poison);
    linear_tile_rows(tile, weight, &batch, FIRST, END, store->y);
    for (size_t i = 0; i < (size_t)tokens * ROWS; i++) {
        const bool inside = i % ROWS >= FIRST && i % ROWS < END;
        wrong += inside ? canonical(store->y[i]) != canonical(store->expected[i])
                        : float_to_bits(store->y[i]) != poison;
    }
    free(batch.packed);
    return wrong;
}

// Every length and width for one tile and format; 0 when it is the definition, bit for bit.
static unsigned battery(const struct linear_tile *tile, enum weight_format format, uint64_t random, size_t n_widths)
{
    struct store *store = calloc(1, sizeof *store);
    unsigned wrong = 0;
    cr_assert(store);
    for (size_t i = 0; i < N_LENGTHS; i++) {
        const uint32_t k = LENGTHS[i];
        if (k % 32 && (format == WEIGHT_Q8 || format == WEIGHT_Q4))
            continue;
        const struct weight weight = make_weight(store, format, k, &random);
        for (size_t j = 0; j < (size_t)T_MAX * k; j++)
            store->x[j] = value(&random);
        expect(store, &weight, WIDTHS[n_widths - 1]);
        for (size_t j = 0; j < n_widths; j++)
            wrong += differences(store, tile, &weight, WIDTHS[j]);
    }
    free(store);
    return wrong;
}

Test(reference_tile, every_tile_gives_the_bits_of_one_token_at_a_time)
{
    const uint64_t random = seed();
    for (const struct linear_tile *tile = linear_tiles; tile->name; tile++) {
        if (!isa_available(tile->isa))
            continue;
        for (enum weight_format format = WEIGHT_F32; format <= WEIGHT_Q4; format++) {
            // the scalar one is slow: a few groups of tokens are enough for it
            const unsigned wrong = battery(tile, format, random, tile->isa == ISA_SCALAR ? 10 : N_WIDTHS);
            cr_expect_eq(wrong, 0, "%s %s: %u outputs differ", weight_format_name(format), tile->name, wrong);
        }
    }
}

// --- tiles that are wrong on purpose

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

static void adds_neighbours_first(const float *lanes, size_t step_of_rows, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) {
        float acc[LINEAR_LANES];
        memcpy(acc, lanes + i * step_of_rows, sizeof acc);
        for (size_t step = 1; step < LINEAR_LANES; step *= 2)
            for (size_t lane = 0; lane < LINEAR_LANES; lane += 2 * step)
                acc[lane] += acc[lane + step];
        y[i] = acc[0];
    }
}

Test(reference_tile, wrong_tiles_are_caught_and_a_right_one_is_not)
{
    const uint64_t random = seed();
    enum { N = 6 };
    struct linear_tile wrong[N];
    const char *const names[N] = {"lanes forgotten between panels", "lanes of another block", "last block lost",
                                  "product rounded", "tokens in each other's place", "tree in another order"};
    for (size_t i = 0; i < N; i++)
        wrong[i] = linear_tiles[0];
    wrong[0].multiply = forgets_the_parked_lanes;
    wrong[1].multiply = takes_the_lanes_of_the_block_before;
    wrong[2].multiply = loses_the_last_block;
    wrong[3].multiply = rounds_the_product;
    wrong[4].multiply = takes_the_neighbours_token;
    wrong[5].sum = adds_neighbours_first;
    cr_expect_eq(battery(&linear_tiles[0], WEIGHT_F32, random, 4), 0, "control: the definition must pass");
    for (size_t i = 0; i < N; i++)
        cr_expect_neq(battery(&wrong[i], WEIGHT_F32, random, 4), 0, "%s: not caught", names[i]);
}
