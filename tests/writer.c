// writer: a report made by hand, in every format. Strings are hostile, numbers are NaN and infinite; nothing of it
// may break a format, and what goes in must come out.
#include "tests/sample_report.h"

TestSuite(writer, .init = make_sample, .fini = drop_sample);

// --- JSON

static struct json path(struct json_document *document, const char *list, size_t index)
{
    return json_at(json_get(json_root(document), list), index);
}

static void expect_string(struct json value, const char *expected)
{
    const char *text;
    cr_assert_eq(json_need_string(value, &text, &error), 0, "%s", error.text);
    cr_assert_str_eq(text, expected);
}

static void expect_integer(struct json value, int64_t expected)
{
    int64_t number;
    cr_assert_eq(json_need_integer(value, INT64_MIN, INT64_MAX, &number, &error), 0, "%s", error.text);
    cr_assert_eq(number, expected);
}

// The decimal and the %a string say the same, exactly.
static void expect_number(struct json object, const char *key, double expected)
{
    double number;
    const char *exact;
    cr_assert_eq(json_need_number(json_get(object, key), &number, &error), 0, "%s", error.text);
    cr_assert_eq(json_need_string(json_get(object, arena_print(&arena, "%s_hex", key)), &exact, &error), 0, "%s",
                 error.text);
    cr_assert_eq(number, expected);
    cr_assert_eq(strtod(exact, NULL), expected);
}

static void expect_not_finite(struct json object, const char *key, const char *exact)
{
    cr_assert(json_get(object, key).item && !json_present(json_get(object, key)), "%s is not null", key);
    expect_string(json_get(object, arena_print(&arena, "%s_hex", key)), exact);
}

static struct json_document *parsed(void)
{
    const char *text = written(&writer_json);
    struct json_document *document;
    expect_utf8(text);
    cr_assert_eq(json_open_text(&document, "report.json", text, strlen(text), &error), 0, "%s\n%s", error.text, text);
    return document;
}

Test(writer, json_says_what_the_report_says)
{
    struct json_document *document = parsed();
    const struct json root = json_root(document);
    expect_string(json_get(root, "schema"), "assay-report/1");
    expect_string(json_get(root, "verdict"), "FAIL");
    expect_integer(json_get(root, "exit_code"), 1);
    cr_assert_eq(json_length(json_get(root, "checks")), 6);
    const struct json check = path(document, "checks", 0);
    expect_string(json_get(check, "name"), "sweep");
    expect_string(json_get(check, "case"), "");
    expect_string(json_get(check, "verdict"), "FAIL");
    expect_integer(json_get(check, "agree"), 1);
    expect_integer(json_get(check, "of"), 3);
    expect_string(json_get(check, "detail"), "a\"b'c<d>&e]]>\x01\x1b[31m\n\xEF\xBF\xBD\xc3\xa4,");
    const struct json number = json_at(json_get(check, "numbers"), 0);
    expect_number(number, "value", 1);
    expect_not_finite(json_at(json_get(check, "numbers"), 1), "value", "nan");
    expect_number(json_at(json_get(check, "numbers"), 1), "limit", 0.1);
    expect_string(json_get(path(document, "checks", 5), "case"), "second");
    expect_string(json_get(json_get(json_get(root, "contract"), "reference"), "weights_sha256"), "aa11");
    expect_string(json_get(json_get(json_get(root, "contract"), "candidate"), "engine"), "int8");
    expect_integer(json_get(json_get(root, "counts"), "introduced"), 1);
    const struct json distance = json_get(json_get(root, "distances"), "candidate");
    expect_number(distance, "sigma", 0.1);
    expect_not_finite(distance, "rms", "nan");
    expect_not_finite(distance, "kl_max", "inf");
    expect_integer(json_get(path(document, "missing", 0), "rows"), 4);
    expect_integer(json_get(path(document, "rollouts", 0), "first_divergence"), 20);
    expect_string(json_get(path(document, "states", 0), "state"), "state.2.conv");
    json_close(&document);
}

