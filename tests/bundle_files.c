// The files of a bundle beside its weights: copies of the checkpoint's, and what is read from them.
#include "tests/bundle_fixture.h"

#include <unistd.h>

#include "harness/model/stops.h"

static struct source mini;

static void close_mini(void)
{
    source_close(&mini);
}

TestSuite(bundle_files, .fini = close_mini);

static const char *part(const char *directory, const char *name)
{
    return file_join(&mini.arena, directory, name);
}

static void expect_copy(const char *from, const char *to)
{
    struct error error = {0};
    char a[HASH_HEX], b[HASH_HEX];
    must(hash_file(from, a, &error), &error);
    must(hash_file(to, b, &error), &error);
    cr_expect_str_eq(a, b, "%s", to);
}

// A checkpoint of the mini's weights, config.json and tokenizer.json, and nothing else yet.
static const char *bare_checkpoint(const char *name)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    struct error error = {0};
    source_open(&mini, NULL);
    const char *out = in_scratch(&mini, "checkpoint");
    must(directory_make(out, &error), &error);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct file_map map;
        struct output *output;
        must(file_map_open(&map, arena_print(&mini.arena, "%s/models/%s/%s", ASSAY_FIXTURES, name, names[i]), &error), &error);
        must(output_open(&output, part(out, names[i]), &error), &error);
        output_append(output, map.bytes, (size_t)map.size);
        must(output_commit(&output, &error), &error);
        file_map_close(&map);
    }
    return out;
}

Test(bundle_files, are_byte_copies_of_the_checkpoint_s)
{
    source_open(&mini, "qwen35-mini");
    const char *bundle = quantized(&mini, "int8lin"), *from = mini.checkpoint->path;
    expect_copy(part(from, "config.json"), part(bundle, "config.json"));
    expect_copy(part(from, "generation_config.json"), part(bundle, "generation_config.json"));
    expect_copy(part(from, "tokenizer.json"), part(bundle, "tokenizer/tokenizer.json"));
    expect_copy(part(from, "tokenizer_config.json"), part(bundle, "tokenizer/tokenizer_config.json"));
}

Test(bundle_files, that_a_checkpoint_lacks_its_bundle_lacks)
{
    const char *checkpoint = bare_checkpoint("qwen35-mini");
    source_open_at(&mini, checkpoint);
    const char *bundle = quantized(&mini, "int8lin");
    cr_expect(file_exists(part(bundle, "tokenizer/tokenizer.json")));
    cr_expect_not(file_exists(part(bundle, "generation_config.json")));
    cr_expect_not(file_exists(part(bundle, "tokenizer/tokenizer_config.json")));
    cr_expect_not(file_exists(part(bundle, "tokenizer/chat_template.jinja")));
}

Test(bundle_files, a_chat_template_of_its_own_stands_beside_the_tokenizer)
{
    const char *checkpoint = bare_checkpoint("qwen35-mini");
    write_text(part(checkpoint, "chat_template.jinja"), "{{ messages }}\n");
    source_open_at(&mini, checkpoint);
    expect_copy(part(checkpoint, "chat_template.jinja"), part(quantized(&mini, "int8lin"), "tokenizer/chat_template.jinja"));
}

// Qwen3.5's config.json names one stop token and generation_config.json the other: a chat ends with that one.
Test(bundle_files, a_bundle_alone_has_every_stop_token_of_its_checkpoint)
{
    struct error error = {0};
    source_open(&mini, "qwen35-mini");
    const char *path = quantized(&mini, "int8lin");
    cr_assert_eq(mini.config.n_eos, 1); // of config.json
    must(stops_open(&mini.config, mini.checkpoint->path, &error), &error);
    cr_assert_eq(mini.config.n_eos, 2);
    struct bundle *bundle = opened(path);
    cr_expect_eq(bundle->config.n_eos, 2);
    cr_expect(!memcmp(bundle->config.eos, mini.config.eos, sizeof mini.config.eos));
    bundle_close(&bundle);
    cr_assert_eq(unlink(part(path, "generation_config.json")), 0); // the control: bundles without it open, too
    bundle = opened(path);
    cr_expect_eq(bundle->config.n_eos, 1);
    bundle_close(&bundle);
}

Test(bundle_files, stop_tokens_that_are_none_are_refused)
{
    struct error error = {0};
    struct bundle *bundle;
    source_open(&mini, "lfm2-mini");
    const char *out = quantized(&mini, "int8lin");
    write_text(part(out, "generation_config.json"), "{\"eos_token_id\": 4096}");
    refused(bundle_open(&bundle, out, &error), ERROR_INPUT, &error, "generation_config.json");
    write_text(part(out, "generation_config.json"), "{\"eos_token_id\": ");
    refused(bundle_open(&bundle, out, &error), ERROR_INPUT, &error, "generation_config.json");
}

Test(bundle_files, a_changed_tokenizer_is_refused)
{
    struct error error = {0};
    struct bundle *bundle;
    source_open(&mini, "lfm2-mini");
    const char *out = quantized(&mini, "int8lin");
    write_text(part(out, "tokenizer/tokenizer.json"), "{}");
    refused(bundle_open(&bundle, out, &error), ERROR_CONTRACT, &error, "tokenizer.json: was changed");
}
