// The noise floor: how far the reference and transformers, both fp32 and one token at a time, are from the fp64
// truth. The reference's 32 lanes should be no worse than torch's sums: RMS at most 1.2 times, the largest error at
// most 1.5 times theirs (a maximum over a few hundred thousand logits moves by a fifth with the order of summation).
#include "tests/truth.h"

//
// Models of random weights have rows that magnify whatever noise reaches them: a value head that nearly cancels
// before its norm, a router's steep spot. Among 140 to 190 rows the worst one decides the maximum, for either engine:
// of two models with such a row the reference is 5 times further off in one (odd-qwen35-group8-values4, row 16),
// transformers 4 times in the other (odd-qwen35-group3-taps3-bias, row 16). Measured: 0.71 to 1.91; the limit only
// shows a fault.
static const double LIMIT_RMS = 1.2, LIMIT_MAX = 1.5, LIMIT_MAX_ODD = 3;

struct floor {
    struct distance ours, theirs;
};

static double rms_ratio(const struct floor *noise)
{
    return distance_rms(&noise->ours) / distance_rms(&noise->theirs);
}

static double max_ratio(const struct floor *noise)
{
    return noise->ours.max / noise->theirs.max;
}

// The engine over `model` may be wrong on purpose; the truth is that of the fixture. Adds to *noise.
static void measure(const struct fixture *fixture, const struct model *model, const char *name,
                    const char *golden_name, struct floor *noise)
{
    struct trace *golden = truth_golden(name, golden_name);
    cr_assert_str_eq(golden->contract.mode, "s1");
    cr_assert_str_eq(golden->contract.precision, "float32");
    double *truth = truth_run(&fixture->model, golden, NULL);
    struct engine *engine = fixture_engine(model, NULL, isa_best(), golden->n);
    for (uint32_t t = 0; t < golden->n; t++) {
        const float *a = fixture_step(engine, (uint32_t)golden->tokens[t], NULL), *b = trace_logits(golden, t, NULL);
        const double *row = truth + (size_t)t * golden->vocabulary;
        for (uint32_t j = 0; j < golden->vocabulary; j++) {
            distance_add(&noise->ours, (double)a[j], row[j]);
            distance_add(&noise->theirs, (double)b[j], row[j]);
        }
    }
    engine_close(&engine);
    free(truth);
    trace_close(&golden);
}

static const char *const OF_LFM2[] = {"chat", "code", "dialogue-64", "high-ids", "narrative-201", "scripture", NULL};
static const char *const OF_OTHERS[] = {"chat", "code-48", "high-ids", "narrative", "scripture-72", NULL};

static struct floor noise_floor(const struct fixture *fixture, const struct model *model, const char *name)
{
    struct floor noise = {0};
    for (const char *const *golden = fixture->config.family == FAMILY_LFM2 ? OF_LFM2 : OF_OTHERS; *golden; golden++)
        measure(fixture, model, name, *golden, &noise);
    return noise;
}

static void check(const char *name, const struct floor *noise, double limit_max)
{
    fprintf(stderr,
            "# %s, %llu logits up to %.3g: |reference - fp64| rms %.3g max %.3g, |transformers - fp64| rms %.3g max "
            "%.3g: ratio of rms %.3f, of max %.3f\n",
            name, (unsigned long long)noise->ours.n, noise->ours.largest, distance_rms(&noise->ours), noise->ours.max,
            distance_rms(&noise->theirs), noise->theirs.max, rms_ratio(noise), max_ratio(noise));
    cr_expect(rms_ratio(noise) <= LIMIT_RMS, "%s: %g", name, rms_ratio(noise));
    cr_expect(max_ratio(noise) <= limit_max, "%s: %g", name, max_ratio(noise));
}

static void check_mini(const char *name)
{
    struct fixture fixture;
    fixture_open(&fixture, name);
    const struct floor noise = noise_floor(&fixture, &fixture.model, name);
    check(name, &noise, LIMIT_MAX);
    fixture_close(&fixture);
}

Test(reference_noise, of_lfm2_is_no_more_than_that_of_transformers)
{
    check_mini("lfm2-mini");
}

Test(reference_noise, of_lfm2_moe_is_no_more_than_that_of_transformers)
{
    check_mini("lfm2moe-mini");
}

Test(reference_noise, of_qwen35_is_no_more_than_that_of_transformers)
{
    check_mini("qwen35-mini");
}

Test(reference_noise, of_qwen35_moe_is_no_more_than_that_of_transformers)
{
    check_mini("qwen35moe-mini");
}

// Random weights, pooled: a single model of 24 tokens and 60 to 96 ids is too few for a ratio.
static void check_pooled(const char *pool, const char *const *names, size_t n)
{
    struct floor noise = {0};
    for (size_t i = 0; i < n; i++) {
        struct fixture fixture;
        fixture_open(&fixture, names[i]);
        measure(&fixture, &fixture.model, names[i], "random", &noise);
        fixture_close(&fixture);
    }
    check(pool, &noise, LIMIT_MAX_ODD);
}

