// LIN: the AVX2 twins give the definition's bits, the definition is what arithmetic.md 3 says, and misreadings of it
// are seen.
#include "tests/kernel_inputs.h"

// Every tail that a group of 64 and a block of 256 can have, and both exact multiples.
static const uint32_t widths[] = {1,   2,   7,   8,   9,   31,  32,  33,  63,  64,  65,  96,
                                  127, 128, 191, 192, 255, 256, 257, 320, 448, 511, 544, 576};

static void compare_linear(enum weight_format format, struct linear_rule rule)
{
    BOTH(c, fast);
    static struct store store;
    static float x[WIDEST];
    struct guarded slow_y, fast_y;
    seed_random(weight_format_name(format));
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int shape = 0; shape < SHAPES; shape++)
            for (int per_row = 0; per_row < 2; per_row++) {
                const uint32_t cols = widths[i];
                const bool quantized = format == WEIGHT_Q8 || format == WEIGHT_Q4;
                if ((!quantized && per_row) || (quantized && !per_row && cols % 32))
                    continue;
                const struct weight w = make_weight(&store, format, cols, per_row ? cols : 32, (enum shape)shape);
                char what[96];
                snprintf(what, sizeof what, "%s, cols %u, shape %d, %s", weight_format_name(format), cols, shape,
                         per_row ? "a scale a row" : "blocks of 32");
                fill(x, cols, (enum shape)shape);
                float *slow = poison(&slow_y), *quick = poison(&fast_y);
                run_linear(&c, &w, x, rule, slow);
                run_linear(&fast, &w, x, rule, quick);
                expect_equal(slow, quick, ROWS, false, what);
                cr_assert(float_to_bits(quick[0]) == 0xDEADBEEF && guards_hold(&fast_y, ROWS),
                          "%s: wrote outside its rows", what);
            }
}

static const struct linear_rule half_sum = {PRECISION_F16, PRECISION_F32},
                                half_weights = {PRECISION_F32, PRECISION_F16},
                                half_both = {PRECISION_F16, PRECISION_F16};

Test(linear, avx2_gives_the_bits_of_c_for_int8)
{
    compare_linear(WEIGHT_Q8, standard);
}

Test(linear, avx2_gives_the_bits_of_c_for_int4)
{
    compare_linear(WEIGHT_Q4, standard);
}

Test(linear, avx2_gives_the_bits_of_c_for_f16)
{
    compare_linear(WEIGHT_F16, standard);
}

Test(linear, avx2_gives_the_bits_of_c_for_bf16)
{
    compare_linear(WEIGHT_BF16, standard);
}

Test(linear, avx2_gives_the_bits_of_c_for_f32)
{
    compare_linear(WEIGHT_F32, standard);
}

Test(linear, avx2_gives_the_bits_of_c_under_every_rule_of_the_plan)
{
    const enum weight_format formats[] = {WEIGHT_Q8, WEIGHT_Q4, WEIGHT_F16, WEIGHT_BF16, WEIGHT_F32};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        compare_linear(formats[i], half_sum);
        compare_linear(formats[i], half_weights);
        compare_linear(formats[i], half_both);
    }
}

// --- LIN against the text of arithmetic.md 3, and against misreadings of it

struct reading {
    uint32_t run;     // consecutive inputs of a lane: 8
    bool fused;       // fma; otherwise a product, then a sum
    bool chain_first; // the scale multiplies the chain; otherwise every product
    bool tree;        // the tree; otherwise lane after lane
    bool first_half;  // h() after the sum
};

static float lin_as_read(const struct weight *w, uint32_t row, const float *x, struct reading read)
{
    float lane[32] = {0};
    for (uint32_t k = 0; k < w->cols; k += read.run) {
        const float scale = half_to_float(w->scale[row * (w->cols / w->block) + k / w->block]);
        float s = 0;
        for (uint32_t j = k; j < k + read.run && j < w->cols; j++) {
            float code = (float)((const int8_t *)w->data)[(size_t)row * w->cols + j];
            code = read.chain_first ? code : code * scale;
            s = j == k ? x[j] * code : read.fused ? fmaf(x[j], code, s) : s + x[j] * code;
        }
        float *acc = &lane[k / read.run % 32];
        const float factor = read.chain_first ? scale : 1;
        *acc = read.fused ? fmaf(factor, s, *acc) : *acc + factor * s;
    }
    float sum = lane[0];
    if (read.tree) {
        for (uint32_t step = 16; step; step /= 2)
            for (uint32_t l = 0; l < step; l++)
                lane[l] += lane[l + step];
        sum = lane[0];
    } else {
        for (int l = 1; l < 32; l++)
            sum += lane[l];
    }
    return read.first_half ? half_round(sum) : sum;
}

static size_t rows_that_differ(const struct reading *read, bool half)
{
    static struct store store;
    static float x[WIDEST];
    struct kernels c;
    kernels_init(&c, ISA_SCALAR);
    seed_random("readings of LIN");
    size_t different = 0;
    for (int round = 0; round < 40; round++) {
        const struct weight w = make_weight(&store, WEIGHT_Q8, 576, 32, SHAPE_ORDINARY);
        float y[ROWS];
        fill(x, 576, SHAPE_ORDINARY);
        run_linear_into(&c, &w, x, standard, y);
        if (half)
            c.round(y, ROWS, PRECISION_F16);
        for (uint32_t row = 0; row < ROWS; row++)
            different += float_to_bits(y[row]) != float_to_bits(lin_as_read(&w, row, x, *read));
    }
    return different;
}

Test(linear, is_what_the_specification_says)
{
    cr_expect_eq(rows_that_differ(&(struct reading){8, true, true, true, false}, false), 0);
    cr_expect_eq(rows_that_differ(&(struct reading){8, true, true, true, true}, true), 0);
}

// 360 rows each. Most rows of a misreading differ in fp32; all that is asked is that the test would notice.
Test(linear, misreadings_are_seen)
{
    cr_expect_gt(rows_that_differ(&(struct reading){4, true, true, true, false}, false), 36, "lanes of 4");
    cr_expect_gt(rows_that_differ(&(struct reading){8, false, true, true, false}, false), 36, "product and sum");
    cr_expect_gt(rows_that_differ(&(struct reading){8, true, false, true, false}, false), 36,
                 "scale inside the chain");
    cr_expect_gt(rows_that_differ(&(struct reading){8, true, true, false, false}, false), 36, "lane after lane");
    cr_expect_gt(rows_that_differ(&(struct reading){8, true, true, true, false}, true), 36, "no h()");
}

Test(linear, half_sums_and_half_weights_change_the_result)
{
    static struct store store;
    static float x[WIDEST];
    struct kernels c;
    float plain[ROWS], other[ROWS];
    kernels_init(&c, ISA_SCALAR);
    seed_random("rules");
    const struct weight w = make_weight(&store, WEIGHT_Q8, 448, 32, SHAPE_ORDINARY);
    fill(x, 448, SHAPE_ORDINARY);
    run_linear_into(&c, &w, x, standard, plain);
    run_linear_into(&c, &w, x, half_sum, other);
    cr_expect_neq(first_difference(plain, other, ROWS, true), ROWS);
    for (int i = 0; i < ROWS; i++)
        cr_expect_eq(float_to_bits(other[i]), float_to_bits(half_round(other[i])), "a half sum is a half");
    run_linear_into(&c, &w, x, half_weights, other);
    cr_expect_neq(first_difference(plain, other, ROWS, true), ROWS);
}
