#include "tests/bundle_fixture.h"

#include "runtime/metadata.h"

#define HASH_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define LANGUAGE                                                                                                     \
    "\"language\": {\"tokenizer\": \"LiquidAI/LFM2.5-1.2B-Instruct\", \"vocab_size\": 65536, "                       \
    "\"max_context_length\": 4096, \"embedded_tokenizer\": true, \"function_map\": {\"main\": [\"main\"]}}"
#define SOURCE                                                                                                       \
    "\"source\": {\"model_definition\": \"torch\", \"hf_model_id\": \"x\", \"weights_sha256\": \"" HASH_A            \
    "\", \"config_sha256\": \"" HASH_A "\"}"
#define HEAD "\"metadata_version\": \"0.2\", \"kind\": \"llm\""
#define NAME "\"name\": \"lfm2_5_1_2b_instruct_decode_int8hu_block32_sym\""

static struct arena arena;
static struct json_document *document;

static int read_text(const char *text, struct metadata *metadata, struct error *error)
{
    const int code = json_open_text(&document, "metadata.json", text, strlen(text), error);
    return code ? code : metadata_read(&arena, json_root(document), metadata, error);
}

static void close_all(void)
{
    json_close(&document);
    arena_close(&arena);
}

TestSuite(metadata, .fini = close_all);

// What the zoo's writer makes (zoo.md 4.1), with hashes added.
Test(metadata, a_foreign_bundle_with_unknown_keys_is_read)
{
    struct metadata metadata;
    struct error error = {0};
    must(read_text("{" HEAD ", " NAME ", \"assets\": {\"main\": \"x.aimodel\"}, " LANGUAGE ", " SOURCE
                   ", \"compression\": {\"scheme\": \"int8hu_block32_sym\", \"bits\": 8}, \"compilation\": "
                   "{\"targets\": []}}",
                   &metadata, &error),
         &error);
    cr_assert_not(metadata.own);
    cr_assert_str_eq(metadata.scheme->name, "int8hu_block32_sym");
    cr_assert_eq(metadata.vocabulary, 65536);
    cr_assert_str_eq(metadata.tokenizer_sha256, "");
    cr_assert_str_eq(metadata.model, "");
}

Test(metadata, a_compression_string_names_the_scheme)
{
    struct metadata metadata;
    struct error error = {0};
    must(read_text("{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE ", \"compression\": \"int8lin\"}", &metadata,
                   &error),
         &error);
    cr_assert_str_eq(metadata.scheme->name, "int8lin");
}

Test(metadata, keep_and_plan_are_read)
{
    struct metadata metadata;
    struct error error = {0};
    must(read_text("{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE ", \"compression\": {\"scheme\": \"int8lin\", "
                   "\"keep\": [\"*.w1.*=fp16\", \"*.w2.*=fp16\"], \"plan\": {\"kv_state\": \"f32\"}}}",
                   &metadata, &error),
         &error);
    cr_assert_eq(metadata.n_keep, 2);
    cr_assert_str_eq(metadata.keep[1], "*.w2.*=fp16");
    for (int row = 0; row < PLAN_ROWS; row++)
        cr_assert_eq(metadata.declared[row], row == PLAN_KV_STATE);
    cr_assert_eq(metadata.declared_as[PLAN_KV_STATE], PRECISION_F32);
}

Test(metadata, a_tag_behind_the_scheme_is_allowed_and_the_longest_scheme_is_meant)
{
    struct metadata metadata;
    struct error error = {0};
    must(read_text("{" HEAD ", \"name\": \"m_decode_int8hu_block32_sym_l2\", " LANGUAGE ", " SOURCE
                   ", \"compression\": \"int8hu_block32_sym\"}",
                   &metadata, &error),
         &error);
    json_close(&document);
    refused(read_text("{" HEAD ", \"name\": \"m_decode_int8hu_block32_sym\", " LANGUAGE ", " SOURCE
                      ", \"compression\": \"int8hu_block32\"}",
                      &metadata, &error),
            ERROR_CONTRACT, &error, "says scheme int8hu_block32_sym");
}

