#include "tests/bundle_fixture.h"

#include <dirent.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/metadata.h"
#include "tests/planting.h"

static struct source mini;

static void open_mini(void)
{
    source_open(&mini, "lfm2-mini");
}

static void close_mini(void)
{
    source_close(&mini);
}

TestSuite(bundle, .init = open_mini, .fini = close_mini);

static const char *part(const char *bundle, const char *name)
{
    return file_join(&mini.arena, bundle, name);
}

static size_t entries(const char *directory)
{
    size_t n = 0;
    DIR *stream = opendir(directory);
    cr_assert_not_null(stream);
    while (readdir(stream))
        n++;
    closedir(stream);
    return n - 2;
}

static void hash(const char *path, char hex[HASH_HEX])
{
    struct error error = {0};
    must(hash_file(path, hex, &error), &error);
}

// --- round trip

Test(bundle, every_scheme_opens_as_what_it_was_made_as)
{
    for (const struct scheme *scheme = NULL; (scheme = next_scheme(scheme, FAMILY_LFM2));) {
        struct bundle *bundle = opened(quantized(&mini, scheme->name));
        struct plan standard;
        plan_default(&standard);
        cr_assert_eq(bundle->scheme, scheme);
        cr_assert_str_eq(bundle->name, arena_print(&mini.arena, "lfm2_mini_decode_%s", scheme->name));
        cr_assert(bundle->own);
        cr_assert_eq(bundle->n_keep, 0);
        cr_assert_arr_eq(&bundle->plan, &standard, sizeof standard);
        cr_assert_eq(bundle->model.head.data == bundle->model.embedding.data, scheme->head.format == QUANT_NONE);
        cr_assert_not_null(bundle->tokenizer_path);
        bundle_close(&bundle);
        cr_assert_null(bundle);
    }
}

Test(bundle, it_matches_its_checkpoint_and_no_other)
{
    struct bundle *bundle = opened(quantized(&mini, "int8lin"));
    struct checkpoint_hashes hashes, other;
    struct error error = {0};
    must(checkpoint_hash(mini.checkpoint, &hashes, &error), &error);
    must(bundle_matches(bundle, &hashes, &error), &error);
    const struct {
        char *field;
        const char *naming;
    } each[] = {{other.weights, "weights"}, {other.config, "config.json"}, {other.tokenizer, "tokenizer.json"}};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        other = hashes;
        each[i].field[5] = each[i].field[5] == '0' ? '1' : '0';
        refused(bundle_matches(bundle, &other, &error), ERROR_CONTRACT, &error, each[i].naming);
    }
    other = hashes;
    other.tokenizer[0] = '\0'; // a copy of the checkpoint without its tokenizer
    must(bundle_matches(bundle, &other, &error), &error);
    bundle_close(&bundle);
}

Test(bundle, the_same_checkpoint_and_scheme_give_the_same_bytes)
{
    struct error error = {0};
    static const char *const files[] = {"metadata.json", "config.json", "precision.json", "weights.safetensors"};
    const char *first = quantized(&mini, "int8hu_block32_sym"), *second = in_scratch(&mini, "again");
    must(try_quantize(&mini, "int8hu_block32_sym", NULL, second, NULL, &error), &error);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char a[HASH_HEX], b[HASH_HEX];
        hash(part(first, files[i]), a);
        hash(part(second, files[i]), b);
        cr_assert_str_eq(a, b, "%s", files[i]);
    }
    char whole[HASH_HEX], other[HASH_HEX];
    struct bundle *bundle = opened(first), *lin = opened(quantized(&mini, "int8lin"));
    must(bundle_hash(bundle, whole, &error), &error);
    must(bundle_hash(lin, other, &error), &error);
    cr_assert_str_neq(whole, other);
    bundle_close(&bundle);
    bundle_close(&lin);
}

Test(bundle, tensors_start_at_multiples_of_256_bytes_of_the_file)
{
    struct bundle *bundle = opened(quantized(&mini, "int8hu_block32_sym"));
    for (size_t i = 0; i < bundle->table.n; i++) {
        const struct tensor *tensor = bundle->table.tensors[i];
        const size_t offset = (size_t)((const unsigned char *)tensor->data - bundle->weights->map.bytes);
        cr_assert(!strncmp(tensor->name, "pad.", 4) || offset % 256 == 0, "%s at %zu", tensor->name, offset);
    }
    bundle_close(&bundle);
}

