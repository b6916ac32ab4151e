// The fp64 oracle against transformers in float64 and, point by point, in float32.
#include "reference/double/matrix.h"
#include "tests/truth.h"

struct golden {
    const char *model, *name;
};

// --- float64: the same mathematics in other people's code

// Two orders of double sums, relative to the largest logit. Measured worst: 1.7e-15 over 9 tokens of the trained
// models, 3.5e-14 over 130 tokens of random weights, where transformers' own two modes are 2e-14 apart; the limit is
// three times that. A single value rounded to float shows as 1e-11 and more (the epsilon of the norms alone).
static const double LIMIT64 = 1e-13;

struct states {
    const struct state *golden;
    uint32_t seen, wrong; // tensors; elements further away than rounding to float puts them
};

// The golden's states are rounded to float: half a unit in the last place, beside the noise of the sums.
static void measure_state(void *context, uint32_t layer, enum state_kind kind, const double *values,
                          uint64_t elements)
{
    struct states *states = context;
    for (size_t i = 0; i < states->golden->n; i++) {
        const struct state_tensor *tensor = &states->golden->tensors[i];
        if (tensor->layer != layer || tensor->kind != kind)
            continue;
        cr_assert_eq(tensor->elements, elements);
        for (uint64_t j = 0; j < elements; j++)
            if (!(fabs(values[j] - (double)tensor->data[j]) <= 6e-8 * fabs(values[j]) + 1e-12))
                states->wrong++;
        states->seen++;
    }
}

static double float64_distance(const struct model *model, const char *model_name, const char *name, uint32_t *wrong)
{
    struct error error = {0};
    struct arena arena = {0};
    struct state golden;
    struct trace *trace = truth_golden(model_name, name);
    const struct tensor *logits64 = safetensors_find(trace->file, "logits64");
    cr_assert(logits64 && logits64->dtype == DTYPE_F64 &&
              logits64->elements == (uint64_t)trace->n * trace->vocabulary);
    must(trace_state(trace, &arena, &golden, &error), &error);
    struct states states = {.golden = &golden};
    const struct double_taps taps = {.context = &states, .put_state = measure_state};
    double *logits = truth_run(model, trace, &taps);
    struct distance distance = {0};
    for (uint64_t i = 0; i < logits64->elements; i++)
        distance_add(&distance, logits[i], ((const double *)logits64->data)[i]);
    uint32_t expected = 0;
    for (size_t i = 0; i < golden.n; i++)
        expected += golden.tensors[i].kind == STATE_CONV || golden.tensors[i].kind == STATE_DELTA;
    cr_expect(expected > 0 && states.seen == expected, "%u of %u states", states.seen, expected);
    *wrong = states.wrong;
    free(logits);
    arena_close(&arena);
    trace_close(&trace);
    return distance_relative(&distance);
}

Test(reference_double, agrees_with_transformers_in_float64)
{
    static const struct golden goldens[] = {
        {"lfm2-mini", "chat-9.float64"},
        {"lfm2-mini", "scripture-9.float64"},
        {"lfm2moe-mini", "chat-9.float64"},
        {"lfm2moe-mini", "narrative-9.float64"},
        {"qwen35-mini", "chat-9.float64"},
        {"qwen35-mini", "narrative-9.float64"},
        {"qwen35moe-mini", "chat-9.float64"},
        {"qwen35moe-mini", "narrative-9.float64"},
        {"odd-lfm2moe-group3-taps4-bias", "long-130.float64"},
        {"odd-qwen35-group3-taps3-bias", "long-130.float64"},
        {"odd-qwen35-group8-values4", "long-130.float64"},
        {"odd-qwen35moe-group8-top4", "long-130.float64"},
    };
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        struct fixture fixture;
        uint32_t wrong;
        fixture_open(&fixture, goldens[i].model);
        const double distance = float64_distance(&fixture.model, goldens[i].model, goldens[i].name, &wrong);
        fprintf(stderr, "# %s/%s, BLIS %s: max |double - transformers| %.2g of the largest logit\n", goldens[i].model,
                goldens[i].name, matrix_blis_name(), distance);
        cr_expect(distance <= LIMIT64, "%s/%s: %g", goldens[i].model, goldens[i].name, distance);
        cr_expect_eq(wrong, 0, "%s/%s: %u elements of its states", goldens[i].model, goldens[i].name, wrong);
        fixture_close(&fixture);
    }
}

static bool is_caught(const struct model *model, const char *name)
{
    uint32_t wrong;
    return !(float64_distance(model, name, "chat-9.float64", &wrong) <= LIMIT64);
}

