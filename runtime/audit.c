#include "runtime/audit.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/half.h"
#include "harness/base/number.h"
#include "runtime/difference.h"
#include "runtime/distance.h"
#include "runtime/stored.h"

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
    float *row, *other_row; // [32 of the widest row]: what shares a codebook
    int16_t *codes;         // [widest row]
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

// Two bundles of a model are listed alike, so that `likely` is nearly always the place.
static const struct weight *find_weight(const struct weight_list *list, const char *name, size_t likely)
{
    if (likely < list->n && !strcmp(list->weights[likely]->name, name))
        return list->weights[likely];
    for (size_t i = 0; i < list->n; i++)
        if (!strcmp(list->weights[i]->name, name))
            return list->weights[i];
    return NULL;
}

// --- rows as floats

static void code_row(struct auditor *auditor, const struct weight *weight, uint32_t row, float *out)
{
    quant_codes(weight, row, auditor->codes);
    for (uint32_t k = 0; k < weight->cols; k++)
        out[k] = (float)auditor->codes[k];
}

static void side_row(const struct side *side, uint32_t row, float *out)
{
    for (uint32_t i = 0; i < side->cols; i++)
        out[i] = half_to_float(side->halves[(uint64_t)row * side->cols + i]);
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

static void tally_side(struct auditor *auditor, const struct side *found, const struct side *wanted,
                       struct difference *difference)
{
    difference_start(difference, found->what, found->column);
    difference->line = found->line;
    for (uint32_t r = 0; r < found->rows; r++) {
        side_row(found, r, auditor->row);
        side_row(wanted, r, auditor->other_row);
        difference_row(difference, r, found->cols, auditor->row, auditor->other_row);
    }
    auditor->audit->wrong_scales += difference->wrong;
}

static void tally(struct auditor *auditor, const struct weight *found, const struct weight *wanted,
                  struct difference *elements)
{
    const bool codes = stored_coded(found);
    difference_start(elements, codes ? "codes" : "values", "column");
    for (uint32_t r = 0; r < found->rows; r++) {
        if (codes) {
            code_row(auditor, found, r, auditor->row);
            code_row(auditor, wanted, r, auditor->other_row);
        } else {
            weight_row(found, r, auditor->row);
            wanted_row(found, wanted, r, auditor->other_row);
        }
        difference_row(elements, r, found->cols, auditor->row, auditor->other_row);
    }
    auditor->audit->wrong_codes += codes ? elements->wrong : 0;
}

// Gate and up exchanged, or layers: the values are another tensor's, whole.
static bool report_swap(struct auditor *auditor, size_t index)
{
    const struct weight *found = auditor->found.weights[index];
    for (size_t i = 0; i < auditor->wanted.n; i++) {
        const struct weight *other = auditor->wanted.weights[i];
        if (!strcmp(other->name, found->name) || !stored_equal(found, other))
            continue;
        const struct weight *wanted = find_weight(&auditor->wanted, found->name, index);
        for (size_t j = 0; j < auditor->found.n; j++) {
            if (strcmp(auditor->found.weights[j]->name, other->name) ||
                !stored_equal(auditor->found.weights[j], wanted))
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

static bool report_experts(struct auditor *auditor, const struct weight *found, const struct weight *wanted)
{
    char text[128];
    if (!stored_moved_experts(&auditor->bundle->config, found, wanted, text))
        return false;
    add_finding(auditor, found->name, arena_print(auditor->arena, "%s", text));
    return true;
}

static void report_sides(struct auditor *auditor, const struct weight *found, const struct weight *wanted)
{
    struct side sides[STORED_SIDES], wanted_sides[STORED_SIDES];
    struct difference difference;
    const size_t n = stored_alike(found, wanted) ? stored_sides(found, sides) : 0;
    stored_sides(wanted, wanted_sides);
    for (size_t i = 0; i < n; i++) {
        tally_side(auditor, &sides[i], &wanted_sides[i], &difference);
        if (!difference.wrong)
            continue;
        char count[32];
        add_finding(auditor, found->name,
                    stored_moved_down(&sides[i], &wanted_sides[i])
                        ? arena_print(auditor->arena, "%s %s differ: each %s has those of the %s before it",
                                      count_text(difference.wrong, count), sides[i].what, sides[i].line,
                                      sides[i].line)
                        : difference_text(auditor->arena, &difference));
    }
}

static void compare_bits(struct auditor *auditor, size_t index, const struct weight *wanted)
{
    const struct weight *found = auditor->found.weights[index];
    struct difference elements;
    if (stored_equal(found, wanted)) {
        auditor->audit->equal++;
        return;
    }
    const bool same = stored_alike(found, wanted), declared = has_declared_form(auditor->bundle, found, wanted);
    tally(auditor, found, wanted, &elements);
    if (!same && !declared)
        add_finding(auditor, found->name,
                    arena_print(auditor->arena, "stored as %s, the scheme stores it as %s",
                                weight_format_name(found->format), weight_format_name(wanted->format)));
    else
        auditor->audit->equal += !elements.wrong && !same;
    if (auditor->reported[index] || (same && (report_swap(auditor, index) || report_experts(auditor, found, wanted))))
        return;
    report_sides(auditor, found, wanted); // first: a wrong scale explains more than a wrong code
    if (elements.wrong)
        add_finding(auditor, found->name, difference_text(auditor->arena, &elements));
}

// --- distance

static void measure_rows(struct auditor *auditor, const struct weight *found, const struct weight *wanted,
                         const struct weight *source, enum quant_format format, struct distance *distance)
{
    for (uint32_t r = 0; r < found->rows; r++) {
        weight_row(source, r, auditor->row);
        quant_codes(found, r, auditor->codes);
        distance_row(distance, format, r, found, wanted->scale, auditor->codes, auditor->row);
    }
}

static void measure_books(struct auditor *auditor, const struct weight *found, const struct weight *wanted,
                          const struct weight *source, struct distance *distance)
{
    for (uint32_t first = 0; first < found->rows; first += WEIGHT_BOOK_ROWS) {
        for (uint32_t i = 0; i < WEIGHT_BOOK_ROWS; i++) {
            weight_row(source, first + i, auditor->row + (size_t)i * found->cols);
            weight_row(wanted, first + i, auditor->other_row + (size_t)i * found->cols);
        }
        distance_book(distance, first, found, auditor->other_row, auditor->row);
    }
}

static void compare_distance(struct auditor *auditor, const struct weight *found, const struct weight *wanted,
                             const struct weight *source, enum quant_format format)
{
    struct distance distance;
    char count[32];
    distance_start(&distance);
    if (found->lut)
        measure_books(auditor, found, wanted, source, &distance);
    else
        measure_rows(auditor, found, wanted, source, format, &distance);
    auditor->audit->wrong_codes += distance.far;
    auditor->audit->wrong_scales += distance.wrong_scales;
    auditor->audit->equal += !distance.far && !distance.wrong_scales;
    if (distance.wrong_scales && found->lut)
        add_finding(
            auditor, found->name,
            arena_print(auditor->arena,
                        "%s codebooks fit their rows worse than the scheme's: the first, of row %u on, is off by "
                        "%s (RMS) where %s is computed",
                        count_text(distance.wrong_scales, count), distance.scale_row, NUMBER(distance.scale, 3),
                        NUMBER(distance.scale_computed, 3)));
    else if (distance.wrong_scales)
        add_finding(auditor, found->name,
                    arena_print(auditor->arena,
                                "%s scales are not the scheme's: the first, row %u block %u, is %s where %s is "
                                "computed",
                                count_text(distance.wrong_scales, count), distance.scale_row, distance.scale_block,
                                NUMBER(distance.scale, 6), NUMBER(distance.scale_computed, 6)));
    if (distance.far)
        add_finding(auditor, found->name,
                    arena_print(auditor->arena,
                                "%s elements are farther from the checkpoint than %s: the first, row %u "
                                "column %u, is %s where the checkpoint has %s and %s is %s",
                                count_text(distance.far, count),
                                found->lut ? "the nearest entry of their codebook" : "half a step", distance.row,
                                distance.column, NUMBER(distance.stored, 6), NUMBER(distance.exact, 6),
                                found->lut ? "the limit" : "a step", NUMBER(distance.step, 3)));
}

// --- counts that fail nothing

static void count_clamped(struct auditor *auditor, const struct weight *found, const struct weight *source,
                          enum quant_format format)
{
    const uint32_t n = found->cols / found->block;
    int low, high;
    quant_range(format, &low, &high);
    for (uint64_t i = 0; i < (uint64_t)found->rows * n; i++)
        auditor->audit->subnormal_scales += (found->scale[i] & 0x7C00) == 0;
    for (uint32_t r = 0; r < found->rows; r++) {
        quant_codes(found, r, auditor->codes);
        for (uint32_t k = 0; k < found->cols; k++) {
            if (auditor->codes[k] > low && auditor->codes[k] < high)
                continue;
            const uint64_t at = (uint64_t)r * n + k / found->block;
            const float bias = found->bias ? half_to_float(found->bias[at]) : 0.0f;
            auditor->audit->clamped += quant_is_clamped(format, weight_at(source, r, k), auditor->codes[k],
                                                        half_to_float(found->scale[at]), bias);
        }
    }
}

static void count_quantized(struct auditor *auditor, const struct weight *found, const struct weight *source,
                            enum quant_format format)
{
    struct side sides[STORED_SIDES];
    stored_sides(found, sides);
    auditor->audit->codes += (uint64_t)found->rows * found->cols;
    auditor->audit->scales += (uint64_t)sides[0].rows * sides[0].cols;
    if (found->scale)
        count_clamped(auditor, found, source, format);
}

// --- the whole

static const struct weight *source_of(const struct auditor *auditor, const struct weight_list *sources,
                                      const struct weight *found, size_t likely)
{
    if (found == &auditor->bundle->model.head)
        return &auditor->source->head; // a tied one, too
    if (found == &auditor->bundle->model.embedding)
        return &auditor->source->embedding;
    return find_weight(sources, found->name, likely);
}

static int audit_tensors(struct auditor *auditor, const struct weight_list *sources, struct error *error)
{
    const struct bundle *bundle = auditor->bundle;
    for (size_t i = 0; i < auditor->found.n; i++) {
        const struct weight *found = auditor->found.weights[i];
        const struct weight *wanted = find_weight(&auditor->wanted, found->name, i);
        const struct weight *source = source_of(auditor, sources, found, i);
        if (!source || source->rows != found->rows || source->cols != found->cols ||
            (wanted && (wanted->rows != found->rows || wanted->cols != found->cols)))
            return error_set(
                error, ERROR_CONTRACT,
                "%s: tensor %s has no counterpart of its shape in the checkpoint: give the checkpoint that the "
                "bundle was made from",
                bundle->path, found->name);
        auditor->audit->tensors++;
        struct quant_decision decision;
        quant_decide(bundle->scheme, &bundle->config, bundle->keep, bundle->n_keep, found,
                     found == &bundle->model.head, &decision);
        if (stored_coded(found))
            count_quantized(auditor, found, source, decision.rule.format);
        if (!wanted)
            add_finding(auditor, found->name, "is stored, the scheme stores no such tensor");
        else if (stored_coded(found) && !bundle->own)
            compare_distance(auditor, found, wanted, source, decision.rule.format);
        else
            compare_bits(auditor, i, wanted);
    }
    for (size_t i = 0; i < auditor->wanted.n; i++)
        if (!find_weight(&auditor->found, auditor->wanted.weights[i]->name, i))
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
    widest = widest < 256 / WEIGHT_BOOK_ROWS ? 256 / WEIGHT_BOOK_ROWS : widest; // a codebook of 256, too
    auditor->row = arena_alloc(auditor->arena, widest, WEIGHT_BOOK_ROWS * sizeof *auditor->row);
    auditor->other_row = arena_alloc(auditor->arena, widest, WEIGHT_BOOK_ROWS * sizeof *auditor->other_row);
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
