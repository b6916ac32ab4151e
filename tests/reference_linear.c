// Kernels of reference/linear: each against the scalar definition, bit for bit; the definition against a plain double
// sum; and kernels that are wrong on purpose, which the same comparison must catch.
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness/base/half.h"
#include "reference/linear.h"

static const uint32_t LENGTHS[] = {1, 2, 15, 31, 32, 33, 63, 64, 65, 191, 192, 448, 1000};
enum { N_LENGTHS = sizeof LENGTHS / sizeof *LENGTHS, K_MAX = 1000, ROWS = 6, FIRST = 1, END = 5 };

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

// Each regime of the definition has its generator.
enum fill {
    FILL_UNIFORM,   // order of summation shows in the last bits
    FILL_WIDE,      // magnitudes up to 2^14 and 2^20: cancellation, one term may swallow the rest
    FILL_SUBNORMAL, // products and sums below 2^-126: flushing to zero shows
    FILL_UNDERFLOW, // every product rounds to -0: a lane that adds +0 x +0 to its tail turns +0
    FILL_COUNT
};

static void fill(enum fill kind, uint64_t *random, float *w, float *x)
{
    *w = uniform(random);
    *x = uniform(random);
    if (kind == FILL_WIDE) {
        *w = ldexpf(*w, (int)(next(random) % 29) - 14); // a half can hold it
        *x = ldexpf(*x, (int)(next(random) % 41) - 20);
    } else if (kind == FILL_SUBNORMAL) {
        *w = ldexpf(*w, -12);
        *x = ldexpf(*x, -118 - (int)(next(random) % 16));
    } else if (kind == FILL_UNDERFLOW) {
        *w = 0x1p-14f;
        *x = -0x1p-140f;
    }
}

// --- memory that ends where the data ends: reading one byte further is a fault

struct fence {
    unsigned char *base;
    size_t size, page;
};

