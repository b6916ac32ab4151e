#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/run/trace.h"

enum { V = 11, D = 6, HKV = 2, DH = 5, K = 4, N = 3 };
#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER_DIGEST "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static struct arena arena;
static char *directory;

static void make_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
}

static void remove_directory(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(trace, .init = make_directory, .fini = remove_directory);

static const char *in_directory(const char *name)
{
    return file_join(&arena, directory, name);
}

static struct trace *read_trace(const char *path)
{
    struct error error = {0};
    struct trace *trace;
    cr_assert_eq(trace_open(&trace, path, &error), 0, "%s", error.text);
    return trace;
}

// What others wrote: one description that is right, and what is wrong with each mutant

struct piece {
    const char *name;
    enum dtype dtype;
    uint32_t rank;
    uint64_t shape[3];
};

enum { PIECES = 9, PAIRS = 9 };

struct foreign {
    struct piece pieces[PIECES]; // the first one without a name ends the list
    const char *metadata[PAIRS][2];
    int32_t first_token, last_id;
};

static const struct foreign sound = {
    .pieces = {{"tokens", DTYPE_I32, 1, {N}},
               {"logits", DTYPE_F32, 2, {N, V}},
               {"tap.1.mixer", DTYPE_F32, 2, {N, D}},
               {"tap.embed", DTYPE_F32, 2, {N, D}},
               {"state.1.k", DTYPE_F32, 3, {HKV, N, DH}},
               {"state.10.conv", DTYPE_F32, 2, {D, K - 1}},
               {"state.2.conv", DTYPE_F32, 2, {D, K - 1}}},
    .metadata = {
        {"schema", TRACE_SCHEMA}, {"start", "zero"}, {"position", "0"}, {"generated", "0"}, {"note", "kept"}}};

static const struct foreign sound_topk = {.pieces = {{"tokens", DTYPE_I32, 1, {N}},
                                                     {"topk.ids", DTYPE_I32, 2, {N, 2}},
                                                     {"topk.logits", DTYPE_F32, 2, {N, 2}},
                                                     {"logsumexp", DTYPE_F32, 1, {N}}},
                                          .metadata = {{"schema", TRACE_SCHEMA}}};

static void write_foreign(const char *path, const struct foreign *foreign)
{
    struct tensor_declaration tensors[PIECES];
    const char *metadata[2 * PAIRS];
    size_t n = 0, pairs = 0;
    for (; n < PIECES && foreign->pieces[n].name; n++) {
        tensors[n] = (struct tensor_declaration){
            .name = foreign->pieces[n].name, .dtype = foreign->pieces[n].dtype, .rank = foreign->pieces[n].rank};
        memcpy(tensors[n].shape, foreign->pieces[n].shape, sizeof foreign->pieces[n].shape);
    }
    for (size_t i = 0; i < PAIRS; i++)
        for (size_t j = 0; foreign->metadata[i][0] && j < 2; j++)
            metadata[pairs++] = foreign->metadata[i][j];
    struct error error = {0};
    struct safetensors_writer *writer;
    cr_assert_eq(safetensors_create(&writer, path, tensors, n, metadata, pairs / 2, 8, &error), 0, "%s", error.text);
    static const unsigned char zeros[4096];
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = dtype_size(tensors[i].dtype);
        for (uint32_t r = 0; r < tensors[i].rank; r++)
            bytes *= tensors[i].shape[r];
        cr_assert_leq(bytes, sizeof zeros);
        safetensors_write(writer, i, 0, zeros, bytes);
        if (strcmp(tensors[i].name, "tokens") == 0 && tensors[i].dtype == DTYPE_I32 && bytes)
            safetensors_write(writer, i, 0, &foreign->first_token, sizeof foreign->first_token);
        if (strcmp(tensors[i].name, "topk.ids") == 0 && bytes)
            safetensors_write(writer, i, bytes - 4, &foreign->last_id, sizeof foreign->last_id);
    }
    cr_assert_eq(safetensors_commit(&writer, &error), 0, "%s", error.text);
}

