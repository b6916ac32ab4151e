// The router and the sum of experts: the selection rule, the order of ties, the roundings, and what a NaN does.
#include "tests/kernel_inputs.h"
#include "tests/slow_arithmetic.h"

enum { MOST_EXPERTS = 512, MOST_SLOTS = 10 };

static const struct router lfm2 = {32, 4, ROUTER_SIGMOID, true, 1e-6f, 1};
static const struct router qwen = {256, 8, ROUTER_SOFTMAX, true, 0, 1};

struct routed {
    float scores[MOST_EXPERTS], weights[MOST_SLOTS];
    uint32_t ids[MOST_SLOTS];
};

static struct routed route(const struct router *router, const float *logits, const float *bias)
{
    struct routed routed;
    kernels_route(router, logits, bias, routed.scores, routed.ids, routed.weights);
    return routed;
}

// --- the slow model

enum fault {
    RIGHT,
    BIAS_IN_WEIGHTS,
    HIGHEST_OF_EQUALS,
    NO_EPSILON,
    OTHER_SCORE,
    SUM_BY_INDEX,
    SCALED_BEFORE,
    NOT_NORMALISED,
    LOGITS_SELECT,
    FAULTS
};

// Finite logits and biases.
static void slow_route(const struct router *router, const float *logits, const float *bias, enum fault fault,
                       uint32_t *ids, double *weights)
{
    const uint32_t n = router->experts;
    double score[MOST_EXPERTS], selection[MOST_EXPERTS], top = -INFINITY, total = 0, sum = 0;
    bool taken[MOST_EXPERTS] = {false};
    for (uint32_t e = 0; e < n; e++)
        top = fmax(top, (double)logits[e]);
    for (uint32_t e = 0; e < n; e++)
        total = fl(total + exp_fl(fl((double)logits[e] - top)));
    for (uint32_t e = 0; e < n; e++) {
        const bool softmax = (router->score == ROUTER_SOFTMAX) != (fault == OTHER_SCORE);
        score[e] = softmax ? fl(exp_fl(fl((double)logits[e] - top)) / total) : sigmoid_fl((double)logits[e]);
        selection[e] = fl((fault == LOGITS_SELECT ? (double)logits[e] : score[e]) + (bias ? (double)bias[e] : 0));
    }
    for (uint32_t slot = 0; slot < router->slots; slot++) {
        uint32_t best = n;
        for (uint32_t e = 0; e < n; e++)
            if (!taken[e] && (best == n || selection[e] > selection[best] ||
                              (fault == HIGHEST_OF_EQUALS && selection[e] == selection[best])))
                best = e;
        taken[best] = true;
        ids[slot] = best;
        weights[slot] = fault == BIAS_IN_WEIGHTS ? selection[best] : score[best];
        weights[slot] = fault == SCALED_BEFORE ? fl(weights[slot] * (double)router->scaling) : weights[slot];
        sum = fl(sum + weights[slot]);
    }
    if (fault == SUM_BY_INDEX) {
        sum = 0;
        for (uint32_t e = 0; e < n; e++)
            sum = taken[e] ? fl(sum + score[e]) : sum;
    }
    for (uint32_t slot = 0; slot < router->slots; slot++) {
        if (router->normalised && fault != NOT_NORMALISED)
            weights[slot] = fl(weights[slot] / fl(sum + (fault == NO_EPSILON ? 0 : (double)router->epsilon)));
        weights[slot] = fault == SCALED_BEFORE ? weights[slot] : fl(weights[slot] * (double)router->scaling);
    }
}

// Halves, so that scores are often equal where there are many experts.
static void fill_logits(float *logits, float *bias, uint32_t n, bool coarse)
{
    for (uint32_t e = 0; e < n; e++) {
        logits[e] = coarse ? rintf(2 * random_unit()) : half_round(4 * random_unit());
        bias[e] = coarse ? 0 : 0.1f * random_unit();
    }
}

static bool agrees(const struct router *router, const float *logits, const float *bias, enum fault fault)
{
    const struct routed found = route(router, logits, bias);
    uint32_t ids[MOST_SLOTS];
    double weights[MOST_SLOTS];
    slow_route(router, logits, bias, fault, ids, weights);
    return !memcmp(ids, found.ids, router->slots * sizeof *ids) &&
           first_off(weights, found.weights, router->slots) == router->slots;
}

// --- the rule

