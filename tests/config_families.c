// config.json of LFM2-MoE, Qwen3.5 and Qwen3.5-MoE: defaults and precedences of transformers 5.23.0, nested and flat,
// and each wrong field. What they share with LFM2 is tested in config.c.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tests/config_text.h"

TestSuite(config_families, .fini = close_arena);

// --- LFM2-MoE

// Three layers; `more` ends with a comma when it is not empty.
static const char *moe(const char *more)
{
    return arena_print(&arena,
                       "{%s\"model_type\":\"lfm2_moe\",\"num_hidden_layers\":3,"
                       "\"layer_types\":[\"conv\",\"full_attention\",\"conv\"]}",
                       more);
}

Test(config_families, absent_fields_of_lfm2_moe_have_the_defaults_of_transformers)
{
    const struct config config = accept(moe(""));
    cr_assert_eq(config.family, FAMILY_LFM2_MOE);
    cr_assert(config.hidden == 2048 && config.query_heads == 32 && config.key_heads == 8);
    cr_assert(config.head_width == 64 && config.rotary_width == 64);
    cr_assert(config.feed_forward == 7168 && config.dense_layers == 2 && config.experts == 32);
    cr_assert(config.experts_per_token == 4 && config.expert_width == 1792 && config.shared_width == 0);
    cr_assert(config.expert_bias && config.expert_normalise && config.expert_scale == 1);
    cr_assert(config.rope_theta == 1e6 && config.norm_eps == 1e-5F && config.tied);
    cr_assert(config.bos == 1 && config.n_eos == 1 && config.eos[0] == 2);
    cr_assert(!config_is_sparse(&config, 1) && config_is_sparse(&config, 2));
}

Test(config_families, the_dense_width_of_lfm2_moe_is_never_adjusted)
{
    const struct config config =
        accept(moe("\"intermediate_size\":700,\"block_auto_adjust_ff_dim\":true,\"block_ff_dim\":900,"));
    cr_assert_eq(config.feed_forward, 700);
}

Test(config_families, experts_are_read_in_full)
{
    const struct config config = accept(
        moe("\"num_dense_layers\":0,\"num_experts\":6,\"num_experts_per_tok\":6,\"moe_intermediate_size\":40,"
            "\"use_expert_bias\":false,\"norm_topk_prob\":false,\"routed_scaling_factor\":2.5,"
            "\"rope_parameters\":{\"rope_theta\":5e6,\"partial_rotary_factor\":0.5},"));
    cr_assert(config.dense_layers == 0 && config.experts == 6 && config.experts_per_token == 6);
    cr_assert(config.expert_width == 40 && !config.expert_bias && !config.expert_normalise);
    cr_assert_eq(config.expert_scale, 2.5F);
    cr_assert_eq(config.rope_theta, 5e6);
    cr_assert_eq(config.rotary_width, config.head_width); // no partial rotation in this family, whatever is written
    cr_assert(config_is_sparse(&config, 0));
}

Test(config_families, more_dense_layers_than_layers_leave_no_experts)
{
    const struct config config = accept(moe("\"num_dense_layers\":9,"));
    cr_assert_eq(config.dense_layers, 3);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_not(config_is_sparse(&config, i));
}

Test(config_families, wrong_fields_of_lfm2_moe_are_refused_by_name)
{
    refuse("{\"model_type\":\"lfm2_moe\"}", "layer_types");
    refuse("{\"model_type\":\"lfm2_moe\",\"full_attn_idxs\":[1]}", "layer_types"); // serves LFM2 alone
    refuse(moe("\"num_experts_per_tok\":33,"), "num_experts_per_tok 33 of num_experts 32");
    refuse(moe("\"num_experts\":0,"), "num_experts");
    refuse(moe("\"num_experts\":4097,"), "num_experts");
    refuse(moe("\"num_experts_per_tok\":0,"), "num_experts_per_tok");
    refuse(moe("\"moe_intermediate_size\":0,"), "moe_intermediate_size");
    refuse(moe("\"num_dense_layers\":-1,"), "num_dense_layers");
    refuse(moe("\"routed_scaling_factor\":-1,"), "routed_scaling_factor");
    refuse(moe("\"routed_scaling_factor\":1e39,"), "routed_scaling_factor");
    refuse(moe("\"use_expert_bias\":1,"), "use_expert_bias");
    refuse(moe("\"norm_topk_prob\":\"yes\","), "norm_topk_prob");
}

