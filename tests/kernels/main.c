// check_kernels: every kernel against its definition, kernels that are wrong on purpose against the checks, and whole
// traces against committed hashes. TAP on stdout.
//
//   check_kernels [--seed N] [--kernel PATTERN] [--list] [--model FILE]...
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/floating.h"
#include "tests/kernels/check.h"

const struct subject check_subjects[] = {
    {"reference.linear.f32", check_reference_linear, WEIGHT_F32},
    {"reference.linear.f16", check_reference_linear, WEIGHT_F16},
    {"reference.linear.bf16", check_reference_linear, WEIGHT_BF16},
    {"reference.linear.q8", check_reference_linear, WEIGHT_Q8},
    {"reference.linear.q4", check_reference_linear, WEIGHT_Q4},
    {"reference.linear.a4", check_reference_linear, WEIGHT_A4},
    {"reference.linear.k8", check_reference_linear, WEIGHT_K8},
    {"reference.linear.k4", check_reference_linear, WEIGHT_K4},
    {"reference.tile.f32", check_reference_tile, WEIGHT_F32},
    {"reference.tile.f16", check_reference_tile, WEIGHT_F16},
    {"reference.tile.bf16", check_reference_tile, WEIGHT_BF16},
    {"reference.tile.q8", check_reference_tile, WEIGHT_Q8},
    {"reference.tile.q4", check_reference_tile, WEIGHT_Q4},
    {"reference.delta", check_delta, WEIGHT_NONE},
    {"reference.swiglu", check_reference_swiglu, WEIGHT_NONE},
    {"runtime.linear.f32", check_runtime_linear, WEIGHT_F32},
    {"runtime.linear.f16", check_runtime_linear, WEIGHT_F16},
    {"runtime.linear.bf16", check_runtime_linear, WEIGHT_BF16},
    {"runtime.linear.q8", check_runtime_linear, WEIGHT_Q8},
    {"runtime.linear.q4", check_runtime_linear, WEIGHT_Q4},
    {"runtime.linear.a4", check_runtime_linear, WEIGHT_A4},
    {"runtime.linear.k8", check_runtime_linear, WEIGHT_K8},
    {"runtime.linear.k4", check_runtime_linear, WEIGHT_K4},
    {"runtime.round", check_round, WEIGHT_NONE},
    {"runtime.rms_norm", check_rms_norm, WEIGHT_NONE},
    {"runtime.rope", check_rope, WEIGHT_NONE},
    {"runtime.short_conv", check_short_conv, WEIGHT_NONE},
    {"runtime.swiglu", check_swiglu, WEIGHT_NONE},
    {"runtime.product", check_product, WEIGHT_NONE},
    {"runtime.add", check_add, WEIGHT_NONE},
    {"runtime.attention", check_attention, WEIGHT_NONE},
    {"runtime.rms_norm_centred", check_rms_norm_centred, WEIGHT_NONE},
    {"runtime.rms_norm_gated", check_rms_norm_gated, WEIGHT_NONE},
    {"runtime.attention_gate", check_attention_gate, WEIGHT_NONE},
    {"runtime.silu", check_silu, WEIGHT_NONE},
    {"runtime.l2_norm", check_l2_norm, WEIGHT_NONE},
    {"runtime.delta_step", check_delta_step, WEIGHT_NONE},
    {"runtime.expert_sum", check_expert_sum, WEIGHT_NONE},
    {NULL, NULL, WEIGHT_NONE},
};

static unsigned tests, failures;

static void result(bool ok, const char *name, const char *detail)
{
    failures += !ok;
    printf("%s %u - %s\n", ok ? "ok" : "not ok", ++tests, name);
    if (!ok)
        printf("# %s\n", detail);
    fflush(stdout);
}

// The instruction sets whose kernels are in this build.
static bool is_built(enum isa isa)
{
#if defined(__x86_64__)
    return isa == ISA_AVX2 || isa == ISA_AVX512;
#elif defined(__aarch64__)
    return isa == ISA_NEON;
#else
    (void)isa;
    return false;
#endif
}

// The kernel of `isa` for a subject of the reference; NULL: none.
static linear_fn reference_kernel(enum weight_format format, enum isa isa)
{
    for (const struct linear_kernel *kernel = linear_kernels; kernel->name; kernel++)
        if (kernel->format == format && kernel->isa == isa)
            return kernel->rows;
    return NULL;
}

static const struct linear_tile *reference_tile(enum isa isa)
{
    for (const struct linear_tile *tile = linear_tiles; tile->name; tile++)
        if (tile->isa == isa)
            return tile;
    return NULL;
}

static void check_kernel(const struct subject *subject, enum isa isa, const char *pattern, uint64_t seed, bool list)
{
    char name[96];
    struct kernels kernels;
    struct check check = {.random = seed};
    struct candidate candidate = {subject->format,     reference_kernel(subject->format, isa),
                                  reference_tile(isa), delta_best(isa),
                                  swiglu_best(isa),    &kernels};
    snprintf(name, sizeof name, "%s %s", subject->name, isa_name(isa));
    if (fnmatch(pattern, name, 0) || (subject->check == check_reference_linear && !candidate.rows) ||
        (subject->check == check_reference_tile && !candidate.tile))
        return; // no twin of the definition
    if (list) {
        printf("%s\n", name);
        return;
    }
    if (!isa_available(isa)) {
        printf("ok %u - %s # SKIP this processor has no %s\n", ++tests, name, isa_name(isa));
        return;
    }
    kernels_init(&kernels, isa);
    subject->check(&check, &candidate);
    char detail[400];
    snprintf(detail, sizeof detail, "%lu of %lu outputs; %s", check.wrong, check.compared, check.first);
    result(check.compared > 0 && check.wrong == 0, name, detail);
}

static int usage(void)
{
    fprintf(stderr, "usage: check_kernels [--seed N] [--kernel PATTERN] [--list] [--model FILE]...\n");
    return 2;
}

int main(int argc, char **argv)
{
    uint64_t seed = 20261121;
    const char *pattern = "*", *models[32];
    size_t n_models = 0;
    bool list = false;
    for (int i = 1; i < argc; i++) {
        char *end = NULL;
        if (!strcmp(argv[i], "--list"))
            list = true;
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            seed = strtoull(argv[++i], &end, 0);
        else if (!strcmp(argv[i], "--kernel") && i + 1 < argc)
            pattern = argv[++i];
        else if (!strcmp(argv[i], "--model") && i + 1 < argc && n_models < sizeof models / sizeof *models)
            models[n_models++] = argv[++i];
        else
            return usage();
        if (end && *end)
            return usage();
    }
    struct error error = {0};
    struct floating unused;
    floating_enter(&unused);
    if (floating_selftest(&error)) {
        fprintf(stderr, "%s\n", error.text);
        return 99;
    }
    if (!list)
        printf("# check_kernels --seed %llu --kernel '%s'\n", (unsigned long long)seed, pattern);
    for (enum isa isa = ISA_SCALAR; isa < ISA_COUNT; isa++)
        for (const struct subject *subject = check_subjects; is_built(isa) && subject->name; subject++)
            check_kernel(subject, isa, pattern, seed, list);
    check_wrong_kernels(pattern, seed, list ? NULL : result);
    check_operators(pattern, list ? NULL : result);
    for (size_t i = 0; i < n_models; i++)
        check_traces(models[i], pattern, list ? NULL : result);
    if (list)
        return 0;
    printf("1..%u\n", tests);
    if (!tests)
        fprintf(stderr, "check_kernels: nothing is named like that\n");
    return tests && !failures ? 0 : 1;
}
