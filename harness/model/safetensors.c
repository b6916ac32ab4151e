#include "harness/model/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "harness/base/json.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[DTYPE_COUNT] = {
    [DTYPE_BOOL] = {"BOOL", 1}, [DTYPE_U8] = {"U8", 1},   [DTYPE_I8] = {"I8", 1},     [DTYPE_I16] = {"I16", 2},
    [DTYPE_U16] = {"U16", 2},   [DTYPE_F16] = {"F16", 2}, [DTYPE_BF16] = {"BF16", 2}, [DTYPE_I32] = {"I32", 4},
    [DTYPE_U32] = {"U32", 4},   [DTYPE_F32] = {"F32", 4}, [DTYPE_I64] = {"I64", 8},   [DTYPE_U64] = {"U64", 8},
    [DTYPE_F64] = {"F64", 8},
};

size_t dtype_size(enum dtype dtype)
{
    return dtypes[dtype].size;
}

const char *dtype_name(enum dtype dtype)
{
    return dtypes[dtype].name;
}

const char *tensor_shape_text(const struct tensor *tensor, char text[128])
{
    // 8 dimensions of 16 digits with separators and brackets are 144 characters: the last may be cut
    const size_t size = 128;
    size_t used = (size_t)snprintf(text, size, "[");
    for (uint32_t i = 0; i < tensor->rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRIu64, i ? ", " : "", tensor->shape[i]);
    if (used + 2 > size)
        used = size - 2;
    snprintf(text + used, size - used, "]");
    return text;
}

// --- the header

static const int64_t INTEGER_MAX = (INT64_C(1) << 53) - 1; // what a JSON number holds exactly

// Where a tensor lies in the data section.
struct span {
    uint64_t begin, end;
    size_t tensor; // index in file order
};

struct header {
    struct safetensors *file;
    struct arena scratch;
    struct json_document *document;
    const unsigned char *data;
    uint64_t data_offset, data_size;
    struct span *spans; // [file->n_tensors]
};

static int out_of_memory(const char *path, struct error *error)
{
    return error_set(error, ERROR_RUNTIME, "%s: memory exhausted while reading the header", path);
}

static int read_dtype(struct json value, struct tensor *tensor, struct error *error)
{
    const char *name;
    const int status = json_need_string(value, &name, error);
    if (status)
        return status;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (!strcmp(name, dtypes[i].name)) {
            tensor->dtype = (enum dtype)i;
            return 0;
        }
    }
    return error_set(error, ERROR_INPUT,
                     "%s: tensor %s: dtype %s; expected one of BOOL U8 I8 I16 U16 F16 BF16 I32 U32 F32 I64 U64 F64",
                     tensor->file, tensor->name, name);
}

static int read_shape(struct json value, struct tensor *tensor, struct error *error)
{
    int status = json_need_array(value, error);
    if (status)
        return status;
    const size_t rank = json_length(value);
    if (rank > TENSOR_RANK_MAX)
        return error_set(error, ERROR_INPUT, "%s: tensor %s: %zu dimensions; expected at most %d", tensor->file,
                         tensor->name, rank, TENSOR_RANK_MAX);
    tensor->rank = (uint32_t)rank;
    tensor->elements = 1;
    struct json dimension = json_first(value);
    for (size_t i = 0; i < rank; i++, dimension = json_next(dimension)) {
        int64_t size;
        status = json_need_integer(dimension, 0, INTEGER_MAX, &size, error);
        if (status)
            return status;
        tensor->shape[i] = (uint64_t)size;
        if (size && tensor->elements > UINT64_MAX / (uint64_t)size)
            return error_set(error, ERROR_INPUT,
                             "%s: tensor %s: the product of its %zu dimensions does not fit in 64 bits", tensor->file,
                             tensor->name, rank);
        tensor->elements *= (uint64_t)size;
    }
    return 0;
}

static int read_span(struct json value, const struct tensor *tensor, struct span *span, struct error *error)
{
    int status = json_need_array(value, error);
    if (status)
        return status;
    if (json_length(value) != 2)
        return error_set(error, ERROR_INPUT, "%s: tensor %s: %zu data_offsets; expected 2, begin and end",
                         tensor->file, tensor->name, json_length(value));
    int64_t begin = 0, end = 0;
    const struct json first = json_first(value);
    status = json_need_integer(first, 0, INTEGER_MAX, &begin, error);
    if (!status)
        status = json_need_integer(json_next(first), 0, INTEGER_MAX, &end, error);
    span->begin = (uint64_t)begin;
    span->end = (uint64_t)end;
    return status;
}