// --- Qwen3.5

static const char *flat(const char *more)
{
    return arena_print(&arena, "{%s\"model_type\":\"qwen3_5_text\"}", more);
}

static const char *nested(const char *more, const char *top)
{
    return arena_print(&arena, "{%s\"model_type\":\"qwen3_5\",\"text_config\":{%s\"model_type\":\"qwen3_5_text\"}}", top,
                       more);
}

Test(config_families, absent_fields_of_qwen35_have_the_defaults_of_transformers)
{
    const struct config config = accept(flat(""));
    cr_assert(config.family == FAMILY_QWEN35 && !config.nested);
    cr_assert(config.vocabulary == 248320 && config.hidden == 4096 && config.layers == 32);
    cr_assert(config.query_heads == 16 && config.key_heads == 4 && config.head_width == 256);
    cr_assert(config.rotary_width == 64 && config.rope_theta == 10000 && config.max_positions == 32768);
    cr_assert(config.delta_key_heads == 16 && config.delta_value_heads == 32);
    cr_assert(config.delta_key_width == 128 && config.delta_value_width == 128 && config.conv_taps == 4);
    cr_assert(config.feed_forward == 12288 && config.norm_eps == 1e-6F && !config.tied && !config.attention_bias);
    cr_assert(config.bos == -1 && config.n_eos == 0 && config.experts == 0);
    cr_assert_eq(config_delta_channels(&config), 2 * 16 * 128 + 32 * 128);
    for (uint32_t i = 0; i < 32; i++) {
        cr_assert_eq(config.mixers[i], i % 4 == 3 ? MIXER_ATTENTION : MIXER_DELTA);
        cr_assert_not(config_is_sparse(&config, i));
    }
}

Test(config_families, text_config_alone_counts_where_there_is_one)
{
    const struct config config = accept(nested("\"hidden_size\":64,\"tie_word_embeddings\":false,",
                                               "\"hidden_size\":96,\"tie_word_embeddings\":true,"
                                               "\"vision_config\":{\"depth\":\"any\"},"));
    cr_assert(config.nested && config.hidden == 64 && !config.tied);
    cr_assert_str_eq(config.model_type, "qwen3_5");
    cr_assert(accept(nested("\"tie_word_embeddings\":true,", "")).tied);
    refuse("{\"model_type\":\"qwen3_5\"}", "text_config");
    refuse("{\"model_type\":\"qwen3_5\",\"text_config\":[]}", "text_config");
    refuse("{\"model_type\":\"qwen3_5_moe\",\"hidden_size\":64}", "text_config");
}

Test(config_families, layers_of_qwen35_are_listed_or_periodic)
{
    struct config config = accept(flat("\"num_hidden_layers\":4,\"full_attention_interval\":2,"));
    for (uint32_t i = 0; i < 4; i++)
        cr_assert_eq(config.mixers[i], i % 2 ? MIXER_ATTENTION : MIXER_DELTA);
    config = accept(flat("\"num_hidden_layers\":2,\"full_attention_interval\":2,"
                         "\"layer_types\":[\"full_attention\",\"linear_attention\"],"));
    cr_assert(config.mixers[0] == MIXER_ATTENTION && config.mixers[1] == MIXER_DELTA);
    config = accept(flat("\"num_hidden_layers\":3,\"full_attention_interval\":1,"));
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(config.mixers[i], MIXER_ATTENTION);
    refuse(flat("\"num_hidden_layers\":2,\"layer_types\":[\"conv\",\"full_attention\"],"), "found 'conv'");
    refuse(flat("\"num_hidden_layers\":2,\"layer_types\":[\"full_attention\"],"), "layer_types");
    refuse(flat("\"full_attention_interval\":0,"), "full_attention_interval");
}