Test(reference_double, of_a_slightly_wrong_lfm2_leaves_the_limit)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2-mini");
    struct model model = fixture_mutable(&fixture);
    cr_expect_not(is_caught(&model, "lfm2-mini"), "control: the unchanged copy must agree");
    model.config.rope_theta *= 1 + 1e-6; // a few frequencies move by one float
    cr_expect(is_caught(&model, "lfm2-mini"), "theta");
    model.config = fixture.config;
    model.config.norm_eps = nextafterf(fixture.config.norm_eps, 1);
    cr_expect(is_caught(&model, "lfm2-mini"), "eps");
    model.config = fixture.config;
    const struct weight norm = model.layers[2].q_norm;
    model.layers[2].q_norm = model.layers[2].k_norm;
    cr_expect(is_caught(&model, "lfm2-mini"), "q_norm");
    model.layers[2].q_norm = norm;
    const struct weight up = model.layers[7].w3;
    model.layers[7].w3 = model.layers[7].w1;
    model.layers[7].w1 = up;
    cr_expect(is_caught(&model, "lfm2-mini"), "gate and up");
    fixture_close(&fixture);
}

// A vector of `value` in the place of another.
static struct weight constant(struct fixture *fixture, struct weight like, float value)
{
    float *data = arena_alloc(&fixture->arena, like.cols, sizeof *data);
    for (uint32_t i = 0; i < like.cols; i++)
        data[i] = value;
    like.format = WEIGHT_F32;
    like.data = data;
    return like;
}

Test(reference_double, of_a_slightly_wrong_qwen35_leaves_the_limit)
{
    struct fixture fixture;
    fixture_open(&fixture, "qwen35-mini");
    struct model model = fixture_mutable(&fixture);
    struct layer *delta = &model.layers[5], healthy = *delta;
    cr_assert_eq(delta->mixer, MIXER_DELTA);
    cr_expect_not(is_caught(&model, "qwen35-mini"), "control: the unchanged copy must agree");
    model.config.norm_eps = nextafterf(fixture.config.norm_eps, 1);
    cr_expect(is_caught(&model, "qwen35-mini"), "eps");
    model.config = fixture.config;
    model.config.rotary_width *= 2;
    cr_expect(is_caught(&model, "qwen35-mini"), "rotary width");
    model.config = fixture.config;
    delta->a_log = constant(&fixture, delta->a_log, -INFINITY);
    cr_expect(is_caught(&model, "qwen35-mini"), "nothing decays");
    *delta = healthy;
    delta->dt_bias = constant(&fixture, delta->dt_bias, 0);
    cr_expect(is_caught(&model, "qwen35-mini"), "dt_bias");
    *delta = healthy;
    delta->delta_norm = constant(&fixture, delta->delta_norm, 1);
    cr_expect(is_caught(&model, "qwen35-mini"), "delta_norm");
    *delta = healthy;
    delta->b_proj = healthy.a_proj;
    delta->a_proj = healthy.b_proj;
    cr_expect(is_caught(&model, "qwen35-mini"), "a and b");
    fixture_close(&fixture);
}

Test(reference_double, of_slightly_wrong_experts_leaves_the_limit)
{
    struct fixture fixture;
    fixture_open(&fixture, "lfm2moe-mini");
    struct model model = fixture_mutable(&fixture);
    struct layer *sparse = &model.layers[fixture.config.layers - 1], healthy = *sparse;
    cr_expect_not(is_caught(&model, "lfm2moe-mini"), "control: the unchanged copy must agree");
    model.config.expert_scale = nextafterf(1, 2);
    cr_expect(is_caught(&model, "lfm2moe-mini"), "scale");
    model.config = fixture.config;
    model.config.expert_normalise = false;
    cr_expect(is_caught(&model, "lfm2moe-mini"), "sum of the weights");
    model.config = fixture.config;
    sparse->expert_bias = constant(&fixture, sparse->expert_bias, 0);
    cr_expect(is_caught(&model, "lfm2moe-mini"), "bias");
    *sparse = healthy;
    fixture_close(&fixture);

    fixture_open(&fixture, "qwen35moe-mini");
    model = fixture_mutable(&fixture);
    cr_expect_not(is_caught(&model, "qwen35moe-mini"), "control: the unchanged copy must agree");
    model.layers[3].shared_gate = fixture.model.layers[4].shared_gate;
    cr_expect(is_caught(&model, "qwen35moe-mini"), "gate of the shared expert");
    fixture_close(&fixture);
}

// --- float32: every tap point and state, and models of odd shapes

// What torch's own rounding leaves between its values and the truth, relative to the largest value of the tap.
// Measured worst: 9.4e-7 in the trained models, 6.7e-6 with random weights (mixer of odd-qwen35moe-every-expert); the
// limit is three times that.
static const double LIMIT32 = 2e-5;

