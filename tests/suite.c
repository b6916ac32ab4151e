// suite: what is read, and every rule that refuses. Each refusal differs from an accepted suite in one place.
#include "harness/run/suite.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/files.h"

static struct arena arena;
static char *directory;
static struct error error;
static struct suite *suite;
// 100 ids and 40 positions: every limit is near
static const struct config config = {.model_type = "lfm2", .vocabulary = 100, .max_positions = 40};

static void open_directory(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
}

static void close_all(void)
{
    suite_close(&suite);
    suite_close(&suite);
    directory_remove(directory);
    arena_close(&arena);
}

static int open_as(const char *name, const char *text)
{
    char *path = file_join(&arena, directory, name);
    struct output *output;
    cr_assert_eq(output_open(&output, path, NULL), 0);
    output_append(output, text, strlen(text));
    cr_assert_eq(output_commit(&output, NULL), 0);
    suite_close(&suite);
    error = (struct error){0};
    return suite_open(&suite, path, &config, NULL, &error);
}

// A suite with one case: `members` follow its id.
static int open_case(const char *members)
{
    return open_as(
        "s.json",
        arena_print(&arena, "{\"schema\":\"assay-suite/1\",\"name\":\"n\",\"cases\":[{\"id\":\"a\",%s}]}", members));
}

static void refuse(const char *members, const char *because)
{
    cr_expect_eq(open_case(members), ERROR_INPUT, "accepted: %s", members);
    cr_expect(strstr(error.text, because), "%s: %s", members, error.text);
    cr_expect_null(suite);
}

static void accept(const char *members)
{
    cr_assert_eq(open_case(members), 0, "%s: %s", members, error.text);
}

TestSuite(suite, .init = open_directory, .fini = close_all);

Test(suite, a_prompt_gets_the_checks_of_a_prompt)
{
    accept("\"tokens\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]");
    const struct suite_case *one = &suite->cases[0];
    cr_assert_eq(suite->n_cases, 1);
    cr_assert_str_eq(suite->name, "n");
    cr_assert_str_eq(one->domain, "");
    cr_assert_eq(one->n, 16);
    cr_assert_eq(one->tokens[15], 16);
    cr_assert_eq(one->n_positions, 16);
    cr_assert_eq(one->positions[15], 15);
    cr_assert_eq(one->seeded, 4);
    cr_assert_eq(one->rollout, 24);
    cr_assert_null(one->answer);
    static const bool expected[CHECK_COUNT] = {
        [CHECK_SWEEP] = true,
        [CHECK_SEEDED] = true,
        [CHECK_ROLLOUT] = true,
        [CHECK_STATE] = true,
    };
    for (int check = 0; check < CHECK_COUNT; check++) {
        cr_assert_eq(one->checks[check], expected[check], "%s", check_name((enum check)check));
        cr_assert_eq(suite->checks[check], expected[check]);
    }
}

Test(suite, snapshots_are_asked_for_by_a_case_with_a_state_check)
{
    accept("\"tokens\":[1,2,3,4,5],\"state_every\":2");
    cr_assert_eq(suite->cases[0].state_every, 2);
    suite_close(&suite);
    accept("\"tokens\":[1,2,3,4,5]");
    cr_assert_eq(suite->cases[0].state_every, 0);
    suite_close(&suite);
    refuse("\"tokens\":[1,2,3,4,5],\"state_every\":0", "state_every");
    refuse("\"tokens\":[1,2,3,4,5],\"state_every\":30", "state_every");
    refuse("\"tokens\":[1,2,3,4,5],\"checks\":[\"sweep\"],\"state_every\":2", "no state check");
}