// What dtype and shape need against what data_offsets give, inside the file and naturally aligned.
static int place(const struct header *header, struct tensor *tensor, const struct span *span, struct error *error)
{
    char shape[128];
    const size_t size = dtype_size(tensor->dtype);
    if (span->begin > span->end || span->end > header->data_size)
        return error_set(error, ERROR_INPUT,
                         "%s: tensor %s: data_offsets [%" PRIu64 ", %" PRIu64 "]; expected an ascending pair "
                         "within the file's %" PRIu64 " bytes of data (truncated file?)",
                         tensor->file, tensor->name, span->begin, span->end, header->data_size);
    tensor->bytes = span->end - span->begin;
    if (tensor->elements > UINT64_MAX / size || tensor->bytes != tensor->elements * size)
        return error_set(error, ERROR_INPUT,
                         "%s: tensor %s: data_offsets span %" PRIu64 " bytes; %s %s needs %" PRIu64
                         " elements of %zu",
                         tensor->file, tensor->name, tensor->bytes, dtype_name(tensor->dtype),
                         tensor_shape_text(tensor, shape), tensor->elements, size);
    if (!tensor->bytes)
        return 0;
    const unsigned char *data = header->data + span->begin;
    if ((uintptr_t)data % size)
        return error_set(error, ERROR_INPUT,
                         "%s: tensor %s: %s data begins at byte %" PRIu64 " of the file, no multiple of %zu; save it "
                         "again with a safetensors release that aligns data",
                         tensor->file, tensor->name, dtype_name(tensor->dtype), header->data_offset + span->begin,
                         size);
    tensor->data = data;
    return 0;
}

static int read_tensor(const struct header *header, struct json entry, struct tensor *tensor, struct span *span,
                       struct error *error)
{
    struct safetensors *file = header->file;
    tensor->file = file->path;
    tensor->name = arena_print(&file->arena, "%s", json_key(entry));
    if (!tensor->name)
        return out_of_memory(file->path, error);
    int status = json_need_object(entry, error);
    bool dtype = false, shape = false, offsets = false;
    for (struct json field = status ? (struct json){0} : json_first(entry); field.item && !status;
         field = json_next(field)) {
        const char *key = json_key(field);
        if (!strcmp(key, "dtype")) {
            dtype = true;
            status = read_dtype(field, tensor, error);
        } else if (!strcmp(key, "shape")) {
            shape = true;
            status = read_shape(field, tensor, error);
        } else if (!strcmp(key, "data_offsets")) {
            offsets = true;
            status = read_span(field, tensor, span, error);
        } else {
            status = error_set(error, ERROR_INPUT,
                               "%s: tensor %s: unknown field '%s'; expected dtype, shape, data_offsets", file->path,
                               tensor->name, key);
        }
    }
    if (status)
        return status;
    const char *absent = !dtype ? "dtype" : !shape ? "shape" : !offsets ? "data_offsets" : NULL;
    if (absent)
        return error_set(error, ERROR_INPUT, "%s: tensor %s: no %s; expected dtype, shape and data_offsets",
                         file->path, tensor->name, absent);
    return place(header, tensor, span, error);
}

static int read_metadata(struct safetensors *file, struct json map, struct error *error)
{
    int status = json_need_object(map, error);
    if (status)
        return status;
    const size_t n = json_length(map);
    file->metadata = arena_alloc(&file->arena, n, 2 * sizeof *file->metadata);
    if (!file->metadata)
        return out_of_memory(file->path, error);
    for (struct json entry = json_first(map); entry.item; entry = json_next(entry)) {
        const char *text;
        status = json_need_string(entry, &text, error);
        if (status)
            return status;
        const char **pair = file->metadata + 2 * file->n_metadata;
        pair[0] = arena_print(&file->arena, "%s", json_key(entry));
        pair[1] = arena_print(&file->arena, "%s", text);
        if (!pair[0] || !pair[1])
            return out_of_memory(file->path, error);
        file->n_metadata++;
    }
    return 0;
}

static int compare_spans(const void *left, const void *right)
{
    const struct span *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return (a->end > b->end) - (a->end < b->end); // an empty tensor before the one that begins at its place
}

// Together the tensors are the data section: no overlap, no hole, nothing after the last.
static int check_tiling(struct header *header, struct error *error)
{
    const struct safetensors *file = header->file;
    uint64_t end = 0;
    const char *before = "the header";
    qsort(header->spans, file->n_tensors, sizeof *header->spans, compare_spans);
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct span *span = &header->spans[i];
        const char *name = file->tensors[span->tensor].name;
        if (span->begin < end)
            return error_set(error, ERROR_INPUT,
                             "%s: tensor %s overlaps %s: it begins at data offset %" PRIu64 ", expected %" PRIu64,
                             file->path, name, before, span->begin, end);
        if (span->begin > end)
            return error_set(error, ERROR_INPUT,
                             "%s: %" PRIu64 " bytes between %s and tensor %s belong to no tensor; expected none",
                             file->path, span->begin - end, before, name);
        end = span->end;
        before = name;
    }
    if (end != header->data_size)
        return error_set(error, ERROR_INPUT,
                         "%s: %" PRIu64 " trailing bytes after %s belong to no tensor; expected none", file->path,
                         header->data_size - end, before);
    return 0;
}

static int compare_names(const void *left, const void *right)
{
    const struct tensor *a = left, *b = right;
    return strcmp(a->name, b->name);
}

