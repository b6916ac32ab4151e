#include "runtime/audit.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/half.h"
#include "runtime/difference.h"
#include "runtime/distance.h"

enum { FINDINGS_MAX = 24 }; // more than a person reads; the rest is counted

struct auditor {
    struct arena *arena;
    const struct bundle *bundle;
    const struct model *expected, *source;
    struct audit *audit;
    size_t n_unlisted;
    bool failed; // memory
    struct weight_list {
        size_t n;
        const struct weight **weights;
    } found, wanted;
    bool *reported;         // [found.n]: named already, as the other half of a swap
    float *row, *other_row; // [widest row]
    int8_t *codes;          // likewise
};

static void add_finding(struct auditor *auditor, const char *object, const char *what)
{
    struct audit *audit = auditor->audit;
    const char *copy = object ? arena_print(auditor->arena, "%s", object) : NULL;
    if (!what || !copy)
        auditor->failed = true;
    else if (audit->n_findings < FINDINGS_MAX)
        audit->findings[audit->n_findings++] = (struct audit_finding){copy, what};
    else
        auditor->n_unlisted++;
}

// --- pairing tensors

static void count_weight(void *context, const struct weight *weight)
{
    (void)weight;
    ++*(size_t *)context;
}

static void list_weight(void *context, const struct weight *weight)
{
    struct weight_list *list = context;
    list->weights[list->n++] = weight;
}

static bool list_weights(struct arena *arena, const struct model *model, struct weight_list *list)
{
    size_t n = 0;
    model_visit(model, count_weight, &n);
    list->n = 0;
    list->weights = arena_alloc(arena, n, sizeof *list->weights);
    if (list->weights)
        model_visit(model, list_weight, list);
    return list->weights != NULL;
}

static const struct weight *find_weight(const struct weight_list *list, const char *name)
{
    for (size_t i = 0; i < list->n; i++)
        if (!strcmp(list->weights[i]->name, name))
            return list->weights[i];
    return NULL;
}

static bool is_quantized(const struct weight *weight)
{
    return weight->scale != NULL;
}

static uint64_t data_bytes(const struct weight *weight)
{
    return weight_row_bytes(weight) * weight->rows;
}

static uint32_t scales_per_row(const struct weight *weight)
{
    return weight->cols / weight->block;
}

static uint64_t scale_count(const struct weight *weight)
{
    return (uint64_t)weight->rows * scales_per_row(weight);
}

static bool same_form(const struct weight *a, const struct weight *b)
{
    return a->format == b->format && a->rows == b->rows && a->cols == b->cols && a->block == b->block;
}

static bool same_bytes(const struct weight *a, const struct weight *b)
{
    return same_form(a, b) && !memcmp(a->data, b->data, data_bytes(a)) &&
           (!is_quantized(a) || !memcmp(a->scale, b->scale, scale_count(a) * sizeof *a->scale));
}

// --- rows as floats

static void code_row(struct auditor *auditor, const struct weight *weight, uint32_t row, float *out)
{
    quant_codes(weight, row, auditor->codes);
    for (uint32_t k = 0; k < weight->cols; k++)
        out[k] = (float)auditor->codes[k];
}

static void scale_row(const struct weight *weight, uint32_t row, float *out)
{
    const uint32_t n = scales_per_row(weight);
    for (uint32_t i = 0; i < n; i++)
        out[i] = half_to_float(weight->scale[(uint64_t)row * n + i]);
}

// The expected row in the precision in which it was found: a half where the scheme stores fp32 is still to be the
// right half.
static void wanted_row(const struct weight *found, const struct weight *wanted, uint32_t row, float *out)
{
    weight_row(wanted, row, out);
    if (found->format == WEIGHT_F16 && wanted->format == WEIGHT_F32)
        for (uint32_t k = 0; k < wanted->cols; k++)
            out[k] = half_round(out[k]);
}

// --- equality

static void tally(struct auditor *auditor, const struct weight *found, const struct weight *wanted,
                  struct difference *codes, struct difference *scales, struct difference *values)
{
    difference_start(codes, "codes", "column");
    difference_start(scales, "scales", "block");
    difference_start(values, "values", "column");
    for (uint32_t r = 0; r < found->rows; r++) {
        if (!is_quantized(found)) {
            weight_row(found, r, auditor->row);
            wanted_row(found, wanted, r, auditor->other_row);
            difference_row(values, r, found->cols, auditor->row, auditor->other_row);
            continue;
        }
        code_row(auditor, found, r, auditor->row);
        code_row(auditor, wanted, r, auditor->other_row);
        difference_row(codes, r, found->cols, auditor->row, auditor->other_row);
        scale_row(found, r, auditor->row);
        scale_row(wanted, r, auditor->other_row);
        difference_row(scales, r, scales_per_row(found), auditor->row, auditor->other_row);
    }
    auditor->audit->wrong_codes += codes->wrong;
    auditor->audit->wrong_scales += scales->wrong;
}

