#include <criterion/criterion.h>

#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/base/half.h"
#include "harness/base/hash.h"
#include "harness/run/trace.h"

enum { V = 11, D = 6, HQ = 4, HKV = 2, DH = 5, K = 4, L = 3, N = 3, POSITION = 2 };
static enum mixer mixers[L] = {MIXER_CONV, MIXER_ATTENTION, MIXER_CONV};
static const struct config config = {.vocabulary = V,
                                     .hidden = D,
                                     .layers = L,
                                     .query_heads = HQ,
                                     .key_heads = HKV,
                                     .head_width = DH,
                                     .feed_forward = 9,
                                     .conv_taps = K,
                                     .mixers = mixers};
#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER_DIGEST "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static struct arena arena;
static char *directory;

static void make_directory(void)
{
    setenv("ASSAY_NO_CACHE", "1", 1); // hash_file must not write elsewhere
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
}

static void remove_directory(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(trace_writer, .init = make_directory, .fini = remove_directory);

static const char *in_directory(const char *name)
{
    return file_join(&arena, directory, name);
}

// What the values of row t of a tensor are, whoever asks.
static float value(uint32_t row, uint32_t column, uint32_t salt)
{
    return (float)row * 0.25f - (float)column * 0.125f + (float)salt; // exact in half for these sizes
}

static const struct trace_spec seeded_spec = {.contract = {.model = "lfm2-\"mini\"",
                                                           .model_type = "lfm2",
                                                           .weights_sha256 = DIGEST,
                                                           .config_sha256 = OTHER_DIGEST,
                                                           .bundle_sha256 = "",
                                                           .tokenizer_sha256 = "",
                                                           .engine = "engine",
                                                           .engine_version = "0",
                                                           .device = "cpu",
                                                           .precision = "float32",
                                                           .mode = "s1",
                                                           .start = DIGEST,
                                                           .position = POSITION,
                                                           .generated = 1},
                                              .config = &config,
                                              .n = N,
                                              .logits = DTYPE_F32,
                                              .taps = TAPS_ALL,
                                              .state = true};

static struct trace_spec zero_spec(enum dtype logits)
{
    struct trace_spec spec = seeded_spec;
    spec.contract.start = "zero";
    spec.contract.position = 0;
    spec.contract.generated = 0;
    spec.logits = logits;
    spec.taps = TAPS_NONE;
    spec.state = false;
    return spec;
}

static void put_taps(struct trace_writer *writer, uint32_t t, enum tap_level level)
{
    trace_row(writer, t);
    for (uint32_t layer = 0; layer < L; layer++)
        for (enum tap_point point = 0; point < TAP_POINTS; point++) {
            float row[64];
            const uint32_t width = tap_width(&config, level, layer, point);
            for (uint32_t i = 0; i < width; i++)
                row[i] = value(t, i, layer * TAP_POINTS + point);
            if (width)
                tap(trace_taps(writer), layer, point, row, width);
        }
}

static void put_row(struct trace_writer *writer, uint32_t t)
{
    float logits[V];
    for (uint32_t i = 0; i < V; i++)
        logits[i] = value(t, i, 0);
    trace_put(writer, t, (3 * t + 1) % V, logits);
}

static void put_state(struct trace_writer *writer, uint32_t position)
{
    struct state state;
    cr_assert_eq(state_make(&arena, &config, position, &state, NULL), 0);
    for (size_t i = 0; i < state.n; i++)
        for (uint64_t e = 0; e < state.tensors[i].elements; e++)
            state.tensors[i].data[e] = value((uint32_t)e, 0, (uint32_t)i);
    trace_put_state(writer, &state);
}

// Rows go in backwards: their place in the file does not depend on the order.
static void write_trace(const char *path, const struct trace_spec *spec)
{
    struct error error = {0};
    struct trace_writer *writer;
    cr_assert_eq(trace_create(&writer, path, spec, &error), 0, "%s", error.text);
    for (uint32_t t = spec->n; t-- > 0;) {
        put_taps(writer, t, spec->taps);
        put_row(writer, t);
    }
    if (spec->state)
        put_state(writer, spec->contract.position + spec->n);
    cr_assert_eq(trace_commit(&writer, &error), 0, "%s", error.text);
    cr_assert_null(writer);
}

static struct trace *read_trace(const char *path)
{
    struct error error = {0};
    struct trace *trace;
    cr_assert_eq(trace_open(&trace, path, &error), 0, "%s", error.text);
    return trace;
}

Test(trace_writer, reads_back_every_row_tap_state_and_contract_entry)
{
    const char *path = in_directory("whole.safetensors");
    write_trace(path, &seeded_spec);
    struct trace *trace = read_trace(path);
    cr_assert_eq(trace->n, N);
    cr_assert_eq(trace->vocabulary, V);
    const struct trace_contract *contract = &trace->contract;
    cr_expect_str_eq(contract->model, "lfm2-\"mini\"");
    cr_expect_str_eq(contract->weights_sha256, DIGEST);
    cr_expect_str_eq(contract->config_sha256, OTHER_DIGEST);
    cr_expect_str_eq(contract->tokenizer_sha256, "");
    cr_expect_str_eq(contract->mode, "s1");
    cr_expect_str_eq(contract->start, DIGEST);
    cr_expect_eq(contract->position, POSITION);
    cr_expect_eq(contract->generated, 1);
    cr_expect_str_eq(safetensors_metadata(trace->file, "taps"), "all");
    for (uint32_t t = 0; t < N; t++) {
        cr_assert_eq(trace->tokens[t], (int32_t)((3 * t + 1) % V));
        const float *logits = trace_logits(trace, t, NULL);
        for (uint32_t i = 0; i < V; i++)
            cr_assert_eq(logits[i], value(t, i, 0));
        for (uint32_t layer = 0; layer < L; layer++)
            for (enum tap_point point = TAP_IN; point <= TAP_OUT; point++) {
                uint32_t width;
                if (tap_is_integer(point))
                    continue; // trace_experts
                const float *row = trace_tap(trace, t, layer, point, &width);
                cr_assert_eq(width, tap_width(&config, TAPS_ALL, layer, point));
                cr_assert_eq(row == NULL, width == 0);
                for (uint32_t i = 0; i < width; i++)
                    cr_assert_eq(row[i], value(t, i, layer * TAP_POINTS + point));
            }
    }
    struct state state;
    cr_assert_eq(trace_state(trace, &arena, &state, NULL), 0);
    cr_assert_eq(state.position, POSITION + N);
    cr_assert_eq(state.n, 4);
    for (size_t i = 0; i < state.n; i++)
        for (uint64_t e = 0; e < state.tensors[i].elements; e++)
            cr_assert_eq(state.tensors[i].data[e], value((uint32_t)e, 0, (uint32_t)i));
    trace_close(&trace);
    cr_assert_null(trace);
}

Test(trace_writer, with_half_logits_widens_to_the_same_numbers)
{
    const char *path = in_directory("half.safetensors");
    struct trace_spec spec = zero_spec(DTYPE_F16);
    spec.taps = TAPS_LAYERS;
    write_trace(path, &spec);
    struct trace *trace = read_trace(path);
    float scratch[V];
    for (uint32_t t = 0; t < N; t++) {
        const float *logits = trace_logits(trace, t, scratch);
        for (uint32_t i = 0; i < V; i++)
            cr_assert_eq(logits[i], value(t, i, 0));
        uint32_t width;
        cr_assert_not_null(trace_tap(trace, t, 2, TAP_OUT, &width));
        cr_assert_null(trace_tap(trace, t, 1, TAP_Q, &width));
    }
    struct state state;
    cr_assert_eq(trace_state(trace, &arena, &state, NULL), 0);
    cr_assert_eq(state.n, 0);
    trace_close(&trace);
}

Test(trace_writer, of_half_logits_refuses_a_number_that_no_half_holds)
{
    const float bad[] = {0.1f, 70000.0f, 0x1p-26f};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const struct trace_spec spec = zero_spec(DTYPE_F16);
        const char *path = in_directory("narrow.safetensors");
        struct trace_writer *writer;
        cr_assert_eq(trace_create(&writer, path, &spec, NULL), 0);
        const float logits[V] = {[7] = bad[i]};
        put_row(writer, 0);
        trace_put(writer, 1, 0, logits);
        put_row(writer, 2);
        struct error error = {0};
        cr_expect_eq(trace_commit(&writer, &error), ERROR_CONTRACT);
        cr_expect(strstr(error.text, "logit 7 of row 1"), "%s", error.text);
        cr_expect_not(file_exists(path));
    }
}

