// writer_measures: what the reports say of routers and of states on the way, to the letter.
#include "tests/sample_report.h"

TestSuite(writer_measures, .init = make_sample, .fini = drop_sample);

static struct compared_layer layers[2];
static struct compared_route routes[2];
static struct compared_snapshot snapshots[12];

// Two layers with experts: one whose change no noise explains, one in which nothing is a number.
static void add_routers(void)
{
    layers[0] = (struct compared_layer){.layer = 2, .rows = 10, .changed = 2, .ties = 1, .misrouted = 1, .sigma = 0.5,
        .weight_error = 0.25, .largest_margin = 0.125, .largest_depth = INFINITY, .expected_rows = 9,
        .expected_sigma = 0.75, .expected_weight_error = NAN};
    layers[1] = (struct compared_layer){.layer = 3, .rows = 8, .unsound = 8, .sigma = NAN, .weight_error = -NAN};
    routes[0] = (struct compared_route){.case_index = 0, .position = 7, .layer = 2, .margin = 0.0625, .depth = 1.5,
        .weight_error = 2.0, .tie = true};
    routes[1] = (struct compared_route){.case_index = 1, .position = 9, .layer = 2, .seeded = true, .margin = 0.125,
        .depth = INFINITY, .weight_error = NAN};
    s.comparison.layers = layers;
    s.comparison.n_layers = 2;
    s.comparison.routes = routes;
    s.comparison.n_routes = 2;
    s.comparison.routing_known = true;
    s.comparison.routing_declared = 20;
    s.comparison.routing_compared = 18;
}

static void add_snapshot(uint32_t position, uint32_t layer, enum state_kind kind, double value)
{
    snapshots[s.comparison.n_snapshots++] = (struct compared_snapshot){.case_index = 1, .position = position,
        .layer = layer, .kind = kind, .candidate = {.error = value, .max_abs = 2 * value}};
    s.comparison.snapshots = snapshots;
}

// Three positions of the second case: a convolution state that is worst in the middle, of a healthy bundle, too; and
// one of a delta net that is lost there.
static void add_states(void)
{
    add_snapshot(4, 0, STATE_CONV, 0.25);
    add_snapshot(4, 1, STATE_DELTA, 0.25);
    add_snapshot(4, 2, STATE_CONV, 0.125); // not the worst of its position
    add_snapshot(8, 0, STATE_CONV, 0.5);
    add_snapshot(8, 1, STATE_DELTA, NAN);
    snapshots[4].candidate.candidate_class = ROW_NAN;
    add_snapshot(8, 2, STATE_CONV, 1.0);
    snapshots[5].has_expected = true;
    snapshots[5].expected.error = 0.125;
    add_snapshot(12, 0, STATE_CONV, 0.5);
    add_snapshot(12, 1, STATE_DELTA, INFINITY);
}

static void expect_piece(const char *text, const char *piece)
{
    cr_assert(strstr(text, piece), "expected\n%s\nfound\n%s", piece, text);
}

// --- report.json