Test(writer, json_lists_disagreements_and_bad_rows_and_counts_all)
{
    struct json_document *document = parsed();
    const struct json root = json_root(document);
    expect_integer(json_get(root, "positions_compared"), 3);
    cr_assert_eq(json_length(json_get(root, "positions")), 2); // the row that agrees is in positions.csv alone
    const struct json flip = path(document, "positions", 0), bad = path(document, "positions", 1);
    expect_string(json_get(flip, "case"), "second");
    expect_integer(json_get(flip, "position"), 9);
    expect_integer(json_get(flip, "pick"), 7);
    expect_number(flip, "top1_logit", (double)0.1f);
    expect_number(flip, "noise", 1e-300);
    expect_not_finite(flip, "kl", "inf");
    expect_string(json_at(json_get(flip, "checks"), 0), "sweep");
    expect_string(json_get(flip, "fp16_agreement"), agreement_name(AGREE));
    expect_string(json_get(bad, "class"), metric_row_class_name(ROW_NAN));
    cr_assert_not(json_present(json_get(bad, "pick")));
    expect_not_finite(bad, "kl", "nan"); // of either sign
    json_close(&document);
}

Test(writer, a_report_without_comparison_and_audit_is_whole)
{
    s.report.comparison = NULL;
    s.report.audit = NULL;
    s.report.n_notes = 0;
    s.report.positions = 0;
    struct json_document *document = parsed();
    cr_assert_eq(json_length(json_get(json_root(document), "positions")), 0);
    cr_assert(json_is_array(json_get(json_root(document), "positions")));
    expect_integer(json_get(json_root(document), "positions_compared"), 0);
    json_close(&document);
    cr_assert(strstr(written(&writer_text), "FAIL"));
    cr_assert(strstr(written(&writer_junit), "</testsuites>"));
    cr_assert(strstr(written(&writer_positions), "case,position"));
}

// --- CSV

static double field(const struct csv_table *table, size_t row, const char *column)
{
    const size_t at = csv_column(table, column);
    cr_assert_lt(at, table->n_columns, "no column %s", column);
    return strtod(table->rows[row][at], NULL);
}

static const char *word(const struct csv_table *table, size_t row, const char *column)
{
    const size_t at = csv_column(table, column);
    cr_assert_lt(at, table->n_columns, "no column %s", column);
    return table->rows[row][at];
}

Test(writer, csv_holds_every_position_exactly)
{
    struct csv_table table;
    s.cases[1].id = HOSTILE; // the reader of suites refuses it; the writer must not rely on that
    written(&writer_positions);
    cr_assert_eq(csv_read(&arena, file_join(&arena, directory, "positions.csv"), 1 << 20, NULL, &table, &error), 0,
                 "%s", error.text);
    cr_assert_eq(table.n_rows, 3);
    cr_assert_str_eq(word(&table, 0, "case"), "first");
    cr_assert_str_eq(word(&table, 1, "case"), HOSTILE);
    cr_assert_str_eq(word(&table, 0, "checks"), "sweep+flips");
    cr_assert_eq(field(&table, 1, "position"), 9);
    cr_assert_eq(field(&table, 0, "top1_logit_hex"), (double)0.1f);
    cr_assert_float_eq(field(&table, 0, "top1_logit"), 0.1, 1e-8); // 9 digits
    cr_assert_eq(field(&table, 1, "gap_hex"), 0.5);
    cr_assert_eq(field(&table, 1, "margin_hex"), 0.4);
    cr_assert_eq(field(&table, 1, "probability_margin_hex"), 0.125);
    cr_assert_str_eq(word(&table, 1, "kl"), "inf");
    cr_assert_str_eq(word(&table, 2, "kl_hex"), "nan");
    cr_assert_str_eq(word(&table, 2, "pick"), "");
    cr_assert_str_eq(word(&table, 2, "class"), metric_row_class_name(ROW_NAN));
    cr_assert_str_eq(word(&table, 1, "introduced"), "1");
    cr_assert_str_eq(word(&table, 0, "fp16_agreement"), "");
    cr_assert_eq(field(&table, 1, "overlap"), 9);
}