Test(router, selects_and_weighs_as_the_slow_model_does)
{
    static const struct router routers[] = {
        {1, 1, ROUTER_SIGMOID, true, 1e-6f, 1},     {8, 8, ROUTER_SIGMOID, true, 1e-6f, 1},
        {32, 4, ROUTER_SIGMOID, true, 1e-6f, 1},    {32, 4, ROUTER_SIGMOID, false, 1e-6f, 2.5f},
        {64, 2, ROUTER_SIGMOID, true, 1e-6f, 1.3f}, {7, 1, ROUTER_SOFTMAX, true, 0, 1},
        {256, 8, ROUTER_SOFTMAX, true, 0, 1},       {512, 10, ROUTER_SOFTMAX, true, 0, 1},
    };
    float logits[MOST_EXPERTS], bias[MOST_EXPERTS];
    seed_random("router");
    for (size_t i = 0; i < sizeof routers / sizeof *routers; i++)
        for (int trial = 0; trial < 200; trial++) {
            fill_logits(logits, bias, routers[i].experts, trial % 2);
            cr_assert(agrees(&routers[i], logits, trial % 4 < 2 ? bias : NULL, RIGHT), "router %zu, trial %d", i,
                      trial);
        }
}

Test(router, a_rule_that_differs_in_one_place_is_seen)
{
    static const char *const names[FAULTS] = {
        "right",        "the bias in the weights", "the highest of equals", "no epsilon",          "the other score",
        "sum by index", "scaled before the sum",   "not normalised",        "selection by logits",
    };
    const struct router router = {32, 4, ROUTER_SIGMOID, true, 1e-6f, 1.3f};
    float logits[32], bias[32];
    seed_random("router faults");
    for (enum fault fault = RIGHT; fault < FAULTS; fault++) {
        bool same = true;
        for (int trial = 0; trial < 64; trial++) {
            fill_logits(logits, bias, 32, trial % 2);
            same = same && agrees(&router, logits, bias, fault);
        }
        cr_expect_eq(same, fault == RIGHT, "%s", names[fault]);
    }
}

Test(router, equal_scores_go_to_the_lowest_index)
{
    const float logits[] = {-0.0f, 1, 0, 2, 1, 0, 2, 1};
    for (int score = ROUTER_SIGMOID; score <= ROUTER_SOFTMAX; score++) {
        const struct router router = {8, 7, (enum router_score)score, true, 0, 1};
        const struct routed routed = route(&router, logits, NULL);
        const uint32_t expected[] = {3, 6, 1, 4, 7, 0, 2};
        cr_expect_arr_eq(routed.ids, expected, sizeof expected);
    }
}

Test(router, the_bias_selects_and_does_not_weigh)
{
    const float logits[4] = {3, 2, 1, 0}, bias[4] = {-4, 0, 0, 4};
    const struct router router = {4, 2, ROUTER_SIGMOID, false, 1e-6f, 1};
    const struct routed routed = route(&router, logits, bias);
    cr_expect(routed.ids[0] == 3 && routed.ids[1] == 1);
    cr_expect(routed.weights[0] == 0.5f && routed.weights[1] == kernels_sigmoid(2));
}

// --- NaN

Test(router, a_nan_logit_reaches_every_weight)
{
    float logits[256];
    const struct router *const routers[] = {&lfm2, &qwen};
    seed_random("router NaN");
    for (int i = 0; i < 2; i++)
        for (uint32_t at = 0; at < 32; at++) {
            for (uint32_t e = 0; e < 256; e++)
                logits[e] = random_unit();
            logits[at] = float_from_bits(0xFFC12345);
            logits[at ? at - 1 : 1] = INFINITY;
            const struct routed routed = route(routers[i], logits, NULL);
            for (uint32_t slot = 0; slot < routers[i]->slots; slot++)
                cr_expect_eq(float_to_bits(routed.weights[slot]), FLOAT_NAN_BITS, "router %d, NaN at %u", i, at);
            cr_expect_eq(routed.ids[0], i ? 0 : at, "softmax makes NaN of all: the lowest index");
        }
}

Test(router, a_nan_selects_before_any_number_and_its_weight_is_nan)
{
    float logits[4] = {1, 2, 3, 4}, bias[4] = {INFINITY, NAN, 0, NAN};
    const struct router router = {4, 3, ROUTER_SIGMOID, false, 1e-6f, 1};
    const struct routed routed = route(&router, logits, bias);
    const uint32_t expected[] = {1, 3, 0};
    cr_expect_arr_eq(routed.ids, expected, sizeof expected);
    cr_expect(isnan(routed.weights[0]) && isnan(routed.weights[1]), "a NaN bias does not pick in silence");
    cr_expect_eq(routed.weights[2], kernels_sigmoid(1));
}

// --- the sum of experts

static float outputs[(MOST_SLOTS + 1) * WIDEST], weights[MOST_SLOTS + 1];

enum { SUM_RIGHT, SUM_EACH_ROUNDED, SUM_NOT_FUSED, SUM_FROM_THE_LAST, SUM_WEIGHT_ROUNDED, SUM_FAULTS };

