#include <criterion/criterion.h>

#include "harness/run/tap.h"

// Every dimension different, so that none can stand in for another.
static enum mixer mixers[3] = {MIXER_CONV, MIXER_ATTENTION, MIXER_CONV};
static const struct config config = {.vocabulary = 11,
                                     .hidden = 6,
                                     .layers = 3,
                                     .query_heads = 4,
                                     .key_heads = 2,
                                     .head_width = 5,
                                     .feed_forward = 9,
                                     .conv_taps = 4,
                                     .mixers = mixers};

Test(tap, widths_follow_the_mixer_and_the_level)
{
    const struct {
        enum tap_level level;
        uint32_t layer;
        enum tap_point point;
        uint32_t width;
    } expected[] = {{TAPS_NONE, 0, TAP_EMBED, 0},
                    {TAPS_NONE, 1, TAP_OUT, 0},
                    {TAPS_LAYERS, 0, TAP_EMBED, 6},
                    {TAPS_LAYERS, 1, TAP_EMBED, 0},
                    {TAPS_LAYERS, 2, TAP_MIXER, 6},
                    {TAPS_LAYERS, 0, TAP_FINAL_NORM, 6},
                    {TAPS_LAYERS, 2, TAP_FINAL_NORM, 0},
                    {TAPS_LAYERS, 1, TAP_Q, 0},
                    {TAPS_LAYERS, 0, TAP_BX, 0},
                    {TAPS_ALL, 1, TAP_Q, 20},
                    {TAPS_ALL, 1, TAP_ATTN, 20},
                    {TAPS_ALL, 1, TAP_K, 10},
                    {TAPS_ALL, 1, TAP_V, 10},
                    {TAPS_ALL, 1, TAP_BX, 0},
                    {TAPS_ALL, 0, TAP_BX, 6},
                    {TAPS_ALL, 2, TAP_CONV, 6},
                    {TAPS_ALL, 0, TAP_K, 0},
                    {TAPS_ALL, 1, TAP_FFN, 6}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        cr_expect_eq(tap_width(&config, expected[i].level, expected[i].layer, expected[i].point), expected[i].width,
                     "row %zu", i);
}

Test(tap, a_router_has_points_in_layers_with_experts_only)
{
    struct config sparse = config;
    sparse.experts = 8;
    sparse.experts_per_token = 2;
    sparse.dense_layers = 1;
    cr_expect_eq(tap_width(&sparse, TAPS_ROUTER, 0, TAP_ROUTER), 0);
    cr_expect_eq(tap_width(&sparse, TAPS_ROUTER, 1, TAP_ROUTER), 8);
    cr_expect_eq(tap_width(&sparse, TAPS_ROUTER, 2, TAP_WEIGHTS), 2);
    cr_expect_eq(tap_width(&sparse, TAPS_ROUTER, 2, TAP_OUT), 0);
    cr_expect_eq(tap_width(&sparse, TAPS_ROUTER, 0, TAP_EMBED), 0);
    cr_expect_eq(tap_width(&config, TAPS_ROUTER, 1, TAP_ROUTER), 0);
}

Test(tap, levels_have_names)
{
    enum tap_level level;
    for (enum tap_level i = TAPS_NONE; i < TAP_LEVELS; i++) {
        cr_assert(tap_level_parse(tap_level_name(i), &level));
        cr_assert_eq(level, i);
    }
    cr_assert_not(tap_level_parse("everything", &level));
}

Test(tap, names_are_those_of_the_oracles)
{
    static const char *const names[TAP_POINTS] = {
        "tap.embed",   "tap.3.in",    "tap.3.norm",     "tap.3.q",      "tap.3.k",       "tap.3.v",       "tap.3.beta",
        "tap.3.g",     "tap.3.core",  "tap.3.attn",     "tap.3.bx",     "tap.3.conv",    "tap.3.mixer",   "tap.3.resid",
        "tap.3.ffn_norm", "tap.3.router", "tap.3.experts", "tap.3.weights", "tap.3.ffn", "tap.3.out", "tap.final_norm"};
    char text[48];
    for (enum tap_point point = 0; point < TAP_POINTS; point++)
        cr_expect_str_eq(tap_name(3, point, text), names[point]);
}

static uint32_t seen;

static void count_point(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    (void)context, (void)layer, (void)row, (void)width;
    seen |= 1u << point;
}

Test(tap, sinks_see_the_points_of_their_level_only)
{
    const struct tap_sink sinks[] = {
        {TAPS_NONE, NULL, count_point}, {TAPS_ROUTER, NULL, count_point}, {TAPS_LAYERS, NULL, count_point},
        {TAPS_ALL, NULL, count_point}};
    const uint32_t all = (1u << TAP_POINTS) - 1;
    const uint32_t details = 1u << TAP_Q | 1u << TAP_K | 1u << TAP_V | 1u << TAP_BETA | 1u << TAP_G | 1u << TAP_CORE |
                             1u << TAP_ATTN | 1u << TAP_BX | 1u << TAP_CONV | 1u << TAP_ROUTER | 1u << TAP_EXPERTS |
                             1u << TAP_WEIGHTS;
    const uint32_t router = 1u << TAP_ROUTER | 1u << TAP_EXPERTS | 1u << TAP_WEIGHTS;
    const uint32_t expected[] = {0, router, all & ~details, all};
    for (size_t i = 0; i < 4; i++) {
        seen = 0;
        for (enum tap_point point = 0; point < TAP_POINTS; point++) {
            tap(&sinks[i], 0, point, NULL, 0);
            tap(NULL, 0, point, NULL, 0);
        }
        cr_expect_eq(seen, expected[i], "level %zu", i);
    }
}
