// The runtime's experts: equal, bit for bit, to the slow double version of the same rounding points (slow_sparse.h),
// for every format, shape and choice, on every instruction set and number of threads; misreadings are seen.
#include <stdio.h>

#include "runtime/experts.h"
#include "tests/expert_models.h"
#include "tests/slow_runtime.h"

TestSuite(experts, .fini = release_models);

static const struct shape_of_experts lfm2 = {FAMILY_LFM2_MOE, 64, 32, 0, 8, 3, WEIGHT_Q8, true, false};
static const struct shape_of_experts qwen = {FAMILY_QWEN35_MOE, 64, 32, 96, 8, 3, WEIGHT_Q8, false, false};

// --- one layer

struct found {
    uint32_t d, experts, k;
    float m[SLOW_EXPERT_WIDTH], router[SLOW_EXPERTS], chosen[SLOW_EXPERTS], weights[SLOW_EXPERTS];
};

static void put(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct found *found = context;
    float *to = point == TAP_ROUTER ? found->router : point == TAP_EXPERTS ? found->chosen : found->weights;
    cr_assert_eq(layer, 0);
    cr_assert_eq(width, point == TAP_ROUTER ? found->experts : found->k);
    memcpy(to, row, width * sizeof *row);
}

struct way {
    enum isa isa;
    enum fault fault;
    struct pool *pool;
    const struct plan *plan;
};

static struct way usual(void)
{
    static struct plan plan;
    plan_default(&plan);
    return (struct way){.isa = isa_best(), .plan = &plan};
}

static struct found compute(const struct model *model, struct way way, const float *u)
{
    const struct config *config = &model->config;
    struct found found = {.d = config->hidden, .experts = config->experts, .k = config->experts_per_token};
    const struct tap_sink taps = {TAPS_ALL, &found, put};
    struct arena own = {0};
    struct step *step;
    cr_assert_eq(step_open(&own, model, way.plan, way.fault, way.isa, way.pool, 1, &step, NULL), 0);
    runtime_experts(step, 0, u, found.m, &taps);
    arena_close(&own);
    return found;
}

static bool is_same(const struct found *a, const struct found *b)
{
    return same(a->m, b->m, a->d) && same(a->router, b->router, a->experts) && same(a->chosen, b->chosen, a->k) &&
           same(a->weights, b->weights, a->k);
}

static void random_input(float *u, uint32_t d)
{
    const struct weight made = random_weight("u", 1, d, 0, 2);
    for (uint32_t i = 0; i < d; i++)
        u[i] = half_round(weight_at(&made, 0, i));
}

static bool is_number(float found, double expected) // `expected` is a float's value
{
    return float_to_bits(found) == (isnan(expected) ? FLOAT_NAN_BITS : float_to_bits((float)expected));
}

static bool equals_slow(const struct model *model, const struct found *found, const struct plan *plan, const float *u,
                        enum experts_slip slip)
{
    static double m[SLOW_EXPERT_WIDTH], wide[SLOW_EXPERT_WIDTH];
    for (uint32_t i = 0; i < found->d; i++)
        wide[i] = (double)u[i];
    const struct slow_route route = slow_experts(plan, model, 0, wide, slip, m);
    bool equal = true;
    for (uint32_t i = 0; i < found->d; i++)
        equal = equal && is_number(found->m[i], m[i]);
    for (uint32_t e = 0; e < found->experts; e++)
        equal = equal && is_number(found->router[e], route.logits[e]);
    for (uint32_t slot = 0; slot < found->k; slot++)
        equal = equal && found->chosen[slot] == (float)route.chosen[slot] &&
                is_number(found->weights[slot], route.weights[slot]);
    return equal;
}

static void expect_slow(const struct shape_of_experts *shape, struct way way, int inputs)
{
    const struct model *model = sparse_layer(shape);
    float u[SLOW_EXPERT_WIDTH];
    for (int i = 0; i < inputs; i++) {
        random_input(u, shape->d);
        const struct found found = compute(model, way, u);
        cr_assert(equals_slow(model, &found, way.plan, u, EXPERTS_RIGHT), "%s %s, d %u, Fm %u, Fs %u, %u of %u, %s",
                  family_name(shape->family), weight_format_name(shape->format), shape->d, shape->width,
                  shape->shared, shape->k, shape->experts, isa_name(way.isa));
    }
}

static const enum weight_format formats[] = {WEIGHT_Q8, WEIGHT_Q4, WEIGHT_A4, WEIGHT_K8, WEIGHT_K4, WEIGHT_F16};
enum { FORMATS = sizeof formats / sizeof *formats };

