// The precision plan: the default is arithmetic.md 3, a file that is read back is the same, and whatever is not a
// whole plan of ours, or cannot be computed, is refused with the key in the sentence.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/plan.h"

static char directory[] = "/tmp/assay-plan-XXXXXX";
static char path[64];

static void make_directory(void)
{
    cr_assert(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/precision.json", directory);
}

static void remove_directory(void)
{
    unlink(path);
    rmdir(directory);
}

TestSuite(plan, .init = make_directory, .fini = remove_directory);

static void write_text(const char *text)
{
    FILE *file = fopen(path, "w");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static const char *const whole =
    "{\"schema\":\"assay-precision/1\",\"activations\":\"f16\",\"attention_projections\":\"f32\","
    "\"linear_sum\":\"f32\",\"dequant\":\"f32\",\"kv_state\":\"f16\",\"conv_state\":\"f16\","
    "\"rope_frequency\":\"f32\",\"rope_table\":\"f16\",\"logits\":\"f16\"}";

// `whole` with one text replaced; both must be there for the test to mean anything.
static void write_changed(const char *from, const char *to)
{
    char text[1024];
    const char *at = strstr(whole, from);
    cr_assert(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - whole), whole, to, at + strlen(from));
    write_text(text);
}

Test(plan, default_is_the_table_of_the_arithmetic)
{
    struct plan plan, read;
    struct error error = {0};
    plan_default(&plan);
    write_text(whole);
    cr_assert_eq(plan_read(path, FAMILY_LFM2, &read, &error), 0, "%s", error.text);
    cr_expect_eq(memcmp(&plan, &read, sizeof plan), 0);
}

// Every departure that can be computed, one at a time.
Test(plan, is_read_as_it_was_written)
{
    for (int row = 0; row < PLAN_ROWS; row++) {
        struct plan plan, read;
        struct output *output;
        struct error error = {0};
        const enum family family = plan_has(FAMILY_LFM2, (enum plan_row)row) ? FAMILY_LFM2 : FAMILY_QWEN35;
        plan_default(&plan);
        if (row != PLAN_ACTIVATIONS)
            plan.rows[row] = plan.rows[row] == PRECISION_F16 ? PRECISION_F32 : PRECISION_F16;
        cr_assert_eq(output_open(&output, path, &error), 0, "%s", error.text);
        plan_write(output, family, &plan);
        cr_assert_eq(output_commit(&output, &error), 0, "%s", error.text);
        cr_assert_eq(plan_read(path, family, &read, &error), 0, "%s", error.text);
        cr_expect_eq(memcmp(&plan, &read, sizeof plan), 0, "%s", plan_row_name((enum plan_row)row));
    }
}

Test(plan, of_a_family_has_no_row_of_another)
{
    struct plan plan;
    struct error error = {0};
    write_text(whole); // of LFM2
    cr_expect_eq(plan_read(path, FAMILY_QWEN35, &plan, &error), ERROR_INPUT);
    cr_expect(strstr(error.text, "attention_projections"), "%s", error.text);
    cr_expect(!plan_has(FAMILY_LFM2_MOE, PLAN_DELTA_STATE) && plan_has(FAMILY_QWEN35_MOE, PLAN_DELTA_STATE));
}

Test(plan, refuses_what_is_wrong_by_name_and_leaves_the_old_plan)
{
    const struct {
        const char *from, *to, *named;
    } cases[] = {
        {"\"f16\",\"attention", "\"f32\",\"attention", "activations"},             // cannot be computed
        {"\"dequant\":\"f32\",", "", "dequant"},                                   // missing
        {"\"logits\":\"f16\"", "\"logits\":\"f16\",\"logit\":\"f16\"", "logit"},   // unknown
        {"\"logits\":\"f16\"", "\"logits\":\"f16\",\"logits\":\"f32\"", "logits"}, // twice
        {"\"kv_state\":\"f16\"", "\"kv_state\":\"bf16\"", "kv_state"},             // no such word
        {"\"kv_state\":\"f16\"", "\"kv_state\":16", "kv_state"},                   // no word
        {"\"kv_state\":\"f16\"", "\"kv_state\":null", "kv_state"},
        {"assay-precision/1", "assay-precision/2", "assay-precision/1"}, // of another time
        {"\"schema\":\"assay-precision/1\",", "", "schema"},
        {"{", "[{", "precision.json"},
        {"}", "", "precision.json"}, // cut short
    };
    struct plan before, plan;
    memset(&before, 0x5A, sizeof before);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        plan = before;
        write_changed(cases[i].from, cases[i].to);
        cr_expect_eq(plan_read(path, FAMILY_LFM2, &plan, &error), ERROR_INPUT, "%s", cases[i].to);
        cr_expect(strstr(error.text, cases[i].named) && strstr(error.text, "precision.json"), "%s", error.text);
        cr_expect_eq(memcmp(&plan, &before, sizeof plan), 0);
    }
    struct error error = {0};
    unlink(path);
    cr_expect_eq(plan_read(path, FAMILY_LFM2, &plan, &error), ERROR_INPUT);
    cr_expect(strstr(error.text, "precision.json"), "%s", error.text);
}

Test(plan, every_row_has_its_own_name)
{
    for (int i = 0; i < PLAN_ROWS; i++)
        for (int j = 0; j < i; j++)
            cr_expect_str_neq(plan_row_name((enum plan_row)i), plan_row_name((enum plan_row)j));
    cr_expect_str_eq(precision_name(PRECISION_F16), "f16");
    cr_expect_str_eq(precision_name(PRECISION_F32), "f32");
}