Test(suite, every_member_is_read)
{
    cr_assert_eq(
        open_as("s.json",
                "{\"schema\":\"assay-suite/"
                "1\",\"name\":\"two\",\"description\":\"d\",\"checks\":[\"weights\"],\"cases\":["
                "{\"id\":\"A.b-1_\",\"domain\":\"code\",\"tokens\":[0,99,0,5,6],\"checks\":[\"sweep\",\"seeded\","
                "\"rollout\"],"
                " \"positions\":[0,2,4],\"seeded\":2,\"rollout\":3,"
                " \"answer\":{\"ids\":[7,8],\"margins\":[0.25,1],\"source\":\"page\"}},"
                "{\"id\":\"long\",\"tokens\":[1],\"checks\":[\"flips\",\"distance\",\"determinism\",\"paths\"]}]}"),
        0, "%s", error.text);
    const struct suite_case *one = &suite->cases[0], *two = &suite->cases[1];
    cr_assert_str_eq(one->id, "A.b-1_");
    cr_assert_str_eq(one->domain, "code");
    cr_assert_eq(one->n_positions, 3);
    cr_assert_eq(one->positions[2], 4);
    cr_assert_eq(one->seeded, 2);
    cr_assert_eq(one->rollout, 3);
    cr_assert_eq(one->answer->n, 2);
    cr_assert_eq(one->answer->ids[1], 8);
    cr_assert_eq(one->answer->margins[0], 0.25);
    cr_assert_str_eq(one->answer->source, "page");
    cr_assert_eq(two->rollout, 0);
    cr_assert_eq(two->seeded, 0);
    cr_assert_eq(two->n_positions, 0);
    for (int check = 0; check < CHECK_COUNT; check++)
        cr_assert_eq(suite->checks[check], check != CHECK_STATE);
}

Test(suite, short_cases_use_what_they_have)
{
    accept("\"tokens\":[1,2,3]");
    cr_assert_eq(suite->cases[0].n_positions, 3);
    cr_assert_eq(suite->cases[0].seeded, 2);
    accept("\"tokens\":[1]");
    cr_assert_not(suite->cases[0].checks[CHECK_SEEDED]); // nothing to prefill
    cr_assert(suite->cases[0].checks[CHECK_SWEEP]);
    refuse("\"tokens\":[1],\"checks\":[\"seeded\"]", "at least two");
}

Test(suite, an_answer_lengthens_the_rollout_that_is_not_given)
{
    char ids[256] = "";
    for (int i = 0; i < 30; i++)
        strcat(ids, i ? ",3" : "3");
    accept(arena_print(&arena, "\"tokens\":[1,2],\"answer\":{\"ids\":[%s],\"source\":\"s\"}", ids));
    cr_assert_eq(suite->cases[0].rollout, 30);
    cr_assert_null(suite->cases[0].answer->margins);
    accept("\"tokens\":[1,2],\"answer\":{\"ids\":[3],\"source\":\"s\"}");
    cr_assert_eq(suite->cases[0].rollout, 24);
}

Test(suite, prompts_that_are_none_are_refused)
{
    refuse("\"domain\":\"x\"", "either \"text\" or \"tokens\"");
    refuse("\"text\":\"a\",\"tokens\":[1]", "either");
    refuse("\"text\":\"\"", "empty");
    refuse("\"text\":\"a\"", "case a gives text, but the model has no tokenizer");
    refuse("\"tokens\":[]", "empty");
    refuse("\"tokens\":[1,100]", "tokens[1]: found 100, expected an integer from 0 to 99");
    refuse("\"tokens\":[-1]", "found -1");
    refuse("\"tokens\":[1.5]", "found 1.5");
    refuse("\"tokens\":1", "expected an array");
    refuse("\"tokens\":[1],\"special\":true", "special");
    refuse("\"text\":5", "expected a string");
}