Test(experts, equal_the_slow_version_in_every_format_on_every_instruction_set)
{
    struct way way = usual();
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int format = 0; isa_available((enum isa)isa) && format < FORMATS; format++) {
            struct shape_of_experts shapes[] = {lfm2, qwen};
            way.isa = (enum isa)isa;
            for (int i = 0; i < 2; i++) {
                shapes[i].format = formats[format];
                shapes[i].d = 288; // a block of 256, and a rest
                expect_slow(&shapes[i], way, 2);
            }
        }
}

Test(experts, equal_the_slow_version_under_every_rule_of_the_plan)
{
    for (int format = 0; format < FORMATS; format++)
        for (int rule = 1; rule < 4; rule++) {
            struct plan plan;
            struct way way = usual();
            struct shape_of_experts shape = lfm2;
            plan_default(&plan);
            plan.rows[PLAN_LINEAR_SUM] = rule & 1 ? PRECISION_F16 : PRECISION_F32;
            plan.rows[PLAN_DEQUANT] = rule & 2 ? PRECISION_F16 : PRECISION_F32;
            way.plan = &plan;
            shape.format = formats[format];
            expect_slow(&shape, way, 2);
        }
}

Test(experts, equal_the_slow_version_for_any_number_of_slots)
{
    const uint32_t ks[] = {1, 2, 4, 8};
    for (int i = 0; i < 16; i++) {
        struct shape_of_experts shape = i % 2 ? qwen : lfm2;
        shape.k = ks[i / 2 % 4];
        shape.raw = i >= 8 && !(i % 2);
        shape.biased = shape.biased && i < 8;
        expect_slow(&shape, usual(), 8);
    }
    const struct shape_of_experts one = {FAMILY_LFM2_MOE, 64, 32, 0, 1, 1, WEIGHT_A4, true, false};
    expect_slow(&one, usual(), 2);
}