Test(config_families, the_rotary_width_is_taken_where_transformers_takes_it)
{
    static const struct {
        const char *more;
        uint32_t width;
        double theta;
    } rows[] = {
        {"\"head_dim\":64,", 16, 10000},
        {"\"head_dim\":64,\"partial_rotary_factor\":0.5,", 32, 10000},
        {"\"head_dim\":64,\"rope_parameters\":{\"partial_rotary_factor\":1.0,\"rope_theta\":1e7},", 64, 1e7},
        {"\"head_dim\":64,\"partial_rotary_factor\":0.5,\"rope_theta\":5,\"rope_parameters\":{\"rope_theta\":1e7},", 32,
         1e7},
        {"\"head_dim\":64,\"rope_scaling\":{\"partial_rotary_factor\":0.125},\"rope_parameters\":{\"rope_theta\":1e7},",
         8, 10000}, // the whole dict
        {"\"head_dim\":9,\"partial_rotary_factor\":0.25,", 2, 10000}, // the whole part of 2.25
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct config config = accept(flat(rows[i].more));
        cr_expect_eq(config.rotary_width, rows[i].width, "%s: %u", rows[i].more, config.rotary_width);
        cr_expect_eq(config.rope_theta, rows[i].theta, "%s", rows[i].more);
    }
    refuse(flat("\"head_dim\":12,"), "odd");                                        // 3 of 12
    refuse(flat("\"head_dim\":64,\"partial_rotary_factor\":0,"), "partial_rotary_factor");
    refuse(flat("\"head_dim\":64,\"partial_rotary_factor\":1.5,"), "partial_rotary_factor");
    refuse(flat("\"head_dim\":64,\"partial_rotary_factor\":-0.5,"), "partial_rotary_factor");
    refuse(flat("\"rope_parameters\":{\"rope_type\":\"yarn\"},"), "yarn");
}

Test(config_families, what_transformers_does_not_read_changes_nothing)
{
    const struct config config = accept(
        flat("\"attn_output_gate\":false,\"mamba_ssm_dtype\":\"int3\",\"mtp_num_hidden_layers\":7,"
             "\"mlp_only_layers\":[0,1],\"rope_parameters\":{\"mrope_section\":[11,11,10],\"mrope_interleaved\":true},"));
    cr_assert(config.layers == 32 && config.rope_theta == 10000);
}

Test(config_families, wrong_fields_of_qwen35_are_refused_by_name)
{
    refuse(flat("\"hidden_act\":\"gelu\","), "hidden_act");
    refuse(flat("\"linear_num_key_heads\":5,\"linear_num_value_heads\":12,"), "linear_num_value_heads 12");
    refuse(flat("\"num_attention_heads\":6,\"num_key_value_heads\":4,"), "num_key_value_heads 4");
    refuse(flat("\"linear_key_head_dim\":0,"), "linear_key_head_dim");
    refuse(flat("\"linear_value_head_dim\":1.5,"), "linear_value_head_dim");
    refuse(flat("\"linear_conv_kernel_dim\":17,"), "linear_conv_kernel_dim");
    refuse(flat("\"linear_num_value_heads\":16777216,\"linear_value_head_dim\":16,"), "value heads of width 16");
    refuse(flat("\"linear_key_head_dim\":65536,\"linear_value_head_dim\":65536,\"linear_num_key_heads\":1,"
                "\"linear_num_value_heads\":1,"),
           "state of a head");
    refuse(flat("\"head_dim\":null,"), "head_dim");
    refuse(flat("\"rms_norm_eps\":-1,"), "rms_norm_eps");
    refuse(flat("\"attention_bias\":0,"), "attention_bias");
}

Test(config_families, experts_of_qwen35_stand_in_every_layer)
{
    struct config config = accept("{\"model_type\":\"qwen3_5_moe_text\"}");
    cr_assert_eq(config.family, FAMILY_QWEN35_MOE);
    cr_assert(config.hidden == 2048 && config.layers == 40 && config.key_heads == 2);
    cr_assert(config.experts == 256 && config.experts_per_token == 8);
    cr_assert(config.expert_width == 512 && config.shared_width == 512 && config.feed_forward == 0);
    cr_assert(config.expert_normalise && !config.expert_bias && config.expert_scale == 1);
    cr_assert(config.dense_layers == 0 && config_is_sparse(&config, 0));
    config = accept("{\"model_type\":\"qwen3_5_moe_text\",\"norm_topk_prob\":false,\"mlp_only_layers\":[0]}");
    cr_assert(config.expert_normalise && config_is_sparse(&config, 0)); // neither key is read
    refuse("{\"model_type\":\"qwen3_5_moe_text\",\"num_experts\":4}", "num_experts_per_tok 8 of num_experts 4");
    refuse("{\"model_type\":\"qwen3_5_moe_text\",\"shared_expert_intermediate_size\":0}",
           "shared_expert_intermediate_size");
}
