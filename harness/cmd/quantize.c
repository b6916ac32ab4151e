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

static void print_row(const struct coverage_row *row)
{
    char error[16] = "";
    if (row->bytes)
        snprintf(error, sizeof error, "%.2e", row->relative_error);
    printf("%-44s %-25s %12" PRIu64 "  %8s", row->tensor, row->stored, row->bytes, error);
    if (is_quantized(row))
        printf(" %9" PRIu64 " %9" PRIu64 "\n", row->statistics.clamped, row->statistics.subnormal_scales);
    else
        printf("  %s\n", row->why);
}

static void print_table(const struct quantize_request *request, const struct coverage *coverage)
{
    struct quant_statistics total = {0};
    size_t n_quantized = 0;
    char bytes[32], source[32], codes[32];
    printf("%-44s %-25s %12s  %8s %9s %9s\n", "tensor", "stored as", "bytes", "error", "clamped", "subnormal");
    for (size_t i = 0; i < coverage->n; i++) {
        const struct coverage_row *row = &coverage->rows[i];
        print_row(row);
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
        print_table(request, &coverage);
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
    {"scheme", "NAME", "fp16, int8lin, int8hu_block32_sym, int8hu_block32, int8hu_perchan_sym or int4lin"},
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
    "relative error, how many codes were clamped, how many scales are subnormal, or why it was left alone.",
    "assay quantize fixtures/models/lfm2-mini --scheme int8hu_block32_sym --out out/mini.int8",
    quantize_options,
    1,
    1,
    run_quantize};
