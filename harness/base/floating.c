#include "harness/base/floating.h"

#include <fenv.h>
#include <math.h>

#include "harness/base/half.h"

#if defined(__x86_64__)
#include <xmmintrin.h>

static uint64_t control_read(void)
{
    return _mm_getcsr();
}

static void control_write(uint64_t control)
{
    _mm_setcsr((unsigned)control);
}

enum { CONTROL = 0x1F80 };

#elif defined(__aarch64__)

static uint64_t control_read(void)
{
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return control;
}

static void control_write(uint64_t control)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(control));
}

enum { CONTROL = 0 };

#else // what C11 can say: the rounding direction; the self-test still finds flushed subnormals

static uint64_t control_read(void)
{
    return (uint64_t)fegetround();
}

static void control_write(uint64_t control)
{
    fesetround((int)control);
}

enum { CONTROL = FE_TONEAREST };

#endif

void floating_enter(struct floating *saved)
{
    saved->control = control_read();
    control_write(CONTROL);
}

void floating_leave(const struct floating *saved)
{
    control_write(saved->control);
}

bool floating_has_fma(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    return __builtin_cpu_supports("fma");
#elif defined(__aarch64__)
    return true;
#else
    return false;
#endif
}

// Operands go through volatile objects, so that the processor computes and not the compiler. (Of volatile
// *parameters* gcc 12 knows the constants and folds them.)
static float add(float a, float b)
{
    volatile float x = a, y = b;
    return x + y;
}

static float multiply(float a, float b)
{
    volatile float x = a, y = b;
    return x * y;
}

static double add_double(double a, double b)
{
    volatile double x = a, y = b;
    return x + y;
}

static float fused(float a, float b, float c)
{
    volatile float x = a, y = b, z = c;
    return fmaf(x, y, z);
}

static double fused_double(double a, double b, double c)
{
    volatile double x = a, y = b, z = c;
    return fma(x, y, z);
}

// Written as two operations: a compiler that contracts them gives the result of fma.
static float multiply_add(float a, float b, float c)
{
    volatile float x = a, y = b, z = c;
    return x * y + z;
}

int floating_selftest(struct error *error)
{
    const struct {
        const char *what;
        double found, expected;
    } probes[] = {
        {"a product that is subnormal is not flushed", multiply(0x1p-126f, 0.5f), 0x1p-127},
        {"a subnormal operand is not read as zero", multiply(0x1p-149f, 2.0f), 0x1p-148},
        {"+ rounds a tie to even, here down", add(1.0f, 0x1p-24f), 1.0},
        {"+ rounds a tie to even, here up", add(0x1.000002p0f, 0x1p-24f), 0x1.000004p0},
        {"+ of negative numbers rounds a tie to even", add(-1.0f, -0x1p-24f), -1.0},
        {"x rounds a tie to even, here up", multiply(0x1.000002p0f, 1.5f), 0x1.800004p0},
        {"+ of doubles rounds a tie to even", add_double(1.0, 0x1p-53), 1.0},
        {"+ of doubles rounds a tie to even, here up", add_double(0x1.0000000000001p0, 0x1p-53), 0x1.0000000000002p0},
        // (1 + 2^-12)^2 - (1 + 2^-11) = 2^-24: lost when the product is rounded first
        {"fmaf rounds once", fused(0x1.001p0f, 0x1.001p0f, -0x1.002p0f), 0x1p-24},
        {"fma rounds once", fused_double(0x1.0000001p0, 0x1.0000001p0, -0x1.0000002p0), 0x1p-56},
        {"a product and a sum are not contracted to fma", multiply_add(0x1.001p0f, 0x1.001p0f, -0x1.002p0f), 0.0},
        {"a half rounds a tie to even, here down", half_from_float(0x1.002p0f), 0x3C00},
        {"a half rounds a tie to even, here up", half_from_float(0x1.006p0f), 0x3C02},
        {"halves from 65,520 on are infinite", half_from_float(65520.0f), 0x7C00},
    };
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
        if (!(probes[i].found == probes[i].expected))
            return error_set(
                error, ERROR_RUNTIME,
                "floating-point self-test: %s: found %a, expected %a; something in this process or on this "
                "machine changed the arithmetic (a library built with -Ofast?), no number can be trusted",
                probes[i].what, probes[i].found, probes[i].expected);
    return 0;
}
