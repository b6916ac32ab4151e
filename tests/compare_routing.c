// What comparison and gate find of changed expert sets, which flips they answer for, and what may not pass.
#include "tests/routed_traces.h"

TestSuite(compare_routing, .init = setup, .fini = teardown);

static void expect_distance(const struct variant *candidate, enum verdict verdict, const char *piece)
{
    expect(candidate, CHECK_DISTANCE, ENGINE_OWN, verdict, piece);
}

// --- what is measured

Test(compare_routing, control_equal_routers_differ_in_nothing)
{
    struct comparison *c = compared(&plain);
    cr_assert(c->routing_known && c->n_layers == 2 && c->layers[0].layer == 1 && c->layers[1].layer == 2);
    cr_assert_eq(c->routing_declared, 2 * (N + SEEDED));
    cr_assert_eq(c->routing_compared, c->routing_declared);
    cr_assert_eq(c->n_routes, 0);
    for (size_t i = 0; i < 2; i++) {
        const struct compared_layer *layer = &c->layers[i];
        cr_assert(layer->rows == N + SEEDED && !layer->unsound && !layer->changed && !layer->misrouted);
        cr_assert(layer->sigma == 0.0 && layer->weight_error == 0.0 && layer->largest_depth == 0.0);
        cr_assert_eq(layer->expected_rows, N + SEEDED);
        cr_assert_float_eq(layer->expected_sigma, 1.4826 * 0.02, 1e-6);
    }
    compare_close(&c);
    expect_distance(&plain, VERDICT_PASS, "");
    expect_distance(&noisy, VERDICT_PASS, "");
}

Test(compare_routing, a_changed_set_has_its_place_and_the_margin_of_the_biased_scores)
{
    struct variant variant = plain;
    variant.changes[0] = (struct change){.layer = 1, .row = 5, .add = {-0.05f, 0.1f, 0.05f, -0.05f}};
    variant.changes[1] = (struct change){.layer = 2, .row = 7, .add = {0.8f}, .weight_add = 0.25f};
    struct comparison *c = compared(&variant);
    const double a = 1.0 / (1.0 + exp(-0.5)), b = 1.0 / (1.0 + exp(-1.0));
    cr_assert_eq(c->n_routes, 2);
    cr_assert(c->routes[0].position == 5 && c->routes[0].layer == 1 && !c->routes[0].seeded);
    cr_assert_float_eq(c->routes[0].margin, a + 0.125 - b, 1e-12);
    // noise 1.4826 x 0.05 of a logit over the slopes a (1 - a) and b (1 - b): well under one deviation
    const double deviation = 1.4826 * 0.05 * hypot(a * (1 - a), b * (1 - b));
    cr_assert_float_eq(c->routes[0].depth, (a + 0.125 - b) / deviation, 1e-5);
    cr_assert(c->routes[0].tie && c->layers[0].ties == 1);
    cr_assert(c->routes[1].position == 7 && c->routes[1].layer == 2);
    cr_assert_float_eq(c->routes[1].margin, a - 0.5, 1e-12); // without a bias
    cr_assert(isinf(c->routes[1].depth) && !c->routes[1].tie && c->layers[1].ties == 0); // one logit is no noise
    // experts 1 and 3 by 0.5 each, now 1 and 0 by 0.75 and 0.5
    cr_assert_float_eq(c->routes[1].weight_error, 0.25 + 2 * 0.5, 1e-6);
    cr_assert_float_eq(c->layers[1].weight_error, (0.25 + 2 * 0.5) / (N + SEEDED), 1e-6);
    compare_close(&c);
}

Test(compare_routing, a_seeded_decode_has_changes_of_its_own)
{
    struct variant variant = plain;
    variant.changes[0] = (struct change){.layer = 2, .row = N - 1, .add = {0.8f}};
    struct comparison *c = compared(&variant);
    cr_assert_eq(c->n_routes, 2); // both runs have that position
    cr_assert(!c->routes[0].seeded && c->routes[1].seeded && c->routes[1].position == N - 1);
    compare_close(&c);
}

// --- what the gate says

