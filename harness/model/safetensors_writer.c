#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/json.h"
#include "harness/model/safetensors.h"

static const uint64_t BYTES_MAX = (UINT64_C(1) << 53) - 1; // what a reader's JSON parser holds exactly

struct slot {
    const char *name;
    uint64_t offset; // in the file
    uint64_t bytes, written;
};

struct safetensors_writer {
    struct arena arena;
    struct output *output;
    const char *path;
    size_t n;
    struct slot *slots; // [n]
};

// The header as a list of texts, so that its length is known before its first byte is written.
struct pieces {
    struct arena *arena;
    const char **texts;
    size_t n;
    uint64_t length;
    bool failed;
};

static void add_piece(struct pieces *pieces, const char *text)
{
    if (!text) {
        pieces->failed = true;
        return;
    }
    pieces->texts[pieces->n++] = text;
    pieces->length += strlen(text);
}

static void add_tensor(struct pieces *pieces, const char *name, enum dtype dtype, const char *shape, uint64_t begin,
                       uint64_t end)
{
    const char *quoted = json_quote(pieces->arena, name);
    const char *text = NULL;
    if (quoted && shape)
        text = arena_print(pieces->arena,
                           "%s%s:{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                           pieces->n > 1 ? "," : "", quoted, dtype_name(dtype), shape, begin, end);
    add_piece(pieces, text);
}

static const char *shape_text(struct arena *arena, const struct tensor_declaration *tensor)
{
    char *text = arena_print(arena, "[");
    for (uint32_t i = 0; i < tensor->rank && text; i++)
        text = arena_print(arena, "%s%s%" PRIu64, text, i ? "," : "", tensor->shape[i]);
    return text ? arena_print(arena, "%s]", text) : NULL;
}

static int compare_pairs(const void *left, const void *right)
{
    const char *const *a = left, *const *b = right;
    return strcmp(a[0], b[0]);
}

static void add_metadata(struct pieces *pieces, const char *const *metadata, size_t n)
{
    if (!n)
        return;
    const char **pairs = arena_alloc(pieces->arena, n, 2 * sizeof *pairs);
    if (!pairs) {
        pieces->failed = true;
        return;
    }
    memcpy(pairs, metadata, n * 2 * sizeof *pairs);
    qsort(pairs, n, 2 * sizeof *pairs, compare_pairs);
    add_piece(pieces, "\"__metadata__\":{");
    for (size_t i = 0; i < n; i++) {
        assert(!i || strcmp(pairs[2 * i - 2], pairs[2 * i]));
        const char *key = json_quote(pieces->arena, pairs[2 * i]);
        const char *value = json_quote(pieces->arena, pairs[2 * i + 1]);
        add_piece(pieces, key && value ? arena_print(pieces->arena, "%s%s:%s", i ? "," : "", key, value) : NULL);
    }
    add_piece(pieces, "}");
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

// Names that would make the file ambiguous are the caller's mistake.
static void assert_names(struct arena *arena, const struct tensor_declaration *tensors, size_t n, uint64_t alignment)
{
    const char **names = arena_alloc(arena, n, sizeof *names);
    if (!names)
        return;
    for (size_t i = 0; i < n; i++) {
        names[i] = tensors[i].name;
        assert(strcmp(names[i], "__metadata__"));
        assert(alignment <= 8 || strncmp(names[i], "pad.", 4));
    }
    qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 1; i < n; i++)
        assert(strcmp(names[i - 1], names[i]));
}

static int size_of(const struct tensor_declaration *tensor, uint64_t *bytes, struct error *error)
{
    assert(tensor->rank <= TENSOR_RANK_MAX);
    uint64_t size = dtype_size(tensor->dtype);
    for (uint32_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] && size > BYTES_MAX / tensor->shape[i])
            return error_set(error, ERROR_INPUT, "tensor %s would take more than 2^53 bytes; expected fewer",
                             tensor->name);
        size *= tensor->shape[i];
    }
    *bytes = size;
    return 0;
}

// Gives every tensor its place, relative to the data section, and describes it and the gap before it.
static int lay_out(struct safetensors_writer *writer, struct pieces *pieces, const struct tensor_declaration *tensors,
                   uint64_t alignment, struct error *error)
{
    uint64_t end = 0;
    size_t n_pads = 0;
    for (size_t i = 0; i < writer->n; i++) {
        struct slot *slot = &writer->slots[i];
        const int status = size_of(&tensors[i], &slot->bytes, error);
        if (status)
            return status;
        const uint64_t gap = slot->bytes && alignment > 8 ? (alignment - end % alignment) % alignment : 0;
        if (gap) {
            const char *name = arena_print(pieces->arena, "pad.%zu", n_pads++);
            add_tensor(pieces, name ? name : "", DTYPE_U8, arena_print(pieces->arena, "[%" PRIu64 "]", gap), end,
                       end + gap);
        }
        slot->offset = end + gap;
        // packed: the caller declares in descending order of element size
        assert(slot->offset % dtype_size(tensors[i].dtype) == 0);
        end = slot->offset + slot->bytes;
        if (end > BYTES_MAX)
            return error_set(error, ERROR_INPUT, "%s: more than 2^53 bytes up to tensor %s; expected fewer",
                             writer->path, tensors[i].name);
        slot->name = arena_print(&writer->arena, "%s", tensors[i].name);
        if (!slot->name)
            pieces->failed = true;
        add_tensor(pieces, tensors[i].name, tensors[i].dtype, shape_text(pieces->arena, &tensors[i]), slot->offset,
                   end);
    }
    return 0;
}