struct points {
    const struct trace *golden;
    const struct state *state;
    struct distance taps[TAP_POINTS], states[STATE_KINDS];
    uint32_t calls, wrong_experts;
    const struct config *config;
};

static void measure_tap(void *context, uint32_t layer, enum tap_point point, const double *rows, uint32_t n,
                        uint32_t width)
{
    struct points *points = context;
    cr_assert_eq(width, tap_width(points->config, TAPS_ALL, layer, point));
    cr_assert_eq(n, points->golden->n);
    points->calls++;
    for (uint32_t t = 0; t < n; t++, rows += width) {
        uint32_t golden_width;
        if (tap_is_integer(point)) {
            const int32_t *ids = trace_experts(points->golden, t, layer, &golden_width);
            cr_assert(ids && golden_width == width);
            for (uint32_t i = 0; i < width; i++)
                points->wrong_experts += rows[i] != ids[i];
            continue;
        }
        const float *row = trace_tap(points->golden, t, layer, point, &golden_width);
        cr_assert(row && golden_width == width, "%s of layer %u", tap_point_name(point), layer);
        for (uint32_t i = 0; i < width; i++)
            distance_add(&points->taps[point], rows[i], (double)row[i]);
    }
}

static void measure_end(void *context, uint32_t layer, enum state_kind kind, const double *values, uint64_t elements)
{
    struct points *points = context;
    for (size_t i = 0; i < points->state->n; i++) {
        const struct state_tensor *tensor = &points->state->tensors[i];
        if (tensor->layer != layer || tensor->kind != kind)
            continue;
        cr_assert_eq(tensor->elements, elements);
        for (uint64_t j = 0; j < elements; j++)
            distance_add(&points->states[kind], values[j], (double)tensor->data[j]);
    }
}

static uint32_t tap_count(const struct config *config)
{
    uint32_t n = 0;
    for (enum tap_point point = 0; point < TAP_POINTS; point++)
        for (uint32_t layer = 0; layer < config->layers; layer++)
            n += tap_width(config, TAPS_ALL, layer, point) > 0;
    return n;
}

static void keep_worst(const struct distance *distance, const char *name, double *worst, const char **worst_name)
{
    if (distance->n && distance->largest > 0 && !isnan(*worst) && !(distance_relative(distance) <= *worst)) {
        *worst = distance_relative(distance);
        *worst_name = name;
    }
}

// Largest distance of a point or state in units of its largest value; logits too.
static double worst_point(const struct model *model, const char *model_name, const char *name)
{
    struct error error = {0};
    struct arena arena = {0};
    struct state state;
    struct trace *golden = truth_golden(model_name, name);
    must(trace_state(golden, &arena, &state, &error), &error);
    struct points points = {.golden = golden, .state = &state, .config = &model->config};
    struct double_taps taps = {.context = &points, .put_state = measure_end};
    if (!strcmp(safetensors_metadata(golden->file, "taps"), "all"))
        taps.put = measure_tap;
    double *logits = truth_run(model, golden, &taps);
    struct distance head = {0};
    for (uint32_t t = 0; t < golden->n; t++)
        for (uint32_t i = 0; i < golden->vocabulary; i++)
            distance_add(&head, logits[(size_t)t * golden->vocabulary + i], (double)trace_logits(golden, t, NULL)[i]);
    double worst = distance_relative(&head);
    const char *worst_name = "logits";
    for (enum tap_point point = 0; point < TAP_POINTS; point++)
        keep_worst(&points.taps[point], tap_point_name(point), &worst, &worst_name);
    for (enum state_kind kind = 0; kind < STATE_KINDS; kind++)
        keep_worst(&points.states[kind], state_kind_name(kind), &worst, &worst_name);
    if (taps.put)
        cr_expect_eq(points.calls, tap_count(&model->config), "every point of every layer, once");
    cr_expect_eq(points.wrong_experts, 0, "%s/%s: %u experts", model_name, name, points.wrong_experts);
    fprintf(stderr, "# %s/%s: worst of %u taps, states and logits: %s, %.2g of its largest value\n", model_name, name,
            points.calls, worst_name, worst);
    free(logits);
    arena_close(&arena);
    trace_close(&golden);
    return worst;
}

