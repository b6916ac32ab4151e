// assay quantize: a bundle from a checkpoint, and the table that says what became of every tensor.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/json.h"
#include "harness/cmd/options.h"
#include "harness/cmd/subject.h"
#include "runtime/difference.h"
#include "runtime/metadata.h"
#include "runtime/quantize.h"

static bool is_quantized(const struct coverage_row *row)
{
    return row->statistics.codes > 0;
}

// Rows that the text shows as one: experts stored one by one, the same matrix of a layer, stored alike for one
// reason.
struct line {
    size_t first, n;
    int before; // characters of the name before the expert's number
    uint64_t bytes;
    double error; // the largest
    struct quant_statistics statistics;
};

// Characters up to the number of an expert; 0 where the tensor is not one expert's.
static int before_number(const char *tensor)
{
    const char *at = strstr(tensor, ".experts.");
    const size_t before = at ? (size_t)(at - tensor) + strlen(".experts.") : 0;
    return before && strspn(tensor + before, "0123456789") ? (int)before : 0;
}

static bool belong_together(const struct coverage_row *a, const struct coverage_row *b)
{
    const int before = before_number(a->tensor);
    if (!before || before != before_number(b->tensor) || strncmp(a->tensor, b->tensor, (size_t)before))
        return false;
    return !strcmp(strchr(a->tensor + before, '.'), strchr(b->tensor + before, '.')) &&
           !strcmp(a->stored, b->stored) && !strcmp(a->why, b->why);
}

static void add_to_line(struct line *line, const struct coverage_row *row)
{
    line->n++;
    line->bytes += row->bytes;
    line->error = row->relative_error > line->error ? row->relative_error : line->error;
    line->statistics.codes += row->statistics.codes;
    line->statistics.clamped += row->statistics.clamped;
    line->statistics.subnormal_scales += row->statistics.subnormal_scales;
}

// Lines in the order of their first rows; the rows of a layer's experts stand together. `lines` has room for all
// rows.
static size_t gather_lines(const struct coverage *coverage, struct line *lines)
{
    size_t n = 0, layer = 0; // first line of this layer's experts
    for (size_t i = 0; i < coverage->n; i++) {
        const struct coverage_row *row = &coverage->rows[i];
        const int before = before_number(row->tensor);
        if (!before || !i || before_number(coverage->rows[i - 1].tensor) != before ||
            strncmp(row->tensor, coverage->rows[i - 1].tensor, (size_t)before))
            layer = n;
        size_t line = layer;
        while (line < n && !belong_together(&coverage->rows[lines[line].first], row))
            line++;
        if (line == n)
            lines[n++] = (struct line){.first = i, .before = before};
        add_to_line(&lines[line], row);
    }
    return n;
}

// "model.layers.2.feed_forward.experts.*.w1.weight (8)"
static char *line_name(struct arena *arena, const struct coverage *coverage, const struct line *line)
{
    const char *tensor = coverage->rows[line->first].tensor;
    if (line->n == 1)
        return arena_print(arena, "%s", tensor);
    return arena_print(arena, "%.*s*%s (%zu)", line->before, tensor, strchr(tensor + line->before, '.'), line->n);
}

static void print_line(const struct coverage_row *row, const struct line *line, int width, const char *name)
{
    char error[16] = "";
    if (line->bytes)
        snprintf(error, sizeof error, "%.2e", line->error);
    printf("%-*s %-25s %12" PRIu64 "  %8s", width, name, row->stored, line->bytes, error);
    if (is_quantized(row))
        printf(" %9" PRIu64 " %9" PRIu64 "\n", line->statistics.clamped, line->statistics.subnormal_scales);
    else
        printf("  %s\n", row->why);
}

static void print_lines(const struct coverage *coverage, const struct line *lines, char *const *names, size_t n)
{
    int width = 0;
    for (size_t i = 0; i < n; i++)
        width = (int)strlen(names[i]) > width ? (int)strlen(names[i]) : width;
    printf("%-*s %-25s %12s  %8s %9s %9s\n", width, "tensor", "stored as", "bytes", "error", "clamped", "subnormal");
    for (size_t i = 0; i < n; i++)
        print_line(&coverage->rows[lines[i].first], &lines[i], width, names[i]);
}

static int print_table(struct arena *arena, const struct quantize_request *request, const struct coverage *coverage,
                       struct error *error)
{
    struct quant_statistics total = {0};
    size_t n_quantized = 0;
    char bytes[32], source[32], codes[32];
    struct line *lines = arena_alloc(arena, coverage->n, sizeof *lines);
    char **names = arena_alloc(arena, coverage->n, sizeof *names);
    const size_t n = lines ? gather_lines(coverage, lines) : 0;
    bool complete = lines && names;
    for (size_t i = 0; complete && i < n; i++)
        complete = (names[i] = line_name(arena, coverage, &lines[i])) != NULL;
    if (!complete)
        return error_set(error, ERROR_RUNTIME, "no memory for the coverage table");
    print_lines(coverage, lines, names, n);
    for (size_t i = 0; i < coverage->n; i++) {
        const struct coverage_row *row = &coverage->rows[i];
        n_quantized += is_quantized(row);
        total.codes += row->statistics.codes;
        total.clamped += row->statistics.clamped;
        total.subnormal_scales += row->statistics.subnormal_scales;
    }
    printf("\n%s: %zu tensors, %zu quantized (%s codes, %" PRIu64 " clamped, %" PRIu64 " subnormal scales)\n",
           request->out, coverage->n, n_quantized, count_text(total.codes, codes), total.clamped,
           total.subnormal_scales);
    printf("%s bytes of weights, %.1f %% of the checkpoint's %s\n", count_text(coverage->bytes, bytes),
           100 * (double)coverage->bytes / (double)coverage->source_bytes,
           count_text(coverage->source_bytes, source));
    if (!n_quantized && strcmp(request->scheme->name, "fp16"))
        printf("note: scheme %s quantized nothing of this model; the last column says why\n", request->scheme->name);
    return 0;
}

