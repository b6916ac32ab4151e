// floating: a wrong environment is found, and entering repairs it.
#include "harness/base/floating.h"

#include <criterion/criterion.h>
#include <fenv.h>
#include <math.h>
#include <string.h>

#include "harness/base/isa.h"

#if defined(__x86_64__)
#include <xmmintrin.h>

static unsigned found_control;

static void plant(unsigned control)
{
    _mm_setcsr(control);
}

static void expect_caught(unsigned control, const char *by)
{
    struct error error = {0};
    plant(control);
    const int found = floating_selftest(&error);
    struct floating saved;
    floating_enter(&saved);
    const int repaired = floating_selftest(NULL);
    floating_leave(&saved);
    found_control = _mm_getcsr() & ~0x3Fu; // without the sticky exception flags
    plant(0x1F80);
    cr_expect_eq(found, ERROR_RUNTIME, "%04x was not found", control);
    cr_expect(strstr(error.text, by), "%04x: %s", control, error.text);
    cr_expect_eq(repaired, 0, "%04x was not repaired", control);
    cr_expect_eq(found_control, control, "%04x was not given back", control);
}

Test(floating, every_wrong_environment_is_found_and_repaired)
{
    cr_assert_eq(floating_selftest(NULL), 0);           // the control
    expect_caught(0x9F80, "product that is subnormal"); // flush to zero
    expect_caught(0x1FC0, "subnormal");                 // denormals are zero: the comparison reads them so, too
    expect_caught(0x9FC0, "subnormal");                 // both, as -Ofast leaves it
    expect_caught(0x7F80, "tie to even");               // toward zero
    expect_caught(0x5F80, "tie to even");               // up
    expect_caught(0x3F80, "tie to even");               // down
}

Test(floating, exceptions_stay_masked)
{
    struct floating saved;
    floating_enter(&saved);
    volatile float zero = 0.0f;
    volatile float infinite = 1.0f / zero; // would raise SIGFPE
    floating_leave(&saved);
    cr_assert(isinf(infinite));
}
#endif

Test(floating, rounding_modes_of_c_are_repaired)
{
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        struct floating saved;
        fesetround(modes[i]);
        const int found = floating_selftest(NULL);
        floating_enter(&saved);
        const int repaired = floating_selftest(NULL);
        floating_leave(&saved);
        fesetround(FE_TONEAREST);
        cr_assert_eq(found, ERROR_RUNTIME);
        cr_assert_eq(repaired, 0);
    }
}

Test(isa, names_are_read_back_and_others_refused)
{
    struct error error;
    enum isa isa;
    cr_assert(isa_available(ISA_SCALAR));
    cr_assert(isa_available(isa_best()));
    for (int i = 0; i < ISA_COUNT; i++) {
        const int result = isa_parse(isa_name((enum isa)i), &isa, &error);
        cr_assert_eq(result, isa_available((enum isa)i) ? 0 : ERROR_USAGE);
        cr_assert(result || isa == (enum isa)i);
        cr_assert(!result || strstr(error.text, isa_name(isa_best())));
    }
    cr_assert_eq(isa_parse("sse", &isa, &error), ERROR_USAGE);
    cr_assert(strstr(error.text, "sse") && strstr(error.text, "scalar"), "%s", error.text);
    cr_assert_eq(isa_parse("", &isa, &error), ERROR_USAGE);
}