Test(reference_double, agrees_with_transformers_at_every_tap_point_and_state)
{
    static const struct golden goldens[] = {
        {"lfm2-mini", "chat"},
        {"lfm2-mini", "code"},
        {"lfm2-mini", "high-ids"},
        {"lfm2-mini", "scripture"},
        {"lfm2moe-mini", "chat"},
        {"lfm2moe-mini", "narrative"},
        {"lfm2moe-mini", "scripture-72"},
        {"qwen35-mini", "chat"},
        {"qwen35-mini", "narrative"},
        {"qwen35-mini", "scripture-72"},
        {"qwen35moe-mini", "chat"},
        {"qwen35moe-mini", "narrative"},
        {"qwen35moe-mini", "scripture-72"},
    };
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        struct fixture fixture;
        fixture_open(&fixture, goldens[i].model);
        cr_expect(worst_point(&fixture.model, goldens[i].model, goldens[i].name) <= LIMIT32, "%s/%s",
                  goldens[i].model, goldens[i].name);
        fixture_close(&fixture);
    }
}

Test(reference_double, agrees_with_transformers_in_odd_shapes)
{
    static const char *const others[] = {
        "odd-lfm2moe-all-attention",
        "odd-lfm2moe-all-dense",
        "odd-lfm2moe-every-expert",
        "odd-lfm2moe-group1-top1",
        "odd-lfm2moe-group3-taps4-bias",
        "odd-lfm2moe-group8-untied",
        "odd-lfm2moe-mixed-sharded",
        "odd-lfm2moe-one-attention",
        "odd-qwen35-all-attention",
        "odd-qwen35-group1-taps2",
        "odd-qwen35-group3-taps3-bias",
        "odd-qwen35-group8-values4",
        "odd-qwen35-head-only",
        "odd-qwen35-mixed-sharded",
        "odd-qwen35-one-attention",
        "odd-qwen35moe-all-attention",
        "odd-qwen35moe-every-expert",
        "odd-qwen35moe-group1-fused",
        "odd-qwen35moe-group3-top1-split",
        "odd-qwen35moe-group8-top4",
        "odd-qwen35moe-mixed-sharded",
    };
    enum { N_OTHERS = sizeof others / sizeof *others };
    for (size_t i = 0; i < N_ODD + N_OTHERS; i++) {
        const char *name = i < N_ODD ? ODD[i] : others[i - N_ODD];
        struct fixture fixture;
        fixture_open(&fixture, name);
        cr_expect(worst_point(&fixture.model, name, "random") <= LIMIT32, "%s", name);
        fixture_close(&fixture);
    }
}

// --- NaN and bad input

// A row of the embedding belongs to one token; the head is another matrix here, so that only position 3 and later see
// it.
static void check_nan(const char *name)
{
    struct fixture fixture;
    fixture_open(&fixture, name);
    struct model model = fixture_mutable(&fixture);
    uint32_t tokens[] = {1, 300, 4000, 77, 300, 5};
    enum { N = 6 };
    const uint32_t V = fixture.config.vocabulary;
    double *healthy = calloc((size_t)N * V, sizeof *healthy), *logits = calloc((size_t)N * V, sizeof *logits);
    cr_assert(healthy && logits);
    cr_assert_eq(double_run(&model, tokens, N, healthy, NULL, NULL), 0);
    model.embedding.data = memcpy(arena_alloc(&fixture.arena, (size_t)V, weight_row_bytes(&model.embedding)),
                                  model.embedding.data, (size_t)V * weight_row_bytes(&model.embedding));
    cr_assert_eq(model.embedding.format, WEIGHT_BF16);
    ((uint16_t *)(uintptr_t)model.embedding.data)[77 * fixture.config.hidden + 5] = 0x7FC0;
    cr_assert_eq(double_run(&model, tokens, N, logits, NULL, NULL), 0);
    for (uint32_t t = 0; t < N; t++)
        for (uint32_t i = 0; i < V; i++)
            if (t < 3)
                cr_assert_eq(logits[(size_t)t * V + i], healthy[(size_t)t * V + i], "%s: row %u", name, t);
            else
                cr_assert(isnan(logits[(size_t)t * V + i]), "%s: row %u", name, t);
    free(healthy);
    free(logits);
    fixture_close(&fixture);
}

Test(reference_double, shows_a_nan_weight_in_every_row_that_depends_on_it_and_in_no_other)
{
    check_nan("lfm2-mini");
    check_nan("qwen35-mini");
    check_nan("qwen35moe-mini");
    check_nan("lfm2moe-mini");
}

Test(reference_double, refuses_a_token_outside_the_vocabulary)
{
    struct fixture fixture;
    fixture_open(&fixture, "odd-head-only");
    const uint32_t tokens[] = {1, fixture.config.vocabulary};
    struct error error = {0};
    double logits[1];
    cr_expect_eq(double_run(&fixture.model, tokens, 2, logits, NULL, &error), ERROR_INPUT);
    cr_expect(strstr(error.text, "token 1 is 64"), "%s", error.text);
    fixture_close(&fixture);
}
