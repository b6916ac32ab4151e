// config.json: every release in either spelling, every precedence that transformers 5.23.0 has, and each wrong field.
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/config_text.h"

TestSuite(config, .fini = close_arena);

// --- the releases of architecture.md 2.3

struct release {
    const char *name;
    uint32_t hidden, layers, query_heads, key_heads, width, adjusted_width; // width: as config.json states it
    bool adjust;
    const char *attention; // indices
    uint32_t vocabulary;
    double theta;
    uint32_t bos, eos;
    uint64_t parameters;
};

static const struct release releases[] = {
    {"LFM2-350M", 1024, 16, 16, 8, 6656, 4608, true, "2,5,8,10,12,14", 65536, 1e6, 1, 7, 354483968},
    {"LFM2-700M", 1536, 16, 24, 8, 10240, 6912, true, "2,5,8,10,12,14", 65536, 1e6, 1, 7, 742489344},
    {"LFM2-1.2B", 2048, 16, 32, 8, 12288, 8192, true, "2,5,8,10,12,14", 65536, 1e6, 1, 7, 1170340608},
    {"LFM2-2.6B", 2048, 30, 32, 8, 10752, 10752, false, "2,5,9,13,17,21,24,27", 65536, 1e6, 1, 7, 2569272320},
    {"LFM2.5-2.6B", 2048, 30, 32, 8, 10752, 10752, false, "2,5,9,13,17,21,24,27", 128000, 1e7, 124894, 124900,
     2697198592},
    {"LFM2.5-230M", 1024, 14, 16, 8, 2560, 2560, false, "2,4,6,8,10,12", 65536, 1e6, 1, 7, 229693184},
};

static bool is_listed(const char *list, uint32_t number)
{
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        unsigned value;
        if (sscanf(at, "%u", &value) == 1 && value == number)
            return true;
    }
    return false;
}

// As transformers 4 wrote it: block_ff_dim, full_attn_idxs, a top-level rope_theta, tie_embedding, and ignored keys.
static const char *old_spelling(const struct release *release)
{
    return arena_print(
        &arena,
        "{\"architectures\":[\"Lfm2ForCausalLM\"],\"model_type\":\"lfm2\",\"torch_dtype\":\"bfloat16\","
        "\"block_auto_adjust_ff_dim\":%s,\"block_dim\":%u,\"block_ff_dim\":%u,"
        "\"block_ffn_dim_multiplier\":1.0,\"block_multiple_of\":256,\"block_norm_eps\":1e-3,"
        "\"block_use_swiglu\":true,\"conv_L_cache\":3,\"conv_bias\":false,\"conv_dim\":%u,"
        "\"full_attn_idxs\":[%s],\"hidden_size\":%u,\"norm_eps\":1e-05,\"num_attention_heads\":%u,"
        "\"num_heads\":99,\"num_hidden_layers\":%u,\"num_key_value_heads\":%u,\"rope_theta\":%.1f,"
        "\"theta\":5.0,\"tie_embedding\":true,\"vocab_size\":%u,\"bos_token_id\":%u,"
        "\"eos_token_id\":%u,\"pad_token_id\":0,\"max_position_embeddings\":128000,\"use_cache\":true}",
        release->adjust ? "true" : "false", release->hidden, release->width, release->hidden, release->attention,
        release->hidden, release->query_heads, release->layers, release->key_heads, release->theta,
        release->vocabulary, release->bos, release->eos);
}

// As transformers 5 writes it: intermediate_size, layer_types, rope_parameters, tie_word_embeddings.
static const char *new_spelling(const struct release *release)
{
    const char *types = "";
    for (uint32_t i = 0; i < release->layers; i++)
        types = arena_print(&arena, "%s%s\"%s\"", types, i ? "," : "",
                            is_listed(release->attention, i) ? "full_attention" : "conv");
    return arena_print(&arena,
                       "{\"model_type\":\"lfm2\",\"dtype\":\"bfloat16\",\"intermediate_size\":%u,%s"
                       "\"layer_types\":[%s],\"hidden_size\":%u,\"num_attention_heads\":%u,\"head_dim\":64,"
                       "\"num_hidden_layers\":%u,\"num_key_value_heads\":%u,"
                       "\"rope_parameters\":{\"rope_theta\":%.1f,\"rope_type\":\"default\"},"
                       "\"tie_word_embeddings\":true,\"vocab_size\":%u,\"bos_token_id\":%u,\"eos_token_id\":[%u],"
                       "\"full_attn_idxs\":null,\"transformers_version\":\"5.0.0\"}",
                       release->width, release->adjust ? "" : "\"block_auto_adjust_ff_dim\":false,", types,
                       release->hidden, release->query_heads, release->layers, release->key_heads, release->theta,
                       release->vocabulary, release->bos, release->eos);
}