Test(suite, checks_and_their_keys_belong_together)
{
    refuse("\"tokens\":[1,2],\"checks\":[\"sweeep\"]", "checks[0]: check 'sweeep' does not exist");
    refuse("\"tokens\":[1,2],\"checks\":[]", "at least one check");
    refuse("\"tokens\":[1,2],\"checks\":[\"weights\"]", "audits the bundle");
    refuse("\"tokens\":[1,2],\"checks\":[\"flips\"],\"positions\":[0]", "no sweep check");
    refuse("\"tokens\":[1,2],\"checks\":[\"flips\"],\"seeded\":1", "no seeded check");
    refuse("\"tokens\":[1,2],\"checks\":[\"flips\"],\"rollout\":1", "no rollout check");
    refuse("\"tokens\":[1,2],\"checks\":[\"flips\"],\"answer\":{\"ids\":[1],\"source\":\"s\"}", "no rollout check");
    refuse("\"tokens\":[1,2],\"chekcs\":[\"flips\"]", "chekcs: unknown key");
    refuse("\"tokens\":[1,2],\"checks\":\"flips\"", "expected an array");
}

Test(suite, positions_and_counts_lie_inside_the_case)
{
    refuse("\"tokens\":[1,2,3],\"positions\":[3]", "found 3, expected an integer from 0 to 2");
    refuse("\"tokens\":[1,2,3],\"positions\":[1,1]", "positions[1]");
    refuse("\"tokens\":[1,2,3],\"positions\":[2,1]", "ascending");
    refuse("\"tokens\":[1,2,3],\"positions\":[]", "empty");
    refuse("\"tokens\":[1,2,3],\"seeded\":3", "found 3, expected an integer from 1 to 2");
    refuse("\"tokens\":[1,2,3],\"seeded\":0", "found 0");
    refuse("\"tokens\":[1,2,3],\"rollout\":0", "found 0");
    refuse("\"tokens\":[1,2,3],\"rollout\":38", "41 positions (3 tokens, 38 generated), the model allows 40");
    accept("\"tokens\":[1,2,3],\"rollout\":37");
    refuse("\"tokens\":[1,2,3],\"rollout\":1,\"answer\":{\"ids\":[1,2],\"source\":\"s\"}", "shorter than the answer");
}

Test(suite, answers_are_checked)
{
    refuse("\"tokens\":[1,2],\"answer\":{\"ids\":[100],\"source\":\"s\"}", "answer.ids[0]");
    refuse("\"tokens\":[1,2],\"answer\":{\"ids\":[1]}", "source");
    refuse("\"tokens\":[1,2],\"answer\":{\"ids\":[1],\"source\":\"s\",\"margins\":[]}", "another length");
    refuse("\"tokens\":[1,2],\"answer\":{\"ids\":[1],\"source\":\"s\",\"margins\":[1.5]}", "probabilities");
    refuse("\"tokens\":[1,2],\"answer\":{\"ids\":[1],\"source\":\"s\",\"more\":1}", "unknown key");
    refuse("\"tokens\":[1,2],\"answer\":[1]", "expected an object");
}

Test(suite, ids_are_unique_and_fit_for_file_names)
{
    static const char *const bad[] = {"",
                                      "a/b",
                                      "..",
                                      "-a",
                                      "a b",
                                      "a.prefix",
                                      "x.seeded",
                                      "x.again",
                                      "x.middle",
                                      "x.restored",
                                      "\\u00e4",
                                      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *text = arena_print(&arena,
                                       "{\"schema\":\"assay-suite/1\",\"name\":\"n\",\"cases\":[{\"id\":\"%s\","
                                       "\"tokens\":[1]}]}",
                                       bad[i]);
        cr_expect_eq(open_as("s.json", text), ERROR_INPUT, "accepted id '%s'", bad[i]);
        cr_expect(strstr(error.text, "case id"), "%s", error.text);
    }
    const char *two = "{\"schema\":\"assay-suite/"
                      "1\",\"name\":\"n\",\"cases\":[{\"id\":\"%s\",\"tokens\":[1]},{\"id\":\"b\",\"tokens\":[1]},"
                      "{\"id\":\"%s\",\"tokens\":[1]}]}";
    char text[400];
    snprintf(text, sizeof text, two, "c", "c");
    cr_assert_eq(open_as("s.json", text), ERROR_INPUT);
    snprintf(text, sizeof text, two, "Case", "case");
    cr_assert_eq(open_as("s.json", text), ERROR_INPUT);
    cr_assert(strstr(error.text, "'Case'") && strstr(error.text, "'case'"), "%s", error.text);
    snprintf(text, sizeof text, two, "c", "d");
    cr_assert_eq(open_as("s.json", text), 0);
}

