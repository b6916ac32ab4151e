#include "tests/planting.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/half.h"
#include "runtime/stored.h"
#include "tests/planting_copy.h"

// The halves beside the codes, whole.
static uint16_t *writable_side(const struct copy *copy, const struct side *side)
{
    return copy_bytes(copy, side->halves);
}

static uint16_t *writable_scales(const struct copy *copy, const struct weight *weight, uint32_t row)
{
    return (uint16_t *)copy_bytes(copy, weight->scale) + (uint64_t)row * (weight->cols / weight->block);
}

static struct layer *middle_layer(const struct copy *copy)
{
    return &copy->bundle->model.layers[copy->bundle->model.config.layers / 2];
}

// Of the middle layer: its feed-forward weights, or those of its middle expert.
static struct expert feed_forward(const struct copy *copy)
{
    const struct layer *layer = middle_layer(copy);
    if (layer->sparse)
        return layer->experts[copy->bundle->model.config.experts / 2];
    return (struct expert){layer->w1, layer->w3, layer->w2};
}

static const struct layer *first_delta(const struct copy *copy)
{
    const struct model *model = &copy->bundle->model;
    for (uint32_t i = 0; i < model->config.layers; i++)
        if (model->layers[i].mixer == MIXER_DELTA)
            return &model->layers[i];
    return NULL;
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
    const struct expert middle = feed_forward(copy);
    const struct weight *weight = &middle.down;
    const uint32_t row = 17 % weight->rows;
    if (weight->format == WEIGHT_F32 || weight->lut)
        return unsuitable("its feed-forward weights have no scales and are no halves", error);
    const uint32_t n = weight->scale ? weight->cols / weight->block : weight->cols;
    uint16_t *halves = weight->scale ? writable_scales(copy, weight, row)
                                     : (uint16_t *)copy_bytes(copy, weight->data) + (uint64_t)row * n;
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
            memset((char *)copy_bytes(copy, head->data) + row * weight_row_bytes(head), 0, weight_row_bytes(head));
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
    const struct expert middle = feed_forward(copy);
    const struct weight *gate = &middle.gate, *up = &middle.up;
    struct side left[STORED_SIDES], right[STORED_SIDES];
    exchange(copy_bytes(copy, gate->data), copy_bytes(copy, up->data), gate->rows * weight_row_bytes(gate));
    const size_t n = stored_sides(gate, left);
    stored_sides(up, right);
    for (size_t i = 0; i < n; i++)
        exchange(copy_bytes(copy, left[i].halves), copy_bytes(copy, right[i].halves),
                 (uint64_t)left[i].rows * left[i].cols * sizeof *left[i].halves);
    return 0;
}

static int conv_weights_shifted(struct copy *copy, struct error *error)
{
    const struct model *model = &copy->bundle->model;
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct layer *layer = &model->layers[i];
        const struct weight *conv = layer->mixer == MIXER_DELTA ? &layer->delta_conv : &layer->conv;
        if (conv->format != WEIGHT_F16)
            continue;
        uint16_t *taps = copy_bytes(copy, conv->data);
        for (uint32_t row = 0; row < conv->rows; row++)
            memmove(taps + row * conv->cols + 1, taps + row * conv->cols, (conv->cols - 1) * sizeof *taps);
        return 0;
    }
    return unsuitable("it has no depthwise convolution in half precision", error);
}

static int scale_block_off_by_one(struct copy *copy, struct error *error)
{
    const struct expert middle = feed_forward(copy);
    const struct weight *weight = &middle.gate;
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
    const struct expert middle = feed_forward(copy);
    const struct weight *weight = &middle.gate;
    if (weight->format != WEIGHT_Q8 && weight->format != WEIGHT_Q4)
        return unsuitable("its feed-forward weights have no signed codes", error);
    unsigned char *codes = copy_bytes(copy, weight->data);
    for (uint64_t i = 0; i < weight->rows * weight_row_bytes(weight); i++)
        codes[i] ^= weight->format == WEIGHT_Q4 ? 0x88 : 0x80;
    return 0;
}

static int nibble_order(struct copy *copy, struct error *error)
{
    const struct expert middle = feed_forward(copy);
    const struct weight *weight = &middle.gate;
    if (!quant_is_packed(weight->format))
        return unsuitable("its feed-forward weights are not stored as int4", error);
    unsigned char *codes = copy_bytes(copy, weight->data);
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
    uint16_t *halves = (uint16_t *)copy_bytes(copy, embedding->data) + (uint64_t)row * embedding->cols;
    for (uint32_t k = 0; k < embedding->cols; k++)
        halves[k] = HALF_NAN;
    return 0;
}

// --- the delta net, norms, experts

static int a_log_negated(struct copy *copy, struct error *error)
{
    const struct layer *layer = first_delta(copy);
    if (!layer)
        return unsuitable("it has no delta net", error);
    float *a_log = copy_bytes(copy, layer->a_log.data);
    for (uint32_t i = 0; i < layer->a_log.cols; i++)
        a_log[i] = -a_log[i];
    return 0;
}

static int a_log_exponentiated(struct copy *copy, struct error *error)
{
    const struct layer *layer = first_delta(copy);
    if (!layer)
        return unsuitable("it has no delta net", error);
    float *a_log = copy_bytes(copy, layer->a_log.data);
    for (uint32_t i = 0; i < layer->a_log.cols; i++)
        a_log[i] = expf(a_log[i]);
    return 0;
}

static int dt_bias_zero(struct copy *copy, struct error *error)
{
    const struct layer *layer = first_delta(copy);
    if (!layer)
        return unsuitable("it has no delta net", error);
    memset(copy_bytes(copy, layer->dt_bias.data), 0, layer->dt_bias.cols * sizeof(float));
    return 0;
}