// P of architecture.md 2.3.
static uint64_t parameters(const struct config *config)
{
    const uint64_t d = config->hidden, dh = config->head_width;
    uint64_t total = config->vocabulary * d + d + config->layers * (3 * d * config->feed_forward + 2 * d);
    for (uint32_t i = 0; i < config->layers; i++)
        total += config->mixers[i] == MIXER_CONV
                     ? 4 * d * d + d * config->conv_taps
                     : 2 * d * config->query_heads * dh + 2 * d * config->key_heads * dh + 2 * dh;
    return total;
}

Test(config, every_release_has_its_published_size_in_either_spelling)
{
    for (size_t i = 0; i < sizeof releases / sizeof *releases; i++) {
        const struct release *release = &releases[i];
        for (int spelling = 0; spelling < 2; spelling++) {
            const struct config config = accept(spelling ? new_spelling(release) : old_spelling(release));
            cr_expect_eq(config.feed_forward, release->adjusted_width, "%s", release->name);
            cr_expect_eq(parameters(&config), release->parameters, "%s: %" PRIu64, release->name,
                         parameters(&config));
            cr_expect_eq(config.head_width, 64, "%s", release->name);
            cr_expect_eq(config.rope_theta, release->theta, "%s", release->name);
            cr_expect(config.tied && !config.conv_bias && config.conv_taps == 3, "%s", release->name);
            cr_expect_eq(config.norm_eps, 1e-5F, "%s", release->name);
            cr_expect_eq(config.max_positions, 128000, "%s", release->name);
            cr_expect(config.bos == release->bos && config.n_eos == 1 && config.eos[0] == release->eos);
            for (uint32_t j = 0; j < config.layers; j++)
                cr_expect_eq(config.mixers[j] == MIXER_ATTENTION, is_listed(release->attention, j), "%s, layer %u",
                             release->name, j);
        }
    }
}

Test(config, the_fixture_is_read_from_its_file)
{
    struct config config;
    struct error error = {0};
    cr_assert_eq(config_open(&arena, ASSAY_FIXTURES "/models/lfm2-mini/config.json", &config, &error), 0, "%s",
                 error.text);
    cr_assert_str_eq(config.model_type, "lfm2");
    cr_assert_eq(parameters(&config), 3889344); // README of fixtures
    cr_assert_eq(config.feed_forward, 448);     // trunc(2/3 x 640) = 426, up to a multiple of 64
    cr_assert_eq(config_open(&arena, ASSAY_FIXTURES "/models", &config, &error), ERROR_INPUT);
    cr_assert_eq(config_open(&arena, ASSAY_FIXTURES "/no-such-file", &config, NULL), ERROR_INPUT);
}

// --- defaults and precedences: all of them were tried on transformers 5.23.0's own class

// Two layers, d = 64, 4 heads over 2, F = 48; `more` ends with a comma when it is not empty. A key that `more`
// repeats would stand twice, so each part can be left out.
static const char *small_but(const char *more, bool layers, bool width)
{
    return arena_print(&arena,
                       "{%s%s%s\"model_type\":\"lfm2\",\"vocab_size\":80,\"hidden_size\":64,\"num_hidden_layers\":2,"
                       "\"num_attention_heads\":4,\"num_key_value_heads\":2}",
                       more, layers ? "\"layer_types\":[\"conv\",\"full_attention\"]," : "",
                       width ? "\"intermediate_size\":48,\"block_auto_adjust_ff_dim\":false," : "");
}

static const char *with(const char *more)
{
    return small_but(more, true, true);
}

Test(config, absent_fields_have_the_defaults_of_transformers)
{
    const struct config config = accept("{\"model_type\":\"lfm2\"}");
    cr_assert(config.vocabulary == 65536 && config.hidden == 2560 && config.layers == 32);
    cr_assert(config.query_heads == 32 && config.key_heads == 8 && config.head_width == 80);
    cr_assert_eq(config.feed_forward, 8192); // trunc(2/3 x 12288), a multiple of 256
    cr_assert(config.conv_taps == 3 && !config.conv_bias && config.tied);
    cr_assert(config.norm_eps == 1e-5F && config.rope_theta == 1e6 && config.max_positions == 128000);
    cr_assert(config.bos == 1 && config.n_eos == 1 && config.eos[0] == 2);
    for (uint32_t i = 0; i < 32; i++)
        cr_assert_eq(config.mixers[i], MIXER_ATTENTION);
}

