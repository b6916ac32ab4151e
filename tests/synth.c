#include "harness/model/synth.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/half.h"
#include "harness/base/hash.h"
#include "tests/small_model.h"

static char directory[] = "/tmp/assay-synth-XXXXXX";
static char path[64];

static void setup(void)
{
    setenv("ASSAY_NO_CACHE", "1", 1);
    cr_assert(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
}

static void teardown(void)
{
    unlink(path);
    rmdir(directory);
}

TestSuite(synth, .init = setup, .fini = teardown);

static void hash_of(enum dtype dtype, uint64_t seed, struct pool *pool, char hex[HASH_HEX])
{
    struct small_model model;
    struct error error = {0};
    small_config(&model);
    model.config.mixers = model.mixers;
    model.config.conv_bias = true;
    cr_assert_eq(synth_weights(&model.config, dtype, seed, pool, true, path, &error), 0, "%s", error.text);
    cr_assert_eq(hash_file(path, hex, &error), 0, "%s", error.text);
}

Test(synth, the_bytes_are_pinned_and_threads_do_not_change_them)
{
    static const struct {
        enum dtype dtype;
        const char *expected;
    } pinned[] = {
        {DTYPE_BF16, "289522cc9fd7278227f847f01d41a9e1e8e767f2e0943c9bb7a22e9230088087"},
        {DTYPE_F16, "1b9b090720d29f4990a879eadc0d12dabea72b2113ecd87b285a07c5801e2aa4"},
        {DTYPE_F32, "0a785040adf16bf5ba6b5177eb2db95db08f0846bfc7ec727bb89edca320864c"},
    };
    struct pool *pool;
    cr_assert_eq(pool_open(&pool, 3, NULL), 0);
    for (size_t i = 0; i < sizeof pinned / sizeof *pinned; i++) {
        char hex[HASH_HEX];
        hash_of(pinned[i].dtype, 5, NULL, hex);
        cr_expect_str_eq(hex, pinned[i].expected, "%s: %s", dtype_name(pinned[i].dtype), hex);
        hash_of(pinned[i].dtype, 5, pool, hex);
        cr_expect_str_eq(hex, pinned[i].expected);
        hash_of(pinned[i].dtype, 6, NULL, hex); // another seed is seen
        cr_expect_str_neq(hex, pinned[i].expected);
    }
    pool_close(&pool);
}

// The header's formula once more, one element at a time.
static uint64_t mix(uint64_t z)
{
    z ^= z >> 30;
    z *= 0xBF58476D1CE4E5B9u;
    z ^= z >> 27;
    z *= 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

Test(synth, any_element_can_be_made_alone)
{
    static const char name[] = "model.layers.7.feed_forward.w1.weight";
    const struct tensor_declaration tensor = {name, DTYPE_F32, 2, {8192, 2048}};
    const struct synth_stream stream = synth_stream(42, &tensor);
    const uint64_t gamma = 0x9E3779B97F4A7C15u;
    uint64_t name_hash = 0xCBF29CE484222325u;
    for (const char *at = name; *at; at++)
        name_hash = (name_hash ^ (unsigned char)*at) * 0x100000001B3u;
    const uint64_t key = mix(42 + gamma) ^ name_hash;
    float row[2048];
    synth_fill(&stream, 8191 * UINT64_C(2048), 2048, row);
    for (size_t k = 0; k < 2048; k++) {
        const uint64_t i = 8191 * UINT64_C(2048) + k;
        const float u = (float)((double)(mix(key + (i + 1) * gamma) >> 40) / 8388608.0 - 1);
        cr_assert_eq(float_to_bits(row[k]), float_to_bits(u * (float)sqrt(3.0 / 2048)), "element %zu", k);
    }
}

Test(synth, values_have_the_stated_spread)
{
    enum { N = 1 << 16 };
    static float values[N];
    const struct tensor_declaration matrix = {"model.layers.0.conv.in_proj.weight", DTYPE_F32, 2, {N / 64, 64}};
    const struct tensor_declaration norm = {"model.layers.0.self_attn.q_layernorm.weight", DTYPE_F32, 1, {N}};
    const struct {
        const struct tensor_declaration *tensor;
        double mean, variance;
    } rows[] = {{&matrix, 0, 1.0 / 64}, {&norm, 1.5, 0.25 / 3}};
    for (size_t r = 0; r < 2; r++) {
        const struct synth_stream stream = synth_stream(1, rows[r].tensor);
        double sum = 0, squares = 0;
        synth_fill(&stream, 0, N, values);
        for (size_t i = 0; i < N; i++)
            sum += values[i];
        for (size_t i = 0; i < N; i++)
            squares += (values[i] - sum / N) * (values[i] - sum / N);
        // five standard errors: sigma / 256 of a mean; a uniform's variance is known to 0.9 / sqrt N of itself
        cr_expect(fabs(sum / N - rows[r].mean) <= 5 * sqrt(rows[r].variance) / 256, "mean %g", sum / N);
        cr_expect(fabs(squares / N / rows[r].variance - 1) <= 5 * 0.9 / 256, "variance %g", squares / N);
    }
}

Test(synth, what_is_added_to_one_or_decays_has_a_centre_of_its_own)
{
    static const struct {
        const char *name;
        float centre, spread;
    } rows[] = {
        {"model.language_model.layers.0.input_layernorm.weight", 0, 0.5f},
        {"model.language_model.layers.0.post_attention_layernorm.weight", 0, 0.5f},
        {"model.language_model.layers.3.self_attn.q_norm.weight", 0.5f, 0.5f},
        {"model.language_model.norm.weight", 0, 0.5f},
        {"model.language_model.layers.0.linear_attn.norm.weight", 1, 0.5f},
        {"model.language_model.layers.0.linear_attn.A_log", 0.5f, 1.5f},
        {"model.language_model.layers.0.linear_attn.dt_bias", -4, 2},
        {"model.layers.2.feed_forward.expert_bias", 0, 0.1f},
        {"model.layers.2.conv.conv.bias", 0, 0.1f},
        {"model.layers.2.operator_norm.weight", 1, 0.5f},
        {"model.embedding_norm.weight", 1, 0.5f},
        {"model.layers.2.self_attn.k_layernorm.weight", 1.5f, 0.5f},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct tensor_declaration tensor = {.name = rows[i].name, .dtype = DTYPE_BF16, .rank = 1, .shape = {64}};
        const struct synth_stream stream = synth_stream(1, &tensor);
        cr_expect(stream.centre == rows[i].centre && stream.spread == rows[i].spread, "%s: %g, %g", rows[i].name,
                  (double)stream.centre, (double)stream.spread);
    }
}

Test(synth, narrow_dtypes_are_the_rounded_floats)
{
    enum { N = 4096 };
    static float exact[N];
    static uint16_t narrow[N];
    struct tensor_declaration tensor = {"lm_head.weight", DTYPE_F32, 2, {64, 64}};
    struct synth_stream stream = synth_stream(9, &tensor);
    synth_fill(&stream, 0, N, exact);
    stream.dtype = DTYPE_F16;
    synth_fill(&stream, 0, N, narrow);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(narrow[i], half_from_float(exact[i]));
    stream.dtype = DTYPE_BF16;
    synth_fill(&stream, 0, N, narrow);
    for (size_t i = 0; i < N; i++) { // nearest: neither neighbour is nearer
        const double found = fabs((double)bfloat_to_float(narrow[i]) - (double)exact[i]);
        cr_assert(found <= fabs((double)bfloat_to_float((uint16_t)(narrow[i] + 1)) - (double)exact[i]));
        cr_assert(found <= fabs((double)bfloat_to_float((uint16_t)(narrow[i] - 1)) - (double)exact[i]));
    }
}

Test(synth, the_size_is_known_before_a_byte_is_written)
{
    struct small_model model;
    uint64_t bytes;
    struct safetensors *file;
    char hex[HASH_HEX];
    small_config(&model);
    model.config.mixers = model.mixers;
    model.config.conv_bias = true;
    hash_of(DTYPE_BF16, 1, NULL, hex);
    cr_assert_eq(synth_bytes(&model.config, DTYPE_BF16, &bytes, NULL), 0);
    cr_assert_eq(safetensors_open(&file, path, NULL), 0);
    uint64_t stored = 0;
    for (size_t i = 0; i < file->n_tensors; i++)
        stored += file->tensors[i].bytes;
    cr_expect_eq(stored, bytes);
    safetensors_close(&file);
}
