#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/base/half.h"
#include "harness/base/number.h"
#include "harness/base/progress.h"
#include "runtime/codebook.h"
#include "runtime/quantize.h"

enum { CHUNK_BYTES = 1 << 20, WEIGHTS_ALIGNMENT = 256, PARTS_MAX = 3 };

// One tensor of a weight as it is stored: [rows / per, cols].
struct part {
    const char *suffix;
    enum dtype dtype;
    uint32_t per;
    uint64_t cols;
};

// One weight on its way into the file.
struct item {
    const struct weight *weight;
    const char *name; // stored and checkpoint name
    struct quant_decision decision;
    size_t n_parts;
    struct part parts[PARTS_MAX]; // elements, or codes with scales (and biases) or codebooks
    size_t declared;              // index of the first of them
};

struct job {
    struct arena arena; // of this call
    const struct quantize_request *request;
    size_t n_items, n_declared;
    struct item *items;
    struct tensor_declaration *declarations;
    struct safetensors_writer *writer;
    struct progress progress;
    float *rows;    // [widest group of rows]
    int8_t *codes;  // [widest row]
    uint32_t *room; // of codebook_fit
    struct stream {
        unsigned char *chunk; // whole groups as they are stored
        uint64_t offset, gathered;
    } streams[PARTS_MAX];
    bool failed; // memory
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

// Rows that are encoded together.
static uint32_t group_rows(const struct item *item)
{
    return quant_entries(item->decision.rule.format) ? WEIGHT_BOOK_ROWS : 1;
}

static uint64_t group_bytes(const struct item *item, size_t part)
{
    const struct part *stored = &item->parts[part];
    return group_rows(item) / stored->per * stored->cols * dtype_size(stored->dtype);
}

static uint64_t stored_bytes(const struct item *item)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < item->n_parts; i++)
        bytes += item->weight->rows / group_rows(item) * group_bytes(item, i);
    return bytes;
}

static void plan_parts(struct item *item)
{
    const uint32_t cols = item->weight->cols;
    const struct quant_rule rule = item->decision.rule;
    if (!is_quantized(item)) {
        item->parts[item->n_parts++] = (struct part){"", item->decision.stored, 1, cols};
        return;
    }
    const uint32_t entries = quant_entries(rule.format);
    if (quant_is_packed(quant_weight_format(rule.format)))
        item->parts[item->n_parts++] = (struct part){".q4", DTYPE_U8, 1, ((uint64_t)cols + 1) / 2};
    else
        item->parts[item->n_parts++] = (struct part){".q8", DTYPE_I8, 1, cols};
    if (entries)
        item->parts[item->n_parts++] = (struct part){".lut", DTYPE_F16, WEIGHT_BOOK_ROWS, entries};
    else
        item->parts[item->n_parts++] = (struct part){".scale", DTYPE_F16, 1, cols / quant_block(rule, cols)};
    if (rule.format == QUANT_INT4_AFFINE)
        item->parts[item->n_parts++] = (struct part){".bias", DTYPE_F16, 1, cols / QUANT_BLOCK};
}

// Left alone: the checkpoint's shape. Quantized: [rows, ...], or [E, rows / E, ...] of experts in one tensor.
static void declare_item(struct job *job, struct item *item)
{
    const struct tensor *source = tensor_table_find(&job->request->checkpoint->table, item->weight->name);
    assert(source);
    item->declared = job->n_declared;
    for (size_t i = 0; i < item->n_parts; i++) {
        const struct part *part = &item->parts[i];
        const uint64_t rows = item->weight->rows / part->per;
        struct tensor_declaration *out = &job->declarations[job->n_declared++];
        out->name = arena_print(&job->arena, "%s%s", item->name, part->suffix);
        out->dtype = part->dtype;
        out->rank = source->rank;
        memcpy(out->shape, source->shape, sizeof out->shape);
        job->failed = job->failed || !out->name;
        if (!is_quantized(item))
            continue;
        out->shape[out->rank - 2] = source->rank == 3 ? rows / source->shape[0] : rows;
        out->shape[out->rank - 1] = part->cols;
    }
}

