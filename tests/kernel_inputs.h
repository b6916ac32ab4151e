// kernel_inputs: shaped inputs, poisoned outputs and small weights for the tests of the runtime's kernels. A seed is
// printed; ASSAY_SEED repeats it.
#ifndef ASSAY_TESTS_KERNEL_INPUTS_H
#define ASSAY_TESTS_KERNEL_INPUTS_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "harness/base/floating.h"
#include "harness/base/half.h"
#include "runtime/kernels.h"

enum { WIDEST = 600, ROWS = 9, GUARD = 16 };

static const struct linear_rule standard = {PRECISION_F32, PRECISION_F32};

// --- inputs

static uint64_t random_state;

static inline void seed_random(const char *test)
{
    const char *given = getenv("ASSAY_SEED");
    random_state = given ? strtoull(given, NULL, 0) : UINT64_C(0x9E3779B97F4A7C15);
    fprintf(stderr, "# %s: ASSAY_SEED=0x%llx\n", test, (unsigned long long)random_state);
}

static inline uint32_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static inline float random_unit(void) // in [-1, 1)
{
    return (float)(int32_t)random_bits() * 0x1p-31f;
}

enum shape {
    SHAPE_ORDINARY, // about one: what a model holds
    SHAPE_WIDE,     // any half that is a number: subnormals, both zeros, the largest; sums cancel or overflow
    SHAPE_ZEROS,    // mostly +0 and -0: signs of zero survive or not
    SHAPE_TINY,     // subnormal halves only
    SHAPE_SPECIAL,  // ordinary with a rare Inf and NaN
    SHAPES
};

static inline float shaped(enum shape shape)
{
    const uint32_t bits = random_bits();
    switch (shape) {
    case SHAPE_WIDE:
        return half_to_float((uint16_t)((bits & 0x7C00) == 0x7C00 ? bits & 0xBFFF : bits));
    case SHAPE_ZEROS:
        return bits % 8 ? (bits & 0x100 ? -0.0f : 0.0f) : half_round(random_unit());
    case SHAPE_TINY:
        return half_to_float((uint16_t)(bits & 0x83FF));
    case SHAPE_SPECIAL:
        if (bits % 97 == 0)
            return bits & 0x1000 ? INFINITY : bits & 0x2000 ? -INFINITY : NAN;
        return half_round(random_unit());
    default:
        return half_round(4 * random_unit());
    }
}

static inline void fill(float *x, size_t n, enum shape shape)
{
    for (size_t i = 0; i < n; i++)
        x[i] = shaped(shape);
}

// --- outputs: poisoned, with guards before and after

struct guarded {
    float all[GUARD + WIDEST + GUARD];
};

static inline float *poison(struct guarded *guarded)
{
    for (size_t i = 0; i < sizeof guarded->all / sizeof *guarded->all; i++)
        guarded->all[i] = float_from_bits(0xDEADBEEF);
    return guarded->all + GUARD;
}

static inline bool guards_hold(const struct guarded *guarded, size_t n)
{
    const size_t end = sizeof guarded->all / sizeof *guarded->all;
    for (size_t i = 0; i < end; i++)
        if ((i < GUARD || i >= GUARD + n) && float_to_bits(guarded->all[i]) != 0xDEADBEEF)
            return false;
    return true;
}

// Bits; a NaN equals a NaN where `canonical` is false (sums before their rounding).
static inline size_t first_difference(const float *a, const float *b, size_t n, bool canonical)
{
    for (size_t i = 0; i < n; i++) {
        const bool both_nan = !canonical && a[i] != a[i] && b[i] != b[i];
        if (float_to_bits(a[i]) != float_to_bits(b[i]) && !both_nan)
            return i;
    }
    return n;
}

// The first place where y is not what a slow model in double gives; a NaN must be the canonical one.
static inline uint32_t first_off(const double *slow, const float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (float_to_bits(y[i]) != (isnan(slow[i]) ? FLOAT_NAN_BITS : float_to_bits((float)slow[i])))
            return i;
    return n;
}

static inline void expect_equal(const float *c, const float *fast, size_t n, bool canonical, const char *what)
{
    const size_t i = first_difference(c, fast, n, canonical);
    cr_assert(i == n, "%s: element %zu of %zu: the definition gives %a (0x%08x), AVX2 %a (0x%08x)", what, i, n,
              (double)c[i], float_to_bits(c[i]), (double)fast[i], float_to_bits(fast[i]));
}

static inline bool tables(struct kernels *c, struct kernels *fast)
{
    kernels_init(c, ISA_SCALAR);
    if (!isa_available(ISA_AVX2))
        return false;
    kernels_init(fast, ISA_AVX2);
    return true;
}

#define BOTH(c, fast)                                                                                                \
    struct kernels c, fast;                                                                                          \
    if (!tables(&c, &fast))                                                                                          \
    cr_skip_test("this processor has no AVX2")

// --- weights

struct store {
    float f32[ROWS * WIDEST];
    uint16_t halves[ROWS * WIDEST], scale[ROWS * WIDEST];
    uint8_t codes[ROWS * WIDEST];
};

static inline struct weight make_weight(struct store *store, enum weight_format format, uint32_t cols, uint32_t block,
                                        enum shape shape)
{
    struct weight w = {.name = "w", .format = format, .rows = ROWS, .cols = cols, .block = block};
    const bool wild = shape == SHAPE_SPECIAL;
    for (size_t i = 0; i < (size_t)ROWS * cols; i++) {
        const float value = shaped(shape);
        store->f32[i] = value * (1 + 0x1p-20f); // bits that a half does not have
        store->halves[i] = format == WEIGHT_BF16 ? (uint16_t)(float_to_bits(value) >> 16) : half_from_float(value);
        store->codes[i] = (uint8_t)random_bits();
        store->scale[i] =
            half_from_float(wild && random_bits() % 50 == 0 ? shaped(SHAPE_SPECIAL) : 0.01f * random_unit());
    }
    const bool quantized = format == WEIGHT_Q8 || format == WEIGHT_Q4;
    w.scale = quantized ? store->scale : NULL;
    w.data = quantized              ? (const void *)store->codes
             : format == WEIGHT_F32 ? (const void *)store->f32
                                    : (const void *)store->halves;
    return w;
}

static inline void run_linear(const struct kernels *kernels, const struct weight *w, const float *x,
                              struct linear_rule rule, float *y)
{
    float arranged[WIDEST + 128];
    kernels->arrange(x, w->cols, arranged);
    kernels->linear(w, arranged, rule, 1, w->rows, y); // the first row is left alone
}

static inline void run_linear_into(const struct kernels *kernels, const struct weight *w, const float *x,
                                   struct linear_rule rule, float *y)
{
    float all[ROWS];
    float arranged[WIDEST + 128];
    kernels->arrange(x, w->cols, arranged);
    kernels->linear(w, arranged, rule, 0, w->rows, all);
    memcpy(y, all, sizeof all);
}

// --- flush to zero

#if defined(__SSE__)
// Subnormals are flushed, in and out, until flush_end is given the result.
static inline unsigned flush_begin(void)
{
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040); // FTZ | DAZ
    volatile float smallest = 0x1p-126f, half = 0.5f;
    cr_assert(smallest * half == 0, "control: the flush is on");
    return saved;
}

static inline void flush_end(unsigned saved)
{
    _mm_setcsr(saved);
}
#endif

#endif