static void expect_refused(const struct foreign *foreign, const char *sentence)
{
    const char *path = in_directory("foreign.safetensors");
    struct error error = {0};
    struct trace *trace;
    write_foreign(path, foreign);
    cr_expect_eq(trace_open(&trace, path, &error), ERROR_INPUT, "not refused: %s", sentence);
    cr_expect_null(trace);
    cr_expect(strstr(error.text, sentence), "expected \"%s\" in \"%s\"", sentence, error.text);
    cr_expect(strstr(error.text, path), "no file name in \"%s\"", error.text);
    trace_close(&trace);
}

Test(trace, of_a_foreign_engine_opens_and_its_unknown_keys_are_kept)
{
    const char *path = in_directory("foreign.safetensors");
    write_foreign(path, &sound);
    struct trace *trace = read_trace(path);
    cr_expect_str_eq(trace->contract.engine, "");
    cr_expect_str_eq(safetensors_metadata(trace->file, "note"), "kept");
    struct state state;
    cr_assert_eq(trace_state(trace, &arena, &state, NULL), 0);
    cr_assert_eq(state.n, 3);
    cr_expect_eq(state.tensors[0].layer, 1);
    cr_expect_eq(state.tensors[1].layer, 2); // by number, not by name
    cr_expect_eq(state.tensors[2].layer, 10);
    trace_close(&trace);

    write_foreign(path, &sound_topk);
    trace = read_trace(path);
    cr_expect_null(trace->logits);
    cr_expect_eq(trace->vocabulary, 0);
    cr_expect_not_null(trace->logsumexp);
    trace_close(&trace);
}

Test(trace, may_hold_float64_logits_and_points_of_unknown_families_beside_its_own)
{
    const char *path = in_directory("foreign.safetensors");
    struct foreign foreign = {.pieces = {{"logits64", DTYPE_F64, 2, {N, V}},
                                         {"tokens", DTYPE_I32, 1, {N}},
                                         {"logits", DTYPE_F32, 2, {N, V}},
                                         {"tap.0.votes", DTYPE_I32, 2, {N, 2}},
                                         {"state.0.memory", DTYPE_F32, 3, {2, 2, 2}}},
                              .metadata = {{"schema", TRACE_SCHEMA}}};
    write_foreign(path, &foreign);
    struct trace *trace = read_trace(path);
    struct state state;
    struct error error = {0};
    cr_expect_eq(trace_state(trace, &arena, &state, &error), ERROR_INPUT); // not dropped silently
    cr_expect(strstr(error.text, "state.0.memory"), "%s", error.text);
    trace_close(&trace);
}