Test(reference_noise, of_odd_shapes_is_no_more_than_that_of_transformers)
{
    check_pooled("odd lfm2", ODD, N_ODD);
    static const char *const lfm2moe[] = {"odd-lfm2moe-all-attention",     "odd-lfm2moe-all-dense",
                                          "odd-lfm2moe-every-expert",      "odd-lfm2moe-group1-top1",
                                          "odd-lfm2moe-group3-taps4-bias", "odd-lfm2moe-group8-untied",
                                          "odd-lfm2moe-mixed-sharded",     "odd-lfm2moe-one-attention"};
    check_pooled("odd lfm2moe", lfm2moe, sizeof lfm2moe / sizeof *lfm2moe);
    static const char *const qwen35[] = {"odd-qwen35-all-attention",     "odd-qwen35-group1-taps2",
                                         "odd-qwen35-group3-taps3-bias", "odd-qwen35-group8-values4",
                                         "odd-qwen35-head-only",         "odd-qwen35-mixed-sharded",
                                         "odd-qwen35-one-attention"};
    check_pooled("odd qwen35", qwen35, sizeof qwen35 / sizeof *qwen35);
    static const char *const qwen35moe[] = {"odd-qwen35moe-all-attention", "odd-qwen35moe-every-expert",
                                            "odd-qwen35moe-group1-fused",  "odd-qwen35moe-group3-top1-split",
                                            "odd-qwen35moe-group8-top4",   "odd-qwen35moe-mixed-sharded"};
    check_pooled("odd qwen35moe", qwen35moe, sizeof qwen35moe / sizeof *qwen35moe);
}

// --- no flip would ever show these: the floor is what sees them

static void expect_seen(const struct fixture *fixture, const struct model *model, const char *name, const char *what)
{
    const struct floor noise = noise_floor(fixture, model, name);
    fprintf(stderr, "# %s, %s: ratio of rms %.3f\n", name, what, rms_ratio(&noise));
    cr_expect_not(rms_ratio(&noise) <= LIMIT_RMS, "%s, %s: %g", name, what, rms_ratio(&noise));
}

// A vector times a factor, in fp32.
static struct weight scaled(struct fixture *fixture, struct weight like, float factor)
{
    float *data = arena_alloc(&fixture->arena, like.cols, sizeof *data);
    weight_row(&like, 0, data);
    for (uint32_t i = 0; i < like.cols; i++)
        data[i] *= factor;
    like.format = WEIGHT_F32;
    like.data = data;
    return like;
}

Test(reference_noise, shows_an_lfm2_with_a_tiny_fault)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    struct model model = fixture_mutable(&fixture);
    model.config.rope_theta *= 1 + 1e-4; // 1e-6 is below the rounding of an fp32 engine: ratio 0.64
    expect_seen(&fixture, &model, "lfm2-mini", "theta 1e-4 off");
    model.config = fixture.config;
    model.config.norm_eps *= 1.001f;
    expect_seen(&fixture, &model, "lfm2-mini", "eps 1e-3 off");
    fixture_close(&fixture);
}

Test(reference_noise, shows_a_qwen35_with_a_tiny_fault)
{
    struct fixture fixture;
    fixture_open(&fixture, "qwen35-mini");
    struct model model = fixture_mutable(&fixture);
    model.config.rope_theta *= 1 + 1e-4;
    expect_seen(&fixture, &model, "qwen35-mini", "theta 1e-4 off");
    model.config = fixture.config;
    model.config.norm_eps *= 1.01f;
    expect_seen(&fixture, &model, "qwen35-mini", "eps 1e-2 off");
    model.config = fixture.config;
    model.layers[0].a_log = scaled(&fixture, fixture.model.layers[0].a_log, 1 + 1e-4f);
    expect_seen(&fixture, &model, "qwen35-mini", "A_log of layer 0 1e-4 off");
    fixture_close(&fixture);
}

Test(reference_noise, shows_experts_with_a_tiny_fault)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2moe-mini");
    struct model model = fixture_mutable(&fixture);
    model.config.expert_scale *= 1 + 1e-5f;
    expect_seen(&fixture, &model, "lfm2moe-mini", "routed_scaling_factor 1e-5 off");
    fixture_close(&fixture);

    fixture_open(&fixture, "qwen35moe-mini");
    model = fixture_mutable(&fixture);
    model.layers[0].shared_gate = scaled(&fixture, fixture.model.layers[0].shared_gate, 1 + 1e-4f);
    expect_seen(&fixture, &model, "qwen35moe-mini", "gate of the shared expert of layer 0 1e-4 off");
    fixture_close(&fixture);
}