Test(trace_writer, of_half_logits_keeps_infinities_zeros_and_subnormals)
{
    const struct trace_spec spec = zero_spec(DTYPE_F16);
    const char *path = in_directory("edges.safetensors");
    const float logits[V] = {INFINITY, -INFINITY, -0.0f, 0x1p-24f, -0x1p-24f, 65504.0f, 0x1.ff8p-15f};
    struct trace_writer *writer;
    cr_assert_eq(trace_create(&writer, path, &spec, NULL), 0);
    for (uint32_t t = 0; t < N; t++)
        trace_put(writer, t, t, logits);
    cr_assert_eq(trace_commit(&writer, NULL), 0);
    struct trace *trace = read_trace(path);
    float scratch[V];
    cr_assert_eq(memcmp(trace_logits(trace, 1, scratch), logits, sizeof logits), 0);
    trace_close(&trace);
}

Test(trace_writer, stores_every_nan_as_the_canonical_one)
{
    const uint32_t payloads[] = {0xFFC00001, 0x7F800001, 0x7FC00000};
    for (enum dtype dtype = DTYPE_F16; dtype <= DTYPE_F32; dtype = dtype == DTYPE_F16 ? DTYPE_F32 : DTYPE_COUNT) {
        struct trace_spec spec = zero_spec(dtype);
        spec.taps = TAPS_LAYERS;
        spec.state = true;
        const char *path = in_directory("nan.safetensors");
        struct trace_writer *writer;
        cr_assert_eq(trace_create(&writer, path, &spec, NULL), 0);
        struct state state;
        cr_assert_eq(state_make(&arena, &config, N, &state, NULL), 0);
        for (uint32_t t = 0; t < N; t++) {
            float row[V];
            for (uint32_t i = 0; i < V; i++)
                row[i] = float_from_bits(payloads[t]);
            put_taps(writer, t, TAPS_NONE);
            for (uint32_t layer = 0; layer < L; layer++)
                for (enum tap_point point = 0; point < TAP_POINTS; point++)
                    if (tap_width(&config, TAPS_LAYERS, layer, point))
                        tap(trace_taps(writer), layer, point, row, D);
            trace_put(writer, t, t, row);
            state.tensors[0].data[t] = row[0];
        }
        trace_put_state(writer, &state);
        cr_assert_eq(trace_commit(&writer, NULL), 0);
        struct trace *trace = read_trace(path);
        float scratch[V];
        uint32_t width;
        for (uint32_t t = 0; t < N; t++) {
            if (dtype == DTYPE_F16)
                cr_expect_eq(((const uint16_t *)trace->logits->data)[t * V + 4], HALF_NAN);
            cr_expect_eq(float_to_bits(trace_logits(trace, t, scratch)[4]), FLOAT_NAN_BITS);
            cr_expect_eq(float_to_bits(trace_tap(trace, t, 1, TAP_FFN, &width)[D - 1]), FLOAT_NAN_BITS);
            const struct tensor *conv = safetensors_find(trace->file, "state.0.conv");
            cr_expect_eq(float_to_bits(((const float *)conv->data)[t]), FLOAT_NAN_BITS);
        }
        trace_close(&trace);
    }
}