Test(suite, the_whole_file_is_checked)
{
    cr_assert_eq(open_as("s.json", "{\"schema\":\"assay-suite/1\",\"name\":\"n\",\"cases\":[]}"), ERROR_UNJUDGED);
    cr_assert(strstr(error.text, "no cases"), "%s", error.text);
    cr_assert_eq(open_as("s.json", "{\"schema\":\"assay-suite/2\",\"name\":\"n\",\"cases\":[]}"), ERROR_INPUT);
    cr_assert(strstr(error.text, "'assay-suite/2', expected 'assay-suite/1'"), "%s", error.text);
    static const char *const bad[] = {
        "{",
        "[]",
        "{\"name\":\"n\"}",
        "{\"schema\":\"assay-suite/1\",\"cases\":[{\"id\":\"a\",\"tokens\":[1]}]}",
        "{\"schema\":\"assay-suite/1\",\"name\":\"n\"}",
        "{\"schema\":\"assay-suite/1\",\"name\":\"n\",\"cases\":[5]}",
        "{\"schema\":\"assay-suite/1\",\"name\":\"n\",\"checks\":[\"sweep\"],\"cases\":[{\"id\":\"a\",\"tokens\":[1]}]}",
        "{\"schema\":\"assay-suite/1\",\"name\":\"n\",\"extra\":1,\"cases\":[{\"id\":\"a\",\"tokens\":[1]}]}",
        "{\"schema\":\"assay-suite/1\",\"name\":\"n\",\"cases\":[{\"tokens\":[1]}]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(open_as("s.json", bad[i]), ERROR_INPUT, "accepted: %s", bad[i]);
    cr_assert_eq(suite_open(&suite, directory, &config, NULL, &error), ERROR_INPUT);
}

Test(suite, csv_prompts_need_their_columns_and_a_tokenizer)
{
    cr_assert_eq(open_as("p.csv", "id,text\n"), ERROR_UNJUDGED);
    cr_assert_eq(open_as("p.csv", "id,txt\na,b\n"), ERROR_INPUT);
    cr_assert(strstr(error.text, "'text'"), "%s", error.text);
    cr_assert_eq(open_as("p.CSV", "id,text,more\na,b,c\n"), ERROR_INPUT);
    cr_assert(strstr(error.text, "3 columns"), "%s", error.text);
    cr_assert_eq(open_as("p.csv", "id,text\na,b\n"), ERROR_INPUT);
    cr_assert(strstr(error.text, "case a gives text, but the model has no tokenizer"), "%s", error.text);
    cr_assert_eq(open_as("p.csv", "id,text\na/b,c\n"), ERROR_INPUT);
    cr_assert(strstr(error.text, "case id"), "%s", error.text);
}

// The fixture's tokenizer: BOS is id 1 and is added unless "special" is false.
Test(suite, texts_are_encoded_with_and_without_the_template)
{
    struct config mini = config;
    struct tokenizer *tokenizer;
    mini.vocabulary = 4096;
    mini.max_positions = 1000;
    cr_assert_eq(tokenizer_open(&tokenizer, ASSAY_FIXTURES "/models/lfm2-mini/tokenizer.json", &error), 0, "%s",
                 error.text);
    const char *text =
        "{\"schema\":\"assay-suite/1\",\"name\":\"n\",\"cases\":[{\"id\":\"a\",\"text\":\"In the beginning\"},"
        "{\"id\":\"b\",\"text\":\"In the beginning\",\"special\":false}]}";
    open_as("t.json", text);
    cr_assert_eq(suite_open(&suite, file_join(&arena, directory, "t.json"), &mini, tokenizer, &error), 0, "%s",
                 error.text);
    const struct suite_case *with = &suite->cases[0], *without = &suite->cases[1];
    cr_assert_eq(with->n, without->n + 1);
    cr_assert_eq(with->tokens[0], 1);
    cr_assert_eq(memcmp(with->tokens + 1, without->tokens, without->n * sizeof *without->tokens), 0);
    const uint32_t n = with->n;
    open_as("t.csv", "id,text\nc,In the beginning\n");
    cr_assert_eq(suite_open(&suite, file_join(&arena, directory, "t.csv"), &mini, tokenizer, &error), 0, "%s",
                 error.text);
    cr_assert_eq(suite->cases[0].n, n);
    cr_assert_str_eq(suite->name, "t.csv");
    cr_assert(suite->cases[0].checks[CHECK_STATE] && suite->cases[0].checks[CHECK_SEEDED]);
    // the wrong tokenizer for this model: ids beyond its vocabulary
    suite_close(&suite);
    cr_assert_eq(suite_open(&suite, file_join(&arena, directory, "t.csv"), &config, tokenizer, &error), ERROR_INPUT);
    cr_assert(strstr(error.text, "model's tokenizer"), "%s", error.text);
    tokenizer_close(&tokenizer);
}

// --- published answers

// Each file with the vocabulary of its model, the first and the last id of prompt and answer, and the smallest margin
// as the publisher's page has it, rounded to four places.
static const struct {
    const char *name;
    uint32_t vocabulary, n, prompt[2], answer[2];
    double least;
} published[] = {
    {"lfm2.5-1.2b-instruct.json", 65536, 6, {1, 856}, {5242, 779}, 0.0313},
    {"lfm2.5-2.6b.json", 128000, 15, {597, 20}, {417, 20}, 0.9689},
    {"lfm2.5-vl-450m-textcore.json", 65536, 16, {1, 521}, {918, 521}, 0.9921},
    {"qwen3.5-0.8b.json", 248320, 5, {760, 369}, {11751, 369}, 0.0319},
    {"qwen3.5-2b.json", 248320, 5, {760, 369}, {11751, 25}, 0.0726},
    {"qwen3.8-27b.json", 248320, 15, {760, 11}, {469, 11}, 0.8205},
};
enum { PUBLISHED = sizeof published / sizeof *published, ANSWER = 16 };

static int open_published(size_t i, uint32_t vocabulary)
{
    const struct config whole = {.model_type = "any", .vocabulary = vocabulary, .max_positions = 32};
    suite_close(&suite);
    error = (struct error){0};
    return suite_open(&suite, arena_print(&arena, "%s/suites/published/%s", ASSAY_FIXTURES, published[i].name),
                      &whole, NULL, &error);
}

Test(suite, every_published_transcript_opens_with_its_model)
{
    struct dirent **entries;
    const int n = scandir(ASSAY_FIXTURES "/suites/published", &entries, NULL, alphasort);
    size_t files = 0;
    for (int i = 0; i < n; i++) {
        const char *dot = strrchr(entries[i]->d_name, '.');
        if (dot && !strcmp(dot, ".json")) {
            cr_assert_lt(files, (size_t)PUBLISHED, "%s is in no row of this test", entries[i]->d_name);
            cr_assert_str_eq(entries[i]->d_name, published[files++].name);
        }
        free(entries[i]);
    }
    free(entries);
    cr_assert_eq(files, (size_t)PUBLISHED);
    for (size_t i = 0; i < PUBLISHED; i++) {
        cr_assert_eq(open_published(i, published[i].vocabulary), 0, "%s", error.text);
        const struct suite_case *one = &suite->cases[0];
        const struct suite_answer *answer = one->answer;
        cr_assert(suite->n_cases == 1 && answer && answer->n == ANSWER && answer->margins, "%s", published[i].name);
        cr_expect(one->checks[CHECK_ROLLOUT] && one->rollout == ANSWER && one->n == published[i].n);
        cr_expect(one->tokens[0] == published[i].prompt[0] && one->tokens[one->n - 1] == published[i].prompt[1]);
        cr_expect(answer->ids[0] == published[i].answer[0] && answer->ids[ANSWER - 1] == published[i].answer[1]);
        double least = 1;
        for (uint32_t j = 0; j < ANSWER; j++)
            least = answer->margins[j] < least ? answer->margins[j] : least;
        cr_expect(fabs(least - published[i].least) <= 5e-5, "%s: smallest margin %g", published[i].name, least);
        cr_expect(strstr(answer->source, "MaTriXy/coreai-model-zoo at ") == answer->source, "%s", answer->source);
    }
}

// The wrong model for a transcript is named, as far as its vocabulary shows it.
Test(suite, a_published_transcript_of_a_larger_vocabulary_is_refused)
{
    cr_assert_eq(open_published(4, 248069), 0, "%s", error.text); // <think> is the last id
    cr_expect_eq(open_published(4, 248068), ERROR_INPUT);
    cr_expect(strstr(error.text, "answer.ids[11]: found 248068"), "%s", error.text);
    cr_expect_eq(open_published(4, 65536), ERROR_INPUT);
    cr_expect_eq(open_published(5, 26887), ERROR_INPUT);
    cr_expect(strstr(error.text, "tokens[1]: found 26887"), "%s", error.text);
    cr_assert_eq(open_published(5, 26888), 0, "%s", error.text);
}

static int parse(const char *argument, size_t *n, uint32_t **tokens)
{
    error = (struct error){0};
    return suite_parse_tokens(&arena, argument, &config, tokens, n, &error);
}

Test(suite, token_arguments_and_token_files)
{
    uint32_t *tokens;
    size_t n;
    cr_assert_eq(parse("1,2,99", &n, &tokens), 0);
    cr_assert(n == 3 && tokens[0] == 1 && tokens[2] == 99);
    cr_assert_eq(parse(" 7 , 8\n9\t", &n, &tokens), 0);
    cr_assert(n == 3 && tokens[1] == 8);
    cr_assert_eq(parse("0", &n, &tokens), 0);
    cr_assert(n == 1 && tokens[0] == 0);
    static const char *const bad[] = {
        "",    " ",  ",",   "1,",   "1,,2", ",1",  "x",          "1x",
        "1;2", "-1", "1.5", "0x10", "1, ",  "100", "4294967297", "99999999999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(parse(bad[i], &n, &tokens), ERROR_USAGE, "accepted '%s'", bad[i]);
    cr_assert_eq(parse("1,100", &n, &tokens), ERROR_USAGE);
    cr_assert(strstr(error.text, "id 100 at index 1") && strstr(error.text, "0 to 99"), "%s", error.text);
    char many[200] = "0";
    for (int i = 0; i < 40; i++)
        strcat(many, ",0");
    cr_assert_eq(parse(many, &n, &tokens), ERROR_USAGE);
    cr_assert(strstr(error.text, "41 ids, expected 1 to 40"), "%s", error.text);
    char *path = file_join(&arena, directory, "ids");
    struct output *output;
    cr_assert_eq(output_open(&output, path, NULL), 0);
    output_print(output, "1\n2, 3\n");
    cr_assert_eq(output_commit(&output, NULL), 0);
    cr_assert_eq(parse(arena_print(&arena, "@%s", path), &n, &tokens), 0, "%s", error.text);
    cr_assert(n == 3 && tokens[2] == 3);
    cr_assert_eq(parse("@/nonexistent", &n, &tokens), ERROR_INPUT);
    cr_assert_eq(parse(arena_print(&arena, "@%s", directory), &n, &tokens), ERROR_INPUT);
}
