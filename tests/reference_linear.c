// What reference/linear promises beyond its kernels, which tests/kernels compares with the definition: the definition
// against a plain double sum and by hand, long rows, the table, and the threads.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/half.h"
#include "reference/linear.h"

static const uint32_t LENGTHS[] = {1, 2, 15, 31, 32, 33, 63, 64, 65, 191, 192, 448, 1000};
enum { N_LENGTHS = sizeof LENGTHS / sizeof *LENGTHS, K_MAX = 1000, ROWS = 6 };

// --- inputs: splitmix64; the seed is printed, ASSAY_TEST_SEED sets another

static uint64_t seed(void)
{
    const char *text = getenv("ASSAY_TEST_SEED");
    const uint64_t value = text ? strtoull(text, NULL, 0) : 20251121;
    fprintf(stderr, "# ASSAY_TEST_SEED=%llu\n", (unsigned long long)value);
    return value;
}

static uint64_t next(uint64_t *random)
{
    uint64_t z = *random += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static float uniform(uint64_t *random) // [-1, 1)
{
    return (float)(int32_t)(next(random) >> 32) * 0x1p-31f;
}

// Of ordinary size, or of magnitudes up to 2^14 and 2^20: cancellation, one term may swallow the rest.
static void fill(bool wide, uint64_t *random, float *w, float *x)
{
    *w = uniform(random);
    *x = uniform(random);
    if (wide) {
        *w = ldexpf(*w, (int)(next(random) % 29) - 14); // a half can hold it
        *x = ldexpf(*x, (int)(next(random) % 41) - 20);
    }
}

// --- one case: a matrix [ROWS, K] of some format and its input

struct test_case {
    struct weight weight;
    float w[ROWS * K_MAX];
    uint16_t scale[ROWS];
    float x[K_MAX];
};

static size_t format_bytes(enum weight_format format, uint32_t k)
{
    const struct weight row = {.format = format, .cols = k};
    return (size_t)weight_row_bytes(&row);
}

static void put_element(struct weight *weight, size_t row, size_t k, float value, uint64_t *random)
{
    const size_t at = row * weight->cols + k;
    void *data = (void *)(uintptr_t)weight->data;
    if (weight->format == WEIGHT_F32)
        ((float *)data)[at] = value;
    else if (weight->format == WEIGHT_F16)
        ((uint16_t *)data)[at] = half_from_float(value);
    else if (weight->format == WEIGHT_BF16)
        ((uint16_t *)data)[at] = (uint16_t)(float_to_bits(value) >> 16);
    else // any code is a good code
        ((uint8_t *)
             data)[row * format_bytes(weight->format, weight->cols) + (weight->format == WEIGHT_Q4 ? k / 2 : k)] =
            (uint8_t)next(random);
}

static void make_case(struct test_case *test, enum weight_format format, uint32_t k, bool wide, uint64_t *random)
{
    const bool quantized = format == WEIGHT_Q8 || format == WEIGHT_Q4;
    test->weight = (struct weight){.name = "w", .format = format, .rows = ROWS, .cols = k, .data = test->w};
    if (quantized) {
        for (size_t row = 0; row < ROWS; row++)
            test->scale[row] = half_from_float(0.01f * uniform(random));
        test->weight.scale = test->scale;
        test->weight.block = k;
    }
    for (uint32_t i = 0; i < k; i++)
        for (size_t row = 0; row < ROWS; row++) {
            float w;
            fill(wide, random, &w, &test->x[i]);
            put_element(&test->weight, row, i, w, random);
        }
}

static linear_fn definition(enum weight_format format)
{
    for (const struct linear_kernel *kernel = linear_kernels; kernel->name; kernel++)
        if (kernel->format == format && kernel->isa == ISA_SCALAR)
            return kernel->rows;
    return NULL;
}

// Kernels take long rows together, and what is left of them one at a time.
Test(reference_linear, long_rows_give_the_bits_of_the_scalar_definition)
{
    enum { MANY = 19, LONG = 4133 };
    uint64_t random = seed();
    static uint32_t w[MANY * LONG];
    static uint16_t scale[MANY * (4128 / 32)];
    static float x[LONG], split[LONG + 32], expected[MANY], y[MANY];
    for (const struct linear_kernel *kernel = linear_kernels; kernel->name; kernel++) {
        if (kernel->isa == ISA_SCALAR)
            continue; // is the definition
        const bool quantized = kernel->format == WEIGHT_Q8 || kernel->format == WEIGHT_Q4;
        const bool halves = kernel->format == WEIGHT_F16 || kernel->format == WEIGHT_BF16;
        if (!isa_available(kernel->isa) || kernel->rows == definition(kernel->format))
            continue;
        for (size_t i = 0; i < MANY * LONG; i++) {
            const float value = uniform(&random), other = uniform(&random);
            const uint32_t high = kernel->format == WEIGHT_F16 ? half_from_float(value) : float_to_bits(value) >> 16;
            const uint32_t low = kernel->format == WEIGHT_F16 ? half_from_float(other) : float_to_bits(other) >> 16;
            w[i] = quantized ? (uint32_t)next(&random) : halves ? high << 16 | low : float_to_bits(value);
        }
        for (size_t i = 0; i < sizeof scale / sizeof *scale; i++)
            scale[i] = half_from_float(0.01f * uniform(&random));
        for (size_t i = 0; i < LONG; i++)
            x[i] = uniform(&random);
        const struct weight weight = {.name = "w",
                                      .format = kernel->format,
                                      .rows = MANY,
                                      .cols = quantized ? 4128 : LONG,
                                      .data = w,
                                      .scale = quantized ? scale : NULL,
                                      .block = quantized ? 32 : 0};
        struct linear_input input = {.split = split};
        linear_input_set(&input, x, weight.cols);
        definition(kernel->format)(&weight, &input, 0, MANY, expected);
        kernel->rows(&weight, &input, 0, MANY, y);
        for (size_t row = 0; row < MANY; row++)
            cr_expect_eq(float_to_bits(y[row]), float_to_bits(expected[row]), "%s %s: row %zu: %a, expected %a",
                         weight_format_name(kernel->format), kernel->name, row, (double)y[row], (double)expected[row]);
    }
}

// --- the definition

Test(reference_linear, the_definition_is_a_dot_product_within_its_rounding_bound)
{
    // A lane's chain rounds ceil(K / 32) times and the tree five times, so with n of both, |y - exact| <= gamma_n sum
    // |w x|, gamma_n = n u / (1 - n u), u = 2^-24 (Higham, Accuracy and Stability, 3.1); a double sum's own error is
    // 2^-29 of that.
    uint64_t random = seed();
    double worst = 0;
    for (enum weight_format format = WEIGHT_F32; format <= WEIGHT_Q4; format++)
        for (size_t i = 0; i < N_LENGTHS; i++)
            for (int wide = 0; wide < 2; wide++) {
                static struct test_case test;
                struct linear_input input = {.split = NULL};
                float y[ROWS];
                const uint32_t k = LENGTHS[i];
                make_case(&test, format, k, wide, &random);
                linear_input_set(&input, test.x, k);
                definition(format)(&test.weight, &input, 0, ROWS, y);
                const double n = (k + 31) / 32 + 5, gamma = n * 0x1p-24 / (1 - n * 0x1p-24);
                for (uint32_t row = 0; row < ROWS; row++) {
                    double sum = 0, absolute = 0;
                    for (uint32_t j = 0; j < k; j++) {
                        sum += (double)weight_at(&test.weight, row, j) * test.x[j];
                        absolute += fabs((double)weight_at(&test.weight, row, j) * test.x[j]);
                    }
                    const double share = absolute > 0 ? fabs(y[row] - sum) / (gamma * absolute) : 0;
                    cr_expect(share <= 1, "%s, K = %u: %g times the bound", weight_format_name(format), k, share);
                    worst = fmax(worst, share);
                }
            }
    fprintf(stderr, "# worst error of the definition: %.3f of its bound\n", worst);
    cr_expect(worst > 0, "fp32 sums are not exact: nothing was compared");
}

Test(reference_linear, known_answers_of_order_and_single_rounding)
{
    float x[64] = {0}, w[64] = {0}, y;
    struct linear_input input = {.split = NULL};
    const struct weight weight = {.format = WEIGHT_F32, .rows = 1, .cols = 64, .data = w};
    const linear_fn rows = definition(WEIGHT_F32);
    // 2^24 + 1 is no float: lane 0 meets lane 16 first, so 2^24 + 1 + 1 loses both ones, but (1 + 1) in lane 1's pair
    // survives
    for (int i = 0; i < 64; i++)
        x[i] = 1;
    w[0] = 0x1p24f, w[16] = 1, w[8] = 1;
    linear_input_set(&input, x, 64);
    rows(&weight, &input, 0, 1, &y);
    cr_expect_eq(y, 0x1p24f);
    w[8] = 0, w[1] = 1, w[17] = 1, w[16] = 0;
    rows(&weight, &input, 0, 1, &y);
    cr_expect_eq(y, 0x1p24f + 2);
    // fma: (1 + 2^-12)^2 - (1 + 2^-11) = 2^-24 exactly; a product that is rounded first gives 0. Lane 5 takes k = 5
    // and 37.
    memset(w, 0, sizeof w);
    w[5] = -(1 + 0x1p-11f), x[5] = 1;
    w[37] = 1 + 0x1p-12f, x[37] = 1 + 0x1p-12f;
    linear_input_set(&input, x, 64);
    rows(&weight, &input, 0, 1, &y);
    cr_expect_eq(y, 0x1p-24f);
}

// --- the table and the threads

Test(reference_linear, an_isa_brings_its_own_kernels_and_scalar_brings_none_but_the_definition)
{
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        struct linear linear;
        if (!isa_available((enum isa)isa))
            continue;
        linear_open(&linear, (enum isa)isa, NULL);
        for (enum weight_format format = WEIGHT_F32; format <= WEIGHT_Q4; format++) {
            const char *chosen = NULL;
            for (const struct linear_kernel *kernel = linear_kernels; kernel->name; kernel++)
                if (kernel->format == format && kernel->rows == linear.rows[format] && !chosen)
                    chosen = kernel->name;
            cr_expect_str_eq(chosen, isa_name((enum isa)isa), "%s", weight_format_name(format));
        }
    }
}

