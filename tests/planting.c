#include "tests/planting.h"

#include <stdio.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/half.h"
#include "runtime/bundle.h"

struct copy {
    struct arena arena;
    const struct bundle *bundle;
    unsigned char *weights;  // bytes of weights.safetensors
    uint64_t size;           // of them, to be written
    char *config, *metadata; // texts
    struct plan plan;
};

// The copy's bytes of what `data` points at in the bundle's mapping.
static void *writable(const struct copy *copy, const void *data)
{
    return copy->weights + ((const unsigned char *)data - copy->bundle->weights->map.bytes);
}

static uint16_t *writable_scales(const struct copy *copy, const struct weight *weight, uint32_t row)
{
    return (uint16_t *)writable(copy, weight->scale) + (uint64_t)row * (weight->cols / weight->block);
}

static struct layer *middle_layer(const struct copy *copy)
{
    return &copy->bundle->model.layers[copy->bundle->model.config.layers / 2];
}

static int unsuitable(const char *why, struct error *error)
{
    return error_set(error, ERROR_USAGE, "this bundle cannot have the fault: %s", why);
}

static int none(struct copy *copy, struct error *error)
{
    (void)copy, (void)error;
    return 0;
}

static int scale_row_16(struct copy *copy, struct error *error)
{
    const struct weight *weight = &middle_layer(copy)->w2;
    const uint32_t row = 17 % weight->rows;
    if (weight->format == WEIGHT_F32)
        return unsuitable("its feed-forward weights are neither quantized nor half", error);
    const uint32_t n = weight->scale ? weight->cols / weight->block : weight->cols;
    uint16_t *halves = weight->scale ? writable_scales(copy, weight, row)
                                     : (uint16_t *)writable(copy, weight->data) + (uint64_t)row * n;
    for (uint32_t i = 0; i < n; i++)
        halves[i] = half_from_float(16 * half_to_float(halves[i]));
    return 0;
}

static int head_rows_dead(struct copy *copy, struct error *error)
{
    (void)error;
    const struct weight *head = &copy->bundle->model.head;
    const uint32_t first = (uint32_t)((uint64_t)head->rows * 97 / 100);
    for (uint32_t row = first; row < head->rows; row++) {
        if (head->scale)
            memset(writable_scales(copy, head, row), 0, head->cols / head->block * sizeof *head->scale);
        else
            memset((char *)writable(copy, head->data) + row * weight_row_bytes(head), 0, weight_row_bytes(head));
    }
    return 0;
}

static void exchange(unsigned char *a, unsigned char *b, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++) {
        const unsigned char kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

static int gate_up_swapped(struct copy *copy, struct error *error)
{
    (void)error;
    const struct weight *gate = &middle_layer(copy)->w1, *up = &middle_layer(copy)->w3;
    exchange(writable(copy, gate->data), writable(copy, up->data), gate->rows * weight_row_bytes(gate));
    if (gate->scale)
        exchange(writable(copy, gate->scale), writable(copy, up->scale),
                 (uint64_t)gate->rows * (gate->cols / gate->block) * sizeof *gate->scale);
    return 0;
}

static int conv_weights_shifted(struct copy *copy, struct error *error)
{
    const struct model *model = &copy->bundle->model;
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct weight *conv = &model->layers[i].conv;
        if (conv->format != WEIGHT_F16)
            continue;
        uint16_t *taps = writable(copy, conv->data);
        for (uint32_t row = 0; row < conv->rows; row++)
            memmove(taps + row * conv->cols + 1, taps + row * conv->cols, (conv->cols - 1) * sizeof *taps);
        return 0;
    }
    return unsuitable("it has no short convolution in half precision", error);
}

static int scale_block_off_by_one(struct copy *copy, struct error *error)
{
    const struct weight *weight = &middle_layer(copy)->w1;
    if (!weight->scale || weight->cols == weight->block)
        return unsuitable("its feed-forward weights have no block scales", error);
    for (uint32_t row = 0; row < weight->rows; row++) {
        uint16_t *scales = writable_scales(copy, weight, row);
        memmove(scales + 1, scales, (weight->cols / weight->block - 1) * sizeof *scales);
    }
    return 0;
}

static int sign_flipped_codes(struct copy *copy, struct error *error)
{
    const struct weight *weight = &middle_layer(copy)->w1;
    if (!weight->scale)
        return unsuitable("its feed-forward weights have no codes", error);
    unsigned char *codes = writable(copy, weight->data);
    for (uint64_t i = 0; i < weight->rows * weight_row_bytes(weight); i++)
        codes[i] ^= weight->format == WEIGHT_Q4 ? 0x88 : 0x80;
    return 0;
}