// Gate and up exchanged, or layers: the values are another tensor's, whole.
static bool report_swap(struct auditor *auditor, size_t index)
{
    const struct weight *found = auditor->found.weights[index];
    for (size_t i = 0; i < auditor->wanted.n; i++) {
        const struct weight *other = auditor->wanted.weights[i];
        if (!strcmp(other->name, found->name) || !same_bytes(found, other))
            continue;
        const struct weight *wanted = find_weight(&auditor->wanted, found->name);
        for (size_t j = 0; j < auditor->found.n; j++) {
            if (strcmp(auditor->found.weights[j]->name, other->name) ||
                !same_bytes(auditor->found.weights[j], wanted))
                continue;
            auditor->reported[j] = true;
            add_finding(auditor, found->name,
                        arena_print(auditor->arena, "holds the values of %s, and the other way round", other->name));
            return true;
        }
        add_finding(auditor, found->name, arena_print(auditor->arena, "holds the values of %s", other->name));
        return true;
    }
    return false;
}

static bool has_declared_form(const struct bundle *bundle, const struct weight *found, const struct weight *wanted)
{
    const bool is_attention = strstr(found->name, ".self_attn.") && found->rows > 1;
    return is_attention && found->format == WEIGHT_F16 && wanted->format == WEIGHT_F32 &&
           bundle->declared[PLAN_ATTENTION_PROJECTIONS] &&
           bundle->plan.rows[PLAN_ATTENTION_PROJECTIONS] == PRECISION_F16;
}

static void compare_bits(struct auditor *auditor, size_t index, const struct weight *wanted)
{
    const struct weight *found = auditor->found.weights[index];
    struct difference codes, scales, values;
    if (same_bytes(found, wanted)) {
        auditor->audit->equal++;
        return;
    }
    const bool same = same_form(found, wanted), declared = has_declared_form(auditor->bundle, found, wanted);
    tally(auditor, found, wanted, &codes, &scales, &values);
    if (!same && !declared)
        add_finding(auditor, found->name,
                    arena_print(auditor->arena, "stored as %s, the scheme stores it as %s",
                                weight_format_name(found->format), weight_format_name(wanted->format)));
    else
        auditor->audit->equal += !values.wrong && !same;
    if (auditor->reported[index] || (same && report_swap(auditor, index)))
        return;
    const struct difference *each[] = {&scales, &codes, &values};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        if (each[i]->wrong)
            add_finding(auditor, found->name, difference_text(auditor->arena, each[i]));
}

// --- distance

static void compare_distance(struct auditor *auditor, const struct weight *found, const struct weight *wanted,
                             const struct weight *source, enum quant_format format)
{
    struct distance distance;
    char count[32];
    distance_start(&distance);
    for (uint32_t r = 0; r < found->rows; r++) {
        weight_row(source, r, auditor->row);
        quant_codes(found, r, auditor->codes);
        distance_row(&distance, format, r, found, wanted->scale, auditor->codes, auditor->row);
    }
    auditor->audit->wrong_codes += distance.far;
    auditor->audit->wrong_scales += distance.wrong_scales;
    auditor->audit->equal += !distance.far && !distance.wrong_scales;
    if (distance.wrong_scales)
        add_finding(auditor, found->name,
                    arena_print(auditor->arena,
                                "%s scales are not the scheme's: the first, row %u block %u, is %.6g where %.6g is "
                                "computed",
                                count_text(distance.wrong_scales, count), distance.scale_row, distance.scale_block,
                                distance.scale, distance.scale_computed));
    if (distance.far)
        add_finding(auditor, found->name,
                    arena_print(auditor->arena,
                                "%s elements are farther from the checkpoint than half a step: the first, row %u "
                                "column %u, is %.6g where the checkpoint has %.6g and a step is %.3g",
                                count_text(distance.far, count), distance.row, distance.column, distance.stored,
                                distance.exact, distance.step));
}

// --- counts that fail nothing

static void count_clamped(struct auditor *auditor, const struct weight *found, const struct weight *source,
                          enum quant_format format)
{
    int low, high;
    quant_range(format, &low, &high);
    auditor->audit->codes += (uint64_t)found->rows * found->cols;
    auditor->audit->scales += scale_count(found);
    for (uint64_t i = 0; i < scale_count(found); i++)
        auditor->audit->subnormal_scales += (found->scale[i] & 0x7C00) == 0;
    for (uint32_t r = 0; r < found->rows; r++) {
        quant_codes(found, r, auditor->codes);
        for (uint32_t k = 0; k < found->cols; k++) {
            if (auditor->codes[k] > low && auditor->codes[k] < high)
                continue;
            const float scale = half_to_float(found->scale[(uint64_t)r * scales_per_row(found) + k / found->block]);
            const float unclamped = rintf(weight_at(source, r, k) / scale);
            auditor->audit->clamped += unclamped < (float)low || unclamped > (float)high;
        }
    }
}

// --- the whole

static const struct weight *source_of(const struct auditor *auditor, const struct weight_list *sources,
                                      const struct weight *found)
{
    if (found == &auditor->bundle->model.head)
        return &auditor->source->head; // a tied one, too
    if (found == &auditor->bundle->model.embedding)
        return &auditor->source->embedding;
    return find_weight(sources, found->name);
}