Test(trace, with_a_wrong_tensor_is_refused_by_name)
{
    const struct {
        size_t piece;
        struct piece wrong;
        const char *sentence;
    } mutants[] = {
        {0, {"token", DTYPE_I32, 1, {N}}, "no tensor 'tokens'"},
        {0, {"tokens", DTYPE_F32, 1, {N}}, "'tokens' is F32 [3]; expected I32 [N]"},
        {0, {"tokens", DTYPE_I32, 2, {N, 1}}, "'tokens' is I32 [3, 1]"},
        {0, {"tokens", DTYPE_I32, 0, {0}}, "'tokens' is I32 []"},
        {0, {"tokens", DTYPE_I32, 1, {0}}, "'tokens' has 0 ids"},
        {0, {"tokens", DTYPE_I32, 1, {N + 1}}, "'logits' is F32 [3, 11]; expected F32 or F16 [N, V] with N = 4"},
        {1, {"logit", DTYPE_F32, 2, {N, V}}, "no tensor 'logits'"},
        {1, {"logits", DTYPE_U32, 2, {N, V}}, "'logits' is U32"},
        {1, {"logits", DTYPE_F32, 1, {N}}, "'logits' is F32 [3]"},
        {1, {"logits", DTYPE_F32, 2, {N, 0}}, "'logits' is F32 [3, 0]"},
        {1, {"logits", DTYPE_F32, 3, {N, V, 1}}, "'logits' is F32 [3, 11, 1]"},
        {2, {"tap.1.mixer", DTYPE_F32, 2, {N - 1, D}}, "'tap.1.mixer' is F32 [2, 6]"},
        {2, {"tap.1.mixer", DTYPE_F32, 1, {N}}, "'tap.1.mixer' is F32 [3]"},
        {2, {"tap.1.mixer", DTYPE_F32, 2, {N, 0}}, "'tap.1.mixer' is F32 [3, 0]"},
        {2, {"tap.1.mixer", DTYPE_I32, 2, {N, D}}, "'tap.1.mixer' is I32"},
        {3, {"tap.embed", DTYPE_I32, 2, {N, D}}, "'tap.embed' is I32"},
        {4,
         {"state.1.k", DTYPE_F32, 3, {HKV, N + 1, DH}},
         "'state.1.k' is F32 [2, 4, 5]; expected F32 [Hkv, P, dh] with P = 3"},
        {4, {"state.1.k", DTYPE_F32, 2, {N, DH}}, "'state.1.k' is F32 [3, 5]"},
        {4, {"state.1.v", DTYPE_F16, 3, {HKV, N, DH}}, "'state.1.v' is F16"},
        {5, {"state.10.conv", DTYPE_F32, 1, {D}}, "'state.10.conv' is F32 [6]"},
        {7, {"topk.ids", DTYPE_I32, 2, {N, 2}}, "no tensor 'topk.logits'"},
    };
    for (size_t i = 0; i < sizeof mutants / sizeof *mutants; i++) {
        struct foreign foreign = sound;
        foreign.pieces[mutants[i].piece] = mutants[i].wrong;
        expect_refused(&foreign, mutants[i].sentence);
    }
}

Test(trace, with_a_wrong_top_k_is_refused_by_name)
{
    const struct {
        size_t piece;
        struct piece wrong;
        const char *sentence;
    } mutants[] = {
        {1, {"topk.ids", DTYPE_F32, 2, {N, 2}}, "'topk.ids' is F32"},
        {1, {"topk.ids", DTYPE_I32, 2, {N, 0}}, "'topk.ids' is I32 [3, 0]"},
        {2, {"topk.logits", DTYPE_F32, 2, {N, 3}}, "'topk.logits' is F32 [3, 3]"},
        {2, {"topk.logits", DTYPE_F16, 2, {N, 2}}, "'topk.logits' is F16"},
        {3, {"logsumexp", DTYPE_F32, 1, {N - 1}}, "'logsumexp' is F32 [2]"},
        {3, {"sum", DTYPE_F32, 1, {N}}, "no tensor 'logsumexp'"},
    };
    for (size_t i = 0; i < sizeof mutants / sizeof *mutants; i++) {
        struct foreign foreign = sound_topk;
        foreign.pieces[mutants[i].piece] = mutants[i].wrong;
        expect_refused(&foreign, mutants[i].sentence);
    }
}

Test(trace, with_an_id_outside_the_vocabulary_is_refused)
{
    struct foreign foreign = sound;
    foreign.first_token = V;
    expect_refused(&foreign, "id 0 of tensor 'tokens' is 11; expected 0 to 10");
    foreign.first_token = -1;
    expect_refused(&foreign, "id 0 of tensor 'tokens' is -1");
    foreign = sound_topk;
    foreign.last_id = INT32_MIN;
    expect_refused(&foreign, "id 5 of tensor 'topk.ids' is -2147483648");
}

