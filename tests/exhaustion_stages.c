// What runs while memory is refused: each stage of the flow alone, on a small model, from inputs that were made
// before.
#include "tests/exhaustion.h"

#include <stdio.h>
#include <string.h>

#include "harness/judge/gate.h"
#include "harness/judge/validate.h"
#include "harness/run/record.h"
#include "reference/engine.h"
#include "reports/writer.h"
#include "runtime/audit.h"
#include "runtime/bundle.h"
#include "runtime/engine.h"
#include "runtime/quantize.h"

// --- what the stages start from, made once without failures

// Everything that LFM2 has, experts among it, whose down projections have codebooks; and delta nets with experts.
#define MODEL ASSAY_FIXTURES "/models/odd-lfm2moe-mixed-sharded"
#define HYBRID ASSAY_FIXTURES "/models/odd-qwen35moe-group1-fused"

enum { CAPACITY = 64 };

static struct arena arena;
static const char *scratch;
const char *folder;
static struct checkpoint *checkpoint;
static struct config config;
static struct model model;
static const struct config wide = {.vocabulary = 8192, .max_positions = 512}; // that the tokenizer goes with
static struct tokenizer *tokenizer;
static const struct scheme *scheme;
static struct bundle *bundle, *hybrid;
static struct suite *suite;
static struct policy *policy;
static struct comparison *comparison;
static struct report *report;
static struct audit audit;
static const char *bundle_path, *suite_path, *table_path, *reference_traces, *candidate_traces;