static int audit_tensors(struct auditor *auditor, const struct weight_list *sources, struct error *error)
{
    const struct bundle *bundle = auditor->bundle;
    for (size_t i = 0; i < auditor->found.n; i++) {
        const struct weight *found = auditor->found.weights[i];
        const struct weight *wanted = find_weight(&auditor->wanted, found->name);
        const struct weight *source = source_of(auditor, sources, found);
        if (!source || source->rows != found->rows || source->cols != found->cols ||
            (wanted && (wanted->rows != found->rows || wanted->cols != found->cols)))
            return error_set(
                error, ERROR_CONTRACT,
                "%s: tensor %s has no counterpart of its shape in the checkpoint: give the checkpoint that the "
                "bundle was made from",
                bundle->path, found->name);
        auditor->audit->tensors++;
        struct quant_decision decision;
        quant_decide(bundle->scheme, bundle->keep, bundle->n_keep, found, found == &bundle->model.head, &decision);
        if (is_quantized(found))
            count_clamped(auditor, found, source, decision.rule.format);
        if (!wanted)
            add_finding(auditor, found->name, "is stored, the scheme stores no such tensor");
        else if (is_quantized(found) && !bundle->own)
            compare_distance(auditor, found, wanted, source, decision.rule.format);
        else
            compare_bits(auditor, i, wanted);
    }
    for (size_t i = 0; i < auditor->wanted.n; i++)
        if (!find_weight(&auditor->found, auditor->wanted.weights[i]->name))
            add_finding(auditor, auditor->wanted.weights[i]->name, "is missing, the scheme stores it");
    return 0;
}

static void audit_plan(struct auditor *auditor, const char *const *allowed, size_t n_allowed)
{
    const struct bundle *bundle = auditor->bundle;
    struct plan standard;
    plan_default(&standard);
    for (int row = 0; row < PLAN_ROWS; row++) {
        char deviation[64];
        const char *name = plan_row_name((enum plan_row)row), *precision = precision_name(bundle->plan.rows[row]);
        if (bundle->plan.rows[row] == standard.rows[row])
            continue;
        snprintf(deviation, sizeof deviation, "%s=%s", name, precision);
        bool permitted = false;
        for (size_t i = 0; i < n_allowed && !permitted; i++)
            permitted = !strcmp(allowed[i], deviation);
        if (bundle->declared[row] && permitted)
            continue;
        add_finding(auditor, arena_print(auditor->arena, "precision.json %s", name),
                    arena_print(auditor->arena, "is %s, the scheme's default is %s, and %s", precision,
                                precision_name(standard.rows[row]),
                                bundle->declared[row] ? "the policy does not allow this declared deviation"
                                                      : "compression.plan of metadata.json does not declare it"));
    }
}

static int prepare(struct auditor *auditor, struct weight_list *sources)
{
    uint32_t widest = 0;
    auditor->audit->findings = arena_alloc(auditor->arena, FINDINGS_MAX + 1, sizeof *auditor->audit->findings);
    const bool listed = list_weights(auditor->arena, &auditor->bundle->model, &auditor->found) &&
                        list_weights(auditor->arena, auditor->expected, &auditor->wanted) &&
                        list_weights(auditor->arena, auditor->source, sources);
    for (size_t i = 0; listed && i < auditor->found.n; i++)
        widest = auditor->found.weights[i]->cols > widest ? auditor->found.weights[i]->cols : widest;
    auditor->row = arena_alloc(auditor->arena, widest, sizeof *auditor->row);
    auditor->other_row = arena_alloc(auditor->arena, widest, sizeof *auditor->other_row);
    auditor->codes = arena_alloc(auditor->arena, widest, sizeof *auditor->codes);
    auditor->reported = listed ? arena_alloc(auditor->arena, auditor->found.n, sizeof *auditor->reported) : NULL;
    return auditor->audit->findings && auditor->row && auditor->other_row && auditor->codes && auditor->reported;
}

int audit_bundle(struct arena *arena, const struct bundle *bundle, const struct bundle *expected,
                 const struct model *source, const char *const *allowed, size_t n_allowed, struct audit *audit,
                 struct error *error)
{
    assert(bundle->scheme == expected->scheme);
    struct weight_list sources;
    struct auditor auditor = {
        .arena = arena, .bundle = bundle, .expected = &expected->model, .source = source, .audit = audit};
    *audit = (struct audit){0};
    if (!prepare(&auditor, &sources))
        return error_set(error, ERROR_RUNTIME, "%s: no memory to audit it", bundle->path);
    audit_plan(&auditor, allowed, n_allowed);
    const int code = audit_tensors(&auditor, &sources, error);
    if (code)
        return code;
    if (auditor.n_unlisted) {
        char count[32];
        audit->findings[audit->n_findings++] =
            (struct audit_finding){"weights.safetensors", arena_print(arena, "%s more findings are not listed",
                                                                      count_text(auditor.n_unlisted, count))};
    }
    if (auditor.failed || (audit->n_findings && !audit->findings[audit->n_findings - 1].what))
        return error_set(error, ERROR_RUNTIME, "%s: no memory to list what the audit found", bundle->path);
    return 0;
}
