// assay trace: one engine, one token sequence, one trace file.
#include "harness/run/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/cmd/arms.h"
#include "harness/cmd/options.h"
#include "harness/cmd/subject.h"
#include "harness/run/record.h"
#include "harness/run/suite.h"
#include "reference/double/double.h"

static const struct option trace_options[] = {
    {"tokens", "1,2,3|@FILE", "token ids, separated by commas or white space in a file"},
    {"text", "TEXT", "text for the model's tokenizer, which adds its own first token"},
    {"out", "FILE", "the trace to write (safetensors, assay-trace/1)"},
    {"engine", "NAME", "reference (default for a checkpoint), int8 (default for a bundle), fp16, expected, dequant"},
    {"bundle", "DIR", "a bundle of MODEL, for the engines that need both"},
    {"mode", "MODE", "s1 (default): one token a step; batch or chunk:N: many, the same bits (reference and dequant)"},
    {"taps", "LEVEL", "none (default), router (of experts), layers or all: intermediate values"},
    {"state", NULL, "also the state after the last token"},
    {"state-every", "N", "also the convolutions' and delta nets' states after every N positions"},
    {"from", "TRACE", "start from the state in this trace"},
    {"at", "P", "start from its snapshot after P positions instead of its end; it needs --state, too"},
    {"generate", "N", "after the tokens, N more that the engine chooses itself"},
    {"math", "KIND", "exact (default) or f64: the independent double implementation, logits only"},
    {"fault", "NAME", "plant a fault in the int8 runtime"},
    {0},
};

struct trace_run {
    const struct options *options;
    struct arena arena;
    struct subject *subject;     // NULL when MODEL is a bundle
    struct bundle *bundle;
    struct tokenizer *tokenizer; // of a bundle; a subject has its own
    struct pool *pool;
    struct arms arms;
    char *scratch;
    const struct config *config;
    struct trace_contract contract;
    uint32_t *tokens;
    size_t n;
};

static void close_run(struct trace_run *run)
{
    arms_close(&run->arms);
    pool_close(&run->pool);
    tokenizer_close(&run->tokenizer);
    bundle_close(&run->bundle);
    subject_close(&run->subject);
    if (run->scratch)
        directory_remove(run->scratch);
    arena_close(&run->arena);
}

static int open_model(struct trace_run *run, struct error *error)
{
    const char *path = run->options->positional[0], *bundle = options_text(run->options, "bundle");
    int code;
    if (subject_is_bundle(path)) {
        if (bundle)
            return error_set(error, ERROR_USAGE, "%s is a bundle itself; --bundle belongs to a checkpoint", path);
        code = bundle_open(&run->bundle, path, error);
        if (!code && run->bundle->tokenizer_path)
            code = tokenizer_open(&run->tokenizer, run->bundle->tokenizer_path, error);
        if (!code)
            code = subject_bundle_contract(&run->arena, run->bundle, &run->contract, error);
        run->config = code ? NULL : &run->bundle->config;
        return code;
    }
    code = subject_open(&run->subject, path, error);
    if (!code) {
        run->config = &run->subject->config;
        run->contract = run->subject->contract;
    }
    if (!code && bundle && !(code = bundle_open(&run->bundle, bundle, error)))
        code = bundle_matches(run->bundle, &run->subject->hashes, error);
    return code;
}

static int read_tokens(struct trace_run *run, struct error *error)
{
    const char *tokens = options_text(run->options, "tokens"), *text = options_text(run->options, "text");
    if (!tokens == !text)
        return error_set(error, ERROR_USAGE, "expected one of --tokens 1,2,3, --tokens @FILE and --text TEXT");
    if (tokens)
        return suite_parse_tokens(&run->arena, tokens, run->config, &run->tokens, &run->n, error);
    struct tokenizer *tokenizer = run->subject ? run->subject->tokenizer : run->tokenizer;
    if (!tokenizer)
        return error_set(error, ERROR_INPUT, "--text: %s has no tokenizer.json; give --tokens 1,2,3", run->options->positional[0]);
    const int code = tokenizer_encode(tokenizer, &run->arena, text, strlen(text), true, &run->tokens, &run->n, error);
    if (!code && run->n == 0)
        return error_set(error, ERROR_USAGE, "--text: the text gives no token");
    return code;
}

static int tap_level(const struct options *options, enum tap_level *level, struct error *error)
{
    const char *word = options_text(options, "taps");
    *level = TAPS_NONE;
    if (!word || tap_level_parse(word, level))
        return 0;
    return error_set(error, ERROR_USAGE, "--taps %s: expected none, router, layers or all", word);
}

