#include "tests/kernels/check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness/base/half.h"

#define POISON UINT32_C(0xDEADBEEF)

enum { GUARD = 64 };

// --- inputs

uint64_t check_random(struct check *check) // splitmix64
{
    uint64_t z = check->random += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

float check_unit(struct check *check)
{
    return (float)(int32_t)(check_random(check) >> 32) * 0x1p-31f;
}

const char *check_regime_name(enum regime regime)
{
    static const char *const names[REGIMES] = {"ordinary",  "wide",  "cancelling", "subnormal",
                                               "underflow", "zeros", "infinite",   "NaN"};
    return names[regime];
}

static float rarely(struct check *check, float special, float otherwise)
{
    return check_random(check) % 97 ? otherwise : special;
}

static float any_finite_half(struct check *check, uint16_t kept)
{
    const uint16_t bits = (uint16_t)(check_random(check) & kept);
    return half_to_float((bits & 0x7C00) == 0x7C00 ? bits & 0xBFFF : bits);
}

void check_pair(struct check *check, enum regime regime, bool halves, float *w, float *x)
{
    const uint64_t bits = check_random(check);
    float a = 4 * check_unit(check), b = 4 * check_unit(check);
    switch (regime) {
    case REGIME_WIDE:
        a = halves ? any_finite_half(check, 0xFFFF) : ldexpf(a, (int)(bits % 29) - 16); // a half can hold a weight
        b = halves ? any_finite_half(check, 0xFFFF) : ldexpf(b, (int)(bits >> 8) % 41 - 20);
        break;
    case REGIME_CANCELLING:
        a = (bits & 1 ? -64.0f : 64.0f) * (1 + 0x1p-8f * a);
        b = 512 * (1 + 0x1p-8f * b);
        break;
    case REGIME_SUBNORMAL:
        a = ldexpf(a, -12);
        b = halves ? any_finite_half(check, 0x83FF) : ldexpf(b, -118 - (int)(bits % 31));
        break;
    case REGIME_UNDERFLOW:
        a = halves ? 0x1p-24f : 0x1p-14f;
        b = halves ? -0x1p-24f : -0x1p-140f;
        break;
    case REGIME_ZEROS:
        a = bits & 7 ? (bits & 8 ? -0.0f : 0.0f) : a;
        b = bits & 0x70 ? (bits & 0x80 ? -0.0f : 0.0f) : b;
        break;
    case REGIME_INFINITE:
        a = rarely(check, bits & 1 ? INFINITY : -INFINITY, a);
        b = rarely(check, bits & 2 ? INFINITY : -INFINITY, b);
        break;
    case REGIME_NAN:
        a = rarely(check, float_from_bits(0x7FD23000 | (uint32_t)(bits & 1) << 31), a);
        b = rarely(check, float_from_bits(0x7FE46000 | (uint32_t)(bits & 2) << 30), b);
        break;
    default:
        break;
    }
    *w = halves && a == a ? half_round(a) : a;
    *x = halves && b == b ? half_round(b) : b;
}

bool check_settled(const struct check *check)
{
    return check->is_control && check->wrong;
}

uint32_t check_length(const struct check *check, size_t i, uint32_t every)
{
    static const uint32_t longer[] = {191, 192, 193, 255, 256, 257, 319, 320,
                                      448, 511, 512, 513, 576, 577, 999, 1000};
    size_t left = i < every ? 0 : i - every;
    if (check_settled(check))
        return 0;
    if (i < every)
        return (uint32_t)i + 1;
    for (size_t at = 0; at < sizeof longer / sizeof *longer; at++)
        if (longer[at] > every && left-- == 0)
            return longer[at];
    return 0;
}

// --- memory

void *check_fenced(unsigned number, size_t bytes)
{
    static unsigned char *ends[CHECK_FENCES];
    if (bytes > CHECK_FENCED || number >= CHECK_FENCES)
        abort();
    if (!ends[number]) {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        unsigned char *base =
            mmap(NULL, CHECK_FENCED + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED || mprotect(base + CHECK_FENCED, page, PROT_NONE))
            abort();
        ends[number] = base + CHECK_FENCED;
    }
    return ends[number] - bytes;
}

static float output[GUARD + CHECK_LONGEST + GUARD];

float *check_output(void)
{
    for (size_t i = 0; i < sizeof output / sizeof *output; i++)
        output[i] = float_from_bits(POISON);
    return output + GUARD;
}

static bool same(float expected, float found, bool exact)
{
    return float_to_bits(expected) == float_to_bits(found) || (!exact && isnan(expected) && isnan(found));
}

void check_value(struct check *check, float expected, float found, bool exact, const char *where, ptrdiff_t at)
{
    if (same(expected, found, exact) || check->wrong++)
        return;
    snprintf(check->first, sizeof check->first, "%s [%td]: expected %a (0x%08x), found %a (0x%08x)", where, at,
             (double)expected, float_to_bits(expected), (double)found, float_to_bits(found));
}

void check_compare(struct check *check, const float *expected, const float *y, size_t first, size_t end, bool exact,
                   const char *format, ...)
{
    char where[96];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(where, sizeof where, format, arguments);
    va_end(arguments);
    const ptrdiff_t start = y - output; // a kernel's row 0 may lie after the place's
    for (ptrdiff_t i = 0; i < (ptrdiff_t)(sizeof output / sizeof *output); i++) {
        const ptrdiff_t at = i - start;
        const bool inside = at >= (ptrdiff_t)first && at < (ptrdiff_t)end;
        const float wanted = inside ? expected[at] : float_from_bits(POISON);
        check_value(check, wanted, output[i], exact || !inside, where, at);
    }
    check->compared += end - first;
}

// --- hashes

void check_hash(uint64_t *hash, const float *values, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t bits = values[i] == values[i] ? float_to_bits(values[i]) : FLOAT_NAN_BITS;
        for (int shift = 0; shift < 32; shift += 8)
            *hash = (*hash ^ (bits >> shift & 0xFF)) * UINT64_C(0x100000001B3);
    }
}

// --- the definitions

linear_fn check_definition(enum weight_format format)
{
    for (const struct linear_kernel *kernel = linear_kernels; kernel->name; kernel++)
        if (kernel->format == format && kernel->isa == ISA_SCALAR)
            return kernel->rows;
    abort();
}

const struct kernels *check_definitions(void)
{
    static struct kernels kernels;
    kernels_init(&kernels, ISA_SCALAR);
    return &kernels;
}