static void slow_sum(uint32_t slots, uint32_t d, int fault, double *y)
{
    for (uint32_t i = 0; i < d; i++) {
        double acc = 0;
        for (uint32_t s = 0; s < slots; s++) {
            const uint32_t slot = fault == SUM_FROM_THE_LAST ? slots - 1 - s : s;
            const double x = (double)outputs[(size_t)slot * d + i], w = (double)weights[slot];
            if (fault == SUM_NOT_FUSED)
                acc = fl(acc + fl(w * x));
            else
                acc = fma_fl(fault == SUM_WEIGHT_ROUNDED ? hf(w) : w, x, acc);
            acc = fault == SUM_EACH_ROUNDED ? hf(acc) : acc;
        }
        y[i] = hf(acc);
    }
}

static void fill_experts(uint32_t slots, uint32_t d, enum shape shape)
{
    fill(outputs, (size_t)slots * d, shape);
    for (uint32_t slot = 0; slot < slots; slot++) // the last as a shared expert's
        weights[slot] = slot + 1 < slots ? 0.25f * (1 + random_unit()) : kernels_sigmoid(shaped(shape));
}

Test(experts, every_instruction_set_sums_as_the_slow_model_does)
{
    const uint32_t widths[] = {1, 3, 7, 8, 31, 32, 33, 577};
    static double slow[WIDEST];
    struct guarded guarded;
    seed_random("experts");
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
            for (uint32_t slots = 1; slots <= MOST_SLOTS + 1; slots++)
                for (int shape = 0; shape < SHAPES; shape++) {
                    struct kernels kernels;
                    if (!isa_available((enum isa)isa))
                        continue;
                    kernels_init(&kernels, (enum isa)isa);
                    fill_experts(slots, widths[i], (enum shape)shape);
                    float *y = poison(&guarded);
                    kernels.expert_sum(outputs, weights, slots, widths[i], y);
                    slow_sum(slots, widths[i], SUM_RIGHT, slow);
                    cr_assert(first_off(slow, y, widths[i]) == widths[i], "%s, %u slots, width %u, shape %d",
                              isa_name((enum isa)isa), slots, widths[i], shape);
                    cr_assert(guards_hold(&guarded, widths[i]));
                }
}

Test(experts, an_operation_in_another_place_is_seen)
{
    static double slow[WIDEST];
    static float y[WIDEST];
    struct kernels kernels;
    kernels_init(&kernels, ISA_SCALAR);
    seed_random("experts faults");
    for (int fault = SUM_RIGHT; fault < SUM_FAULTS; fault++) {
        bool same = true;
        for (int row = 0; row < 300 && same; row++) {
            fill_experts(5, 577, SHAPE_ORDINARY);
            kernels.expert_sum(outputs, weights, 5, 577, y);
            slow_sum(5, 577, fault, slow);
            same = same && first_off(slow, y, 577) == 577;
        }
        cr_expect_eq(same, fault == SUM_RIGHT, "fault %d", fault);
    }
}

#if defined(__SSE__)
// A shared expert whose gate is -88 has a subnormal weight, and a flush takes it away: the sign of a zero may change
// then, and 0 x Inf differs from a small number x Inf. Nothing else does.
Test(experts, flush_on_and_off_give_the_same_halves)
{
    static float off[WIDEST], on[WIDEST];
    seed_random("flush");
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int i = 0; i < 2 * SHAPES; i++) {
            struct kernels kernels;
            const enum shape shape = (enum shape)(i / 2);
            const bool subnormal = i % 2;
            if (!isa_available((enum isa)isa) || (subnormal && shape == SHAPE_SPECIAL))
                continue;
            kernels_init(&kernels, (enum isa)isa);
            fill_experts(5, 577, shape);
            weights[4] = subnormal ? kernels_sigmoid(-88) : weights[4];
            cr_assert(!subnormal || (weights[4] > 0 && weights[4] < 0x1p-126f), "control");
            kernels.expert_sum(outputs, weights, 5, 577, off);
            const unsigned saved = flush_begin();
            kernels.expert_sum(outputs, weights, 5, 577, on);
            flush_end(saved);
            for (uint32_t k = 0; subnormal && k < 577; k++) {
                off[k] += 0.0f; // +0
                on[k] += 0.0f;
            }
            cr_expect(first_difference(off, on, 577, true) == 577, "%s, shape %d", isa_name((enum isa)isa),
                      (int)shape);
        }
}

// Experts whose score is subnormal may change places; what they add to a half is nothing.
Test(router, flush_on_and_off_select_the_same_experts)
{
    float logits[256], bias[256];
    seed_random("router flush");
    for (int trial = 0; trial < 100; trial++) {
        const struct router *router = trial % 2 ? &qwen : &lfm2;
        fill_logits(logits, bias, 256, trial % 4 < 2);
        const struct routed off = route(router, logits, NULL);
        const unsigned saved = flush_begin();
        const struct routed on = route(router, logits, NULL);
        flush_end(saved);
        cr_expect(!memcmp(off.ids, on.ids, router->slots * sizeof *off.ids) &&
                  first_difference(off.weights, on.weights, router->slots, true) == router->slots);
    }
}
#endif
