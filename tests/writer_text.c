// writer_text: what stands on the terminal. 100 columns, the worst first, the verdict last, whatever the strings
// hold.
#include "tests/sample_report.h"

TestSuite(writer_text, .init = make_sample, .fini = drop_sample);

static void expect_columns(const char *text)
{
    size_t column = 0;
    uint32_t code;
    for (size_t n; *text; text += n) {
        n = utf8_character(text, &code);
        column = code == '\n' ? 0 : column + 1;
        cr_assert_leq(column, 100, "a line is longer than 100 columns: ...%.30s", text);
    }
}

Test(writer_text, text_fits_100_columns_and_names_the_worst_first)
{
    const char *text = written(&writer_text);
    expect_utf8(text);
    expect_columns(text);
    const char *fail = strstr(text, "\nFAIL"), *err = strstr(text, "\nERROR"), *not_run = strstr(text, "\nNOT_RUN"),
               *pass = strstr(text, "\nPASS");
    cr_assert(fail && err && not_run && pass && fail < err && err < not_run && not_run < pass, "%s", text);
    static const char *const pieces[] = {
        "models/",
        "bundle, scheme int8lin",
        "standard, s.json",
        "release, p.json",
        "  out of memory\n",
        "  compared 0 of 4 declared\n",
        "second:9 introduced flip, 7 for 5, gap 0.5 nat",

        "second:10 logits",
        "second: 4 rows missing: no such file",
        "0/2 + 1 flip",
        "3 positions: 1 agreed",
        "exit 1",
    };
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        cr_expect(strstr(text, pieces[i]), "no '%s' in\n%s", pieces[i], text);
    const char *last = text + strlen(text) - 1;
    while (last > text && strncmp(last, "\nFAIL", 5))
        last--;
    cr_assert(strstr(last, "exit 1") && !strstr(last, "positions"), "the verdict is not last: %s", last);
}

Test(writer_text, words_longer_than_a_line_are_cut)
{
    char word[400];
    memset(word, 'x', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    s.checks[0].detail = s.checks[3].detail = word;
    s.cases[0].id = s.checks[4].case_id = word;
    s.report.why = s.report.bundle_path = s.notes[0] = word;
    const char *text = written(&writer_text);
    expect_columns(text);
    cr_assert_geq(times(text, "x"), 5 * 399); // nothing is lost; a case that agrees everywhere is only counted
}

Test(writer_text, failing_states_and_weights_show_what_is_wrong)
{
    s.checks[2].verdict = VERDICT_FAIL;
    s.checks[3] = (struct report_check){
        .check = CHECK_WEIGHTS, .case_id = "", .verdict = VERDICT_FAIL, .detail = "codes differ"};
    struct audit_finding findings[] = {{"model.layers.0.w", "the first, on the check's own line"}, s.finding};
    s.audit.findings = findings;
    s.audit.n_findings = 2;
    const char *text = written(&writer_text);
    cr_assert(strstr(text, arena_print(&arena, "first state.2.conv: %s, error 1, expected 0.001",
                                       metric_row_class_name(ROW_ZERO))),
              "%s", text);
    cr_assert(strstr(text, "model.layers.0.w: a\"b"), "%s", text);
    cr_assert_lt(strstr(text, "state.2.conv"), strstr(text, "state.4.k")); // the worst first
}

Test(writer_text, at_most_three_positions_are_shown_the_worst_first)
{
    enum { N = 50 };
    struct compared_position many[N];
    for (int i = 0; i < N; i++) {
        many[i] = s.positions[1];
        many[i].position = (uint32_t)(100 + i);
        many[i].metric.gap = 0.2 + 0.01 * ((i * 17) % N); // a permutation: the largest is 0.69
    }
    s.comparison.positions = many;
    s.comparison.n_positions = N;
    const char *text = written(&writer_text);
    cr_assert_eq(times(text, "second:1"), 3, "%s", text);
    cr_assert(strstr(text, "and 47 more disagreements"), "%s", text);
    const char *at = text;
    for (int i = 0; i < 3; i++) {
        at = strstr(at, arena_print(&arena, "gap %.4g nat", 0.69 - 0.01 * i));
        cr_assert_not_null(at, "the worst are not first:\n%s", text);
    }
}

Test(writer_text, colour_is_only_there_when_asked_for)
{
    const char *plain = writer_text_render(&arena, &s.report, false);
    const char *coloured = writer_text_render(&arena, &s.report, true);
    cr_assert_not(strchr(plain, '\033'));
    cr_assert(strstr(coloured, "\033[31mFAIL\033[0m") && strstr(coloured, "\033[32mPASS\033[0m"));
    cr_assert_eq(times(coloured, "\033["), 2 * (times(plain, "\nFAIL") + times(plain, "\nPASS") +
                                                times(plain, "\nERROR") + times(plain, "\nNOT_RUN")));
}

// The sign of a NaN differs between machines, and so would the text.
Test(writer_text, a_nan_of_either_sign_reads_nan)
{
    const double nan = copysign((double)NAN, -1.0);
    struct compared_layer layer = {.layer = 2, .rows = 4, .changed = 1, .largest_margin = nan, .largest_depth = nan,
        .sigma = nan, .weight_error = nan};
    struct compared_snapshot snapshot = {.case_index = 0, .position = 4, .kind = STATE_CONV, .has_expected = true,
        .candidate = {.error = nan}, .expected = {.error = nan}};
    s.comparison.layers = &layer;
    s.comparison.n_layers = 1;
    s.comparison.routing_known = true;
    s.comparison.snapshots = &snapshot;
    s.comparison.n_snapshots = 1;
    s.positions[1].metric.gap = s.positions[1].metric.kl = nan;
    s.checks[2].verdict = VERDICT_FAIL;
    for (size_t i = 0; i < s.comparison.n_states; i++)
        s.comparison.states[i].candidate.error = s.comparison.states[i].expected.error = nan;
    s.report.bound = s.report.design_effect = s.report.expected_flips_sd = nan;
    s.report.expected_flips = 1.0;
    s.report.worst_gap = s.report.worst_margin = s.report.worst_probability_margin = nan;
    const char *text = written(&writer_text);
    cr_expect_not(strstr(text, "nan"), "%s", text);
    static const char *const pieces[] = {"gap NaN nat, KL NaN", "error NaN", "expected NaN", "at least NaN", "1.0 +- NaN",
        "worst disagreement: gap NaN nat", "largest margin NaN (NaN deviations)", "noise of a logit NaN", "NaN after 4"};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        cr_expect(strstr(text, pieces[i]), "no '%s' in\n%s", pieces[i], text);
}