// Length, pieces, and spaces up to the alignment of the data section.
static int write_header(struct safetensors_writer *writer, const struct pieces *pieces, uint64_t alignment,
                        struct error *error)
{
    const uint64_t data = (8 + pieces->length + alignment - 1) / alignment * alignment;
    if (data - 8 > SAFETENSORS_HEADER_MAX)
        return error_set(error, ERROR_INPUT,
                         "%s: the header of %zu tensors would take %" PRIu64 " bytes; the format allows %d",
                         writer->path, writer->n, data - 8, SAFETENSORS_HEADER_MAX);
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((data - 8) >> 8 * i);
    output_append(writer->output, length, sizeof length);
    for (size_t i = 0; i < pieces->n; i++)
        output_append(writer->output, pieces->texts[i], strlen(pieces->texts[i]));
    for (uint64_t i = 8 + pieces->length; i < data; i++)
        output_append(writer->output, " ", 1);
    for (size_t i = 0; i < writer->n; i++)
        writer->slots[i].offset += data;
    return 0;
}

static int prepare(struct safetensors_writer *writer, const struct tensor_declaration *tensors,
                   const char *const *metadata, size_t n_metadata, uint64_t alignment, struct error *error)
{
    struct arena scratch = {0};
    struct pieces pieces = {.arena = &scratch};
    // braces, metadata with its braces, every tensor with a gap before it
    pieces.texts = arena_alloc(&scratch, 4 + n_metadata + 2 * writer->n, sizeof *pieces.texts);
    writer->slots = arena_alloc(&writer->arena, writer->n, sizeof *writer->slots);
    int status = 0;
    if (!pieces.texts || !writer->slots || !writer->path) {
        pieces.failed = true;
    } else {
        assert_names(&scratch, tensors, writer->n, alignment);
        add_piece(&pieces, "{");
        add_metadata(&pieces, metadata, n_metadata);
        status = lay_out(writer, &pieces, tensors, alignment, error);
        add_piece(&pieces, "}");
    }
    if (!status && pieces.failed)
        status = error_set(error, ERROR_RUNTIME, "memory exhausted while laying out %zu tensors", writer->n);
    if (!status)
        status = output_open(&writer->output, writer->path, error);
    if (!status)
        status = write_header(writer, &pieces, alignment, error);
    arena_close(&scratch);
    return status;
}

int safetensors_create(struct safetensors_writer **out, const char *path, const struct tensor_declaration *tensors,
                       size_t n_tensors, const char *const *metadata, size_t n_metadata, uint64_t alignment,
                       struct error *error)
{
    assert(alignment >= 8 && alignment % 8 == 0);
    *out = NULL;
    struct safetensors_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return error_set(error, ERROR_RUNTIME, "%s: memory exhausted", path);
    writer->path = arena_print(&writer->arena, "%s", path);
    writer->n = n_tensors;
    const int status = prepare(writer, tensors, metadata, n_metadata, alignment, error);
    if (status)
        safetensors_abandon(&writer);
    *out = writer;
    return status;
}

void safetensors_write(struct safetensors_writer *writer, size_t index, uint64_t offset, const void *bytes,
                       uint64_t size)
{
    assert(index < writer->n);
    struct slot *slot = &writer->slots[index];
    assert(offset <= slot->bytes && size <= slot->bytes - offset);
    if (!size)
        return;
    output_write_at(writer->output, slot->offset + offset, bytes, (size_t)size);
    slot->written += size;
}

static void release(struct safetensors_writer **writer)
{
    arena_close(&(*writer)->arena);
    free(*writer);
    *writer = NULL;
}

int safetensors_commit(struct safetensors_writer **writer, struct error *error)
{
    int status = 0;
    for (size_t i = 0; i < (*writer)->n && !status; i++) {
        const struct slot *slot = &(*writer)->slots[i];
        if (slot->written < slot->bytes)
            status = error_set(error, ERROR_RUNTIME, "%s: tensor %s: %" PRIu64 " of %" PRIu64 " bytes were written",
                               (*writer)->path, slot->name, slot->written, slot->bytes);
    }
    if (status)
        output_abandon(&(*writer)->output);
    else
        status = output_commit(&(*writer)->output, error);
    release(writer);
    return status;
}

void safetensors_abandon(struct safetensors_writer **writer)
{
    if (!writer || !*writer)
        return;
    output_abandon(&(*writer)->output);
    release(writer);
}
