#include "harness/cmd/subject.h"

#include <stdlib.h>

#include "harness/base/files.h"
#include "harness/model/stops.h"

static int open_parts(struct subject *subject, const char *model, struct error *error)
{
    int code = checkpoint_open(&subject->checkpoint, model, error);
    if (!code)
        code = config_open(&subject->arena, subject->checkpoint->config_path, &subject->config, error);
    if (!code)
        code = stops_open(&subject->config, subject->checkpoint->path, error);
    if (!code)
        code = model_bind(&subject->arena, &subject->config, &subject->checkpoint->table, false, &subject->model,
                          &subject->head_note, error);
    if (!code)
        code = checkpoint_hash(subject->checkpoint, &subject->hashes, error);
    if (!code && subject->checkpoint->tokenizer_path)
        code = tokenizer_open(&subject->tokenizer, subject->checkpoint->tokenizer_path, error);
    return code;
}

int subject_open(struct subject **out, const char *model, struct error *error)
{
    *out = NULL;
    struct subject *subject = calloc(1, sizeof *subject);
    if (!subject)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    const int code = open_parts(subject, model, error);
    if (code) {
        subject_close(&subject);
        return code;
    }
    subject->contract = (struct trace_contract){.model = subject->checkpoint->name, .model_type = subject->config.model_type,
        .weights_sha256 = subject->hashes.weights, .config_sha256 = subject->hashes.config, .bundle_sha256 = "",
        .tokenizer_sha256 = subject->hashes.tokenizer, .engine = "", .engine_version = "", .device = "", .precision = "",
        .mode = "s1", .start = "zero"};
    *out = subject;
    return 0;
}

void subject_close(struct subject **subject)
{
    if (!subject || !*subject)
        return;
    tokenizer_close(&(*subject)->tokenizer);
    checkpoint_close(&(*subject)->checkpoint);
    arena_close(&(*subject)->arena);
    free(*subject);
    *subject = NULL;
}

bool subject_is_bundle(const char *directory)
{
    struct arena arena = {0};
    const char *metadata = file_join(&arena, directory, "metadata.json"), *plan = file_join(&arena, directory, "precision.json");
    const bool is_bundle = metadata && plan && file_exists(metadata) && file_exists(plan);
    arena_close(&arena);
    return is_bundle;
}

int subject_bundle_contract(struct arena *arena, const struct bundle *bundle, struct trace_contract *contract,
                            struct error *error)
{
    char hash[HASH_HEX];
    const int code = bundle_hash(bundle, hash, error);
    if (code)
        return code;
    const char *kept = arena_print(arena, "%s", hash);
    if (!kept)
        return error_set(error, ERROR_RUNTIME, "out of memory");
    *contract = (struct trace_contract){.model = bundle->name, .model_type = bundle->config.model_type,
        .weights_sha256 = bundle->weights_sha256, .config_sha256 = bundle->config_sha256, .bundle_sha256 = kept,
        .tokenizer_sha256 = bundle->tokenizer_sha256, .engine = "", .engine_version = "", .device = "", .precision = "",
        .mode = "s1", .start = "zero"};
    return 0;
}

int subject_data(struct arena *arena, const char *name, const char *option, const char **path, struct error *error)
{
    const char *directories[] = {getenv("ASSAY_DATA"), ASSAY_INSTALLED_DATA, "fixtures"};
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        *path = directories[i] ? file_join(arena, directories[i], name) : NULL;
        if (*path && file_exists(*path))
            return 0;
    }
    return error_set(error, ERROR_INPUT, "%s: not in $ASSAY_DATA, %s or ./fixtures; name one with %s", name, ASSAY_INSTALLED_DATA,
                     option);
}

int subject_suite(struct arena *arena, const struct config *config, const char **path, struct error *error)
{
    const char *name = config_is_lfm2(config) ? "suites/standard.json" : "suites/standard-qwen35.json";
    return subject_data(arena, name, "--suite FILE", path, error);
}