// The fp64 oracle has the whole sequence at once, no taps in the trace and no state.
static int trace_double(struct trace_run *run, const char *out, struct error *error)
{
    const uint32_t n = (uint32_t)run->n, vocabulary = run->config->vocabulary;
    if (!run->subject)
        return error_set(error, ERROR_USAGE, "--math f64: needs a checkpoint, found a bundle");
    double *logits = calloc((size_t)n * vocabulary, sizeof *logits);
    float *row = calloc(vocabulary, sizeof *row);
    struct trace_writer *writer = NULL;
    struct trace_spec spec = {.contract = run->contract, .config = run->config, .n = n, .logits = DTYPE_F32};
    spec.contract.engine = "double";
    spec.contract.engine_version = ASSAY_VERSION;
    spec.contract.device = "cpu";
    spec.contract.precision = "float64";
    spec.contract.mode = "batch";
    int code = logits && row ? 0 : error_set(error, ERROR_RUNTIME, "out of memory for %" PRIu32 " rows of logits", n);
    if (!code)
        code = double_run(&run->subject->model, run->tokens, n, logits, NULL, error);
    if (!code)
        code = trace_create(&writer, out, &spec, error);
    for (uint32_t t = 0; !code && t < n; t++) {
        for (uint32_t i = 0; i < vocabulary; i++)
            row[i] = (float)logits[(size_t)t * vocabulary + i];
        trace_put(writer, t, run->tokens[t], row);
    }
    if (!code)
        code = trace_commit(&writer, error);
    free(row);
    free(logits);
    return code;
}

static int trace_engine(struct trace_run *run, const char *out, struct error *error)
{
    const struct options *options = run->options;
    const char *name = options_text(options, "engine"), *fault_text = options_text(options, "fault");
    enum arm_kind kind = run->subject ? ARM_KIND_REFERENCE : ARM_KIND_INT8;
    enum fault fault = FAULT_NONE;
    struct record_run request = {.tokens = run->tokens, .n = (uint32_t)run->n, .state = options_flag(options, "state"),
        .from = options_text(options, "from")};
    struct engine *engine = NULL;
    long generate, every, at, start = 0;
    int code = name ? arms_parse(name, &kind, error) : 0;
    if (!code && fault_text)
        code = fault_parse(fault_text, &fault, error);
    if (!code)
        code = tap_level(options, &request.taps, error);
    if (!code)
        code = options_number(options, "generate", 0, (long)run->config->max_positions, 0, &generate, error);
    if (!code)
        code = options_number(options, "state-every", 1, (long)run->config->max_positions, 0, &every, error);
    if (!code)
        code = options_number(options, "at", 1, (long)run->config->max_positions, 0, &at, error);
    if (!code && at && !request.from)
        code = error_set(error, ERROR_USAGE, "--at %ld: of which trace? Name it with --from TRACE", at);
    if (!code && request.from) {
        struct trace *from;
        if (!(code = trace_open(&from, request.from, error))) {
            start = at ? at : (long)from->contract.position + (long)from->n;
            trace_close(&from);
        }
    }
    if (!code)
        code = directory_scratch(&run->arena, &run->scratch, error);
    if (!code)
        code = pool_open(&run->pool, options->threads, error);
    if (code)
        return code;
    request.generate = (uint32_t)generate;
    request.state_every = (uint32_t)every;
    request.at = (uint32_t)at;
    run->arms = (struct arms){.pool = run->pool, .isa = options->isa, .subject = run->subject, .bundle = run->bundle,
        .scratch = run->scratch, .quiet = options->quiet};
    const long positions = start + (long)run->n + generate;
    if (positions > (long)run->config->max_positions)
        return error_set(error, ERROR_INPUT, "%ld positions, the model allows %" PRIu32 " (max_position_embeddings)", positions,
                         run->config->max_positions);
    code = arms_open(&run->arms, kind, fault, (uint32_t)positions, &engine, error);
    const struct bundle *bundle = kind == ARM_KIND_FP16 ? run->arms.fp16 : kind == ARM_KIND_EXPECTED ? run->arms.expected
                                                                                             : run->bundle;
    if (!code && kind != ARM_KIND_REFERENCE)
        code = subject_bundle_contract(&run->arena, bundle, &run->contract, error);
    struct record record = {.contract = run->contract, .logits = arms_logits(&run->arms, kind), .quiet = options->quiet};
    if (!code)
        code = options_mode(options, 1, &record.chunk, error);
    if (!code)
        code = record_run(&record, &request, engine, out, error);
    engine_close(&engine);
    return code;
}

static int run_trace(const struct options *options, struct error *error)
{
    struct trace_run run = {.options = options};
    const char *out = options_text(options, "out"), *math = options_text(options, "math");
    if (!out)
        return error_set(error, ERROR_USAGE, "expected --out FILE, the trace to write");
    if (math && strcmp(math, "exact") && strcmp(math, "f64"))
        return error_set(error, ERROR_USAGE, "--math %s: expected exact or f64", math);
    files_guard_signals(options->line);
    int code = open_model(&run, error);
    if (!code)
        code = read_tokens(&run, error);
    if (!code)
        code = math && !strcmp(math, "f64") ? trace_double(&run, out, error) : trace_engine(&run, out, error);
    close_run(&run);
    return code;
}

const struct command command_trace = {
    "trace", "MODEL|BUNDLE (--tokens IDS | --text TEXT) --out FILE", "record what one engine computes for one token sequence",
    "Writes logits, and on request intermediate values, the end state and the recurrent states on the way, as one\n"
    "safetensors file that other tools read and any engine may write (format: fixtures/oracles/README.md).",
    "assay trace fixtures/models/qwen35-mini --text 'In the beginning' --generate 24 --out out/reference.safetensors",
    trace_options, 1, 1, run_trace};