static void *fence_open(struct fence *fence, size_t bytes)
{
    fence->page = (size_t)sysconf(_SC_PAGESIZE);
    fence->size = (bytes + fence->page - 1) / fence->page * fence->page;
    fence->base = mmap(NULL, fence->size + fence->page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(fence->base != MAP_FAILED && !mprotect(fence->base + fence->size, fence->page, PROT_NONE));
    return fence->base + fence->size - bytes;
}

static void fence_close(struct fence *fence)
{
    munmap(fence->base, fence->size + fence->page);
}

// --- one case: a matrix [ROWS, K] of some format and its input

struct test_case {
    struct weight weight;
    float *x;
    struct linear_input input;
    float split[K_MAX + LINEAR_LANES];
    struct fence fences[3];
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

static void case_open(struct test_case *test, enum weight_format format, uint32_t k, uint32_t block, enum fill kind,
                      uint64_t *random)
{
    const bool quantized = format == WEIGHT_Q8 || format == WEIGHT_Q4;
    memset(test, 0, sizeof *test);
    test->weight = (struct weight){.name = "w", .format = format, .rows = ROWS, .cols = k};
    test->weight.data = fence_open(&test->fences[0], ROWS * format_bytes(format, k));
    test->x = fence_open(&test->fences[1], k * sizeof(float));
    if (quantized) {
        const size_t scales = ROWS * (k / block);
        uint16_t *scale = fence_open(&test->fences[2], scales * sizeof *scale);
        for (size_t i = 0; i < scales; i++)
            scale[i] = half_from_float(kind == FILL_UNDERFLOW ? 0x1p-24f : 0.01f * uniform(random));
        test->weight.scale = scale;
        test->weight.block = block;
    }
    for (uint32_t i = 0; i < k; i++)
        for (size_t row = 0; row < ROWS; row++) {
            float w;
            fill(kind, random, &w, &test->x[i]);
            put_element(&test->weight, row, i, w, random);
        }
}

static void case_close(struct test_case *test)
{
    for (int i = 0; i < 3; i++)
        if (test->fences[i].base)
            fence_close(&test->fences[i]);
}

// --- the comparison

static linear_fn definition(enum weight_format format)
{
    for (const struct linear_kernel *kernel = linear_kernels; kernel->name; kernel++)
        if (kernel->format == format && kernel->isa == ISA_SCALAR)
            return kernel->rows;
    return NULL;
}

static uint32_t canonical(float value)
{
    return isnan(value) ? FLOAT_NAN_BITS : float_to_bits(value);
}

// Outputs that are not the definition's bits, and whether anything outside [FIRST, END) was written.
static unsigned differences(struct test_case *test, linear_fn rows)
{
    const uint32_t poison = 0x4B1D4B1D;
    float expected[ROWS] = {0}, y[ROWS + 2];
    unsigned wrong = 0;
    test->input.split = test->split;
    linear_input_set(&test->input, test->x, test->weight.cols);
    definition(test->weight.format)(&test->weight, &test->input, 0, ROWS, expected);
    for (size_t i = 0; i < ROWS + 2; i++)
        y[i] = float_from_bits(poison);
    rows(&test->weight, &test->input, FIRST, END, y + 1);
    for (size_t i = 0; i < ROWS + 2; i++) {
        const bool inside = i >= FIRST + 1 && i < END + 1;
        wrong += inside ? canonical(y[i]) != canonical(expected[i - 1]) : float_to_bits(y[i]) != poison;
    }
    return wrong;
}

// Special values, one at a time, in every lane: in x, and in w where the format can hold them.
static unsigned special_differences(struct test_case *test, linear_fn rows)
{
    const float special[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 0x1p-149f, FLT_MAX};
    uint64_t random = 1;
    unsigned wrong = 0;
    const uint32_t k = test->weight.cols;
    const bool quantized = test->weight.scale != NULL;
    for (uint32_t lane = 0; lane < LINEAR_LANES && lane < k; lane++) {
        const uint32_t at = lane + (k - 1 - lane) / LINEAR_LANES * LINEAR_LANES; // the lane's last element: its tail
        for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
            const float x = test->x[at];
            test->x[at] = special[i];
            wrong += differences(test, rows);
            test->x[at] = x;
            if (quantized) {
                uint16_t *scale = (uint16_t *)(uintptr_t)test->weight.scale + 2 * (k / test->weight.block) +
                                  at / test->weight.block;
                const uint16_t kept = *scale;
                *scale = half_from_float(special[i]);
                wrong += differences(test, rows);
                *scale = kept;
            } else {
                const float w = weight_at(&test->weight, 2, at);
                put_element(&test->weight, 2, at, special[i], &random);
                wrong += differences(test, rows);
                put_element(&test->weight, 2, at, w, &random);
            }
        }
    }
    return wrong;
}

// Everything above for one kernel; 0 when it is the definition, bit for bit.
static unsigned battery(enum weight_format format, linear_fn rows, uint64_t random)
{
    unsigned wrong = 0;
    for (size_t i = 0; i < N_LENGTHS; i++)
        for (int per_channel = 0; per_channel < 2; per_channel++) {
            const uint32_t k = LENGTHS[i], block = per_channel ? k : 32;
            const bool quantized = format == WEIGHT_Q8 || format == WEIGHT_Q4;
            if (k % block || (per_channel && !quantized && k % 32 == 0))
                continue; // the block means nothing to the plain formats: each length once
            for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
                struct test_case test;
                case_open(&test, format, k, block, kind, &random);
                wrong += differences(&test, rows);
                if (kind == FILL_UNIFORM)
                    wrong += special_differences(&test, rows);
                case_close(&test);
            }
        }
    return wrong;
}