Test(writer_measures, json_has_every_layer_and_every_change)
{
    add_routers();
    const char *text = written(&writer_json);
    expect_utf8(text);
    expect_piece(text,
        "  \"routing\": {\n"
        "    \"declared\": 20,\n"
        "    \"compared\": 18,\n"
        "    \"known\": true,\n"
        "    \"layers\": [\n"
        "      {\"layer\": 2, \"rows\": 10, \"unsound\": 0, \"changed\": 2, \"ties\": 1, \"misrouted\": 1, "
        "\"noise\": 0.5, \"noise_hex\": \"0x1p-1\", \"weight_error\": 0.25, \"weight_error_hex\": \"0x1p-2\", "
        "\"largest_margin\": 0.125, \"largest_margin_hex\": \"0x1p-3\", "
        "\"largest_depth\": null, \"largest_depth_hex\": \"inf\", "
        "\"expected\": {\"rows\": 9, \"noise\": 0.75, \"noise_hex\": \"0x1.8p-1\", "
        "\"weight_error\": null, \"weight_error_hex\": \"nan\"}},\n"
        "      {\"layer\": 3, \"rows\": 8, \"unsound\": 8, \"changed\": 0, \"ties\": 0, \"misrouted\": 0, "
        "\"noise\": null, \"noise_hex\": \"nan\", \"weight_error\": null, \"weight_error_hex\": \"nan\", "
        "\"largest_margin\": 0, \"largest_margin_hex\": \"0x0p+0\", "
        "\"largest_depth\": 0, \"largest_depth_hex\": \"0x0p+0\"}\n"
        "    ],\n"
        "    \"changed\": [\n"
        "      {\"case\": \"first\", \"position\": 7, \"seeded\": false, \"layer\": 2, "
        "\"margin\": 0.0625, \"margin_hex\": \"0x1p-4\", \"depth\": 1.5, \"depth_hex\": \"0x1.8p+0\", "
        "\"weight_error\": 2, \"weight_error_hex\": \"0x1p+1\", \"tie\": true},\n"
        "      {\"case\": \"second\", \"position\": 9, \"seeded\": true, \"layer\": 2, "
        "\"margin\": 0.125, \"margin_hex\": \"0x1p-3\", \"depth\": null, \"depth_hex\": \"inf\", "
        "\"weight_error\": null, \"weight_error_hex\": \"nan\", \"tie\": false}\n"
        "    ]\n"
        "  },\n");
}

Test(writer_measures, json_charts_every_state)
{
    add_states();
    const char *text = written(&writer_json);
    expect_utf8(text);
    expect_piece(text,
        "  \"state_chart\": [\n"
        "    {\"case\": \"second\", \"position\": 4, \"state\": \"state.0.conv\", \"error\": 0.25, "
        "\"error_hex\": \"0x1p-2\", \"max_abs\": 0.5, \"max_abs_hex\": \"0x1p-1\", \"class\": \"finite\"},\n"
        "    {\"case\": \"second\", \"position\": 4, \"state\": \"state.1.delta\", \"error\": 0.25, "
        "\"error_hex\": \"0x1p-2\", \"max_abs\": 0.5, \"max_abs_hex\": \"0x1p-1\", \"class\": \"finite\"},\n"
        "    {\"case\": \"second\", \"position\": 4, \"state\": \"state.2.conv\", \"error\": 0.125, "
        "\"error_hex\": \"0x1p-3\", \"max_abs\": 0.25, \"max_abs_hex\": \"0x1p-2\", \"class\": \"finite\"},\n"
        "    {\"case\": \"second\", \"position\": 8, \"state\": \"state.0.conv\", \"error\": 0.5, "
        "\"error_hex\": \"0x1p-1\", \"max_abs\": 1, \"max_abs_hex\": \"0x1p+0\", \"class\": \"finite\"},\n"
        "    {\"case\": \"second\", \"position\": 8, \"state\": \"state.1.delta\", \"error\": null, "
        "\"error_hex\": \"nan\", \"max_abs\": null, \"max_abs_hex\": \"nan\", \"class\": \"NaN\"},\n"
        "    {\"case\": \"second\", \"position\": 8, \"state\": \"state.2.conv\", \"error\": 1, "
        "\"error_hex\": \"0x1p+0\", \"max_abs\": 2, \"max_abs_hex\": \"0x1p+1\", \"class\": \"finite\", "
        "\"expected_error\": 0.125, \"expected_error_hex\": \"0x1p-3\"},\n"
        "    {\"case\": \"second\", \"position\": 12, \"state\": \"state.0.conv\", \"error\": 0.5, "
        "\"error_hex\": \"0x1p-1\", \"max_abs\": 1, \"max_abs_hex\": \"0x1p+0\", \"class\": \"finite\"},\n"
        "    {\"case\": \"second\", \"position\": 12, \"state\": \"state.1.delta\", \"error\": null, "
        "\"error_hex\": \"inf\", \"max_abs\": null, \"max_abs_hex\": \"inf\", \"class\": \"finite\"}\n"
        "  ],\n");
}