Test(trace_writer, of_the_same_rows_has_the_same_bytes)
{
    char first[HASH_HEX], second[HASH_HEX];
    write_trace(in_directory("1.safetensors"), &seeded_spec);
    write_trace(in_directory("2.safetensors"), &seeded_spec);
    cr_assert_eq(hash_file(in_directory("1.safetensors"), first, NULL), 0);
    cr_assert_eq(hash_file(in_directory("2.safetensors"), second, NULL), 0);
    cr_assert_str_eq(first, second);
}

Test(trace_writer, that_is_abandoned_leaves_nothing_and_keeps_the_old_file)
{
    const char *path = in_directory("old.safetensors");
    const struct trace_spec spec = zero_spec(DTYPE_F32);
    write_trace(path, &spec);
    struct trace_writer *writer;
    cr_assert_eq(trace_create(&writer, path, &seeded_spec, NULL), 0);
    put_row(writer, 0);
    trace_abandon(&writer);
    cr_assert_null(writer);
    struct trace *trace = read_trace(path);
    cr_assert_str_eq(trace->contract.start, "zero");
    trace_close(&trace);
}

Test(trace_writer, that_cannot_write_says_where)
{
    const struct trace_spec spec = zero_spec(DTYPE_F32);
    const char *const paths[] = {in_directory("missing/trace.safetensors"), "/dev/full"};
    for (size_t i = 0; i < 2; i++) {
        struct error error = {0};
        struct trace_writer *writer;
        int status = trace_create(&writer, paths[i], &spec, &error);
        for (uint32_t t = 0; t < N && !status; t++)
            put_row(writer, t);
        if (!status)
            status = trace_commit(&writer, &error);
        cr_expect_lt(status, 0, "%s", paths[i]);
        cr_expect(strstr(error.text, paths[i]), "%s", error.text);
        cr_expect_null(writer);
    }
}

Test(trace_writer, cannot_be_committed_with_a_row_missing, .signal = SIGABRT)
{
    const struct trace_spec spec = zero_spec(DTYPE_F32);
    struct trace_writer *writer;
    cr_assert_eq(trace_create(&writer, in_directory("short.safetensors"), &spec, NULL), 0);
    put_row(writer, 0);
    put_row(writer, 2);
    trace_commit(&writer, NULL);
}

Test(trace_writer, writing_takes_the_same_memory_for_any_number_of_positions)
{
    size_t used[2];
    const uint32_t n[2] = {16, 4096};
    for (size_t i = 0; i < 2; i++) {
        struct trace_spec spec = zero_spec(DTYPE_F32);
        spec.n = n[i];
        spec.taps = TAPS_ALL;
        spec.state = true;
        struct trace_writer *writer;
        const size_t before = mallinfo2().uordblks;
        cr_assert_eq(trace_create(&writer, in_directory("long.safetensors"), &spec, NULL), 0);
        for (uint32_t t = 0; t < n[i]; t++) {
            put_taps(writer, t, TAPS_ALL);
            put_row(writer, t);
        }
        used[i] = mallinfo2().uordblks - before;
        trace_abandon(&writer);
    }
    // 4,080 rows more of 4 bytes x (token + logits + taps) are over 4 MB; digits of offsets in the header a few bytes
    // each.
    cr_assert_leq(used[1], used[0] + 1024, "%zu and %zu bytes", used[0], used[1]);
}