Test(bundle, unusual_models_round_trip_in_every_scheme)
{
    static const char *const models[] = {"odd-all-attention", "odd-group3-taps4-bias", "odd-group8-untied",
                                         "odd-head-only",     "odd-one-attention",     "odd-mixed-sharded"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct source odd;
        source_open(&odd, models[i]);
        for (const struct scheme *scheme = NULL; (scheme = next_scheme(scheme, FAMILY_LFM2));) {
            struct bundle *bundle = opened(quantized(&odd, scheme->name));
            const bool separate = bundle->model.head.data != bundle->model.embedding.data;
            const bool was_separate = odd.model.head.data != odd.model.embedding.data;
            cr_assert_eq(separate, was_separate || bundle->model.head.scale, "%s %s", models[i], scheme->name);
            bundle_close(&bundle);
        }
        source_close(&odd);
    }
}

// --- the coverage table

Test(bundle, the_coverage_table_adds_up_to_the_file)
{
    for (const struct scheme *scheme = NULL; (scheme = next_scheme(scheme, FAMILY_LFM2));) {
        struct coverage coverage;
        struct error error = {0};
        const char *out = in_scratch(&mini, scheme->name);
        must(try_quantize(&mini, scheme->name, NULL, out, &coverage, &error), &error);
        struct bundle *bundle = opened(out);
        uint64_t stored = 0, listed = 0;
        for (size_t i = 0; i < bundle->table.n; i++)
            stored += strncmp(bundle->table.tensors[i]->name, "pad.", 4) ? bundle->table.tensors[i]->bytes : 0;
        for (size_t i = 0; i < coverage.n; i++)
            listed += coverage.rows[i].bytes;
        cr_assert_eq(stored, listed);
        cr_assert_eq(coverage.bytes, listed);
        cr_assert_eq(coverage.source_bytes, 2u * 3889344); // bf16, fixtures/README: parameters
        coverage_close(&coverage);
        bundle_close(&bundle);
    }
}

// Uniform rounding to a step s gives s / sqrt(12); a block of 32 normal values has its maximum at about 2.07 sigma,
// so int8 errs by 2.07 / 127 / sqrt(12) = 0.0047 and int4 by 0.085 of the values; the zoo measured 0.0053-0.0056 for
// gaussian weights.
Test(bundle, relative_errors_are_those_of_the_format)
{
    struct coverage coverage;
    struct error error = {0};
    must(try_quantize(&mini, "int4lin", NULL, in_scratch(&mini, "a"), &coverage, &error), &error);
    for (size_t i = 0; i < coverage.n; i++) {
        const struct coverage_row *row = &coverage.rows[i];
        if (row->statistics.codes)
            cr_assert(row->relative_error > 0.07 && row->relative_error < 0.12, "%s %g", row->tensor,
                      row->relative_error);
        else
            cr_assert_lt(row->relative_error, 0x1p-11, "%s: half the spacing of halves", row->tensor);
        cr_assert_neq(!*row->why, !row->statistics.codes, "%s: either quantized or with a reason", row->tensor);
    }
    coverage_close(&coverage);
    must(try_quantize(&mini, "int8hu_block32_sym", NULL, in_scratch(&mini, "b"), &coverage, &error), &error);
    for (size_t i = 0; i < coverage.n; i++)
        if (coverage.rows[i].statistics.codes)
            cr_assert(coverage.rows[i].relative_error > 0.0045 && coverage.rows[i].relative_error < 0.0065);
    coverage_close(&coverage);
}

Test(bundle, a_tied_head_that_is_not_quantized_is_listed_and_takes_no_bytes)
{
    struct coverage coverage;
    struct error error = {0};
    must(try_quantize(&mini, "int8lin", NULL, in_scratch(&mini, "a"), &coverage, &error), &error);
    const struct coverage_row *last = &coverage.rows[coverage.n - 1];
    cr_assert_str_eq(last->tensor, "lm_head.weight");
    cr_assert_str_eq(last->stored, "not stored");
    cr_assert_eq(last->bytes, 0);
    cr_assert_not_null(strstr(last->why, "tied"));
    coverage_close(&coverage);
}

// --- keep

Test(bundle, what_is_kept_is_half_and_declared)
{
    struct coverage coverage;
    struct error error = {0};
    const char *out = in_scratch(&mini, "kept"), *keep = "*.layers.0.feed_forward.*=fp16";
    must(try_quantize(&mini, "int8lin", keep, out, &coverage, &error), &error);
    size_t kept = 0;
    for (size_t i = 0; i < coverage.n; i++)
        kept += !strcmp(coverage.rows[i].why, "--keep '*.layers.0.feed_forward.*=fp16'");
    cr_assert_eq(kept, 3);
    coverage_close(&coverage);
    struct bundle *bundle = opened(out);
    cr_assert_eq(bundle->n_keep, 1);
    cr_assert_str_eq(bundle->keep[0], keep);
    cr_assert_eq(bundle->model.layers[0].w1.format, WEIGHT_F16);
    cr_assert_eq(bundle->model.layers[1].w1.format, WEIGHT_Q8);
    bundle_close(&bundle);
}