static int read_entries(struct header *header, struct json root, struct error *error)
{
    struct safetensors *file = header->file;
    int status = json_need_object(root, error);
    if (status)
        return status;
    const size_t n = json_length(root);
    file->tensors = arena_alloc(&file->arena, n, sizeof *file->tensors);
    header->spans = arena_alloc(&header->scratch, n, sizeof *header->spans);
    if (!file->tensors || !header->spans)
        return out_of_memory(file->path, error);
    for (struct json entry = json_first(root); entry.item; entry = json_next(entry)) {
        if (!strcmp(json_key(entry), "__metadata__")) {
            status = read_metadata(file, entry, error);
        } else {
            struct span *span = &header->spans[file->n_tensors];
            span->tensor = file->n_tensors;
            status = read_tensor(header, entry, &file->tensors[file->n_tensors++], span, error);
        }
        if (status)
            return status;
    }
    status = check_tiling(header, error);
    if (!status)
        qsort(file->tensors, file->n_tensors, sizeof *file->tensors, compare_names);
    return status;
}

// A value follows a bracket, a comma or nothing: this is an upper bound, since strings are not told apart.
static uint64_t values_at_most(const unsigned char *text, uint64_t length)
{
    uint64_t n = 1;
    for (uint64_t i = 0; i < length; i++)
        n += text[i] == ',' || text[i] == '[' || text[i] == '{';
    return n;
}

// The framing: 8 bytes of length, then UTF-8 text that begins with a brace.
static int read_framing(struct header *header, const unsigned char **text, uint64_t *length, struct error *error)
{
    const char *path = header->file->path;
    const struct file_map *map = &header->file->map;
    if (map->size < 8)
        return error_set(error, ERROR_INPUT,
                         "%s: %" PRIu64 " bytes; expected a safetensors file, which has at least 8", path, map->size);
    uint64_t size = 0;
    for (int i = 7; i >= 0; i--)
        size = size << 8 | map->bytes[i];
    if (size > SAFETENSORS_HEADER_MAX || size > map->size - 8)
        return error_set(error, ERROR_INPUT,
                         "%s: header length %" PRIu64 "; expected at most %" PRIu64
                         " (truncated, or not a safetensors file)",
                         path, size, map->size - 8 < SAFETENSORS_HEADER_MAX ? map->size - 8 : SAFETENSORS_HEADER_MAX);
    const unsigned char *bytes = map->bytes + 8;
    if (!size || bytes[0] != '{')
        return error_set(error, ERROR_INPUT, "%s: the header does not begin with '{'; expected a JSON object", path);
    for (uint64_t i = 0; i < size;) {
        utf8proc_int32_t point;
        const utf8proc_ssize_t step = utf8proc_iterate(bytes + i, (utf8proc_ssize_t)(size - i), &point);
        if (step <= 0 || !point)
            return error_set(error, ERROR_INPUT, "%s: byte %" PRIu64 " of the header is 0x%02x; expected UTF-8 text",
                             path, i, bytes[i]);
        i += (uint64_t)step;
    }
    const uint64_t values = values_at_most(bytes, size);
    if (values > SAFETENSORS_VALUES_MAX)
        return error_set(error, ERROR_INPUT,
                         "%s: the header has %" PRIu64 " brackets and commas; expected at most %d (the largest "
                         "releases have 400,000)",
                         path, values - 1, SAFETENSORS_VALUES_MAX - 1);
    header->data_offset = 8 + size;
    header->data = map->bytes + header->data_offset;
    header->data_size = map->size - header->data_offset;
    *text = bytes;
    *length = size;
    return 0;
}

int safetensors_open(struct safetensors **out, const char *path, struct error *error)
{
    *out = NULL;
    struct safetensors *file = calloc(1, sizeof *file);
    if (!file)
        return out_of_memory(path, error);
    struct header header = {.file = file};
    const unsigned char *text = NULL;
    uint64_t length = 0;
    int status = 0;
    file->path = arena_print(&file->arena, "%s", path);
    if (!file->path)
        status = out_of_memory(path, error);
    if (!status)
        status = file_map_open(&file->map, path, error);
    if (!status)
        status = read_framing(&header, &text, &length, error);
    if (!status)
        status = json_open_text(&header.document, path, (const char *)text, (size_t)length, error);
    if (!status)
        status = read_entries(&header, json_root(header.document), error);
    json_close(&header.document);
    arena_close(&header.scratch);
    if (status)
        safetensors_close(&file);
    *out = file;
    return status;
}

void safetensors_close(struct safetensors **file)
{
    if (!file || !*file)
        return;
    file_map_close(&(*file)->map);
    arena_close(&(*file)->arena);
    free(*file);
    *file = NULL;
}

const struct tensor *safetensors_find(const struct safetensors *file, const char *name)
{
    const struct tensor key = {.name = name};
    return file->n_tensors ? bsearch(&key, file->tensors, file->n_tensors, sizeof key, compare_names) : NULL;
}

const char *safetensors_metadata(const struct safetensors *file, const char *key)
{
    for (size_t i = 0; i < file->n_metadata; i++) {
        if (!strcmp(file->metadata[2 * i], key))
            return file->metadata[2 * i + 1];
    }
    return NULL;
}