static int norm_plus_one(struct copy *copy, struct error *error)
{
    (void)error;
    const struct weight *norm = &middle_layer(copy)->mixer_norm;
    uint16_t *halves = copy_bytes(copy, norm->data);
    for (uint32_t i = 0; i < norm->cols; i++)
        halves[i] = half_from_float(half_to_float(halves[i]) + 1.0f);
    return 0;
}

static int expert_of_another(struct copy *copy, struct error *error)
{
    const struct layer *layer = middle_layer(copy);
    const uint32_t n = copy->bundle->model.config.experts;
    struct side to[STORED_SIDES], from[STORED_SIDES];
    if (!layer->sparse || n < 2)
        return unsuitable("its middle layer has no two experts", error);
    const struct weight *down = &layer->experts[n / 2].down, *other = &layer->experts[n / 2 - 1].down;
    memcpy(copy_bytes(copy, down->data), other->data, down->rows * weight_row_bytes(down));
    const size_t n_sides = stored_sides(down, to);
    stored_sides(other, from);
    for (size_t i = 0; i < n_sides; i++)
        memcpy(writable_side(copy, &to[i]), from[i].halves, (size_t)to[i].rows * to[i].cols * sizeof *to[i].halves);
    return 0;
}

static int lut_shifted(struct copy *copy, struct error *error)
{
    const struct expert middle = feed_forward(copy);
    struct side side[STORED_SIDES];
    if (!middle.down.lut || middle.down.rows < 2 * WEIGHT_BOOK_ROWS)
        return unsuitable("its experts have no two codebooks in a matrix", error);
    stored_sides(&middle.down, side);
    uint16_t *entries = writable_side(copy, side);
    memmove(entries + side->cols, entries, (size_t)(side->rows - 1) * side->cols * sizeof *entries);
    return 0;
}

static int router_quantized(struct copy *copy, struct error *error)
{
    if (!middle_layer(copy)->sparse)
        return unsuitable("its middle layer has no router", error);
    copy->router = &middle_layer(copy)->router;
    return 0;
}

// --- the plan

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

static int delta_state_fp32(struct copy *copy, struct error *error)
{
    if (!first_delta(copy))
        return unsuitable("it has no delta net", error);
    copy->plan.rows[PLAN_DELTA_STATE] = PRECISION_F32;
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

static int delta_state_fp32_declared(struct copy *copy, struct error *error)
{
    const int code = delta_state_fp32(copy, error);
    return code ? code : replace(copy, &copy->metadata, "\"plan\": {}", "\"plan\": {\"delta_state\": \"f32\"}", error);
}

static int config_theta(struct copy *copy, struct error *error)
{
    return replace(copy, &copy->config, "\"rope_theta\": ", "\"rope_theta\": 1", error);
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
    {"scale_row_16", scale_row_16, "down (w2) of the middle layer: the scales of row 17 are 16 times too large"},
    {"head_rows_dead", head_rows_dead,
     "the head's scales are zero for the top 3 % of the ids (its rows, when not quantized)"},
    {"gate_up_swapped", gate_up_swapped, "gate and up (w1, w3) of the middle layer hold each other's values"},
    {"conv_weights_shifted", conv_weights_shifted, "the taps of the first depthwise convolution are shifted by one"},
    {"scale_block_off_by_one", scale_block_off_by_one,
     "gate of the middle layer: every block has its left neighbour's scale"},
    {"sign_flipped_codes", sign_flipped_codes, "gate of the middle layer: signed codes written as unsigned"},
    {"nibble_order", nibble_order, "gate of the middle layer: int4 codes with the high nibble first (int4 bundles)"},
    {"embedding_row_nan", embedding_row_nan, "the embedding of BOS is NaN"},
    {"a_log_negated", a_log_negated, "A_log of the first delta net has the other sign"},
    {"a_log_exponentiated", a_log_exponentiated, "A_log of the first delta net is stored as exp(A_log)"},
    {"dt_bias_zero", dt_bias_zero, "dt_bias of the first delta net is zero"},
    {"norm_plus_one", norm_plus_one, "the norm before the middle layer's mixer is stored with 1 added"},
    {"expert_of_another", expert_of_another, "down of the middle layer's middle expert is that of the one before"},
    {"lut_shifted", lut_shifted, "down of the middle expert: every 32 rows have the codebook of those before"},
    {"router_quantized", router_quantized, "the middle layer's router is stored as int8: refused"},
    {"linear_sum_fp16", linear_sum_fp16, "precision.json accumulates the linears in half, undeclared"},
    {"linear_sum_fp16_declared", linear_sum_fp16_declared,
     "the same, declared in metadata.json (bundles without a declaration)"},
    {"dequant_fp16", dequant_fp16, "precision.json rounds code x scale to half, undeclared"},
    {"kv_state_fp32", kv_state_fp32, "precision.json keeps the KV state in fp32, undeclared"},
    {"delta_state_fp32", delta_state_fp32, "precision.json keeps the delta net's state in fp32, undeclared"},
    {"delta_state_fp32_declared", delta_state_fp32_declared,
     "the same, declared in metadata.json (bundles without a declaration)"},
    {"config_theta", config_theta, "config.json has a digit more in rope_theta: refused"},
    {"other_scheme", other_scheme, "metadata.json names another scheme: refused"},
    {"name_lies", name_lies, "the bundle's name ends in another scheme: refused"},
    {"other_model", other_model, "metadata.json gives the hash of another checkpoint: opens, does not match"},
    {"foreign", foreign, "no fault: metadata.json says that another tool made it, so the audit measures distances"},
    {"truncated", truncated, "weights.safetensors ends after two thirds: refused"},
};
enum { N_FAULTS = sizeof faults / sizeof *faults };

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
