#include "runtime/bundle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/model/stops.h"
#include "runtime/metadata.h"

static char *join(struct bundle *bundle, const char *name)
{
    return file_join(&bundle->arena, bundle->path, name);
}

static int no_memory(const char *path, struct error *error)
{
    return error_set(error, ERROR_RUNTIME, "%s: no memory to open the bundle", path);
}

static int open_metadata(struct bundle *bundle, struct metadata *metadata, struct error *error)
{
    const char *path = join(bundle, "metadata.json");
    if (!path)
        return no_memory(bundle->path, error);
    if (!file_exists(path))
        return error_set(
            error, ERROR_INPUT,
            "%s: no metadata.json in it, so it is no bundle; make one with: assay quantize MODEL --scheme NAME "
            "--out DIR",
            bundle->path);
    struct json_document *document;
    int code = json_open_file(&document, path, BUNDLE_JSON_MAX, error);
    if (code)
        return code;
    code = metadata_read(&bundle->arena, json_root(document), metadata, error);
    json_close(&document);
    bundle->name = metadata->name;
    bundle->scheme = metadata->scheme;
    bundle->scheme_name = metadata->scheme_name;
    bundle->n_keep = metadata->n_keep;
    bundle->keep = metadata->keep;
    bundle->own = metadata->own;
    memcpy(bundle->declared, metadata->declared, sizeof bundle->declared);
    memcpy(bundle->weights_sha256, metadata->weights_sha256, HASH_HEX);
    memcpy(bundle->config_sha256, metadata->config_sha256, HASH_HEX);
    memcpy(bundle->tokenizer_sha256, metadata->tokenizer_sha256, HASH_HEX);
    return code;
}

// A file whose hash the metadata gives must be that file: theta, order of norms or widths edited afterwards would
// otherwise be judged as if the model had always been so.
static int check_file(const char *path, const char *key, const char *stated, struct error *error)
{
    char found[HASH_HEX];
    const int code = hash_file(path, found, error);
    if (code || !strcmp(found, stated))
        return code;
    return error_set(
        error, ERROR_CONTRACT,
        "%s: was changed after the bundle was made: its SHA-256 is %.12s..., source.%s in metadata.json says "
        "%.12s...; make the bundle again",
        path, found, key, stated);
}

static int open_config(struct bundle *bundle, const struct metadata *metadata, struct error *error)
{
    const char *path = join(bundle, "config.json");
    if (!path)
        return no_memory(bundle->path, error);
    int code = check_file(path, "config_sha256", bundle->config_sha256, error);
    if (!code)
        code = config_open(&bundle->arena, path, &bundle->config, error);
    if (code)
        return code;
    if (bundle->own && strcmp(metadata->model_type, bundle->config.model_type))
        return error_set(error, ERROR_CONTRACT, "%s: metadata.json says model %s, config.json says %s", bundle->path,
                         metadata->model_type, bundle->config.model_type);
    if (metadata->vocabulary != bundle->config.vocabulary)
        return error_set(
            error, ERROR_CONTRACT,
            "%s: language.vocab_size of metadata.json is %u, vocab_size of config.json is %u: tokens would be "
            "read as others",
            bundle->path, metadata->vocabulary, bundle->config.vocabulary);
    struct error why;
    return scheme_check(bundle->scheme, bundle->config.family, &why)
               ? error_set(error, ERROR_CONTRACT, "%s: %.900s", bundle->path, why.text)
               : 0;
}

static int open_tokenizer(struct bundle *bundle, struct error *error)
{
    char *path = join(bundle, "tokenizer/tokenizer.json");
    if (!path)
        return no_memory(bundle->path, error);
    if (file_exists(path)) {
        bundle->tokenizer_path = path;
        return *bundle->tokenizer_sha256 ? check_file(path, "tokenizer_sha256", bundle->tokenizer_sha256, error) : 0;
    }
    return 0;
}

static int open_plan(struct bundle *bundle, const struct metadata *metadata, struct error *error)
{
    const char *path = join(bundle, "precision.json");
    if (!path)
        return no_memory(bundle->path, error);
    const int code = plan_read(path, bundle->config.family, &bundle->plan, error);
    if (code)
        return code;
    for (int row = 0; row < PLAN_ROWS; row++) {
        if (bundle->declared[row] && !plan_has(bundle->config.family, (enum plan_row)row))
            return error_set(error, ERROR_CONTRACT,
                             "%s: compression.plan of metadata.json declares %s, of which a model of family %s has "
                             "nothing",
                             bundle->path, plan_row_name((enum plan_row)row), family_name(bundle->config.family));
        if (bundle->declared[row] && metadata->declared_as[row] != bundle->plan.rows[row])
            return error_set(error, ERROR_CONTRACT,
                             "%s: compression.plan of metadata.json declares %s = %s, precision.json says %s",
                             bundle->path, plan_row_name((enum plan_row)row),
                             precision_name(metadata->declared_as[row]), precision_name(bundle->plan.rows[row]));
    }
    return 0;
}

// --- the weights

static const char *form_text(enum weight_format format, uint32_t block, uint32_t cols, char text[64])
{
    if (format == WEIGHT_K8 || format == WEIGHT_K4)
        return format == WEIGHT_K8 ? "int8 with codebooks" : "int4 with codebooks";
    if (format == WEIGHT_A4)
        return block == 32 ? "int4 block 32 with biases" : "int4 per row with biases";
    if (format != WEIGHT_Q8 && format != WEIGHT_Q4)
        return weight_format_name(format);
    const char *name = format == WEIGHT_Q8 ? "int8" : "int4";
    if (block == cols)
        snprintf(text, 64, "%s per row", name);
    else
        snprintf(text, 64, "%s block %u", name, block);
    return text;
}