Test(trace, with_a_wrong_contract_is_refused_by_key)
{
    const struct {
        const char *key, *value, *sentence;
    } mutants[] = {
        {"schema", "assay-trace/2", "'schema' is assay-trace/2; expected assay-trace/1"},
        {"schema", NULL, "'schema' is absent"},
        {"start", "Zero", "'start' is \"Zero\""},
        {"start", DIGEST "0", "'start' is"},
        {"start", DIGEST, "'position' is 0 with start"},
        {"position", "3", "'position' is 3 with start \"zero\""},
        {"position", "", "'position' is \"\""},
        {"position", "-1", "'position' is \"-1\""},
        {"position", "+0", "'position' is \"+0\""},
        {"position", " 0", "'position' is \" 0\""},
        {"position", "0x0", "'position' is \"0x0\""},
        {"position", "00", "'position' is \"00\""},
        {"position", "4294967296", "'position' is \"4294967296\""},
        {"position", "99999999999999999999999", "'position' is \"99999999999999999999999\""},
        {"generated", "4", "'generated' is 4, but there are only 3 tokens"},
        {"generated", "one", "'generated' is \"one\""},
    };
    for (size_t i = 0; i < sizeof mutants / sizeof *mutants; i++) {
        struct foreign foreign = sound;
        for (size_t j = 0; j < PAIRS; j++)
            if (foreign.metadata[j][0] && strcmp(foreign.metadata[j][0], mutants[i].key) == 0) {
                foreign.metadata[j][0] = mutants[i].value ? mutants[i].key : "other";
                foreign.metadata[j][1] = mutants[i].value ? mutants[i].value : "";
            }
        expect_refused(&foreign, mutants[i].sentence);
    }
}

// --- comparability

// What two engines could state about the same run.
static const struct foreign stated = {.pieces = {{"tokens", DTYPE_I32, 1, {N}}, {"logits", DTYPE_F32, 2, {N, V}}},
                                      .metadata = {{"schema", TRACE_SCHEMA},
                                                   {"start", DIGEST},
                                                   {"position", "2"},
                                                   {"weights_sha256", DIGEST},
                                                   {"config_sha256", DIGEST},
                                                   {"tokenizer_sha256", DIGEST},
                                                   {"mode", "s1"},
                                                   {"engine", "reference"}}};

static void set(struct foreign *foreign, const char *key, const char *value)
{
    size_t i = 0;
    while (strcmp(foreign->metadata[i][0], key) != 0)
        i++;
    foreign->metadata[i][1] = value;
}

static int compare(const struct foreign *reference, const struct foreign *candidate, bool same_mode,
                   struct error *error)
{
    write_foreign(in_directory("r.safetensors"), reference);
    write_foreign(in_directory("c.safetensors"), candidate);
    struct trace *r = read_trace(in_directory("r.safetensors")), *c = read_trace(in_directory("c.safetensors"));
    const int status = trace_comparable(r, c, same_mode, error);
    trace_close(&r);
    trace_close(&c);
    return status;
}

static void expect_incomparable(const struct foreign *candidate, bool same_mode, const char *sentence)
{
    struct error error = {0};
    cr_expect_eq(compare(&stated, candidate, same_mode, &error), ERROR_CONTRACT, "accepted: %s", sentence);
    cr_expect(strstr(error.text, sentence), "expected \"%s\" in \"%s\"", sentence, error.text);
}

Test(trace, is_comparable_with_one_of_another_engine_and_of_hashes_that_are_not_stated)
{
    struct foreign candidate = stated;
    struct error error = {0};
    cr_expect_eq(compare(&stated, &candidate, true, &error), 0, "%s", error.text);
    set(&candidate, "engine", "int8");
    set(&candidate, "config_sha256", "");
    candidate.pieces[1].dtype = DTYPE_F16;
    cr_expect_eq(compare(&stated, &candidate, true, &error), 0, "%s", error.text);
    cr_expect_eq(compare(&candidate, &stated, true, &error), 0, "%s", error.text);
}

