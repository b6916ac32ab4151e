#include "harness/cmd/arms.h"

#include <stdio.h>
#include <string.h>

#include "harness/base/files.h"
#include "reference/engine.h"
#include "runtime/engine.h"
#include "runtime/quantize.h"

static const char *const names[] = {"reference", "int8", "fp16", "expected", "dequant"};
enum { N_KINDS = sizeof names / sizeof *names };

const char *arms_name(enum arm_kind kind)
{
    return names[kind];
}

int arms_parse(const char *name, enum arm_kind *kind, struct error *error)
{
    for (int i = 0; i < N_KINDS; i++)
        if (!strcmp(name, names[i])) {
            *kind = (enum arm_kind)i;
            return 0;
        }
    return error_set(error, ERROR_USAGE, "--engine %s: expected reference, int8, fp16, expected or dequant", name);
}

static int make_bundle(struct arms *arms, const char *name, const struct scheme *scheme, const char *const *keep,
                       size_t n_keep, struct bundle **bundle, struct error *error)
{
    if (*bundle)
        return 0;
    if (!arms->subject)
        return error_set(error, ERROR_USAGE, "--engine %s: needs the checkpoint; write `assay trace MODEL --bundle DIR "
                         "--engine %s`", name, name);
    struct arena arena = {0};
    const char *out = file_join(&arena, arms->scratch, name);
    struct quantize_request request = {.checkpoint = arms->subject->checkpoint, .model = &arms->subject->model,
        .scheme = scheme, .keep = keep, .n_keep = n_keep, .out = out, .quiet = true};
    int code = out ? quantize_bundle(&request, NULL, error) : error_set(error, ERROR_RUNTIME, "out of memory");
    if (!code)
        code = bundle_open(bundle, out, error);
    arena_close(&arena);
    return code;
}

int arms_prepare(struct arms *arms, enum arm_kind kind, struct error *error)
{
    const struct scheme *fp16;
    int code = 0;
    if (kind == ARM_KIND_FP16 && !(code = scheme_find("fp16", &fp16, error)))
        return make_bundle(arms, "fp16", fp16, NULL, 0, &arms->fp16, error);
    if (code || kind != ARM_KIND_EXPECTED)
        return code;
    if (!arms->bundle)
        return error_set(error, ERROR_USAGE, "--engine expected: which scheme? Name a bundle with --bundle DIR");
    return make_bundle(arms, "expected", arms->bundle->scheme, arms->bundle->keep, arms->bundle->n_keep, &arms->expected, error);
}

static bool allowed(const struct policy *policy, enum plan_row row, enum precision precision)
{
    char text[96];
    snprintf(text, sizeof text, "%s=%s", plan_row_name(row), precision_name(precision));
    for (size_t i = 0; policy && i < policy->n_allowed; i++)
        if (!strcmp(policy->allowed[i].plan, text))
            return true;
    return false;
}

// A wrong precision.json must not excuse itself: `expected` follows the default plan and, beyond it, only what the metadata
// declares and the policy allows.
static void expected_plan(const struct arms *arms, struct plan *plan)
{
    plan_default(plan);
    for (int row = 0; row < PLAN_ROWS; row++)
        if (arms->bundle->declared[row] && allowed(arms->policy, (enum plan_row)row, arms->bundle->plan.rows[row]))
            plan->rows[row] = arms->bundle->plan.rows[row];
}

static int open_reference(const struct arms *arms, const struct model *model, const char *name, uint32_t capacity,
                          struct engine **engine, struct error *error)
{
    const struct reference_options options = {.pool = arms->pool, .isa = arms->isa, .capacity = capacity, .name = name};
    return reference_open(engine, model, &options, error);
}

int arms_open(struct arms *arms, enum arm_kind kind, enum fault fault, uint32_t capacity, struct engine **engine,
              struct error *error)
{
    struct plan plan;
    const struct bundle *bundle = arms->bundle;
    *engine = NULL;
    if (fault != FAULT_NONE && kind != ARM_KIND_INT8)
        return error_set(error, ERROR_USAGE, "--fault: planted in the int8 runtime only, found --engine %s", names[kind]);
    if (kind == ARM_KIND_REFERENCE) {
        if (arms->subject)
            return open_reference(arms, &arms->subject->model, names[kind], capacity, engine, error);
        return error_set(error, ERROR_USAGE, "--engine reference: needs a checkpoint, found a bundle");
    }
    int code = arms_prepare(arms, kind, error);
    if (code)
        return code;
    if (kind == ARM_KIND_FP16) {
        bundle = arms->fp16;
        plan_default(&plan);
    } else if (!bundle) {
        return error_set(error, ERROR_USAGE, "--engine %s: needs a bundle; name it with --bundle DIR", names[kind]);
    } else if (kind == ARM_KIND_EXPECTED) {
        expected_plan(arms, &plan);
        bundle = arms->expected;
    } else {
        plan = bundle->plan;
    }
    if (kind == ARM_KIND_DEQUANT)
        return open_reference(arms, &bundle->model, names[kind], capacity, engine, error);
    const struct runtime_options options = {.pool = arms->pool, .isa = arms->isa, .capacity = capacity, .name = names[kind],
        .plan = &plan, .fault = fault};
    return runtime_open(engine, &bundle->model, &options, error);
}

enum dtype arms_logits(const struct arms *arms, enum arm_kind kind)
{
    struct plan plan;
    plan_default(&plan);
    if (kind == ARM_KIND_INT8 && arms->bundle)
        plan = arms->bundle->plan;
    if (kind == ARM_KIND_EXPECTED && arms->bundle)
        expected_plan(arms, &plan);
    const bool exact = kind == ARM_KIND_REFERENCE || kind == ARM_KIND_DEQUANT;
    return exact || plan.rows[PLAN_LOGITS] == PRECISION_F32 ? DTYPE_F32 : DTYPE_F16;
}

void arms_close(struct arms *arms)
{
    bundle_close(&arms->fp16);
    bundle_close(&arms->expected);
}