struct form_check {
    const struct bundle *bundle;
    struct error *error;
    int code;
};

// Bundle names lie (zoo.md 0.8): per-channel heads that hold blocks, layers that were skipped in silence. What is not
// stored as the scheme's name says is not judged under that name.
static void check_form(void *context, const struct weight *weight)
{
    struct form_check *check = context;
    const struct bundle *bundle = check->bundle;
    if (check->code)
        return;
    const bool is_head = weight == &bundle->model.head;
    struct quant_decision decision;
    quant_decide(bundle->scheme, &bundle->config, bundle->keep, bundle->n_keep, weight, is_head, &decision);
    const bool quantized = decision.rule.format != QUANT_NONE;
    const enum weight_format expected = quantized                      ? quant_weight_format(decision.rule.format)
                                        : decision.stored == DTYPE_F32 ? WEIGHT_F32
                                                                       : WEIGHT_F16;
    const uint32_t block = quantized ? quant_block(decision.rule, weight->cols) : 0;
    // a half where the scheme stores fp32, or the other way round, can be computed: the audit reports it
    if (quantized ? weight->format == expected && weight->block == block
                  : weight->format == WEIGHT_F16 || weight->format == WEIGHT_F32)
        return;
    char found[64], wanted[64];
    check->code =
        error_set(check->error, ERROR_CONTRACT,
                  "%s: %s is stored as %s, scheme %s of metadata.json stores it as %s%s%s%s; the bundle is not "
                  "what its metadata says",
                  bundle->path, is_head ? "lm_head.weight" : weight->name,
                  form_text(weight->format, weight->block, weight->cols, found), bundle->scheme_name,
                  form_text(expected, block, weight->cols, wanted), *decision.why ? " (" : "", decision.why,
                  *decision.why ? ")" : "");
}

static int open_weights(struct bundle *bundle, struct error *error)
{
    const char *path = join(bundle, "weights.safetensors");
    if (!path)
        return no_memory(bundle->path, error);
    int code = safetensors_open(&bundle->weights, path, error);
    if (code)
        return code;
    const struct tensor **tensors = arena_alloc(&bundle->arena, bundle->weights->n_tensors, sizeof *tensors);
    if (!tensors)
        return no_memory(bundle->path, error);
    for (size_t i = 0; i < bundle->weights->n_tensors; i++)
        tensors[i] = &bundle->weights->tensors[i]; // sorted by name already
    bundle->table = (struct tensor_table){bundle->weights->n_tensors, tensors};
    code = model_bind(&bundle->arena, &bundle->config, &bundle->table, true, &bundle->model, NULL, error);
    if (code)
        return code;
    struct form_check check = {bundle, error, 0};
    model_visit(&bundle->model, check_form, &check);
    if (bundle->model.head.data == bundle->model.embedding.data)
        check_form(&check, &bundle->model.head);
    return check.code;
}

int bundle_open(struct bundle **bundle, const char *directory, struct error *error)
{
    *bundle = NULL;
    if (!file_is_directory(directory))
        return error_set(error, ERROR_INPUT, "%s: %s, expected the directory of a bundle", directory,
                         file_exists(directory) ? "is no directory" : "does not exist");
    struct bundle *opened = calloc(1, sizeof *opened);
    if (!opened)
        return no_memory(directory, error);
    struct metadata metadata;
    opened->path = arena_print(&opened->arena, "%s", directory);
    int code = opened->path ? open_metadata(opened, &metadata, error) : no_memory(directory, error);
    if (!code)
        code = open_config(opened, &metadata, error);
    if (!code)
        code = stops_open(&opened->config, directory, error);
    if (!code)
        code = open_tokenizer(opened, error);
    if (!code)
        code = open_plan(opened, &metadata, error);
    if (!code)
        code = open_weights(opened, error);
    if (code)
        bundle_close(&opened);
    *bundle = opened;
    return code;
}

void bundle_close(struct bundle **bundle)
{
    if (!bundle || !*bundle)
        return;
    safetensors_close(&(*bundle)->weights);
    arena_close(&(*bundle)->arena);
    free(*bundle);
    *bundle = NULL;
}

int bundle_hash(const struct bundle *bundle, char hex[HASH_HEX], struct error *error)
{
    static const char *const names[] = {"config.json", "metadata.json", "precision.json", "weights.safetensors"};
    enum { N = sizeof names / sizeof *names };
    struct arena arena = {0};
    const char *paths[N];
    int code = 0;
    for (size_t i = 0; i < N && !code; i++)
        if (!(paths[i] = file_join(&arena, bundle->path, names[i])))
            code = no_memory(bundle->path, error);
    if (!code)
        code = hash_files(paths, N, hex, error);
    arena_close(&arena);
    return code;
}

int bundle_matches(const struct bundle *bundle, const struct checkpoint_hashes *hashes, struct error *error)
{
    const struct {
        const char *what, *stated, *found;
    } pairs[] = {
        {"weights", bundle->weights_sha256, hashes->weights},
        {"config.json", bundle->config_sha256, hashes->config},
        {"tokenizer.json", bundle->tokenizer_sha256, hashes->tokenizer},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        // a model without a tokenizer works wherever ids are given: nothing to compare then
        if (!*pairs[i].stated || !*pairs[i].found || !strcmp(pairs[i].stated, pairs[i].found))
            continue;
        return error_set(
            error, ERROR_CONTRACT,
            "%s: was made from another checkpoint: the SHA-256 of its %s is %.12s..., the checkpoint's is "
            "%.12s...; give the checkpoint that it was made from, or make the bundle again",
            bundle->path, pairs[i].what, pairs[i].stated, pairs[i].found);
    }
    return 0;
}
