#include <criterion/criterion.h>

#include <string.h>

#include "harness/run/state.h"

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

Test(state, holds_keys_and_values_of_attention_and_columns_of_convolution_by_layer)
{
    struct arena arena = {0};
    struct state state;
    cr_assert_eq(state_make(&arena, &config, 7, &state, NULL), 0);
    cr_assert_eq(state.position, 7);
    cr_assert_eq(state.n, 4);
    const struct {
        uint32_t layer, rank;
        enum state_kind kind;
        uint64_t shape[3];
    } expected[4] = {{0, 2, STATE_CONV, {6, 3}},
                     {1, 3, STATE_K, {2, 7, 5}},
                     {1, 3, STATE_V, {2, 7, 5}},
                     {2, 2, STATE_CONV, {6, 3}}};
    for (size_t i = 0; i < 4; i++) {
        const struct state_tensor *tensor = &state.tensors[i];
        cr_assert_eq(tensor->layer, expected[i].layer);
        cr_assert_eq(tensor->kind, expected[i].kind);
        cr_assert_eq(tensor->rank, expected[i].rank);
        uint64_t elements = 1;
        for (uint32_t r = 0; r < tensor->rank; r++) {
            cr_assert_eq(tensor->shape[r], expected[i].shape[r]);
            elements *= tensor->shape[r];
        }
        cr_assert_eq(tensor->elements, elements);
        for (uint64_t e = 0; e < elements; e++)
            cr_assert_eq(tensor->data[e], 0.0f);
    }
    arena_close(&arena);
}

Test(state, before_the_first_token_has_no_columns_of_keys_but_those_of_convolution)
{
    struct arena arena = {0};
    struct state state;
    cr_assert_eq(state_make(&arena, &config, 0, &state, NULL), 0);
    cr_assert_eq(state.tensors[1].elements, 0);
    cr_assert_eq(state.tensors[0].elements, 18);
    arena_close(&arena);
}

Test(state, that_no_memory_can_hold_is_an_error_and_no_crash)
{
    struct config huge = config;
    huge.key_heads = UINT32_MAX;
    huge.head_width = UINT32_MAX;
    struct arena arena = {0};
    struct state state;
    struct error error = {0};
    cr_assert_eq(state_make(&arena, &huge, UINT32_MAX, &state, &error), ERROR_RUNTIME);
    cr_assert(strstr(error.text, "4294967295 positions"), "%s", error.text);
    arena_close(&arena);
}

Test(state, names_are_those_of_the_oracles)
{
    char text[48];
    cr_assert_str_eq(state_name(2, STATE_K, text), "state.2.k");
    cr_assert_str_eq(state_name(10, STATE_V, text), "state.10.v");
    cr_assert_str_eq(state_name(4294967295u, STATE_CONV, text), "state.4294967295.conv");
}