Test(reference_linear, threads_and_bias_leave_every_row_as_one_thread_computes_it)
{
    enum { TALL = 3001, K = 191 };
    static float w[TALL * K], bias[TALL], expected[TALL], y[TALL + 1];
    struct error error = {0};
    uint64_t random = seed();
    float x[K], split[K + LINEAR_LANES];
    struct linear_input input = {.split = split};
    for (size_t i = 0; i < TALL * K; i++)
        w[i] = uniform(&random);
    for (size_t i = 0; i < TALL; i++)
        bias[i] = uniform(&random);
    for (size_t i = 0; i < K; i++)
        x[i] = uniform(&random);
    linear_input_set(&input, x, K);
    struct weight weight = {.format = WEIGHT_F32, .rows = TALL, .cols = K, .data = w};
    definition(WEIGHT_F32)(&weight, &input, 0, TALL, expected);
    const uint32_t rows[] = {1, 2, 17, 1000, TALL};
    for (unsigned threads = 1; threads <= 5; threads += 2) {
        struct pool *pool;
        struct linear linear;
        cr_assert_eq(pool_open(&pool, threads, &error), 0);
        linear_open(&linear, isa_best(), pool);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (int biased = 0; biased < 2; biased++) {
                weight.rows = rows[i];
                memset(y, 0x5A, sizeof y);
                const float guard = y[rows[i]];
                linear_run(&linear, &weight, biased ? bias : NULL, &input, y);
                for (uint32_t row = 0; row < rows[i]; row++)
                    cr_assert_eq(float_to_bits(y[row]),
                                 float_to_bits(biased ? expected[row] + bias[row] : expected[row]), "row %u", row);
                cr_assert_eq(float_to_bits(y[rows[i]]), float_to_bits(guard));
            }
        pool_close(&pool);
    }
}
