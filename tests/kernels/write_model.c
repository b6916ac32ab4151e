// write_model MODEL REFERENCE INT8: the model of a checkpoint and its int8hu_block32_sym bundle, each as a
// model_file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/model/checkpoint.h"
#include "runtime/bundle.h"
#include "runtime/quantize.h"
#include "tests/kernels/model_file.h"

static void must(int code, const struct error *error)
{
    if (code) {
        fprintf(stderr, "write_model: %s\n", error->text);
        exit(1);
    }
}

static void write_bytes(FILE *file, const void *bytes, size_t n)
{
    if (n && fwrite(bytes, 1, n, file) != n) {
        perror("write_model");
        exit(1);
    }
}

static void write_weight(void *context, struct weight *weight)
{
    const uint32_t words[] = {weight->format, weight->rows, weight->cols, weight->block};
    write_bytes(context, words, sizeof words);
    write_bytes(context, weight->data, (size_t)(weight->rows * weight_row_bytes(weight)));
    write_bytes(context, weight->scale, (size_t)model_file_scales(weight));
    write_bytes(context, weight->bias, (size_t)model_file_biases(weight));
    write_bytes(context, weight->lut, (size_t)model_file_books(weight));
}

static struct model_head head_of(const struct config *config)
{
    struct model_head head;
    memset(&head, 0, sizeof head);
    head.family = config->family;
    head.vocabulary = config->vocabulary;
    head.hidden = config->hidden;
    head.layers = config->layers;
    head.query_heads = config->query_heads;
    head.key_heads = config->key_heads;
    head.head_width = config->head_width;
    head.rotary_width = config->rotary_width;
    head.conv_taps = config->conv_taps;
    head.delta_key_heads = config->delta_key_heads;
    head.delta_value_heads = config->delta_value_heads;
    head.delta_key_width = config->delta_key_width;
    head.delta_value_width = config->delta_value_width;
    head.feed_forward = config->feed_forward;
    head.dense_layers = config->dense_layers;
    head.experts = config->experts;
    head.experts_per_token = config->experts_per_token;
    head.expert_width = config->expert_width;
    head.shared_width = config->shared_width;
    head.expert_normalise = config->expert_normalise;
    head.expert_scale = config->expert_scale;
    head.norm_eps = config->norm_eps;
    head.rope_theta = config->rope_theta;
    return head;
}

static void write_model(const char *path, const struct model *model, const struct plan *plan)
{
    const struct config *config = &model->config;
    const char *slash = strrchr(path, '/');
    struct model copy = *model;
    struct model_head head = head_of(config);
    snprintf(head.name, sizeof head.name, "%s", slash ? slash + 1 : path);
    head.is_runtime = plan != NULL;
    for (int row = 0; plan && row < PLAN_ROWS; row++)
        head.plan[row] = plan->rows[row];
    FILE *file = fopen(path, "wb");
    if (!file) {
        perror(path);
        exit(1);
    }
    const uint32_t magic = MODEL_FILE_MAGIC;
    write_bytes(file, &magic, sizeof magic);
    write_bytes(file, &head, sizeof head);
    for (uint32_t i = 0; i < config->layers; i++) {
        const uint32_t mixer = config->mixers[i];
        write_bytes(file, &mixer, sizeof mixer);
    }
    model_file_weights(&copy, write_weight, file);
    if (fclose(file)) {
        perror(path);
        exit(1);
    }
}

static void write_bundle(const struct checkpoint *checkpoint, const struct model *model, const char *path)
{
    struct error error = {0};
    struct arena arena = {0};
    struct bundle *bundle;
    char *scratch;
    struct quantize_request request = {.checkpoint = checkpoint, .model = model, .quiet = true};
    must(directory_scratch(&arena, &scratch, &error), &error);
    request.out = file_join(&arena, scratch, "bundle");
    int code = scheme_find("int8hu_block32_sym", &request.scheme, &error);
    if (!code)
        code = quantize_bundle(&request, NULL, &error);
    if (!code)
        code = bundle_open(&bundle, request.out, &error);
    if (!code) {
        write_model(path, &bundle->model, &bundle->plan);
        bundle_close(&bundle);
    }
    directory_remove(scratch);
    must(code, &error);
    arena_close(&arena);
}

int main(int argc, char **argv)
{
    struct error error = {0};
    struct arena arena = {0};
    struct checkpoint *checkpoint;
    struct config config;
    struct model model;
    if (argc != 4) {
        fprintf(stderr, "usage: write_model MODEL REFERENCE INT8\n");
        return 2;
    }
    setenv("ASSAY_NO_CACHE", "1", 1); // nothing is written but the two files
    must(checkpoint_open(&checkpoint, argv[1], &error), &error);
    must(config_open(&arena, checkpoint->config_path, &config, &error), &error);
    must(model_bind(&arena, &config, &checkpoint->table, false, &model, NULL, &error), &error);
    write_model(argv[2], &model, NULL);
    write_bundle(checkpoint, &model, argv[3]);
    checkpoint_close(&checkpoint);
    arena_close(&arena);
    return 0;
}
