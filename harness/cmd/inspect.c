// assay inspect: what is in this file or directory? Tensors, dtypes, shapes, hashes; no arithmetic.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/cmd/options.h"
#include "harness/cmd/subject.h"
#include "harness/run/trace.h"

static void print_tensors(struct arena *arena, const struct tensor_table *table, bool json)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < table->n; i++) {
        const struct tensor *tensor = table->tensors[i];
        char shape[128];
        tensor_shape_text(tensor, shape);
        bytes += tensor->bytes;
        if (json)
            printf("%s{\"name\": %s, \"dtype\": \"%s\", \"shape\": %s, \"bytes\": %" PRIu64 "}", i ? ", " : "",
                   json_quote(arena, tensor->name), dtype_name(tensor->dtype), shape, tensor->bytes);
        else
            printf("  %-52s %-5s %-18s %12" PRIu64 "\n", tensor->name, dtype_name(tensor->dtype), shape, tensor->bytes);
    }
    if (!json)
        printf("  %zu tensors, %" PRIu64 " bytes\n", table->n, bytes);
}

static void print_facts(struct arena *arena, const char *const *facts, size_t n, bool json)
{
    for (size_t i = 0; i < n; i++)
        if (json)
            printf("%s: %s, ", json_quote(arena, facts[2 * i]), json_quote(arena, facts[2 * i + 1]));
        else
            printf("%-17s %s\n", facts[2 * i], facts[2 * i + 1]);
}

static void print_all(struct arena *arena, const char *const *facts, size_t n, const struct tensor_table *table, bool json)
{
    printf(json ? "{" : "");
    print_facts(arena, facts, n, json);
    printf(json ? "\"tensors\": [" : "tensors\n");
    print_tensors(arena, table, json);
    printf(json ? "]}\n" : "");
}

static const char *describe_mixers(struct arena *arena, const struct config *config)
{
    uint32_t n[3] = {0};
    for (uint32_t i = 0; i < config->layers; i++)
        n[config->mixers[i]]++;
    if (config_is_lfm2(config))
        return arena_print(arena, "%" PRIu32 " short convolution, %" PRIu32 " attention", n[MIXER_CONV], n[MIXER_ATTENTION]);
    return arena_print(arena, "%" PRIu32 " gated delta net %" PRIu32 "/%" PRIu32 " x %" PRIu32 "/%" PRIu32 ", %" PRIu32
                       " attention", n[MIXER_DELTA], config->delta_value_heads, config->delta_key_heads,
                       config->delta_value_width, config->delta_key_width, n[MIXER_ATTENTION]);
}

static const char *describe_feed_forward(struct arena *arena, const struct config *config)
{
    const char *dense = config->feed_forward ? arena_print(arena, "feed-forward %" PRIu32, config->feed_forward) : "";
    if (!config->experts)
        return dense;
    const char *shared =
        config->shared_width ? arena_print(arena, " and a shared one of %" PRIu32, config->shared_width) : "";
    if (config->dense_layers)
        dense = arena_print(arena, "%s in %" PRIu32 " layers, then ", dense, config->dense_layers);
    else
        dense = "";
    return arena_print(arena, "%s%" PRIu32 " of %" PRIu32 " experts of %" PRIu32 "%s", dense, config->experts_per_token,
                       config->experts, config->expert_width, shared);
}

static const char *describe(struct arena *arena, const struct config *config)
{
    return arena_print(arena, "%" PRIu32 " layers (%s), hidden %" PRIu32 ", %s, heads %" PRIu32 "/%" PRIu32 " x %" PRIu32
                       ", vocabulary %" PRIu32, config->layers, describe_mixers(arena, config), config->hidden,
                       describe_feed_forward(arena, config), config->query_heads, config->key_heads, config->head_width,
                       config->vocabulary);
}

static const char *describe_left_out(struct arena *arena, const struct model_left_out *left_out)
{
    if (!left_out->vision && !left_out->prediction)
        return "nothing";
    return arena_print(arena, "%" PRIu32 " tensors of the vision part (model.visual.*), %" PRIu32 " of the multi-token "
                       "prediction head (mtp.*), %" PRIu64 " bytes", left_out->vision, left_out->prediction,
                       left_out->bytes);
}

struct parameters {
    uint64_t n;
};