Test(reference_linear, every_kernel_gives_the_bits_of_the_scalar_definition)
{
    const uint64_t random = seed();
    unsigned run = 0;
    for (const struct linear_kernel *kernel = linear_kernels; kernel->name; kernel++) {
        if (kernel->isa == ISA_SCALAR || !isa_available(kernel->isa))
            continue;
        const unsigned wrong = battery(kernel->format, kernel->rows, random);
        cr_expect_eq(wrong, 0, "%s %s: %u outputs differ", weight_format_name(kernel->format), kernel->name, wrong);
        run++;
    }
    if (!run)
        cr_skip_test("this machine has only the scalar kernels");
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
        const bool quantized = kernel->format == WEIGHT_Q8 || kernel->format == WEIGHT_Q4;
        const bool halves = kernel->format == WEIGHT_F16 || kernel->format == WEIGHT_BF16;
        if (!isa_available(kernel->isa))
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

// --- kernels that are wrong on purpose

static float tree(float acc[LINEAR_LANES])
{
    for (size_t half = LINEAR_LANES / 2; half; half /= 2)
        for (size_t lane = 0; lane < half; lane++)
            acc[lane] += acc[lane + half];
    return acc[0];
}

#define WRONG_KERNEL(name, step, finish)                                                                             \
    static void name(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,        \
                     float *y)                                                                                       \
    {                                                                                                                \
        const uint32_t n = weight->cols;                                                                             \
        for (size_t row = first; row < end; row++) {                                                                 \
            float acc[LINEAR_LANES] = {0};                                                                           \
            for (uint32_t k = 0; k < n; k++) {                                                                       \
                const float w = weight_at(weight, (uint32_t)row, k), x = input->x[k];                                \
                step;                                                                                                \
            }                                                                                                        \
            y[row] = finish;                                                                                         \
        }                                                                                                            \
    }

static float pairwise_tree(float acc[LINEAR_LANES])
{
    for (size_t step = 1; step < LINEAR_LANES; step *= 2)
        for (size_t lane = 0; lane < LINEAR_LANES; lane += 2 * step)
            acc[lane] += acc[lane + step];
    return acc[0];
}

// Adds fma(+0, +0, acc) to the lanes that the last block does not fill.
static float zero_filled_tree(float acc[LINEAR_LANES], uint32_t n)
{
    for (size_t lane = n % LINEAR_LANES; lane && lane < LINEAR_LANES; lane++)
        acc[lane] = fmaf(0.0f, 0.0f, acc[lane]);
    return tree(acc);
}

static float flushed(float value)
{
    return fabsf(value) < FLT_MIN ? 0.0f : value;
}

// Lanes 0 and 1 change places. (All lanes moved by the same step, or by an exclusive or, give the same sum.)
static size_t swapped(uint32_t k)
{
    return k % 32 < 2 ? 1 - k % 32 : k % 32;
}

WRONG_KERNEL(right, acc[k % 32] = fmaf(w, x, acc[k % 32]), tree(acc))
WRONG_KERNEL(sequential, acc[0] = fmaf(w, x, acc[0]), acc[0])
WRONG_KERNEL(separate_multiply_and_add, acc[k % 32] += w * x, tree(acc))
WRONG_KERNEL(sixteen_lanes, acc[k % 16] = fmaf(w, x, acc[k % 16]), tree(acc))
WRONG_KERNEL(swapped_lanes, acc[swapped(k)] = fmaf(w, x, acc[swapped(k)]), tree(acc))
WRONG_KERNEL(neighbours_first, acc[k % 32] = fmaf(w, x, acc[k % 32]), pairwise_tree(acc))
WRONG_KERNEL(zero_filled_tail, acc[k % 32] = fmaf(w, x, acc[k % 32]), zero_filled_tree(acc, n))
WRONG_KERNEL(last_element_lost, acc[k % 32] = fmaf(k + 1 < n ? w : 0, x, acc[k % 32]), tree(acc))
WRONG_KERNEL(subnormals_flushed, acc[k % 32] = flushed(fmaf(w, x, acc[k % 32])), tree(acc))
WRONG_KERNEL(nan_dropped, acc[k % 32] = isnan(w * x) ? acc[k % 32] : fmaf(w, x, acc[k % 32]), tree(acc))

static void one_row_too_many(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                             float *y)
{
    right(weight, input, first, end + 1, y);
}

Test(reference_linear, wrong_kernels_are_caught_and_a_right_one_is_not)
{
    static const struct {
        const char *name;
        linear_fn rows;
    } wrong[] = {
        {"sequential", sequential},
        {"separate multiply and add", separate_multiply_and_add},
        {"16 lanes", sixteen_lanes},
        {"swapped lanes", swapped_lanes},
        {"tree in another order", neighbours_first},
        {"zero-filled tail", zero_filled_tail},
        {"last element lost", last_element_lost},
        {"subnormals flushed", subnormals_flushed},
        {"NaN dropped", nan_dropped},
        {"one row too many", one_row_too_many},
    };
    const enum weight_format formats[] = {WEIGHT_F32, WEIGHT_BF16};
    const uint64_t random = seed();
    for (size_t f = 0; f < 2; f++) {
        cr_expect_eq(battery(formats[f], right, random), 0, "control: the definition written again must pass");
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
            cr_expect_neq(battery(formats[f], wrong[i].rows, random), 0, "%s, %s: not caught",
                          weight_format_name(formats[f]), wrong[i].name);
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
            for (enum fill kind = FILL_UNIFORM; kind <= FILL_WIDE; kind++) {
                struct test_case test;
                float y[ROWS];
                const uint32_t k = LENGTHS[i];
                case_open(&test, format, k, k, kind, &random);
                linear_input_set(&test.input, test.x, k);
                definition(format)(&test.weight, &test.input, 0, ROWS, y);
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
                case_close(&test);
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
