#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/base/half.h"
#include "harness/base/progress.h"
#include "runtime/quantize.h"

enum { CHUNK_BYTES = 1 << 20, WEIGHTS_ALIGNMENT = 256 };

// One weight on its way into the file.
struct item {
    const struct weight *weight;
    const char *name; // stored and checkpoint name
    struct quant_decision decision;
    size_t declared; // index of its codes or elements; its scales follow
};

struct job {
    struct arena arena; // of this call
    const struct quantize_request *request;
    size_t n_items, n_declared;
    struct item *items;
    struct tensor_declaration *declarations;
    struct safetensors_writer *writer;
    struct progress progress;
    float *row;                   // [widest row]
    int8_t *codes;                // [widest row]
    uint8_t *chunk, *scale_chunk; // whole rows as they are stored
    bool failed;                  // memory
};

static bool head_is_embedding(const struct model *model)
{
    return model->head.data == model->embedding.data;
}

static bool is_quantized(const struct item *item)
{
    return item->decision.rule.format != QUANT_NONE;
}

// --- what is stored

static struct tensor_declaration *declare(struct job *job, const char *name, const char *suffix, enum dtype dtype)
{
    struct tensor_declaration *declaration = &job->declarations[job->n_declared++];
    declaration->name = arena_print(&job->arena, "%s%s", name, suffix);
    declaration->dtype = dtype;
    job->failed = job->failed || !declaration->name;
    return declaration;
}

static void declare_item(struct job *job, struct item *item)
{
    const struct weight *weight = item->weight;
    const struct quant_rule rule = item->decision.rule;
    item->declared = job->n_declared;
    if (!is_quantized(item)) {
        struct tensor_declaration *elements = declare(job, item->name, "", item->decision.stored);
        const struct tensor *source = tensor_table_find(&job->request->checkpoint->table, weight->name);
        assert(source);
        elements->rank = source->rank;
        memcpy(elements->shape, source->shape, sizeof elements->shape);
        return;
    }
    const bool packed = quant_weight_format(rule.format) == WEIGHT_Q4;
    struct tensor_declaration *codes = declare(job, item->name, packed ? ".q4" : ".q8", packed ? DTYPE_U8 : DTYPE_I8);
    codes->rank = 2;
    codes->shape[0] = weight->rows;
    codes->shape[1] = packed ? (weight->cols + 1) / 2 : weight->cols;
    struct tensor_declaration *scales = declare(job, item->name, ".scale", DTYPE_F16);
    scales->rank = 2;
    scales->shape[0] = weight->rows;
    scales->shape[1] = weight->cols / quant_block(rule, weight->cols);
}

static void add_item(void *context, const struct weight *weight)
{
    struct job *job = context;
    const struct quantize_request *request = job->request;
    struct item *item = &job->items[job->n_items++];
    item->weight = weight;
    // a head that serves as embedding is stored as what it is used for
    item->name = weight == &request->model->embedding ? request->model->embedding_name : weight->name;
    quant_decide(request->scheme, request->keep, request->n_keep, weight, weight == &request->model->head,
                 &item->decision);
}

static void count_item(void *context, const struct weight *weight)
{
    (void)weight;
    ++*(size_t *)context;
}

// A tied head becomes a tensor of its own only when the scheme quantizes it ("untie first", zoo.md 2.1).
static void add_tied_head(struct job *job)
{
    const struct quantize_request *request = job->request;
    struct item *item = &job->items[job->n_items++];
    item->weight = &request->model->head;
    item->name = "lm_head.weight";
    quant_decide(request->scheme, request->keep, request->n_keep, item->weight, true, &item->decision);
}

static bool is_stored(const struct job *job, const struct item *item)
{
    const struct model *model = job->request->model;
    return is_quantized(item) || item->weight != &model->head || !head_is_embedding(model);
}

static void plan_items(struct job *job)
{
    size_t n = 1; // a tied head
    model_visit(job->request->model, count_item, &n);
    job->items = arena_alloc(&job->arena, n, sizeof *job->items);
    job->declarations = arena_alloc(&job->arena, 2 * n, sizeof *job->declarations);
    if (!job->items || !job->declarations) {
        job->failed = true;
        return;
    }
    model_visit(job->request->model, add_item, job);
    if (head_is_embedding(job->request->model))
        add_tied_head(job);
    for (size_t i = 0; i < job->n_items; i++)
        if (is_stored(job, &job->items[i]))
            declare_item(job, &job->items[i]);
}