static int nibble_order(struct copy *copy, struct error *error)
{
    const struct weight *weight = &middle_layer(copy)->w1;
    if (weight->format != WEIGHT_Q4)
        return unsuitable("its feed-forward weights are not stored as int4", error);
    unsigned char *codes = writable(copy, weight->data);
    for (uint64_t i = 0; i < weight->rows * weight_row_bytes(weight); i++)
        codes[i] = (unsigned char)(codes[i] << 4 | codes[i] >> 4);
    return 0;
}

static int embedding_row_nan(struct copy *copy, struct error *error)
{
    const struct weight *embedding = &copy->bundle->model.embedding;
    const int64_t bos = copy->bundle->model.config.bos; // in every prompt
    const uint32_t row = bos >= 0 && bos < embedding->rows ? (uint32_t)bos : 0;
    if (embedding->format != WEIGHT_F16)
        return unsuitable("its embedding is not half", error);
    uint16_t *halves = (uint16_t *)writable(copy, embedding->data) + (uint64_t)row * embedding->cols;
    for (uint32_t k = 0; k < embedding->cols; k++)
        halves[k] = HALF_NAN;
    return 0;
}

static int linear_sum_fp16(struct copy *copy, struct error *error)
{
    (void)error;
    copy->plan.rows[PLAN_LINEAR_SUM] = PRECISION_F16;
    return 0;
}

static int kv_state_fp32(struct copy *copy, struct error *error)
{
    (void)error;
    copy->plan.rows[PLAN_KV_STATE] = PRECISION_F32;
    return 0;
}

static int dequant_fp16(struct copy *copy, struct error *error)
{
    (void)error;
    copy->plan.rows[PLAN_DEQUANT] = PRECISION_F16;
    return 0;
}

// `from` becomes `to` wherever it stands.
static int replace(struct copy *copy, char **text, const char *from, const char *to, struct error *error)
{
    char *result = arena_print(&copy->arena, "%s", "");
    const char *rest = *text, *next;
    for (; result && (next = strstr(rest, from)); rest = next + strlen(from))
        result = arena_print(&copy->arena, "%s%.*s%s", result, (int)(next - rest), rest, to);
    if (rest == *text)
        return unsuitable("its metadata or config has no such text", error);
    *text = result ? arena_print(&copy->arena, "%s%s", result, rest) : NULL;
    return *text ? 0 : error_set(error, ERROR_RUNTIME, "no memory");
}

static int linear_sum_fp16_declared(struct copy *copy, struct error *error)
{
    copy->plan.rows[PLAN_LINEAR_SUM] = PRECISION_F16;
    return replace(copy, &copy->metadata, "\"plan\": {}", "\"plan\": {\"linear_sum\": \"f16\"}", error);
}

static int config_theta(struct copy *copy, struct error *error)
{
    return replace(copy, &copy->config, "\"rope_theta\": 1000000.0", "\"rope_theta\": 10000.0", error);
}

static int other_scheme(struct copy *copy, struct error *error)
{
    const char *name = copy->bundle->scheme->name;
    return replace(copy, &copy->metadata, name, strcmp(name, "int8lin") ? "int8lin" : "int8hu_block32_sym", error);
}

static int name_lies(struct copy *copy, struct error *error)
{
    const char *name = copy->bundle->scheme->name;
    const char *end = arena_print(&copy->arena, "_decode_%s", name);
    return replace(copy, &copy->metadata, end ? end : name,
                   strcmp(name, "int8lin") ? "_decode_int8lin" : "_decode_fp16", error);
}

static int other_model(struct copy *copy, struct error *error)
{
    char hash[HASH_HEX];
    memcpy(hash, copy->bundle->weights_sha256, HASH_HEX);
    hash[0] = hash[0] == '0' ? '1' : '0';
    return replace(copy, &copy->metadata, copy->bundle->weights_sha256, hash, error);
}

static int foreign(struct copy *copy, struct error *error)
{
    return replace(copy, &copy->metadata, "\"assay\":", "\"another_tool\":", error);
}

static int truncated(struct copy *copy, struct error *error)
{
    (void)error;
    copy->size -= copy->size / 3;
    return 0;
}