static void add_parameters(void *context, const struct weight *weight)
{
    ((struct parameters *)context)->n += (uint64_t)weight->rows * weight->cols;
}

static int inspect_checkpoint(const struct options *options, struct arena *arena, struct error *error)
{
    struct subject *subject;
    const int code = subject_open(&subject, options->positional[0], error);
    if (code)
        return code;
    struct parameters parameters = {0};
    model_visit(&subject->model, add_parameters, &parameters);
    const char *facts[] = {"kind", "checkpoint", "model", subject->checkpoint->name, "model_type", subject->config.model_type,
        "architecture", describe(arena, &subject->config),
        "parameters", arena_print(arena, "%" PRIu64, parameters.n),
        "head", subject->head_note ? subject->head_note : subject->model.head.data == subject->model.embedding.data ? "tied"
                                                                                                    : "untied",
        "left out", describe_left_out(arena, &subject->model.left_out),
        "tokenizer", subject->tokenizer ? "tokenizer.json" : "none",
        "weights_sha256", subject->hashes.weights, "config_sha256", subject->hashes.config,
        "tokenizer_sha256", subject->hashes.tokenizer};
    print_all(arena, facts, sizeof facts / sizeof *facts / 2, &subject->checkpoint->table, options->json);
    subject_close(&subject);
    return 0;
}

static int inspect_bundle(const struct options *options, struct arena *arena, struct error *error)
{
    struct bundle *bundle;
    char hash[HASH_HEX];
    int code = bundle_open(&bundle, options->positional[0], error);
    if (code)
        return code;
    code = bundle_hash(bundle, hash, error);
    if (!code) {
        const char *plan = "";
        for (int row = 0; row < PLAN_ROWS; row++)
            plan = arena_print(arena, "%s%s%s %s", plan, row ? ", " : "", plan_row_name((enum plan_row)row),
                               precision_name(bundle->plan.rows[row]));
        const char *facts[] = {"kind", "bundle", "name", bundle->name, "scheme", bundle->scheme_name,
            "made by", bundle->own ? "assay" : "another tool", "architecture", describe(arena, &bundle->config),
            "precision", plan, "bundle_sha256", hash, "weights_sha256", bundle->weights_sha256,
            "config_sha256", bundle->config_sha256, "tokenizer_sha256", bundle->tokenizer_sha256};
        print_all(arena, facts, sizeof facts / sizeof *facts / 2, &bundle->table, options->json);
    }
    bundle_close(&bundle);
    return code;
}

// Any safetensors file; one that says it is a trace is read as a trace, so that a bad one is refused with its reason.
static int inspect_file(const struct options *options, struct arena *arena, struct error *error)
{
    struct safetensors *file;
    int code = safetensors_open(&file, options->positional[0], error);
    if (code)
        return code;
    if (safetensors_metadata(file, "schema") && !strcmp(safetensors_metadata(file, "schema"), TRACE_SCHEMA)) {
        struct trace *trace;
        code = trace_open(&trace, options->positional[0], error);
        if (!code)
            trace_close(&trace);
    }
    const struct tensor **tensors = arena_alloc(arena, file->n_tensors, sizeof *tensors);
    if (!code && !tensors)
        code = error_set(error, ERROR_RUNTIME, "out of memory");
    if (!code) {
        for (size_t i = 0; i < file->n_tensors; i++)
            tensors[i] = &file->tensors[i];
        const struct tensor_table table = {file->n_tensors, tensors};
        print_all(arena, file->metadata, file->n_metadata, &table, options->json);
    }
    safetensors_close(&file);
    return code;
}

static int run_inspect(const struct options *options, struct error *error)
{
    struct arena arena = {0};
    const char *path = options->positional[0];
    const int code = !file_is_directory(path)     ? inspect_file(options, &arena, error)
                     : subject_is_bundle(path) ? inspect_bundle(options, &arena, error)
                                               : inspect_checkpoint(options, &arena, error);
    arena_close(&arena);
    return code;
}

static const struct option inspect_options[] = {{0}};

const struct command command_inspect = {
    "inspect", "PATH", "what is in a checkpoint, a bundle, a trace or any safetensors file",
    "Checks PATH as the other commands would, then lists architecture, hashes, every tensor, and what of a released\n"
    "checkpoint is left out: the vision tower, the multi-token prediction head.",
    "assay inspect fixtures/models/qwen35-mini", inspect_options, 1, 1, run_inspect};