// A pattern that keeps nothing is a slip of the pen that would otherwise pass silently.
static int check_keep(const struct job *job, struct error *error)
{
    const struct quantize_request *request = job->request;
    for (size_t k = 0; k < request->n_keep; k++) {
        bool keeps = false;
        for (size_t i = 0; i < job->n_items && !keeps; i++) {
            const struct item *item = &job->items[i];
            struct quant_decision decision;
            quant_decide(request->scheme, NULL, 0, item->weight, item->weight == &request->model->head, &decision);
            keeps = decision.rule.format != QUANT_NONE && quant_keep_matches(request->keep[k], item->name);
        }
        if (!keeps)
            return error_set(error, ERROR_USAGE,
                             "--keep '%.200s': matches no tensor that scheme %s quantizes; names look like "
                             "model.layers.0.feed_forward.w1.weight",
                             request->keep[k], request->scheme->name);
    }
    return 0;
}

// --- rows

static int located(int code, const struct item *item, uint32_t row, struct error *error)
{
    const struct error inner = error ? *error : (struct error){0};
    return error_set(error, code, "%s: row %u, %.700s", item->name, row, inner.text);
}

static int encode_row(struct job *job, const struct item *item, uint8_t *codes, uint16_t *scales,
                      struct quant_statistics *statistics, struct error *error)
{
    const struct weight *weight = item->weight;
    const struct quant_rule rule = item->decision.rule;
    const int code = quant_row(rule.format, job->row, weight->cols, quant_block(rule, weight->cols), job->codes,
                               scales, statistics, error);
    if (code)
        return code;
    quant_pack(quant_weight_format(rule.format), job->codes, weight->cols, codes);
    return 0;
}

static int copy_row(const struct job *job, const struct item *item, uint8_t *out, struct quant_statistics *statistics,
                    struct error *error)
{
    for (uint32_t k = 0; k < item->weight->cols; k++) {
        const float w = job->row[k];
        const uint16_t half = half_from_float(w);
        if (!isfinite(w))
            return error_set(error, ERROR_INPUT, "column %u is %s: a bundle of it could not be judged", k,
                             isnan(w) ? "NaN" : "infinite");
        if (item->decision.stored == DTYPE_F32) {
            memcpy(out + 4 * k, &w, 4);
            continue;
        }
        if (!isfinite(half_to_float(half)))
            return error_set(error, ERROR_INPUT, "column %u is %g: over 65504, the largest half that it is stored as",
                             k, (double)w);
        memcpy(out + 2 * k, &half, 2);
        const double distance = (double)w - (double)half_to_float(half);
        statistics->square_error += distance * distance;
        statistics->square_sum += (double)w * (double)w;
    }
    return 0;
}

static uint64_t row_bytes(const struct item *item)
{
    const uint32_t cols = item->weight->cols;
    if (is_quantized(item))
        return quant_weight_format(item->decision.rule.format) == WEIGHT_Q4 ? (cols + 1) / 2 : cols;
    return cols * dtype_size(item->decision.stored);
}

static uint64_t row_scale_bytes(const struct item *item)
{
    const uint32_t cols = item->weight->cols;
    return is_quantized(item) ? cols / quant_block(item->decision.rule, cols) * sizeof(uint16_t) : 0;
}

// Whole rows are gathered so that a write is about a megabyte.
static int write_item(struct job *job, const struct item *item, struct quant_statistics *statistics,
                      struct error *error)
{
    const uint64_t bytes = row_bytes(item), scale_bytes = row_scale_bytes(item);
    const uint32_t rows = item->weight->rows;
    uint64_t offset = 0, scale_offset = 0, gathered = 0, scale_gathered = 0;
    for (uint32_t r = 0; r < rows; r++) {
        weight_row(item->weight, r, job->row);
        const int code = is_quantized(item)
                             ? encode_row(job, item, job->chunk + gathered,
                                          (uint16_t *)(void *)(job->scale_chunk + scale_gathered), statistics, error)
                             : copy_row(job, item, job->chunk + gathered, statistics, error);
        if (code)
            return located(code, item, r, error);
        gathered += bytes;
        scale_gathered += scale_bytes;
        if (gathered + bytes > CHUNK_BYTES || scale_gathered + scale_bytes > CHUNK_BYTES || r + 1 == rows) {
            safetensors_write(job->writer, item->declared, offset, job->chunk, gathered);
            if (scale_gathered)
                safetensors_write(job->writer, item->declared + 1, scale_offset, job->scale_chunk, scale_gathered);
            offset += gathered;
            scale_offset += scale_gathered;
            progress_step(&job->progress, gathered);
            gathered = scale_gathered = 0;
        }
    }
    return 0;
}