const char *in(const char *directory, const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

// --- the stages

static int open_checkpoint(struct error *error)
{
    struct checkpoint *opened;
    struct checkpoint_hashes hashes;
    struct arena memory = {0};
    struct config read;
    struct model bound;
    int code = checkpoint_open(&opened, MODEL, error);
    if (!code)
        code = checkpoint_hash(opened, &hashes, error);
    if (!code)
        code = config_open(&memory, opened->config_path, &read, error);
    if (!code)
        code = model_bind(&memory, &read, &opened->table, false, &bound, NULL, error);
    checkpoint_close(&opened);
    arena_close(&memory);
    return code;
}

static int use_tokenizer(const char *path, struct error *error)
{
    static const char text[] =
        "It's <mask> caf\xC3\xA9 e\xCC\xA3\xCC\x81 12345\r\n\n aaaaaaaaaaaaaaaaaaaaaaaaaa!\xFF end ";
    struct tokenizer *opened;
    struct arena memory = {0};
    uint32_t *ids;
    char *again;
    size_t n, size;
    int code = tokenizer_open(&opened, path, error);
    if (!code)
        code = tokenizer_encode(opened, &memory, text, sizeof text - 1, true, &ids, &n, error);
    if (!code)
        code = tokenizer_decode(opened, &memory, ids, n, false, &again, &size, error);
    tokenizer_close(&opened);
    arena_close(&memory);
    return code;
}

static int use_tokenizers(struct error *error)
{
    const int code = use_tokenizer(ASSAY_FIXTURES "/tokenizers/odd/two-ways.json", error);
    return code ? code : use_tokenizer(ASSAY_FIXTURES "/tokenizers/odd/added-nfc.json", error);
}

static int open_suites(struct error *error)
{
    struct suite *opened;
    int code = suite_open(&opened, suite_path, &config, NULL, error);
    suite_close(&opened);
    if (!code)
        code = suite_open(&opened, table_path, &wide, tokenizer, error);
    suite_close(&opened);
    return code;
}

static int open_policy(struct error *error)
{
    struct policy *opened;
    const int code = policy_open(&opened, ASSAY_FIXTURES "/policies/quick.json", "lfm2_moe", NULL, error);
    policy_close(&opened);
    return code;
}

static int make_bundle(struct error *error)
{
    struct coverage coverage;
    const struct quantize_request request = {
        .checkpoint = checkpoint, .model = &model, .scheme = scheme, .out = in(folder, "bundle"), .quiet = true};
    const int code = quantize_bundle(&request, &coverage, error);
    coverage_close(&coverage);
    return code;
}

static int open_bundle(struct error *error)
{
    struct bundle *opened;
    struct checkpoint_hashes hashes;
    char hex[HASH_HEX];
    int code = bundle_open(&opened, bundle_path, error);
    if (!code)
        code = bundle_hash(opened, hex, error);
    if (!code)
        code = checkpoint_hash(checkpoint, &hashes, error);
    if (!code)
        code = bundle_matches(opened, &hashes, error);
    bundle_close(&opened);
    return code;
}

static int audit_it(struct error *error)
{
    struct arena memory = {0};
    struct audit found;
    const int code = audit_bundle(&memory, bundle, bundle, &model, NULL, 0, &found, error);
    arena_close(&memory);
    return code;
}

static int record_with(bool reference, struct error *error)
{
    struct engine *engine = NULL;
    const struct reference_options exact = {.isa = isa_best(), .capacity = CAPACITY, .name = "reference"};
    const struct runtime_options int8 = {
        .isa = isa_best(), .capacity = CAPACITY, .name = "int8", .plan = &bundle->plan};
    struct record record = {.directory = in(folder, "traces"),
                            .reference = reference ? NULL : reference_traces,
                            .contract = {"odd", "lfm2", "", "", "", "", "", "1", "cpu", "", "s1", "zero", 0, 0},
                            .logits = reference ? DTYPE_F32 : DTYPE_F16,
                            .quiet = true};
    memcpy(record.checks, suite->checks, sizeof record.checks);
    int code = reference ? reference_open(&engine, &model, &exact, error)
                         : runtime_open(&engine, &bundle->model, &int8, error);
    if (!code)
        code = record_suite(&record, suite, engine, error);
    engine_close(&engine);
    return code;
}

static void ignore_row(void *context, uint32_t t, const float *logits)
{
    (void)context;
    (void)t;
    (void)logits;
}

static int run_batch(struct error *error)
{
    struct engine *engine = NULL;
    const struct reference_options exact = {.isa = isa_best(), .capacity = CAPACITY, .name = "reference"};
    const struct batch_sink sink = {.row = ignore_row};
    const uint32_t tokens[] = {1, 2, 3};
    int code = reference_open(&engine, &model, &exact, error);
    if (!code)
        code = engine->class->batch(engine, tokens, 3, &sink, error);
    engine_close(&engine);
    return code;
}

// A step, a batch where the engine has any, and the state after them.
static int run_hybrid(struct engine *engine, struct error *error)
{
    struct arena memory = {0};
    struct state state;
    const struct batch_sink sink = {.row = ignore_row};
    const uint32_t tokens[] = {1, 2, 3};
    const float *logits;
    int code = engine->class->step(engine, 4, NULL, &logits, error);
    if (!code && engine->class->batch)
        code = engine->class->batch(engine, tokens, 3, &sink, error);
    if (!code)
        code = state_make(&memory, engine->config, engine->position, &state, error);
    if (!code)
        engine->class->save(engine, &state);
    arena_close(&memory);
    return code;
}

// From its files on.
static int run_hybrid_reference(struct error *error)
{
    struct checkpoint *opened;
    struct arena memory = {0};
    struct config read;
    struct model bound;
    struct engine *engine = NULL;
    const struct reference_options exact = {.isa = isa_best(), .capacity = CAPACITY, .name = "reference"};
    int code = checkpoint_open(&opened, HYBRID, error);
    if (!code)
        code = config_open(&memory, opened->config_path, &read, error);
    if (!code)
        code = model_bind(&memory, &read, &opened->table, false, &bound, NULL, error);
    if (!code)
        code = reference_open(&engine, &bound, &exact, error);
    if (!code)
        code = run_hybrid(engine, error);
    engine_close(&engine);
    arena_close(&memory);
    checkpoint_close(&opened);
    return code;
}

static int run_hybrid_runtime(struct error *error)
{
    struct engine *engine = NULL;
    const struct runtime_options int8 = {
        .isa = isa_best(), .capacity = CAPACITY, .name = "int8", .plan = &hybrid->plan};
    int code = runtime_open(&engine, &hybrid->model, &int8, error);
    if (!code)
        code = run_hybrid(engine, error);
    engine_close(&engine);
    return code;
}

static int record_reference(struct error *error)
{
    return record_with(true, error);
}

static int record_candidate(struct error *error)
{
    return record_with(false, error);
}

static int open_trace(struct error *error)
{
    struct trace *trace;
    struct arena memory = {0};
    struct state state, *snapshots;
    size_t n;
    int code = trace_open(&trace, in(candidate_traces, "two.safetensors"), error);
    if (!code)
        code = trace_state(trace, &memory, &state, error);
    if (!code)
        code = trace_snapshots(trace, &memory, &snapshots, &n, error);
    if (!code)
        code = trace_state_at(trace, 4, &memory, &state, error);
    if (!code)
        code = trace_comparable(trace, trace, true, error);
    trace_close(&trace);
    arena_close(&memory);
    return code;
}

static int validate_it(struct error *error)
{
    struct validation *validation;
    const int code = validate_suite(&validation, suite, &config, policy, reference_traces, error);
    validate_close(&validation);
    return code;
}

static int compare_it(struct comparison **made, struct error *error)
{
    struct compare_request request = {
        .suite = suite,
        .reference = reference_traces,
        .arms =
            {[ARM_CANDIDATE] = candidate_traces, [ARM_FP16] = candidate_traces, [ARM_EXPECTED] = candidate_traces},
        .floor = policy->limit[LIMIT_FLOOR],
        .reference_error = policy->limit[LIMIT_REFERENCE_ERROR],
        .model = &model,
        .routing_sd = policy->limit[LIMIT_ROUTING_SD]};
    memcpy(request.checks, suite->checks, sizeof request.checks);
    return compare_suite(made, &request, error);
}

static int judge_it(const struct comparison *measured, struct report **made, struct error *error)
{
    struct gate_input input = {.suite = suite,
                               .policy = policy,
                               .comparison = measured,
                               .audit = &audit,
                               .kind = ENGINE_OWN,
                               .engine = "int8"};
    memcpy(input.asked, suite->checks, sizeof input.asked);
    return gate_judge(made, &input, error);
}

static int compare_and_judge(struct error *error)
{
    struct comparison *compared = NULL;
    struct report *judged = NULL;
    int code = compare_it(&compared, error);
    if (!code)
        code = judge_it(compared, &judged, error);
    gate_close(&judged);
    compare_close(&compared);
    return code;
}

static int write_reports(struct error *error)
{
    return writer_all(report, in(folder, "report"), error);
}

const struct stage stages[] = {
    {"checkpoint, config and model", open_checkpoint},
    {"tokenizer", use_tokenizers},
    {"suite", open_suites},
    {"policy", open_policy},
    {"quantize", make_bundle},
    {"bundle", open_bundle},
    {"audit", audit_it},
    {"a batch", run_batch},
    {"reference of Qwen3.5", run_hybrid_reference},
    {"runtime of Qwen3.5", run_hybrid_runtime},
    {"reference traces", record_reference},
    {"runtime traces", record_candidate},
    {"trace", open_trace},
    {"validate", validate_it},
    {"compare and gate", compare_and_judge},
    {"reports", write_reports},
    {0},
};

// --- preparation

static int write_text(const char *path, const char *text, struct error *error)
{
    struct output *output;
    const int code = output_open(&output, path, error);
    if (code)
        return code;
    output_print(output, "%s", text);
    return output_commit(&output, error);
}

static const char suite_text[] =
    "{\"schema\": \"assay-suite/1\", \"name\": \"small\", \"checks\": [\"weights\"], \"cases\": [\n"
    " {\"id\": \"one\", \"tokens\": [1, 5, 9, 11], \"checks\": [\"sweep\", \"rollout\", \"state\"], \"rollout\": 3,\n"
    "  \"answer\": {\"ids\": [1, 2], \"margins\": [0.5, 0.1], \"source\": \"nowhere\"}},\n"
    " {\"id\": \"two\", \"tokens\": [1, 2, 3, 4, 5, 6], \"seeded\": 2, \"rollout\": 2, \"state_every\": 2,\n"
    "  \"checks\": [\"sweep\", \"seeded\", \"rollout\", \"flips\", \"distance\", \"state\", \"determinism\", "
    "\"paths\"]}]}\n";

static int open_inputs(struct error *error)
{
    int code = checkpoint_open(&checkpoint, MODEL, error);
    if (!code)
        code = config_open(&arena, checkpoint->config_path, &config, error);
    if (!code)
        code = model_bind(&arena, &config, &checkpoint->table, false, &model, NULL, error);
    if (!code)
        code = tokenizer_open(&tokenizer, ASSAY_FIXTURES "/models/lfm2-mini/tokenizer.json", error);
    if (!code)
        code = scheme_find("int8km", &scheme, error);
    if (!code)
        code = policy_open(&policy, ASSAY_FIXTURES "/policies/quick.json", "lfm2_moe", NULL, error);
    suite_path = arena_print(&arena, "%s/suite.json", scratch);
    table_path = arena_print(&arena, "%s/suite.csv", scratch);
    if (!code)
        code = write_text(suite_path, suite_text, error);
    if (!code)
        code = write_text(table_path, "id,text\na,words\n", error);
    return code ? code : suite_open(&suite, suite_path, &config, NULL, error);
}

static int make_hybrid(const char *path, struct error *error)
{
    struct checkpoint *opened;
    struct arena memory = {0};
    struct config read;
    struct model bound;
    struct quantize_request request = {.model = &bound, .out = path, .quiet = true};
    int code = checkpoint_open(&opened, HYBRID, error);
    if (!code)
        code = config_open(&memory, opened->config_path, &read, error);
    if (!code)
        code = model_bind(&memory, &read, &opened->table, false, &bound, NULL, error);
    if (!code)
        code = scheme_find("int8lin", &request.scheme, error);
    request.checkpoint = opened;
    if (!code)
        code = quantize_bundle(&request, NULL, error);
    arena_close(&memory);
    checkpoint_close(&opened);
    return code ? code : bundle_open(&hybrid, path, error);
}

// What later stages read is made by the stages themselves, into this directory.
static int make_inputs(struct error *error)
{
    folder = arena_print(&arena, "%s/inputs", scratch);
    bundle_path = arena_print(&arena, "%s/bundle", folder);
    int code = directory_make(folder, error);
    if (!code)
        code = make_bundle(error);
    if (!code)
        code = bundle_open(&bundle, bundle_path, error);
    if (!code)
        code = make_hybrid(in(folder, "hybrid"), error);
    if (!code)
        code = audit_bundle(&arena, bundle, bundle, &model, NULL, 0, &audit, error);
    if (!code)
        code = record_reference(error);
    reference_traces = arena_print(&arena, "%s/reference", scratch);
    if (!code && rename(in(folder, "traces"), reference_traces))
        code = error_set(error, ERROR_RUNTIME, "the reference's traces cannot be moved");
    if (!code)
        code = record_candidate(error);
    candidate_traces = arena_print(&arena, "%s/traces", folder);
    if (!code)
        code = compare_it(&comparison, error);
    if (!code)
        code = judge_it(comparison, &report, error);
    if (!code)
        report->model_path = report->bundle_path = report->scheme = report->command = "name";
    return code;
}

int stages_open(const char *directory, struct error *error)
{
    scratch = directory;
    const int code = open_inputs(error);
    return code ? code : make_inputs(error);
}

void stages_close(void)
{
    gate_close(&report);
    compare_close(&comparison);
    suite_close(&suite);
    policy_close(&policy);
    bundle_close(&hybrid);
    bundle_close(&bundle);
    tokenizer_close(&tokenizer);
    checkpoint_close(&checkpoint);
    arena_close(&arena);
}
