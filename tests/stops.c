// stops: those of generation_config.json join those of config.json, and every rule that refuses.
#include "harness/model/stops.h"

#include <criterion/criterion.h>
#include <string.h>

#include "harness/base/files.h"

static struct arena arena;
static char *directory;
static struct error error;
static struct config config;

static void open_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
}

static void close_all(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(stops, .init = open_directory, .fini = close_all);

// Qwen3.5's config.json, and beside it a generation_config.json of this text.
static int open_with(const char *text)
{
    struct output *output;
    config = (struct config){.vocabulary = 248320, .n_eos = 1, .eos = {248044}};
    error = (struct error){0};
    cr_assert_eq(output_open(&output, file_join(&arena, directory, "generation_config.json"), NULL), 0);
    output_append(output, text, strlen(text));
    cr_assert_eq(output_commit(&output, NULL), 0);
    return stops_open(&config, directory, &error);
}

static void expect_refused(const char *text, const char *because)
{
    cr_expect_eq(open_with(text), ERROR_INPUT, "accepted: %s", text);
    cr_expect(strstr(error.text, because) && strstr(error.text, "generation_config.json"), "%s: %s", text,
              error.text);
    cr_expect(config.n_eos == 1 && config.eos[0] == 248044 && !config.eos[1], "%s: changed the config", text);
}

Test(stops, qwens_chat_stops_on_both)
{
    cr_assert_eq(open_with("{\"eos_token_id\":[248046,248044],\"pad_token_id\":248044}"), 0, "%s", error.text);
    cr_expect(config.n_eos == 2 && config.eos[0] == 248044 && config.eos[1] == 248046);
    cr_assert_eq(open_with("{\"eos_token_id\":248046}"), 0, "%s", error.text);
    cr_expect(config.n_eos == 2 && config.eos[1] == 248046);
}

Test(stops, the_trained_qwens_stop_on_both)
{
    // as qwen35-mini and qwen35moe-mini state it
    config = (struct config){0};
    cr_assert_eq(open_with("{\n  \"eos_token_id\": [\n    4072,\n    4070\n  ],\n  \"pad_token_id\": 4070\n}\n"), 0);
    cr_expect(config.n_eos == 3 && config.eos[1] == 4072 && config.eos[2] == 4070);
}

Test(stops, what_says_nothing_changes_nothing)
{
    static const char *const silent[] = {"{}", "{\"eos_token_id\":null}", "{\"eos_token_id\":[]}",
                                         "{\"eos_token_id\":248044}", "{\"eos_token_id\":[248044,248044]}"};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++) {
        cr_expect_eq(open_with(silent[i]), 0, "%s", error.text);
        cr_expect(config.n_eos == 1 && config.eos[0] == 248044, "%s", silent[i]);
    }
    cr_expect_eq(stops_open(&config, ASSAY_FIXTURES "/models/odd-head-only", &error), 0); // no such file
    cr_expect_eq(config.n_eos, 1);
}

Test(stops, lfm2_says_in_both_files_what_it_says_in_one)
{
    struct config mini;
    cr_assert_eq(config_open(&arena, ASSAY_FIXTURES "/models/lfm2-mini/config.json", &mini, &error), 0);
    cr_assert_eq(stops_open(&mini, ASSAY_FIXTURES "/models/lfm2-mini", &error), 0, "%s", error.text);
    cr_expect(mini.n_eos == 1 && mini.eos[0] == 7);
}

Test(stops, what_is_no_id_is_refused_by_name)
{
    expect_refused("[]", "object");
    expect_refused("{", "no valid JSON");
    expect_refused("{\"eos_token_id\":\"<|im_end|>\"}", "eos_token_id");
    expect_refused("{\"eos_token_id\":-1}", "found -1");
    expect_refused("{\"eos_token_id\":1.5}", "found 1.5");
    expect_refused("{\"eos_token_id\":248320}", "from 0 to 248319");
    expect_refused("{\"eos_token_id\":[248046,248320]}", "eos_token_id[1]");
    expect_refused("{\"eos_token_id\":[[1]]}", "eos_token_id[0]");
    expect_refused("{\"eos_token_id\":[1,2,3,4,5,6,7,8]}", "eos_token_id[7]: one stop token more than the 8");
    cr_expect_eq(open_with("{\"eos_token_id\":[1,2,3,4,5,6,7]}"), 0, "%s", error.text); // the control: eight together
    cr_expect_eq(config.n_eos, 8);
}