// Per-block formats need multiples of 32: other widths stay halves.
Test(experts, equal_the_slow_version_on_odd_shapes)
{
    const struct shape_of_experts shapes[] = {
        {FAMILY_LFM2_MOE, 42, 50, 0, 5, 3, WEIGHT_F16, true, false},
        {FAMILY_LFM2_MOE, 7, 1, 0, 3, 2, WEIGHT_F16, true, true},
        {FAMILY_QWEN35_MOE, 33, 129, 31, 6, 4, WEIGHT_F16, false, false},
        {FAMILY_QWEN35_MOE, 1, 3, 5, 2, 1, WEIGHT_F16, false, false},
        {FAMILY_QWEN35_MOE, 64, 96, 7, 64, 10, WEIGHT_K4, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        expect_slow(&shapes[i], usual(), 4);
}

// --- equal scores, NaN

// Experts in pairs with the same router row and bias.
static const struct model *model_of_pairs(const struct shape_of_experts *shape)
{
    const struct model *model = sparse_layer(shape);
    struct layer *layer = &model->layers[0];
    uint16_t *router = (uint16_t *)(uintptr_t)layer->router.data; // of the arena
    float *bias = (float *)(uintptr_t)layer->expert_bias.data;
    for (uint32_t e = 0; e < shape->experts; e += 2) {
        memcpy(router + (size_t)(e + 1) * shape->d, router + (size_t)e * shape->d, shape->d * sizeof *router);
        if (bias)
            bias[e + 1] = bias[e];
    }
    return model;
}

Test(experts, the_lower_index_wins_among_equal_scores)
{
    for (int i = 0; i < 2; i++) {
        const struct shape_of_experts *shape = i ? &qwen : &lfm2;
        const struct model *model = model_of_pairs(shape);
        float u[SLOW_EXPERT_WIDTH];
        random_input(u, shape->d);
        const struct found found = compute(model, usual(), u);
        cr_expect(equals_slow(model, &found, usual().plan, u, EXPERTS_RIGHT));
        cr_expect(!equals_slow(model, &found, usual().plan, u, EXPERTS_LAST_OF_EQUALS), "control");
        cr_expect_eq(found.chosen[1], found.chosen[0] + 1);
        cr_expect_eq((uint32_t)found.chosen[0] % 2, 0);
        cr_expect_eq((uint32_t)found.chosen[2] % 2, 0, "the last slot takes the first of a pair");
    }
}

Test(experts, a_nan_reaches_the_output)
{
    for (int i = 0; i < 2; i++) {
        const struct shape_of_experts *shape = i ? &qwen : &lfm2;
        const struct model *model = sparse_layer(shape);
        uint16_t *router = (uint16_t *)(uintptr_t)model->layers[0].router.data;
        float u[SLOW_EXPERT_WIDTH];
        random_input(u, shape->d);
        for (int at = 0; at < 2; at++) { // in the router's row of expert 5, then in the input
            if (at)
                u[9] = NAN;
            else
                router[5 * shape->d + 3] = 0x7E01;
            const struct found found = compute(model, usual(), u);
            cr_expect(equals_slow(model, &found, usual().plan, u, EXPERTS_RIGHT));
            for (uint32_t k = 0; k < shape->d; k++)
                cr_assert_eq(float_to_bits(found.m[k]), FLOAT_NAN_BITS, "element %u", k);
        }
    }
}

Test(experts, a_nan_in_a_codebook_reaches_the_rows_that_use_it)
{
    struct shape_of_experts shape = lfm2;
    shape.format = WEIGHT_K8;
    shape.k = shape.experts; // all of them
    const struct model *model = sparse_layer(&shape);
    const struct weight *down = &model->layers[0].experts[6].down;
    float u[SLOW_EXPERT_WIDTH];
    uint16_t *lut = (uint16_t *)(uintptr_t)down->lut;
    lut[256 + ((const uint8_t *)down->data)[40 * down->cols]] = 0x7E00; // what row 40 begins with
    random_input(u, shape.d);
    const struct found found = compute(model, usual(), u);
    cr_expect(equals_slow(model, &found, usual().plan, u, EXPERTS_RIGHT));
    cr_expect_eq(float_to_bits(found.m[40]), FLOAT_NAN_BITS);
    cr_expect(!isnan(found.m[0]), "the first book has none");
}

// --- controls

Test(experts, a_misreading_is_seen)
{
    for (int family = 0; family < 2; family++)
        for (int slip = EXPERTS_RIGHT; slip < EXPERTS_SLIPS; slip++) {
            const bool of_bias = slip == EXPERTS_BIAS_WEIGHS, of_shared = slip >= EXPERTS_SHARED_FIRST;
            if (slip == EXPERTS_LAST_OF_EQUALS || (family ? of_bias : of_shared))
                continue;
            struct shape_of_experts shape = family ? qwen : lfm2;
            shape.d = 1024;
            shape.k = shape.experts; // the order of a sum shows in one half of a thousand
            const struct model *model = sparse_layer(&shape);
            bool equal = true;
            for (int i = 0; equal && i < 12; i++) {
                float u[SLOW_EXPERT_WIDTH];
                random_input(u, shape.d);
                const struct found found = compute(model, usual(), u);
                equal = equal && equals_slow(model, &found, usual().plan, u, (enum experts_slip)slip);
            }
            cr_expect_eq(equal, slip == EXPERTS_RIGHT, "family %d, slip %d", family, slip);
        }
}

// Each fault is the misreading of the same name: equal to it, bit for bit.
Test(experts, a_fault_computes_what_its_name_says)
{
    const struct {
        enum fault fault;
        enum experts_slip slip;
        int family; // 0 LFM2, 1 Qwen3.5, 2 both
    } pairs[] = {
        {FAULT_NONE, EXPERTS_RIGHT, 2},
        {FAULT_EXPERT_BIAS_WEIGHS, EXPERTS_BIAS_WEIGHS, 0},
        {FAULT_ROUTER_SCORE, EXPERTS_OTHER_SCORE, 2},
        {FAULT_ROUTER_SCORES_F16, EXPERTS_SCORES_HALF, 2},
        {FAULT_ROUTER_NOT_NORMALISED, EXPERTS_NOT_NORMALISED, 2},
        {FAULT_EXPERT_DOWN, EXPERTS_NEXT_DOWN, 2},
        {FAULT_EXPERT_ROW_SHARED, EXPERTS_ONE_ROW, 2},
        {FAULT_SHARED_GATE_MISSING, EXPERTS_SHARED_UNGATED, 1},
    };
    for (size_t i = 0; i < 2 * sizeof pairs / sizeof *pairs; i++) {
        const int family = (int)(i % 2);
        if (pairs[i / 2].family != 2 && pairs[i / 2].family != family)
            continue;
        const struct model *model = sparse_layer(family ? &qwen : &lfm2);
        struct way way = usual();
        float u[SLOW_EXPERT_WIDTH];
        random_input(u, model->config.hidden);
        const struct found sound = compute(model, way, u);
        way.fault = pairs[i / 2].fault;
        const struct found faulty = compute(model, way, u);
        cr_expect(equals_slow(model, &faulty, way.plan, u, pairs[i / 2].slip), "%s", fault_name(way.fault));
        cr_expect_eq(same(sound.m, faulty.m, sound.d), way.fault == FAULT_NONE, "%s", fault_name(way.fault));
    }
}

// --- threads

// Over 2^20 weights in each projection; the ranges of rows begin inside a codebook.
Test(experts, are_the_same_for_any_number_of_threads)
{
    for (int format = 0; format < FORMATS; format++) {
        const struct shape_of_experts shape = {FAMILY_LFM2_MOE, 512, 2080, 0, 2, 2, formats[format], true, false};
        const struct model *model = sparse_layer(&shape);
        float u[SLOW_EXPERT_WIDTH];
        random_input(u, shape.d);
        const struct found alone = compute(model, usual(), u);
        for (unsigned threads = 2; threads <= 7; threads += threads == 2 ? 1 : 4) {
            struct way way = usual();
            cr_assert_eq(pool_open(&way.pool, threads, NULL), 0);
            const struct found found = compute(model, way, u);
            cr_expect(is_same(&alone, &found), "%s, %u threads", weight_format_name(formats[format]), threads);
            pool_close(&way.pool);
        }
        arena_close(&arena);
    }
}

// --- the minis

static void expect_slow_steps(enum weight_format format, uint32_t n)
{
    static struct slow slow;
    const struct model *model = sparse_mini(ASSAY_FIXTURES "/models/lfm2moe-mini", format);
    struct engine *engine = open_default(model);
    memset(&slow, 0, sizeof slow);
    slow.model = model;
    plan_default(&slow.plan);
    for (uint32_t t = 0; t < n; t++) {
        const float *logits = step(engine, token_at(model, t));
        const double *expected = slow_step(&slow, token_at(model, t));
        for (uint32_t id = 0; id < model->config.vocabulary; id++)
            cr_assert(is_number(logits[id], expected[id]), "%s, position %u, id %u: %a, expected %a",
                      weight_format_name(format), t, id, (double)logits[id], expected[id]);
    }
    engine_close(&engine);
}

Test(experts, steps_of_the_lfm2_mini_equal_the_slow_version_with_int8_experts)
{
    expect_slow_steps(WEIGHT_Q8, 6);
}

Test(experts, steps_of_the_lfm2_mini_equal_the_slow_version_with_affine_experts)
{
    expect_slow_steps(WEIGHT_A4, 3);
}

Test(experts, steps_of_the_lfm2_mini_equal_the_slow_version_with_codebooks)
{
    expect_slow_steps(WEIGHT_K8, 3);
    expect_slow_steps(WEIGHT_K4, 3);
}

Test(experts, layers_of_the_qwen_mini_equal_the_slow_version)
{
    for (int format = 0; format < FORMATS; format++) {
        struct model model = *sparse_mini(ASSAY_FIXTURES "/models/qwen35moe-mini", formats[format]);
        struct layer *layers = model.layers;
        for (uint32_t i = 0; i < model.config.layers; i++) {
            float u[SLOW_EXPERT_WIDTH];
            model.layers = layers + i; // the layer as the first, and only, one
            model.config.layers = 1;
            random_input(u, model.config.hidden);
            const struct found found = compute(&model, usual(), u);
            cr_assert(equals_slow(&model, &found, usual().plan, u, EXPERTS_RIGHT), "%s, layer %u",
                      weight_format_name(formats[format]), i);
            model.config.layers = 8;
        }
    }
}

// More than ten times the noise of int8 on these models (sigma about 0.015).
Test(experts, a_fault_moves_the_logits_of_the_mini)
{
    const enum fault faults[] = {FAULT_NONE, FAULT_EXPERT_BIAS_WEIGHS, FAULT_ROUTER_SCORE,
                                 FAULT_ROUTER_NOT_NORMALISED, FAULT_EXPERT_DOWN, FAULT_EXPERT_ROW_SHARED};
    const struct model *model = sparse_mini(ASSAY_FIXTURES "/models/lfm2moe-mini", WEIGHT_Q8);
    struct engine *sound = open_default(model);
    const float *right = run(sound, model, 8);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct engine *faulty = open_faulty(model, faults[i]);
        const float *wrong = run(faulty, model, 8);
        double most = 0;
        for (size_t k = 0; k < 8 * (size_t)model->config.vocabulary; k++) {
            const double off = fabs((double)right[k] - (double)wrong[k]);
            most = off <= most ? most : off;
        }
        fprintf(stderr, "# %s: logits %.3g\n", fault_name(faults[i]), most);
        cr_expect(faults[i] ? most > 0.15 : most == 0, "%s: %g", fault_name(faults[i]), most);
        engine_close(&faulty);
    }
    engine_close(&sound);
}