// --- JUnit

// A well-formedness check for what this writer uses: tags nest, attributes are quoted, no raw < & or control
// character.
static void expect_xml(const char *text)
{
    const char *open[16];
    size_t depth = 0;
    cr_assert(!strncmp(text, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", 39));
    for (text += 39; *text;) {
        if (*text == '&') {
            const size_t digits = strspn(text + 2, "0123456789");
            cr_assert(text[1] == '#' && digits && text[2 + digits] == ';', "reference: %.20s", text);
            const long code = strtol(text + 2, NULL, 10);
            cr_assert(code >= 0x20 || code == 9 || code == 10 || code == 13, "&#%ld;", code);
        }
        if (*text != '<') {
            cr_assert_neq(*text, '>', "raw >: %.20s", text);
            text++;
            continue;
        }
        const char *end = text + 1;
        for (bool quoted = false; quoted || *end != '>'; end++) {
            cr_assert(*end && *end != '<', "in a tag: %.40s", text);
            quoted ^= *end == '"';
        }
        const size_t name = strcspn(text + 1, " />");
        if (text[1] == '/') {
            cr_assert_gt(depth, 0);
            depth--;
            cr_assert_eq(strncmp(text + 2, open[depth], strcspn(open[depth], " />")), 0, "%.30s closes %.30s", text,
                         open[depth]);
        } else if (end[-1] != '/') {
            cr_assert_lt(depth, 16);
            cr_assert_gt(name, 0);
            open[depth++] = text + 1;
        }
        text = end + 1;
    }
    cr_assert_eq(depth, 0);
}

Test(writer, junit_is_well_formed_and_counts_what_it_holds)
{
    const char *text = written(&writer_junit);
    expect_utf8(text);
    expect_xml(text);
    cr_assert(strstr(text, "a&#34;b&#39;c&#60;d&#62;&#38;e]]&#62;[31m&#10;\xEF\xBF\xBD\xc3\xa4,"), "%s", text);
    cr_assert_eq(times(text, "<testcase "), 7); // six lines and the gate's own verdict
    cr_assert_eq(times(text, "<failure "), 3);
    cr_assert_eq(times(text, "<error "), 1);
    cr_assert_eq(times(text, "<skipped "), 1);
    cr_assert(strstr(text, "tests=\"7\" failures=\"3\" errors=\"1\" skipped=\"1\""), "%s", text);
    cr_assert(strstr(text, "<property name=\"weights_sha256\" value=\"aa11\"/>"));
    cr_assert(strstr(text, "<property name=\"engine\" value=\"int8\"/>"));
}

Test(writer, junit_is_not_green_when_a_required_check_did_not_run)
{
    s.report.n_checks = 1;
    s.checks[0] = s.checks[1]; // NOT_RUN
    s.report.verdict = VERDICT_NOT_RUN;
    s.report.exit_code = 3;
    const char *text = written(&writer_junit);
    expect_xml(text);
    cr_assert(strstr(text, "tests=\"2\" failures=\"0\" errors=\"1\" skipped=\"1\""), "%s", text);
    s.checks[0] = s.checks[3]; // PASS: the control
    s.report.verdict = VERDICT_PASS;
    s.report.exit_code = 0;
    text = written(&writer_junit);
    cr_assert(strstr(text, "tests=\"2\" failures=\"0\" errors=\"0\" skipped=\"0\""), "%s", text);
}

// --- all of them

Test(writer, all_formats_are_written_or_an_error_names_the_file)
{
    const char *into = file_join(&arena, directory, "new/report");
    cr_assert_eq(writer_all(&s.report, into, &error), 0, "%s", error.text);
    for (size_t i = 0; writers[i]; i++)
        cr_assert(file_exists(file_join(&arena, into, writers[i]->file)), "%s", writers[i]->file);
    cr_assert_eq(writer_all(&s.report, file_join(&arena, into, "report.json"), &error), ERROR_USAGE);
    cr_assert(strstr(error.text, "report.json"), "%s", error.text);
}
