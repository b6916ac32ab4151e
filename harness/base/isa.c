#include "harness/base/isa.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

// Asked of the processor itself: clang 14 knows no __builtin_cpu_supports("f16c").
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

const char *isa_name(enum isa isa)
{
    static const char *const names[ISA_COUNT] = {"scalar", "avx2", "avx512", "neon"};
    return names[isa];
}

bool isa_available(enum isa isa)
{
    switch (isa) {
    case ISA_SCALAR:
        return true;
#if defined(__x86_64__) && defined(__GNUC__) // these look at what the operating system saves, too
    case ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    case ISA_AVX512:
        return isa_available(ISA_AVX2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#elif defined(__aarch64__) // its baseline has NEON, fma and the half conversions
    case ISA_NEON:
        return true;
#endif
    default: // a name that is known and has no kernels in this build
        return false;
    }
}

enum isa isa_best(void)
{
    static const enum isa fastest_first[] = {ISA_AVX512, ISA_AVX2, ISA_NEON};
    for (size_t i = 0; i < sizeof fastest_first / sizeof *fastest_first; i++)
        if (isa_available(fastest_first[i]))
            return fastest_first[i];
    return ISA_SCALAR;
}

int isa_parse(const char *name, enum isa *isa, struct error *error)
{
    for (int i = 0; i < ISA_COUNT; i++) {
        if (strcmp(name, isa_name((enum isa)i)))
            continue;
        if (!isa_available((enum isa)i))
            return error_set(error, ERROR_USAGE,
                             "--isa %s: this processor or this build does not have it; the best here is %s", name,
                             isa_name(isa_best()));
        *isa = (enum isa)i;
        return 0;
    }
    return error_set(error, ERROR_USAGE, "--isa %s: no such instruction set, expected scalar, avx2, avx512 or neon",
                     name);
}
