// LFM2 against the golden traces of Hugging Face transformers (tests/parity.h). Measured worst, in units of its noise:
// logits 1.6 (odd-head-only), taps 2.3 (attn of odd-one-attention), states 1.1 (odd-one-attention).
#include "tests/parity.h"

Test(reference_parity, logits_taps_and_states_of_lfm2_mini_are_those_of_transformers)
{
    parity_check("lfm2-mini", "chat", PARITY_TAPS);
    parity_check("lfm2-mini", "code", PARITY_TAPS);
    parity_check("lfm2-mini", "high-ids", PARITY_TAPS);
    parity_check("lfm2-mini", "scripture", PARITY_TAPS);
}

Test(reference_parity, logits_of_long_texts_are_those_of_transformers)
{
    parity_check("lfm2-mini", "dialogue-64", PARITY_LOGITS);
    parity_check("lfm2-mini", "narrative-201", PARITY_LOGITS);
}

Test(reference_parity, models_of_odd_shapes_agree_with_transformers)
{
    for (size_t i = 0; i < N_ODD; i++)
        parity_check(ODD[i], "random", PARITY_TAPS);
}

Test(reference_parity, the_reference_is_as_near_to_double_as_transformers_is)
{
    parity_check_double("lfm2-mini", "chat", "chat-9.float64");
}

// --- wrong on purpose: each must be further away than the limit

static bool is_caught(const struct model *model)
{
    return parity_catches(model, "lfm2-mini", "chat");
}

Test(reference_parity, a_wrong_model_does_not_agree)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    struct model model = fixture_mutable(&fixture);
    cr_expect(!is_caught(&model), "control: the unchanged copy must agree");

    model.config.norm_eps *= 1.01f;
    cr_expect(is_caught(&model), "an eps one percent too large");
    model.config = fixture.config;

    model.config.rope_theta *= 1.0001;
    cr_expect(is_caught(&model), "theta 1e-4 too large");
    model.config = fixture.config;

    struct layer *conv = &model.layers[0], *attention = &model.layers[2];
    cr_assert(conv->mixer == MIXER_CONV && attention->mixer == MIXER_ATTENTION);
    const struct weight gate = conv->w1;
    conv->w1 = conv->w3;
    conv->w3 = gate;
    cr_expect(is_caught(&model), "gate and up swapped");
    conv->w3 = conv->w1;
    conv->w1 = gate;

    const struct weight q_norm = attention->q_norm;
    attention->q_norm = attention->k_norm;
    cr_expect(is_caught(&model), "the norm of k used for q");
    attention->q_norm = q_norm;

    conv->w2 = parity_copy(&fixture, &conv->w2);
    cr_assert_eq(conv->w2.format, WEIGHT_BF16);
    ((uint16_t *)(uintptr_t)conv->w2.data)[777] ^= 1;
    cr_expect(is_caught(&model), "one bf16 weight of 3.9 million, one unit in the last place off");

    fixture_close(&fixture);
}