static void print_json(struct arena *arena, const struct quantize_request *request, const struct coverage *coverage)
{
    const char *name = metadata_name(arena, request->checkpoint->name, request->scheme);
    printf("{\"bundle\": %s, \"name\": %s, \"scheme\": \"%s\", \"source_bytes\": %" PRIu64 ", \"bytes\": %" PRIu64
           ", \"tensors\": [",
           json_quote(arena, request->out), name ? json_quote(arena, name) : "null", request->scheme->name,
           coverage->source_bytes, coverage->bytes);
    for (size_t i = 0; i < coverage->n; i++) {
        const struct coverage_row *row = &coverage->rows[i];
        printf("%s\n  {\"tensor\": %s, \"stored\": \"%s\", \"source_bytes\": %" PRIu64 ", \"bytes\": %" PRIu64
               ", \"relative_error\": %.9g, \"relative_error_exact\": \"%a\", \"codes\": %" PRIu64
               ", \"clamped\": %" PRIu64 ", \"scales\": %" PRIu64 ", \"subnormal_scales\": %" PRIu64
               ", \"left_alone\": %s}",
               i ? "," : "", json_quote(arena, row->tensor), row->stored, row->source_bytes, row->bytes,
               row->relative_error, row->relative_error, row->statistics.codes, row->statistics.clamped,
               row->statistics.scales, row->statistics.subnormal_scales, json_quote(arena, row->why));
    }
    printf("\n]}\n");
}

static int quantize(const struct options *options, struct quantize_request *request, struct error *error)
{
    struct subject *subject;
    struct coverage coverage = {0};
    int code = subject_open(&subject, options->positional[0], error);
    if (code)
        return code;
    request->checkpoint = subject->checkpoint;
    request->model = &subject->model;
    code = quantize_bundle(request, &coverage, error);
    if (!code && options->json)
        print_json(&coverage.arena, request, &coverage);
    else if (!code)
        code = print_table(&coverage.arena, request, &coverage, error);
    coverage_close(&coverage);
    subject_close(&subject);
    return code;
}

static int run_quantize(const struct options *options, struct error *error)
{
    struct arena arena = {0};
    struct quantize_request request = {.out = options_text(options, "out"), .quiet = options->quiet};
    const char *scheme = options_text(options, "scheme");
    if (!scheme || !request.out)
        return error_set(error, ERROR_USAGE, "--%s is missing. See: assay help quantize",
                         scheme ? "out DIR" : "scheme NAME");
    int code = scheme_find(scheme, &request.scheme, error);
    const char **keep = arena_alloc(&arena, options->n_given, sizeof *keep);
    if (!code && !keep)
        code = error_set(error, ERROR_RUNTIME, "out of memory");
    for (size_t i = 0; !code && i < options->n_given; i++)
        if (!strcmp(options->given[2 * i], "keep"))
            keep[request.n_keep++] = options->given[2 * i + 1];
    request.keep = keep;
    if (!code)
        code = quantize(options, &request, error);
    arena_close(&arena);
    return code;
}

static const struct option quantize_options[] = {
    {"scheme", "NAME",
     "fp16, int8lin, int8hu_block32_sym, int8hu_block32, int8hu_perchan_sym or int4lin; of experts sym8, int8km, "
     "int4km "
     "or int4aff"},
    {"keep", "PATTERN=fp16",
     "leave matching tensors in half precision, e.g. '*.layers.0.feed_forward.*=fp16'; may repeat"},
    {"out", "DIR", "the bundle; an older bundle of assay there is replaced"},
    {0},
};

const struct command command_quantize = {
    "quantize",
    "MODEL --scheme NAME --out DIR",
    "a bundle from a checkpoint, and what became of every tensor",
    "Makes a bundle with codes and scales as the scheme says, and prints for every tensor how it is stored, its "
    "bytes, its\n"
    "relative error, how many codes were clamped, how many scales are subnormal, or why it was left alone. Experts "
    "that a\n"
    "checkpoint stores one by one share a line by layer and matrix, with the largest error; --json lists each.",
    "assay quantize fixtures/models/lfm2-mini --scheme int8hu_block32_sym --out "
    "out/lfm2_mini_decode_int8hu_block32_sym",
    quantize_options,
    1,
    1,
    run_quantize};