Test(bundle, a_kept_tensor_that_the_metadata_does_not_declare_is_refused)
{
    struct error error = {0};
    struct bundle *bundle;
    const char *out = in_scratch(&mini, "kept");
    must(try_quantize(&mini, "int8lin", "*.layers.0.feed_forward.w1.weight=fp16", out, NULL, &error), &error);
    edit_text(&mini, part(out, "metadata.json"), "[\"*.layers.0.feed_forward.w1.weight=fp16\"]", "[]");
    refused(bundle_open(&bundle, out, &error), ERROR_CONTRACT, &error,
            "model.layers.0.feed_forward.w1.weight is stored as F16");
}

Test(bundle, a_keep_that_keeps_nothing_is_refused_and_leaves_nothing)
{
    struct error error = {0};
    const char *out = in_scratch(&mini, "none");
    refused(try_quantize(&mini, "int8lin", "*.layers.99.*=fp16", out, NULL, &error), ERROR_USAGE, &error,
            "matches no tensor");
    refused(try_quantize(&mini, "int8lin", "*self_attn*=fp16", out, NULL, &error), ERROR_USAGE, &error,
            "matches no tensor");
    refused(try_quantize(&mini, "int8lin", "*.w1.*", out, NULL, &error), ERROR_USAGE, &error, "PATTERN=fp16");
    cr_assert_eq(entries(mini.scratch), 0);
}

// --- the output directory

Test(bundle, an_older_bundle_is_replaced_and_nothing_is_left_beside_it)
{
    struct error error = {0};
    const char *out = in_scratch(&mini, "out");
    must(try_quantize(&mini, "int4lin", NULL, out, NULL, &error), &error);
    must(try_quantize(&mini, "int8lin", NULL, out, NULL, &error), &error);
    struct bundle *bundle = opened(out);
    cr_assert_str_eq(bundle->scheme->name, "int8lin");
    bundle_close(&bundle);
    cr_assert_eq(entries(mini.scratch), 1);
    cr_assert_eq(entries(out), 6);
}

Test(bundle, parents_are_made_and_a_trailing_slash_does_no_harm)
{
    struct error error = {0};
    must(try_quantize(&mini, "int8lin", NULL, in_scratch(&mini, "a/b/c/"), NULL, &error), &error);
    struct bundle *bundle = opened(in_scratch(&mini, "a/b/c"));
    bundle_close(&bundle);
    must(directory_make(in_scratch(&mini, "empty"), &error), &error);
    must(try_quantize(&mini, "int8lin", NULL, in_scratch(&mini, "empty"), NULL, &error), &error);
}

Test(bundle, what_is_no_bundle_of_ours_is_never_replaced)
{
    struct error error = {0};
    const char *out = in_scratch(&mini, "out"), *file = in_scratch(&mini, "file"),
               *text = in_scratch(&mini, "out/thesis.txt");
    must(try_quantize(&mini, "int8lin", NULL, out, NULL, &error), &error);
    write_text(text, "years of work\n");
    refused(try_quantize(&mini, "int4lin", NULL, out, NULL, &error), ERROR_USAGE, &error, "thesis.txt");
    cr_assert(file_exists(text));
    unlink(text);
    edit_text(&mini, part(out, "metadata.json"), "\"assay\"", "\"another\"");
    refused(try_quantize(&mini, "int4lin", NULL, out, NULL, &error), ERROR_USAGE, &error, "no bundle made by assay");
    write_text(file, "a file\n");
    refused(try_quantize(&mini, "int4lin", NULL, file, NULL, &error), ERROR_USAGE, &error, "is no directory");
    refused(try_quantize(&mini, "int4lin", NULL, "/dev/full", NULL, &error), ERROR_USAGE, &error, "is no directory");
    refused(try_quantize(&mini, "int4lin", NULL, "", NULL, &error), ERROR_USAGE, &error, "empty");
    cr_assert_eq(entries(mini.scratch), 2);
}