Test(compare_routing, a_change_within_noise_passes_and_one_further_out_fails)
{
    struct variant variant = noisy;
    variant.changes[0] = (struct change){.layer = 1, .row = 4, .add = {0.0f, 0.1f}};
    expect_distance(&variant, VERDICT_PASS, "");
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .add = {0.8f}}; // 0.1225 is 8 deviations
    expect_distance(&variant, VERDICT_FAIL, "layer 2 at one:4 chose other experts over a margin of 0.122");
}

Test(compare_routing, more_noise_than_expected_fails)
{
    struct variant variant = noisy;
    for (uint32_t i = 0; i < CHANGES; i++) // 8 times the noise at 4 of 16 rows: 4.1 times in the mean of squares
        variant.changes[i] = (struct change){.layer = 2, .row = 2 * i, .add = {-0.14f, -0.14f, 0.14f, 0.14f}};
    policy->limit[LIMIT_CAP_ROUTER] = 1.0;
    expect_distance(&variant, VERDICT_FAIL, "router noise / expected 4.09");
    policy->limit[LIMIT_RATIO_ROUTER] = 4.2;
    expect_distance(&variant, VERDICT_PASS, "");
}

Test(compare_routing, experts_that_the_own_logits_reject_fail)
{
    struct variant variant = noisy;
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .experts = {1, 2}};
    expect_distance(&variant, VERDICT_FAIL, "own logits do not select 1");
    variant.changes[0].experts[1] = 3; // those it would choose by itself
    expect_distance(&variant, VERDICT_PASS, "");
}

Test(compare_routing, what_is_no_number_never_passes)
{
    const struct change broken[] = {
        {.layer = 1, .row = 3, .add = {0.0f, NAN}}, {.layer = 2, .row = 0, .add = {INFINITY}},
        {.layer = 2, .row = N - 1, .add = {0.0f, 0.0f, -INFINITY}}, {.layer = 1, .row = 3, .weight_add = NAN},
        {.layer = 1, .row = 3, .experts = {0, E}}, {.layer = 1, .row = 3, .experts = {-1, 3}}};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        for (int kind = 0; kind < ENGINE_KINDS; kind++) {
            struct variant variant = noisy;
            variant.changes[0] = broken[i];
            expect(&variant, CHECK_DISTANCE, (enum engine_kind)kind, VERDICT_FAIL, "no set of experts, first in");
        }
    struct variant reference = plain;
    reference.changes[0] = broken[0];
    write_arm("reference", &reference);
    expect_distance(&noisy, VERDICT_FAIL, "no set of experts, first in layer 1");
}

Test(compare_routing, a_candidate_without_router_taps_is_not_run_if_own_and_a_warning_if_foreign)
{
    struct variant variant = noisy;
    variant.without_taps = true;
    expect_distance(&variant, VERDICT_NOT_RUN, "compared 0 of 32 rows; record traces with --taps router");
    expect(&variant, CHECK_DISTANCE, ENGINE_EXEC, VERDICT_WARN, "compared 0 of 32 rows");
    expect(&variant, CHECK_DISTANCE, ENGINE_TRACE, VERDICT_WARN, "compared 0 of 32 rows");
    variant.without_taps = false;
    variant.without_first = true; // half of them
    expect_distance(&variant, VERDICT_NOT_RUN, "compared 16 of 32 rows");
    expect(&variant, CHECK_DISTANCE, ENGINE_EXEC, VERDICT_WARN, "compared 16 of 32 rows");
    variant.changes[0] = (struct change){.layer = 2, .row = 4, .experts = {1, 2}}; // what is there is judged
    expect(&variant, CHECK_DISTANCE, ENGINE_EXEC, VERDICT_FAIL, "own logits do not select 1");
    variant = noisy;
    expect(&variant, CHECK_DISTANCE, ENGINE_EXEC, VERDICT_PASS, "");
}