Test(trace, is_not_comparable_when_a_key_of_the_contract_differs)
{
    const struct {
        const char *key, *value, *sentence;
    } mutants[] = {
        {"start", OTHER_DIGEST, "start is " DIGEST " in the first, " OTHER_DIGEST " in the second"},
        {"position", "3", "position is 2 in the first, 3 in the second"},
        {"weights_sha256", OTHER_DIGEST, "weights_sha256 is " DIGEST " in the first, " OTHER_DIGEST " in the second"},
        {"config_sha256", OTHER_DIGEST, "config_sha256 is " DIGEST " in the first, " OTHER_DIGEST " in the second"},
        {"tokenizer_sha256", OTHER_DIGEST, "tokenizer_sha256 is " DIGEST " in the first, " OTHER_DIGEST},
    };
    for (size_t i = 0; i < sizeof mutants / sizeof *mutants; i++) {
        struct foreign candidate = stated;
        set(&candidate, mutants[i].key, mutants[i].value);
        expect_incomparable(&candidate, false, mutants[i].sentence);
    }
}

Test(trace, is_not_comparable_with_other_tokens_or_another_vocabulary)
{
    struct foreign candidate = stated;
    candidate.first_token = 5;
    expect_incomparable(&candidate, false, "token 0 is 0 in the first, 5 in the second");
    candidate = stated;
    candidate.pieces[0].shape[0] = candidate.pieces[1].shape[0] = N - 1;
    expect_incomparable(&candidate, false, "number of tokens is 3 in the first, 2 in the second");
    candidate = stated;
    candidate.pieces[1].shape[1] = V + 1;
    expect_incomparable(&candidate, false, "vocabulary is 11 in the first, 12 in the second");
}

Test(trace, in_another_mode_is_comparable_unless_equal_modes_are_asked_for)
{
    struct foreign candidate = stated;
    set(&candidate, "mode", "batch");
    cr_expect_eq(compare(&stated, &candidate, false, NULL), 0);
    expect_incomparable(&candidate, true, "mode is s1 in the first, batch in the second");
}

Test(trace, cut_short_anywhere_is_refused)
{
    const char *path = in_directory("whole.safetensors"), *cut = in_directory("cut.safetensors");
    write_foreign(path, &stated);
    char *bytes;
    uint64_t size;
    cr_assert_eq(file_read(&arena, path, 1 << 20, &bytes, &size, NULL), 0);
    for (uint64_t length = 0; length < size; length++) {
        FILE *file = fopen(cut, "wb");
        cr_assert_not_null(file);
        cr_assert_eq(fwrite(bytes, 1, length, file), length);
        cr_assert_eq(fclose(file), 0);
        struct trace *trace;
        cr_assert_eq(trace_open(&trace, cut, NULL), ERROR_INPUT, "%llu bytes", (unsigned long long)length);
    }
}

// --- the goldens of Hugging Face

Test(trace, made_by_transformers_opens_with_its_taps_states_and_float64_logits)
{
    struct trace *trace = read_trace(ASSAY_FIXTURES "/oracles/lfm2-mini/chat-9.float64.safetensors");
    cr_expect_str_eq(trace->contract.engine, "transformers");
    cr_expect_str_eq(trace->contract.precision, "float64");
    const struct tensor *logits64 = safetensors_find(trace->file, "logits64");
    cr_assert_not_null(logits64);
    cr_expect_eq(logits64->dtype, DTYPE_F64);
    const float *logits = trace_logits(trace, trace->n - 1, NULL);
    const double *row = (const double *)logits64->data + (uint64_t)(trace->n - 1) * trace->vocabulary;
    for (uint32_t i = 0; i < trace->vocabulary; i++)
        cr_assert_eq(logits[i], (float)row[i]);
    trace_close(&trace);

    trace = read_trace(ASSAY_FIXTURES "/oracles/lfm2-mini/chat.safetensors");
    uint32_t width;
    cr_expect_not_null(trace_tap(trace, 0, 7, TAP_OUT, &width));
    cr_expect_eq(width, 192);
    struct state state;
    cr_assert_eq(trace_state(trace, &arena, &state, NULL), 0);
    cr_expect_eq(state.n, 5 + 2 * 3); // five short convolutions, three attentions
    cr_expect_eq(state.position, trace->n);
    trace_close(&trace);
}