Test(bundle, a_failed_quantization_leaves_the_old_bundle_as_it_was)
{
    struct error error = {0};
    const char *out = quantized(&mini, "int8lin");
    char before[HASH_HEX], after[HASH_HEX];
    hash(part(out, "weights.safetensors"), before);
    cr_assert_neq(try_quantize(&mini, "int8lin", "nothing=fp16", out, NULL, &error), 0);
    hash(part(out, "weights.safetensors"), after);
    cr_assert_str_eq(before, after);
    cr_assert_eq(entries(mini.scratch), 1);
}

// --- refusals

Test(bundle, planted_contradictions_are_refused_by_name)
{
    static const struct {
        const char *fault;
        int code;
        const char *naming;
    } cases[] = {
        {"config_theta", ERROR_CONTRACT, "config.json: was changed"},
        {"other_scheme", ERROR_CONTRACT, "lm_head.weight is stored as int8 block 32, scheme int8lin"},
        {"name_lies", ERROR_CONTRACT, "says scheme int8lin, compression.scheme says int8hu_block32_sym"},
        {"truncated", ERROR_INPUT, "weights.safetensors"},
    };
    struct error error = {0};
    struct bundle *bundle;
    const char *healthy = quantized(&mini, "int8hu_block32_sym"), *control = in_scratch(&mini, "control");
    must(plant_fault(healthy, "none", control, &error), &error);
    bundle = opened(control);
    bundle_close(&bundle);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *out = in_scratch(&mini, cases[i].fault);
        must(plant_fault(healthy, cases[i].fault, out, &error), &error);
        refused(bundle_open(&bundle, out, &error), cases[i].code, &error, cases[i].naming);
        cr_assert_null(bundle);
    }
}

Test(bundle, a_per_row_head_does_not_pass_as_blocks_nor_blocks_as_a_row)
{
    struct error error = {0};
    struct bundle *bundle;
    const char *rows = quantized(&mini, "int8hu_perchan_sym"), *blocks = quantized(&mini, "int8hu_block32_sym");
    for (int i = 0; i < 2; i++) {
        edit_text(&mini, part(rows, "metadata.json"), "int8hu_perchan_sym", "int8hu_block32_sym");
        edit_text(&mini, part(blocks, "metadata.json"), "int8hu_block32_sym", "int8hu_perchan_sym");
    }
    refused(bundle_open(&bundle, rows, &error), ERROR_CONTRACT, &error, "stored as int8 per row");
    refused(bundle_open(&bundle, blocks, &error), ERROR_CONTRACT, &error, "stores it as int8 per row");
}

Test(bundle, a_directory_that_is_no_bundle_is_refused_with_what_to_do)
{
    struct error error = {0};
    struct bundle *bundle;
    refused(bundle_open(&bundle, mini.checkpoint->path, &error), ERROR_INPUT, &error, "assay quantize");
    refused(bundle_open(&bundle, in_scratch(&mini, "absent"), &error), ERROR_INPUT, &error, "does not exist");
    refused(bundle_open(&bundle, mini.checkpoint->config_path, &error), ERROR_INPUT, &error, "is no directory");
}

Test(bundle, every_missing_part_is_named)
{
    static const char *const files[] = {"config.json", "precision.json", "weights.safetensors", "metadata.json"};
    struct error error = {0};
    struct bundle *bundle;
    const char *out = in_scratch(&mini, "out");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        must(try_quantize(&mini, "int8lin", NULL, out, NULL, &error), &error);
        unlink(part(out, files[i]));
        refused(bundle_open(&bundle, out, &error), ERROR_INPUT, &error, files[i]);
        directory_remove(out);
    }
}

Test(bundle, a_declaration_that_the_plan_does_not_keep_is_refused)
{
    struct error error = {0};
    struct bundle *bundle;
    const char *out = quantized(&mini, "int8lin"), *metadata = part(out, "metadata.json");
    edit_text(&mini, metadata, "\"plan\": {}", "\"plan\": {\"linear_sum\": \"f16\"}");
    refused(bundle_open(&bundle, out, &error), ERROR_CONTRACT, &error,
            "declares linear_sum = f16, precision.json says f32");
    edit_text(&mini, part(out, "precision.json"), "\"linear_sum\": \"f32\"", "\"linear_sum\": \"f16\"");
    bundle = opened(out);
    cr_assert(bundle->declared[PLAN_LINEAR_SUM]);
    cr_assert_not(bundle->declared[PLAN_KV_STATE]);
    bundle_close(&bundle);
}