Test(writer_measures, json_without_routers_and_snapshots_says_so)
{
    const char *text = written(&writer_json);
    expect_piece(text, "  \"routing\": null,\n  \"state_chart\": [],\n");
    add_routers(); // the control
    cr_assert_not(strstr(written(&writer_json), "\"routing\": null"));
}

// --- report.txt

Test(writer_measures, text_names_the_layers_that_changed)
{
    add_routers();
    const char *text = written(&writer_text);
    expect_utf8(text);
    expect_piece(text,
        "  routers: 2 of 18 choices are other experts than the reference's, 1 of them within selection noise\n"
        "    layer 2: 2 changed, 1 ties, largest margin 0.125 (inf deviations); noise of a logit 0.5, error\n"
        "      of the weights 0.25\n");
    cr_assert_not(strstr(text, "layer 3:")); // changed nothing
}

Test(writer_measures, text_of_two_bare_traces_claims_no_margins)
{
    add_routers();
    s.comparison.routing_known = false;
    expect_piece(written(&writer_text),
        "  routers: 2 of 18 choices are other experts than the reference's; two bare traces do not tell by\n"
        "  which scores they were chosen, --model CHECKPOINT does\n"
        "    layer 2: 2 changed; noise of a logit 0.5, error of the weights 0.25\n");
}

Test(writer_measures, text_draws_the_worst_layer_against_position)
{
    add_states();
    const char *text = written(&writer_text);
    expect_utf8(text);
    expect_piece(text,
        "  state error against position (relative L2 of the worst layer; keys and values: of the columns\n"
        "  since the snapshot before)\n"
        "  second\n"
        "    conv  \u2582\u2588\u2584 0.25 after 4, 0.5 after 12; worst 1 in layer 2 after 8, expected 0.125\n"
        "    delta \u2581!! 0.25 after 4, inf after 12; worst NaN in layer 1 after 8\n");
    cr_assert_not(strstr(text, "  first\n    "));
}

Test(writer_measures, a_chart_of_many_positions_shares_its_bars)
{
    enum { N = 65 }; // three to a bar: 22 bars
    struct compared_snapshot many[N];
    for (uint32_t i = 0; i < N; i++)
        many[i] = (struct compared_snapshot){.case_index = 0, .position = 10 * (i + 1), .kind = STATE_K,
            .candidate = {.error = i == 31 ? 1.0 : 0.0}};
    s.comparison.snapshots = many;
    s.comparison.n_snapshots = N;
    const char *text = written(&writer_text);
    cr_assert_eq(times(text, "\u2581"), 21, "%s", text);
    cr_assert_eq(times(text, "\u2588"), 1); // the worst of its three is kept
    expect_piece(text, " 0 after 30, 0 after 650; worst 1 in layer 0 after 320\n");
}

Test(writer_measures, text_without_routers_and_snapshots_leaves_them_out)
{
    const char *text = written(&writer_text);
    cr_assert_not(strstr(text, "routers:") || strstr(text, "state error against position"));
    add_routers(); // the control
    add_states();
    text = written(&writer_text);
    cr_assert(strstr(text, "routers:") && strstr(text, "state error against position"));
}

// --- positions.csv

Test(writer_measures, csv_says_which_layer_may_have_caused_a_flip)
{
    const char *text = written(&writer_positions);
    expect_piece(text, ",square_sum,square_sum_hex,overlap,route_layer,route_position\n");
    expect_piece(text,
        "\nfirst,3,0,sweep+flips,finite,finite,agree,\"\",0,0,5,6,5,0.100000001,0x1.99999ap-4,0,0x0p+0,0,0x0p+0,0,0x0p+0,"
        "1.5,0x1.8p+0,0,0x0p+0,0,0x0p+0,0,0x0p+0,0,0x0p+0,0,0x0p+0,10,\"\",\"\"\n");
    expect_piece(text, ",9,3,8\n"); // layer 3 at position 8
    expect_piece(text, "nan,nan,0,0x0p+0,0,0x0p+0,0,0x0p+0,0,\"\",\"\"\n"); // a row without a pick
    s.positions[1].route_layer = 0; // a layer, not none
    s.positions[1].route_position = 0;
    expect_piece(written(&writer_positions), ",9,0,0\n");
}