// One runtime names its bundles after the mode, int8km, and declares the kernel's format, km8 (zoo.md 2.5).
Test(metadata, an_alias_means_its_scheme_and_keeps_its_spelling)
{
    static const struct {
        const char *name, *declared, *scheme;
    } cases[] = {
        {"x", "km8", "int8km"},
        {"m_decode_int8km_gather", "km8", "int8km"},
        {"m_decode_km8_gather", "km8", "int8km"},
        {"m_decode_km8", "int8km", "int8km"},
        {"m_decode_int4km_gather", "km4", "int4km"},
        {"m_decode_int4aff", "aff4", "int4aff"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct metadata metadata;
        struct error error = {0};
        must(read_text(arena_print(&arena, "{" HEAD ", \"name\": \"%s\", " LANGUAGE ", " SOURCE
                                   ", \"compression\": {\"scheme\": \"%s\"}}", cases[i].name, cases[i].declared),
                       &metadata, &error),
             &error);
        cr_assert_eq(metadata.scheme, scheme_named(cases[i].scheme));
        cr_assert_str_eq(metadata.scheme_name, cases[i].declared);
        json_close(&document);
    }
    struct metadata metadata;
    struct error error = {0};
    refused(read_text("{" HEAD ", \"name\": \"m_decode_km4_gather\", " LANGUAGE ", " SOURCE
                      ", \"compression\": \"km8\"}", &metadata, &error),
            ERROR_CONTRACT, &error, "says scheme int4km, compression.scheme says km8");
    json_close(&document);
    refused(read_text("{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE ", \"compression\": \"km\"}", &metadata,
                      &error),
            ERROR_INPUT, &error, "int8km");
}

Test(metadata, each_refusal_names_its_key)
{
    static const struct {
        const char *text, *naming;
    } cases[] = {
        {"[]", "object"},
        {"{}", "metadata_version"},
        {"{\"metadata_version\": \"0.1\"}", "metadata_version"},
        {"{\"metadata_version\": 0.2}", "metadata_version"},
        {"{\"metadata_version\": \"0.2\", \"kind\": \"vision\"}", "kind"},
        {"{" HEAD "}", "name"},
        {"{" HEAD ", \"name\": \"\"}", "name"},
        {"{" HEAD ", \"name\": \"x\"}", "language"},
        {"{" HEAD ", \"name\": \"x\", \"language\": {\"tokenizer\": \"t\", \"vocab_size\": 0}}", "vocab_size"},
        {"{" HEAD ", \"name\": \"x\", \"language\": {\"tokenizer\": \"t\", \"vocab_size\": 9}}",
         "max_context_length"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE "}", "source"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", \"source\": {}}", "weights_sha256"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", \"source\": {\"weights_sha256\": \"ABC\"}}", "weights_sha256"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", \"source\": {\"weights_sha256\": \"" HASH_A "a\"}}",
         "weights_sha256"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE "}", "compression"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE ", \"compression\": null}", "no scheme is declared"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE ", \"compression\": 8}", "compression"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE ", \"compression\": {}}", "scheme"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE ", \"compression\": \"int9\"}", "int9"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE
         ", \"compression\": {\"scheme\": \"int8lin\", \"keep\": [\"a\"]}}",
         "keep[0]"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE
         ", \"compression\": {\"scheme\": \"int8lin\", \"keep\": \"a\"}}",
         "keep"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE
         ", \"compression\": {\"scheme\": \"int8lin\", \"plan\": {\"sum\": \"f16\"}}}",
         "plan.sum"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE
         ", \"compression\": {\"scheme\": \"int8lin\", \"plan\": {\"linear_sum\": \"bf16\"}}}",
         "plan.linear_sum"},
        {"{" HEAD ", \"name\": \"x\", " LANGUAGE ", " SOURCE
         ", \"assay\": {}, \"compression\": {\"scheme\": \"int8lin\", \"kept\": []}}",
         "kept"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct metadata metadata;
        struct error error = {0};
        refused(read_text(cases[i].text, &metadata, &error), ERROR_INPUT, &error, cases[i].naming);
        json_close(&document);
    }
}

Test(metadata, what_is_written_is_read_back)
{
    static const char *const keep[] = {"*.\"odd\\name\".*=fp16"};
    struct source source;
    struct error error = {0};
    struct output *output;
    struct metadata read, written = {.name = "caf\xc3\xa9_decode_int4lin",
                                     .tokenizer = "t \"quoted\"",
                                     .model = "m",
                                     .model_type = "lfm2",
                                     .vocabulary = 7,
                                     .max_context = 9,
                                     .scheme = scheme_named("int4lin"),
                                     .scheme_name = "int4lin",
                                     .n_keep = 1,
                                     .keep = keep,
                                     .own = true,
                                     .weights_sha256 = HASH_A,
                                     .config_sha256 = HASH_A,
                                     .tokenizer_sha256 = HASH_A};
    written.declared[PLAN_DEQUANT] = written.declared[PLAN_LOGITS] = true;
    written.declared_as[PLAN_LOGITS] = PRECISION_F32;
    source_open(&source, NULL);
    const char *path = in_scratch(&source, "metadata.json");
    must(output_open(&output, path, &error), &error);
    must(metadata_write(output, &arena, &written, &error), &error);
    must(output_commit(&output, &error), &error);
    must(json_open_file(&document, path, 1 << 20, &error), &error);
    must(metadata_read(&arena, json_root(document), &read, &error), &error);
    cr_assert_str_eq(read.name, written.name);
    cr_assert_str_eq(read.tokenizer, written.tokenizer);
    cr_assert_str_eq(read.keep[0], keep[0]);
    cr_assert_str_eq(read.tokenizer_sha256, HASH_A);
    cr_assert_eq(read.vocabulary, 7);
    cr_assert_eq(read.max_context, 9);
    cr_assert(read.own && read.declared[PLAN_DEQUANT] && read.declared[PLAN_LOGITS]);
    cr_assert_eq(read.declared_as[PLAN_DEQUANT], PRECISION_F16);
    cr_assert_eq(read.declared_as[PLAN_LOGITS], PRECISION_F32);
    source_close(&source);
}

Test(metadata, names_follow_the_zoo)
{
    cr_assert_str_eq(metadata_name(&arena, "LFM2.5-1.2B-Instruct", scheme_named("int8hu_block32_sym")),
                     "lfm2_5_1_2b_instruct_decode_int8hu_block32_sym");
}