Test(bundle, a_vocabulary_that_disagrees_with_the_config_is_refused)
{
    struct error error = {0};
    struct bundle *bundle;
    const char *out = quantized(&mini, "int8lin");
    edit_text(&mini, part(out, "metadata.json"), "\"vocab_size\": 4096", "\"vocab_size\": 4097");
    refused(bundle_open(&bundle, out, &error), ERROR_CONTRACT, &error, "vocab_size");
}

// --- weights that cannot be stored

// lfm2-mini as F32 with one value of one tensor replaced.
static void poisoned(struct source *source, const char *tensor, uint64_t element, float value)
{
    struct error error = {0};
    const struct tensor_table *table = &mini.checkpoint->table;
    const char *directory = in_scratch(source, "poisoned");
    struct tensor_declaration *declarations = arena_alloc(&source->arena, table->n, sizeof *declarations);
    struct safetensors_writer *writer;
    must(directory_make(directory, &error), &error);
    for (size_t i = 0; i < table->n; i++) {
        declarations[i] =
            (struct tensor_declaration){table->tensors[i]->name, DTYPE_F32, table->tensors[i]->rank, {0}};
        memcpy(declarations[i].shape, table->tensors[i]->shape, sizeof declarations[i].shape);
    }
    must(safetensors_create(&writer, file_join(&source->arena, directory, "model.safetensors"), declarations,
                            table->n, NULL, 0, 8, &error),
         &error);
    for (size_t i = 0; i < table->n; i++) {
        const struct tensor *from = table->tensors[i];
        const struct weight weight = {.name = from->name,
                                      .format = WEIGHT_BF16,
                                      .rows = 1,
                                      .cols = (uint32_t)from->elements,
                                      .data = from->data};
        float *values = calloc(from->elements, sizeof *values);
        weight_row(&weight, 0, values);
        if (!strcmp(from->name, tensor))
            values[element] = value;
        safetensors_write(writer, i, 0, values, from->elements * sizeof *values);
        free(values);
    }
    must(safetensors_commit(&writer, &error), &error);
    char *config;
    uint64_t size;
    must(file_read(&source->arena, mini.checkpoint->config_path, 1 << 20, &config, &size, &error), &error);
    write_text(file_join(&source->arena, directory, "config.json"), config);
    source_open_at(source, directory);
}

Test(bundle, weights_that_no_half_or_scale_can_hold_are_refused_with_tensor_row_and_column)
{
    static const struct {
        const char *tensor;
        uint64_t element;
        float value;
        const char *naming;
    } cases[] = {
        {"model.layers.0.ffn_norm.weight", 7, 65520.0f, "model.layers.0.ffn_norm.weight: row 0, column 7 is 65520"},
        {"model.embed_tokens.weight", 192 * 5 + 3, -1e30f, "model.embed_tokens.weight: row 5, column 3 is -1e+30"},
        {"model.layers.1.conv.conv.weight", 3, NAN, "model.layers.1.conv.conv.weight: row 1, column 0 is NaN"},
        {"model.layers.0.feed_forward.w1.weight", 192 * 2 + 40, INFINITY, "w1.weight: row 2, column 40 is infinite"},
        {"model.layers.0.feed_forward.w2.weight", 448 * 3 + 70, 1e8f, "w2.weight: row 3, column 64 begins a block"},
        {"model.layers.2.self_attn.q_proj.weight", 0, NAN, "q_proj.weight: row 0, column 0 is NaN"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct source source;
        struct error error = {0};
        source_open(&source, NULL);
        poisoned(&source, cases[i].tensor, cases[i].element, cases[i].value);
        refused(try_quantize(&source, "int8lin", NULL, in_scratch(&source, "out"), NULL, &error), ERROR_INPUT, &error,
                cases[i].naming);
        cr_assert_eq(entries(source.scratch), 1); // the poisoned checkpoint alone
        source_close(&source);
    }
}

Test(bundle, large_values_are_kept_where_the_format_can_hold_them)
{
    struct source source;
    struct error error = {0};
    source_open(&source, NULL);
    // fp32 attention projections are exact, and 65504 x 127 is still a scale of one half
    poisoned(&source, "model.layers.2.self_attn.q_proj.weight", 5, 1e30f);
    must(try_quantize(&source, "int8lin", NULL, in_scratch(&source, "out"), NULL, &error), &error);
    struct bundle *bundle = opened(in_scratch(&source, "out"));
    cr_assert_eq(weight_at(&bundle->model.layers[2].q_proj, 0, 5), 1e30f);
    cr_assert_null(bundle->tokenizer_path); // the poisoned copy has no tokenizer
    bundle_close(&bundle);
    source_close(&source);
}