static void add_item(void *context, const struct weight *weight)
{
    struct job *job = context;
    const struct quantize_request *request = job->request;
    struct item *item = &job->items[job->n_items++];
    item->weight = weight;
    // a head that serves as embedding is stored as what it is used for
    item->name = weight == &request->model->embedding ? request->model->embedding_name : weight->name;
    quant_decide(request->scheme, &request->model->config, request->keep, request->n_keep, weight,
                 weight == &request->model->head, &item->decision);
    plan_parts(item);
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
    quant_decide(request->scheme, &request->model->config, request->keep, request->n_keep, item->weight, true,
                 &item->decision);
    plan_parts(item);
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
    job->declarations = arena_alloc(&job->arena, PARTS_MAX * n, sizeof *job->declarations);
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
            quant_decide(request->scheme, &request->model->config, NULL, 0, item->weight,
                         item->weight == &request->model->head, &decision);
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

static uint16_t *halves_of(const struct job *job, size_t part)
{
    return (uint16_t *)(void *)(job->streams[part].chunk + job->streams[part].gathered);
}

static int encode_row(struct job *job, const struct item *item, struct quant_statistics *statistics,
                      struct error *error)
{
    const uint32_t cols = item->weight->cols;
    const struct quant_rule rule = item->decision.rule;
    const int code =
        rule.format == QUANT_INT4_AFFINE
            ? quant_row_affine(job->rows, cols, job->codes, halves_of(job, 1), halves_of(job, 2), statistics, error)
            : quant_row(rule.format, job->rows, cols, quant_block(rule, cols), job->codes, halves_of(job, 1),
                        statistics, error);
    if (!code)
        quant_pack(quant_weight_format(rule.format), job->codes, cols,
                   job->streams[0].chunk + job->streams[0].gathered);
    return code;
}

static int copy_row(const struct job *job, const struct item *item, uint8_t *out, struct quant_statistics *statistics,
                    struct error *error)
{
    for (uint32_t k = 0; k < item->weight->cols; k++) {
        const float w = job->rows[k];
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

static int check_group(const struct job *job, const struct item *item, uint32_t first, struct error *error)
{
    const uint32_t cols = item->weight->cols;
    for (uint32_t i = 0; i < WEIGHT_BOOK_ROWS; i++)
        for (uint32_t k = 0; k < cols; k++) {
            const float w = job->rows[i * cols + k];
            if (isfinite(half_round(w))) // so are the entries, which lie between the values
                continue;
            return error_set(error, ERROR_INPUT,
                             "%s: row %u, column %u is %s: only finite values up to 65504, the "
                             "largest half, can stand in a codebook",
                             item->name, first + i, k, NUMBER((double)w, 6));
        }
    return 0;
}

static void encode_group(struct job *job, const struct item *item, struct quant_statistics *statistics)
{
    struct codebook book;
    const uint32_t cols = item->weight->cols;
    const enum quant_format format = item->decision.rule.format;
    codebook_fit(&book, quant_entries(format), job->rows, WEIGHT_BOOK_ROWS * cols, job->room);
    memcpy(halves_of(job, 1), book.halves, book.n * sizeof *book.halves);
    unsigned char *out = job->streams[0].chunk + job->streams[0].gathered;
    for (uint32_t i = 0; i < WEIGHT_BOOK_ROWS; i++) {
        for (uint32_t k = 0; k < cols; k++) {
            const float w = job->rows[i * cols + k];
            const uint32_t index = codebook_index(&book, w);
            job->codes[k] = (int8_t)(index < 128 ? (int)index : (int)index - 256); // the byte
            const double distance = (double)w - (double)book.entries[index];
            statistics->square_error += distance * distance;
            statistics->square_sum += (double)w * (double)w;
        }
        quant_pack(quant_weight_format(format), job->codes, cols, out);
        out += item->parts[0].cols;
    }
    statistics->codes += (uint64_t)WEIGHT_BOOK_ROWS * cols;
    statistics->scales += book.n;
}

static int encode(struct job *job, const struct item *item, uint32_t row, struct quant_statistics *statistics,
                  struct error *error)
{
    for (uint32_t i = 0; i < group_rows(item); i++)
        weight_row(item->weight, row + i, job->rows + (size_t)i * item->weight->cols);
    if (group_rows(item) > 1) {
        const int code = check_group(job, item, row, error);
        if (!code)
            encode_group(job, item, statistics);
        return code;
    }
    const int code = is_quantized(item)
                         ? encode_row(job, item, statistics, error)
                         : copy_row(job, item, job->streams[0].chunk + job->streams[0].gathered, statistics, error);
    return code ? located(code, item, row, error) : 0;
}

static void write_streams(struct job *job, const struct item *item)
{
    for (size_t i = 0; i < item->n_parts; i++) {
        struct stream *stream = &job->streams[i];
        safetensors_write(job->writer, item->declared + i, stream->offset, stream->chunk, stream->gathered);
        progress_step(&job->progress, stream->gathered);
        stream->offset += stream->gathered;
        stream->gathered = 0;
    }
}

// Groups are gathered so that a write is about a megabyte.
static int write_item(struct job *job, const struct item *item, struct quant_statistics *statistics,
                      struct error *error)
{
    for (size_t i = 0; i < item->n_parts; i++)
        job->streams[i].offset = job->streams[i].gathered = 0;
    for (uint32_t row = 0; row < item->weight->rows; row += group_rows(item)) {
        const int code = encode(job, item, row, statistics, error);
        if (code)
            return code;
        bool full = false;
        for (size_t i = 0; i < item->n_parts; i++) {
            job->streams[i].gathered += group_bytes(item, i);
            full = full || job->streams[i].gathered >= CHUNK_BYTES;
        }
        if (full)
            write_streams(job, item);
    }
    write_streams(job, item);
    return 0;
}

static int make_buffers(struct job *job, struct error *error)
{
    uint32_t widest = 0;
    uint64_t total = 0, group = 0, book = 0, chunk[PARTS_MAX] = {0};
    for (size_t n = 0; n < job->n_items; n++) {
        const struct item *item = &job->items[n];
        const uint64_t values = (uint64_t)group_rows(item) * item->weight->cols;
        widest = item->weight->cols > widest ? item->weight->cols : widest;
        group = values > group ? values : group;
        book = group_rows(item) > 1 && values > book ? values : book;
        total += is_stored(job, item) ? stored_bytes(item) : 0;
        for (size_t i = 0; i < item->n_parts; i++)
            chunk[i] = group_bytes(item, i) > chunk[i] ? group_bytes(item, i) : chunk[i];
    }
    job->rows = arena_alloc(&job->arena, (size_t)group, sizeof *job->rows);
    job->codes = arena_alloc(&job->arena, widest, sizeof *job->codes);
    job->room = arena_alloc(&job->arena, (size_t)book, 2 * sizeof *job->room);
    for (size_t i = 0; i < PARTS_MAX; i++) {
        job->streams[i].chunk = arena_alloc(&job->arena, CHUNK_BYTES + (size_t)chunk[i], 1);
        job->failed = job->failed || !job->streams[i].chunk;
    }
    progress_start(&job->progress, "quantize", total, job->request->quiet);
    job->progress.unit = "bytes";
    if (job->failed || !job->rows || !job->codes || !job->room)
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
    row->bytes = stored_bytes(item);
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