static int make_buffers(struct job *job, struct error *error)
{
    uint32_t widest = 0;
    uint64_t total = 0;
    for (size_t i = 0; i < job->n_items; i++) {
        const struct item *item = &job->items[i];
        widest = item->weight->cols > widest ? item->weight->cols : widest;
        total += is_stored(job, item) ? row_bytes(item) * item->weight->rows : 0;
    }
    job->row = arena_alloc(&job->arena, widest, sizeof *job->row);
    job->codes = arena_alloc(&job->arena, widest, sizeof *job->codes);
    job->chunk = arena_alloc(&job->arena, (size_t)CHUNK_BYTES + 4 * (size_t)widest, 1); // at least one row
    job->scale_chunk = arena_alloc(&job->arena, (size_t)CHUNK_BYTES + 4 * (size_t)widest, 1);
    progress_start(&job->progress, "quantize", total, job->request->quiet);
    job->progress.unit = "bytes";
    if (job->failed || !job->row || !job->codes || !job->chunk || !job->scale_chunk)
        return error_set(error, ERROR_RUNTIME, "no memory to quantize rows of %u values", widest);
    return 0;
}

// --- the table

// The decision's reason as a person typed or reads it.
static char *reason(const struct job *job, const struct item *item, const char *before, struct arena *arena)
{
    bool kept = false;
    for (size_t k = 0; k < job->request->n_keep; k++)
        kept = kept || item->decision.why == job->request->keep[k];
    return arena_print(arena, kept ? "%s--keep '%s'" : "%s%s", before, item->decision.why);
}

static int cover(const struct job *job, const struct item *item, const struct quant_statistics *statistics,
                 struct coverage *coverage, struct error *error)
{
    char text[48];
    struct coverage_row *row = &coverage->rows[coverage->n++];
    const struct weight *weight = item->weight;
    const bool tied_head = weight == &job->request->model->head && head_is_embedding(job->request->model);
    row->tensor = arena_print(&coverage->arena, "%s", item->name);
    row->source_bytes = tied_head ? 0 : weight_row_bytes(weight) * weight->rows;
    if (!is_stored(job, item)) {
        row->stored = "not stored";
        row->why = reason(job, item, "tied, the embedding serves as head: ", &coverage->arena);
        return row->tensor && row->why ? 0 : error_set(error, ERROR_RUNTIME, "no memory for the coverage table");
    }
    row->stored = is_quantized(item) ? arena_print(&coverage->arena, "%s", quant_rule_text(item->decision.rule, text))
                                     : dtype_name(item->decision.stored);
    row->bytes = (row_bytes(item) + row_scale_bytes(item)) * weight->rows;
    row->relative_error = statistics->square_sum > 0 ? sqrt(statistics->square_error / statistics->square_sum) : 0;
    row->statistics = *statistics;
    row->why = reason(job, item, "", &coverage->arena);
    coverage->source_bytes += row->source_bytes;
    coverage->bytes += row->bytes;
    return row->tensor && row->stored && row->why
               ? 0
               : error_set(error, ERROR_RUNTIME, "no memory for the coverage table");
}

static int write_items(struct job *job, struct coverage *coverage, struct error *error)
{
    coverage->rows = arena_alloc(&coverage->arena, job->n_items, sizeof *coverage->rows);
    if (!coverage->rows)
        return error_set(error, ERROR_RUNTIME, "no memory for the coverage table");
    for (size_t i = 0; i < job->n_items; i++) {
        struct quant_statistics statistics = {0};
        int code = is_stored(job, &job->items[i]) ? write_item(job, &job->items[i], &statistics, error) : 0;
        if (!code)
            code = cover(job, &job->items[i], &statistics, coverage, error);
        if (code)
            return code;
    }
    return 0;
}

int quantize_weights(const struct quantize_request *request, const char *path, struct coverage *coverage,
                     struct error *error)
{
    struct job job = {.request = request};
    plan_items(&job);
    int code = make_buffers(&job, error);
    if (!code)
        code = check_keep(&job, error);
    if (!code)
        code = safetensors_create(&job.writer, path, job.declarations, job.n_declared, NULL, 0, WEIGHTS_ALIGNMENT,
                                  error);
    if (!code)
        code = write_items(&job, coverage, error);
    if (!code)
        code = safetensors_commit(&job.writer, error);
    safetensors_abandon(&job.writer);
    progress_finish(&job.progress);
    arena_close(&job.arena);
    return code;
}