Test(compare_routing, a_trace_of_another_number_of_experts_is_refused)
{
    struct error error = {0};
    struct comparison *c;
    write_arm("candidate", &plain);
    model.config.experts = E + 1;
    model.config.expert_bias = false;
    layers[1].expert_bias.format = layers[2].expert_bias.format = WEIGHT_NONE;
    cr_assert_eq(compare(&c, &error), ERROR_CONTRACT);
    cr_assert(strstr(error.text, "layer 1 chooses 2 of 4 experts"), "%s", error.text);
}

// --- flips

static const struct compared_position *at(const struct comparison *c, uint32_t position, bool seeded)
{
    for (size_t i = 0; i < c->n_positions; i++)
        if (c->positions[i].position == position && c->positions[i].seeded == seeded)
            return &c->positions[i];
    cr_assert_fail("no position %u", position);
    return NULL;
}

Test(compare_routing, a_flip_is_laid_to_the_first_layer_of_the_latest_change_before_it)
{
    struct variant variant = noisy;
    variant.changes[0] = (struct change){.layer = 2, .row = 3, .add = {0.8f}};
    variant.changes[1] = (struct change){.layer = 1, .row = 5, .add = {0.0f, 0.1f}};
    variant.changes[2] = (struct change){.layer = 2, .row = 5, .add = {0.8f}};
    const struct { uint32_t flip; int64_t position, layer; } rows[] = {
        {2, -1, -1}, {3, 3, 2}, {4, 3, 2}, {5, 5, 1}, {7, 5, 1}, {11, 5, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        variant.flips[0] = rows[i].flip;
        struct comparison *c = compared(&variant);
        const struct compared_position *p = at(c, rows[i].flip, false);
        cr_assert_eq(p->agreement, REAL_FLIP);
        cr_assert_eq(p->route_position, rows[i].position, "flip at %u", rows[i].flip);
        cr_assert_eq(p->route_layer, rows[i].layer, "flip at %u", rows[i].flip);
        cr_assert_eq(at(c, 6, false)->route_position, -1); // agrees
        compare_close(&c);
    }
    // the seeded decode begins at 8 from the reference's state: nothing before it came along
    struct comparison *c = compared(&variant);
    cr_assert_eq(at(c, 11, true)->agreement, REAL_FLIP);
    cr_assert_eq(at(c, 11, true)->route_position, -1);
    compare_close(&c);
}

Test(compare_routing, a_flip_at_a_changed_set_is_in_the_budget_and_one_elsewhere_is_not)
{
    struct variant variant = noisy;
    policy->limit[LIMIT_SHAPE_SD] = INFINITY; // so few rows explain no flip; the budget is what is asked here
    policy->limit[LIMIT_INTRODUCED] = 1;
    policy->limit[LIMIT_INTRODUCED_PER_2048] = 0;
    variant.changes[0] = (struct change){.layer = 1, .row = 5, .add = {0.0f, 0.1f}};
    variant.flips[0] = 5;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_PASS, "");
    variant.flips[0] = 6; // its state may carry the change on; that is said, and not forgiven
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_FAIL, "unexplained real flips 1");
    variant.flips[0] = 4;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_FAIL, "unexplained real flips 1");
    policy->limit[LIMIT_INTRODUCED] = 0;
    variant.flips[0] = 6;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_FAIL, "layer 1 had chosen other experts at position 5");
}

Test(compare_routing, the_budget_grows_with_the_rows_compared)
{
    struct variant variant = noisy;
    policy->limit[LIMIT_SHAPE_SD] = INFINITY;
    policy->limit[LIMIT_INTRODUCED] = 1;
    policy->limit[LIMIT_INTRODUCED_PER_2048] = 2.01 * 2048.0 / N; // 2 in the rows of this case
    variant.changes[0] = (struct change){.layer = 1, .row = 5, .add = {0.0f, 0.1f}};
    variant.changes[1] = (struct change){.layer = 1, .row = 7, .add = {0.0f, 0.1f}};
    variant.flips[0] = 5;
    variant.flips[1] = 7;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_PASS, "10/12 + 2 introduced flips");
    policy->limit[LIMIT_INTRODUCED_PER_2048] = 1.99 * 2048.0 / N;
    expect(&variant, CHECK_FLIPS, ENGINE_OWN, VERDICT_FAIL, "introduced real flips 2, limit 1.99");
}