static const struct {
    const char *name;
    int (*plant)(struct copy *copy, struct error *error);
    const char *description;
} faults[] = {
    {"none", none, "a faithful copy: the control"},
    {"scale_row_16", scale_row_16, "w2 of the middle layer: the scales of row 17 are 16 times too large"},
    {"head_rows_dead", head_rows_dead,
     "the head's scales are zero for the top 3 % of the ids (its rows, when not quantized)"},
    {"gate_up_swapped", gate_up_swapped, "w1 and w3 of the middle layer hold each other's values"},
    {"conv_weights_shifted", conv_weights_shifted, "the taps of the first short convolution are shifted by one"},
    {"scale_block_off_by_one", scale_block_off_by_one,
     "w1 of the middle layer: every block has its left neighbour's scale"},
    {"sign_flipped_codes", sign_flipped_codes, "w1 of the middle layer: signed codes written as unsigned"},
    {"nibble_order", nibble_order, "w1 of the middle layer: int4 codes with the high nibble first (int4 bundles)"},
    {"embedding_row_nan", embedding_row_nan, "the embedding of BOS is NaN"},
    {"linear_sum_fp16", linear_sum_fp16, "precision.json accumulates the linears in half, undeclared"},
    {"linear_sum_fp16_declared", linear_sum_fp16_declared,
     "the same, declared in metadata.json (bundles without a declaration)"},
    {"dequant_fp16", dequant_fp16, "precision.json rounds code x scale to half, undeclared"},
    {"kv_state_fp32", kv_state_fp32, "precision.json keeps the KV state in fp32, undeclared"},
    {"config_theta", config_theta, "config.json has theta 10,000: refused"},
    {"other_scheme", other_scheme, "metadata.json names another scheme: refused"},
    {"name_lies", name_lies, "the bundle's name ends in another scheme: refused"},
    {"other_model", other_model, "metadata.json gives the hash of another checkpoint: opens, does not match"},
    {"foreign", foreign, "no fault: metadata.json says that another tool made it, so the audit measures distances"},
    {"truncated", truncated, "weights.safetensors ends after two thirds: refused"},
};
enum { N_FAULTS = sizeof faults / sizeof *faults };

// --- the copy

static int read_text(struct copy *copy, const char *name, char **text, struct error *error)
{
    uint64_t size;
    const char *path = file_join(&copy->arena, copy->bundle->path, name);
    return path ? file_read(&copy->arena, path, BUNDLE_JSON_MAX, text, &size, error)
                : error_set(error, ERROR_RUNTIME, "no memory");
}

static int copy_read(struct copy *copy, const struct bundle *bundle, struct error *error)
{
    copy->bundle = bundle;
    copy->plan = bundle->plan;
    copy->size = bundle->weights->map.size;
    copy->weights = arena_alloc(&copy->arena, (size_t)copy->size, 1);
    if (!copy->weights)
        return error_set(error, ERROR_RUNTIME, "no memory for %llu bytes", (unsigned long long)copy->size);
    memcpy(copy->weights, bundle->weights->map.bytes, (size_t)copy->size);
    const int code = read_text(copy, "config.json", &copy->config, error);
    return code ? code : read_text(copy, "metadata.json", &copy->metadata, error);
}

static int write_file(struct copy *copy, const char *directory, const char *name, const void *bytes, uint64_t size,
                      struct error *error)
{
    struct output *output;
    const char *path = file_join(&copy->arena, directory, name);
    const int code = path ? output_open(&output, path, error) : error_set(error, ERROR_RUNTIME, "no memory");
    if (code)
        return code;
    if (bytes)
        output_append(output, bytes, (size_t)size);
    else
        plan_write(output, copy->bundle->config.family, &copy->plan);
    return output_commit(&output, error);
}

static int copy_tokenizer(struct copy *copy, const char *directory, struct error *error)
{
    struct file_map map;
    if (!copy->bundle->tokenizer_path)
        return 0;
    const char *tokenizer = file_join(&copy->arena, directory, "tokenizer");
    int code = tokenizer ? directory_make(tokenizer, error) : error_set(error, ERROR_RUNTIME, "no memory");
    if (!code)
        code = file_map_open(&map, copy->bundle->tokenizer_path, error);
    if (code)
        return code;
    code = write_file(copy, tokenizer, "tokenizer.json", map.bytes, map.size, error);
    file_map_close(&map);
    return code;
}

static int copy_write(struct copy *copy, const char *directory, struct error *error)
{
    int code = directory_make(directory, error);
    if (!code)
        code = write_file(copy, directory, "weights.safetensors", copy->weights, copy->size, error);
    if (!code)
        code = write_file(copy, directory, "config.json", copy->config, strlen(copy->config), error);
    if (!code)
        code = write_file(copy, directory, "metadata.json", copy->metadata, strlen(copy->metadata), error);
    if (!code)
        code = write_file(copy, directory, "precision.json", NULL, 0, error);
    return code ? code : copy_tokenizer(copy, directory, error);
}

void plant_list(FILE *out)
{
    for (size_t i = 0; i < N_FAULTS; i++)
        fprintf(out, "%-26s %s\n", faults[i].name, faults[i].description);
}

int plant_fault(const char *source, const char *name, const char *directory, struct error *error)
{
    struct bundle *bundle;
    struct copy copy = {0};
    size_t fault = 0;
    while (fault < N_FAULTS && strcmp(faults[fault].name, name))
        fault++;
    if (fault == N_FAULTS)
        return error_set(error, ERROR_USAGE, "%s is no fault; see plant --list", name);
    int code = bundle_open(&bundle, source, error);
    if (code)
        return code;
    code = copy_read(&copy, bundle, error);
    if (!code)
        code = faults[fault].plant(&copy, error);
    if (!code)
        code = copy_write(&copy, directory, error);
    arena_close(&copy.arena);
    bundle_close(&bundle);
    return code;
}