Test(config, rope_theta_is_taken_where_transformers_takes_it)
{
    static const struct {
        const char *name, *more;
        double theta;
    } rows[] = {
        {"nowhere", "", 1e6},
        {"top level", "\"rope_theta\":5e6,", 5e6},
        {"an integer", "\"rope_theta\":10000,", 1e4},
        {"the alias is ignored", "\"theta\":123.0,", 1e6},
        {"nested", "\"rope_parameters\":{\"rope_theta\":7.0},", 7},
        {"nested beats top level", "\"rope_theta\":5.0,\"rope_parameters\":{\"rope_theta\":7.0},", 7},
        {"nested without theta: top level", "\"rope_theta\":5.0,\"rope_parameters\":{\"rope_type\":\"default\"},", 5},
        {"nested without theta: default", "\"rope_parameters\":{\"rope_type\":\"default\"},", 1e6},
        {"rope_scaling beats rope_parameters",
         "\"rope_scaling\":{\"rope_theta\":3.0,\"type\":\"default\"},\"rope_parameters\":{\"rope_theta\":7.0},", 3},
        {"rope_scaling as a whole: theta from the top level",
         "\"rope_scaling\":{\"rope_type\":\"default\"},\"rope_theta\":5.0,\"rope_parameters\":{\"rope_theta\":7.0},",
         5},
        {"rope_scaling null", "\"rope_scaling\":null,\"rope_parameters\":{\"rope_theta\":7.0},", 7},
        {"rope_scaling empty", "\"rope_scaling\":{},\"rope_parameters\":{\"rope_theta\":7.0},", 7},
        {"rope_parameters null", "\"rope_parameters\":null,\"rope_theta\":3.0,", 3},
        {"a factor that the default type does not read",
         "\"rope_parameters\":{\"rope_theta\":7.0,\"partial_rotary_factor\":0.5},", 7},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cr_expect_eq(accept(with(rows[i].more)).rope_theta, rows[i].theta, "%s", rows[i].name);
}

Test(config, layers_are_taken_where_transformers_takes_them)
{
    static const struct {
        const char *more;
        enum mixer mixers[2];
    } rows[] = {
        {"", {MIXER_ATTENTION, MIXER_ATTENTION}},
        {"\"full_attn_idxs\":[0],", {MIXER_ATTENTION, MIXER_CONV}},
        {"\"full_attn_idxs\":[],", {MIXER_CONV, MIXER_CONV}},
        {"\"full_attn_idxs\":[1,1,5],", {MIXER_CONV, MIXER_ATTENTION}},
        {"\"full_attn_idxs\":null,", {MIXER_ATTENTION, MIXER_ATTENTION}},
        {"\"layer_types\":[\"conv\",\"conv\"],", {MIXER_CONV, MIXER_CONV}},
        {"\"layer_types\":[\"conv\",\"full_attention\"],\"full_attn_idxs\":[0],", {MIXER_CONV, MIXER_ATTENTION}},
        {"\"layer_types\":null,\"full_attn_idxs\":[0],", {MIXER_ATTENTION, MIXER_CONV}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct config config = accept(small_but(rows[i].more, false, true));
        cr_expect(config.mixers[0] == rows[i].mixers[0] && config.mixers[1] == rows[i].mixers[1], "%s", rows[i].more);
    }
}

Test(config, a_layer_beyond_the_last_is_written_nowhere)
{
    // 16 layers fill a line of the arena, so what comes next in it is what a 17th would have overwritten
    accept("{\"model_type\":\"lfm2\",\"num_hidden_layers\":16,\"full_attn_idxs\":[16]}");
    const enum mixer *next = arena_alloc(&arena, 1, sizeof *next);
    cr_assert_eq(*next, MIXER_CONV);
}

Test(config, the_feed_forward_width_is_adjusted_as_transformers_does)
{
    static const struct {
        const char *more;
        uint32_t width;
    } rows[] = {
        {"\"intermediate_size\":96,\"block_auto_adjust_ff_dim\":false,", 96},
        {"\"intermediate_size\":96,\"block_ff_dim\":40,\"block_auto_adjust_ff_dim\":false,", 40},
        {"\"intermediate_size\":96,", 256},
        {"\"intermediate_size\":96,\"block_multiple_of\":1,", 64},
        {"\"block_ff_dim\":640,\"block_multiple_of\":64,", 448},
        {"\"block_ff_dim\":1000,\"block_multiple_of\":1,", 666},
        {"\"block_ff_dim\":48,\"block_ffn_dim_multiplier\":1.3,\"block_multiple_of\":7,", 42}, // trunc(1.3 x 32) = 41
        {"\"block_ff_dim\":48,\"block_ffn_dim_multiplier\":2,\"block_multiple_of\":1,", 64},
        {"\"block_ff_dim\":15,\"block_ffn_dim_multiplier\":1.1,\"block_multiple_of\":1,", 11}, // 11.000000000000002
        {"\"block_ff_dim\":87,\"block_ffn_dim_multiplier\":0.1,\"block_multiple_of\":1,", 5},  // 58 x 0.1
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cr_expect_eq(accept(small_but(rows[i].more, true, false)).feed_forward, rows[i].width, "%s", rows[i].more);
}

Test(config, heads_and_the_tie_are_read_in_every_spelling)
{
    cr_assert_eq(accept(with("")).head_width, 16);
    cr_assert_eq(accept(with("\"head_dim\":20,")).head_width, 20); // Hq dh = 80, d = 64
    cr_assert(accept(with("\"tie_word_embeddings\":true,")).tied);
    cr_assert_not(accept(with("\"tie_word_embeddings\":false,")).tied);
    cr_assert_not(accept(with("\"tie_embedding\":false,\"tie_word_embeddings\":true,")).tied);
    cr_assert(accept(with("\"tie_embedding\":true,\"tie_word_embeddings\":false,")).tied);
    cr_assert(accept(with("\"conv_bias\":true,\"conv_L_cache\":4,")).conv_bias);
}

Test(config, stop_tokens_are_a_number_a_list_or_none)
{
    struct config config = accept(with("\"eos_token_id\":[7,2],"));
    cr_assert(config.n_eos == 2 && config.eos[0] == 7 && config.eos[1] == 2);
    cr_assert_eq(accept(with("\"eos_token_id\":null,")).n_eos, 0);
    cr_assert_eq(accept(with("\"eos_token_id\":[],")).n_eos, 0);
    cr_assert_eq(accept(with("\"bos_token_id\":null,")).bos, -1);
    cr_assert_eq(accept(with("\"bos_token_id\":0,")).bos, 0);
}

// --- what is refused

Test(config, another_family_is_refused_by_name)
{
    refuse("{\"model_type\":\"lfm2_vl\"}", "model_type: found 'lfm2_vl', expected one of the supported families: lfm2,");
    refuse("{\"model_type\":\"LFM2\"}", "found 'LFM2'");
    refuse("{\"hidden_size\":64}", "model_type");
    refuse("{\"model_type\":null}", "model_type");
    refuse("[]", "an object");
}

Test(config, each_wrong_field_is_refused_by_name)
{
    static const char *const numbers[] = {"vocab_size",
                                          "hidden_size",
                                          "num_hidden_layers",
                                          "num_attention_heads",
                                          "num_key_value_heads",
                                          "conv_L_cache",
                                          "max_position_embeddings",
                                          "intermediate_size",
                                          "block_ff_dim",
                                          "block_multiple_of",
                                          "head_dim"};
    static const char *const wrong[] = {"null", "\"8\"", "8.5", "true", "-8", "0", "1e300", "[8]", "4294967304"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++)
            refuse(arena_print(&arena, "{\"model_type\":\"lfm2\",\"%s\":%s}", numbers[i], wrong[j]), numbers[i]);
    }
    static const struct {
        const char *more, *expected;
    } rows[] = {
        {"\"norm_eps\":null,", "norm_eps"},
        {"\"norm_eps\":\"1e-5\",", "norm_eps"},
        {"\"norm_eps\":-1e-5,", "norm_eps"},
        {"\"norm_eps\":1e39,", "norm_eps"}, // infinite as a float
        {"\"norm_eps\":1e999,", "norm_eps"},
        {"\"conv_bias\":1,", "conv_bias"},
        {"\"conv_bias\":null,", "conv_bias"},
        {"\"conv_L_cache\":17,", "conv_L_cache"},
        {"\"tie_embedding\":null,", "tie_embedding"},
        {"\"tie_word_embeddings\":\"true\",", "tie_word_embeddings"},
        {"\"block_ffn_dim_multiplier\":null,", "block_ffn_dim_multiplier"},
        {"\"block_ffn_dim_multiplier\":-1,", "block_ffn_dim_multiplier"},
        {"\"rope_theta\":null,", "rope_theta"},
        {"\"rope_theta\":0,", "rope_theta"},
        {"\"rope_theta\":-5.0,", "rope_theta"},
        {"\"rope_theta\":1e300,", "rope_theta"},
        {"\"rope_theta\":\"1e6\",", "rope_theta"},
        {"\"rope_theta\":5.0,\"rope_parameters\":{\"rope_theta\":null},", "rope_parameters.rope_theta"},
        {"\"rope_parameters\":[1e6],", "rope_parameters"},
        {"\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e4}},",
         "rope settings of their own for 'full_att"},
        {"\"rope_scaling\":\"linear\",", "rope_scaling"},
        {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2.0},", "rope_type 'yarn' changes the frequencies"},
        {"\"rope_parameters\":{\"type\":\"linear\",\"factor\":2.0},", "rope_type 'linear'"},
        {"\"rope_parameters\":{\"rope_type\":null},", "rope_parameters.rope_type"},
        {"\"head_dim\":7,", "head width 7 (head_dim) is odd"},
        {"\"head_dim\":8388608,", "heads of width 8388608; expected at most 16777216"},
        {"\"eos_token_id\":\"</s>\",", "eos_token_id"},
        {"\"eos_token_id\":[7,-1],", "eos_token_id[1]"},
        {"\"eos_token_id\":[1,2,3,4,5,6,7,8,9],", "9 stop tokens, expected at most 8"},
        {"\"bos_token_id\":1.5,", "bos_token_id"},
        {"\"bos_token_id\":[1],", "bos_token_id"},
        {"\"norm_eps\":1e-5,\"norm_eps\":1e-6,", "twice"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        refuse(with(rows[i].more), rows[i].expected);
}

Test(config, wrong_layers_and_widths_are_refused_by_name)
{
    static const struct {
        const char *more, *expected;
    } layers[] = {
        {"\"layer_types\":[\"conv\"],", "layer_types: 1 entries, expected num_hidden_layers = 2"},
        {"\"layer_types\":[\"conv\",\"conv\",\"conv\"],", "layer_types: 3 entries"},
        {"\"layer_types\":[\"conv\",\"sliding_attention\"],", "layer_types[1]: found 'sliding_attention'"},
        {"\"layer_types\":[\"conv\",1],", "layer_types[1]"},
        {"\"layer_types\":\"conv\",", "layer_types"},
        {"\"full_attn_idxs\":[-1],", "full_attn_idxs[0]"},
        {"\"full_attn_idxs\":[0.5],", "full_attn_idxs[0]"},
        {"\"full_attn_idxs\":1,", "full_attn_idxs"},
    };
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        refuse(small_but(layers[i].more, false, true), layers[i].expected);
    static const struct {
        const char *more, *expected;
    } widths[] = {
        {"\"block_auto_adjust_ff_dim\":null,", "block_auto_adjust_ff_dim"},
        {"\"block_auto_adjust_ff_dim\":\"no\",", "block_auto_adjust_ff_dim"},
        {"\"intermediate_size\":1,", "gives no feed-forward width"}, // trunc(2/3) = 0
        {"\"block_ffn_dim_multiplier\":0,", "gives no feed-forward width"},
        {"\"block_ffn_dim_multiplier\":1e9,", "gives no feed-forward width"},
        {"\"block_ffn_dim_multiplier\":3e38,", "gives no feed-forward width"},
        {"\"intermediate_size\":16777216,\"block_ffn_dim_multiplier\":2,", "gives no feed-forward width"},
    };
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        refuse(small_but(widths[i].more, true, false), widths[i].expected);
}

Test(config, heads_that_do_not_fit_are_refused)
{
    static const char shape[] = "{\"model_type\":\"lfm2\",\"hidden_size\":%d,\"num_attention_heads\":%d,"
                                "\"num_key_value_heads\":%d}";
    accept(arena_print(&arena, shape, 60, 6, 3)); // the control
    refuse(arena_print(&arena, shape, 60, 6, 4), "num_attention_heads 6 is no multiple of num_key_value_heads 4");
    refuse(arena_print(&arena, shape, 60, 8, 4), "hidden_size 60 is no multiple of num_attention_heads 8");
    refuse(arena_print(&arena, shape, 60, 4, 2), "head width 15 (hidden_size / num_attention_heads) is odd");
    refuse(arena_print(&arena, shape, 60, 2, 4), "is no multiple of num_key_value_heads 4");
}
