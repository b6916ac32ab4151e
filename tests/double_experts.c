// The fp64 oracle's sparse feed-forward against plain loops over the definition (architecture.md 3, 5), one token at
// a time. Each fault that would leave a model talking is put into the plain form and must be seen.
#include "tests/truth.h"

enum fault {
    NONE,
    BIAS_IN_WEIGHTS,
    BIAS_MISSING,
    OTHER_SCORES,
    NOT_NORMALISED,
    SUM_WITHOUT_EPS,
    ONE_TOO_FEW,
    OTHER_DOWN,
    GATE_AND_UP_SWAPPED,
    WEIGHT_BEFORE_DOWN,
    SHARED_MISSING,
    SHARED_GATE_MISSING,
    FAULTS
};
static const char *const names[] = {"none",
                                    "bias in the weights",
                                    "bias missing",
                                    "sigmoid and softmax exchanged",
                                    "not normalised",
                                    "sum without 1e-6",
                                    "one expert too few",
                                    "down projection of another expert",
                                    "gate and up swapped",
                                    "weight before the activation",
                                    "shared expert missing",
                                    "its gate missing"};

enum { MOST = 16 }; // experts

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void score(const double *logits, uint32_t n, int is_sigmoid, double *scores)
{
    double sum = 0;
    for (uint32_t e = 0; e < n; e++)
        sum += exp(logits[e]);
    for (uint32_t e = 0; e < n; e++)
        scores[e] = is_sigmoid ? sigmoid(logits[e]) : exp(logits[e]) / sum;
}

// Experts whose rank is below k: how many others stand before each.
static void choose(const double *selection, uint32_t n, uint32_t k, double *experts)
{
    for (uint32_t e = 0; e < n; e++) {
        uint32_t rank = 0;
        for (uint32_t other = 0; other < n; other++)
            rank += selection[other] > selection[e] || (selection[other] == selection[e] && other < e);
        if (rank < k)
            experts[rank] = e;
    }
}

static void route(const struct config *config, const struct layer *weights, const double *logits, enum fault fault,
                  double *experts, double *chosen)
{
    const uint32_t n = config->experts, k = config->experts_per_token;
    const bool is_lfm2 = config->family == FAMILY_LFM2_MOE;
    double scores[MOST], selection[MOST], sum = 0;
    cr_assert(n <= MOST);
    score(logits, n, is_lfm2 != (fault == OTHER_SCORES), scores);
    for (uint32_t e = 0; e < n; e++) {
        const double bias = is_lfm2 && fault != BIAS_MISSING ? (double)weight_at(&weights->expert_bias, 0, e) : 0;
        selection[e] = scores[e] + bias;
    }
    choose(selection, n, k, experts);
    for (uint32_t slot = 0; slot < k; slot++)
        sum += chosen[slot] = (fault == BIAS_IN_WEIGHTS ? selection : scores)[(uint32_t)experts[slot]];
    for (uint32_t slot = 0; slot < k; slot++)
        chosen[slot] /= fault == NOT_NORMALISED ? 1 : sum + (is_lfm2 && fault != SUM_WITHOUT_EPS ? 1e-6 : 0);
}

// y += outer down (silu(inner gate x) up x)
static void add_swiglu(const struct expert *weights, const struct weight *down, const double *x, double inner,
                       double outer, enum fault fault, double *y)
{
    double gate[256], up[256], out[256];
    cr_assert(weights->gate.rows <= 256 && down->rows <= 256);
    truth_multiply(&weights->gate, x, 1, fault == GATE_AND_UP_SWAPPED ? up : gate);
    truth_multiply(&weights->up, x, 1, fault == GATE_AND_UP_SWAPPED ? gate : up);
    for (uint32_t i = 0; i < weights->gate.rows; i++)
        gate[i] = inner * gate[i] * sigmoid(inner * gate[i]) * up[i];
    truth_multiply(down, gate, 1, out);
    for (uint32_t i = 0; i < down->rows; i++)
        y[i] += outer * out[i];
}

static void feed_forward(const struct config *config, const struct layer *weights, const double *x,
                         const double *experts, const double *chosen, enum fault fault, double *y)
{
    const uint32_t k = config->experts_per_token;
    memset(y, 0, config->hidden * sizeof *y);
    for (uint32_t slot = k - (fault == ONE_TOO_FEW); slot-- > 0;) { // the last first
        const uint32_t e = (uint32_t)experts[slot];
        const uint32_t down = fault == OTHER_DOWN ? (e + 1) % config->experts : e;
        const bool is_inner = fault == WEIGHT_BEFORE_DOWN;
        add_swiglu(&weights->experts[e], &weights->experts[down].down, x, is_inner ? chosen[slot] : 1,
                   is_inner ? 1 : chosen[slot], fault, y);
    }
    if (config->shared_width && fault != SHARED_MISSING) {
        double gate;
        truth_multiply(&weights->shared_gate, x, 1, &gate);
        add_swiglu(&weights->shared, &weights->shared.down, x, 1, fault == SHARED_GATE_MISSING ? 1 : sigmoid(gate),
                   fault, y);
    }
}

// The largest relative distance of the points `weights` and `ffn`; infinite where the experts differ.
static double distance_of(const struct model *model, const struct truth_kept *kept, uint32_t layer, uint32_t n,
                          enum fault fault)
{
    const struct config *config = &model->config;
    const struct layer *weights = &model->layers[layer];
    const uint32_t k = config->experts_per_token, d = config->hidden;
    struct distance routed = {0}, summed = {0};
    double experts[MOST], chosen[MOST], y[256], logits[MOST];
    bool is_same = true;
    cr_assert(d <= 256);
    for (uint32_t t = 0; t < n; t++) {
        const double *x = kept->taps[layer][TAP_FFN_NORM] + (size_t)t * d;
        truth_multiply(&weights->router, x, 1, logits);
        route(config, weights, logits, fault, experts, chosen);
        for (uint32_t slot = 0; slot < k; slot++) {
            is_same = is_same && experts[slot] == kept->taps[layer][TAP_EXPERTS][t * k + slot];
            distance_add(&routed, kept->taps[layer][TAP_WEIGHTS][t * k + slot], chosen[slot]);
        }
        feed_forward(config, weights, x, experts, chosen, fault, y);
        for (uint32_t i = 0; i < d; i++)
            distance_add(&summed, kept->taps[layer][TAP_FFN][(size_t)t * d + i], y[i]);
    }
    if (!is_same)
        return INFINITY;
    const double a = distance_relative(&routed), b = distance_relative(&summed);
    return isnan(a) || a > b ? a : b;
}

// Two orders of double sums; measured worst: 5e-16.
static const double LIMIT = 1e-14;

static void check(const char *name, const enum fault *faults, size_t n)
{
    struct fixture fixture;
    struct truth_kept kept;
    fixture_open(&fixture, name);
    struct trace *golden = truth_golden(name, "chat");
    truth_keep(&kept, &fixture.model, golden);
    for (uint32_t layer = fixture.config.dense_layers; layer < fixture.config.layers; layer++) {
        const double found = distance_of(&fixture.model, &kept, layer, golden->n, NONE);
        cr_expect(found <= LIMIT, "%s, layer %u: %g", name, layer, found);
    }
    for (size_t i = 0; i < n; i++) {
        const double found = distance_of(&fixture.model, &kept, fixture.config.dense_layers, golden->n, faults[i]);
        fprintf(stderr, "# %s, %s: %.2g\n", name, names[faults[i]], found);
        cr_expect((found <= LIMIT) == (faults[i] == NONE), "%s, %s: %g", name, names[faults[i]], found);
    }
    arena_close(&kept.arena);
    trace_close(&golden);
    fixture_close(&fixture);
}

Test(double_experts, of_lfm2_moe_are_their_definition_and_every_fault_is_seen)
{
    static const enum fault faults[] = {
        NONE,        BIAS_IN_WEIGHTS, BIAS_MISSING,        OTHER_SCORES,      NOT_NORMALISED, SUM_WITHOUT_EPS,
        ONE_TOO_FEW, OTHER_DOWN,      GATE_AND_UP_SWAPPED, WEIGHT_BEFORE_DOWN};
    check("lfm2moe-mini", faults, sizeof faults / sizeof *faults);
}

Test(double_experts, of_qwen35_moe_are_their_definition_and_every_fault_is_seen)
{
    static const enum fault faults[] = {NONE,
                                        OTHER_SCORES,
                                        NOT_NORMALISED,
                                        ONE_TOO_FEW,
                                        OTHER_DOWN,
                                        GATE_AND_UP_SWAPPED,
                                        WEIGHT_BEFORE_DOWN,
                                        SHARED_MISSING,
                                        SHARED_GATE_MISSING};
    check("qwen35moe-mini", faults, sizeof faults / sizeof *faults);
}

// A router of zeros, or with a NaN in row 5, in one layer.
static struct weight router_of(struct fixture *fixture, struct weight like, float nan_or_zero)
{
    float *data = arena_alloc(&fixture->arena, (size_t)like.rows * like.cols, sizeof *data);
    data[5 * like.cols] = nan_or_zero;
    like.format = WEIGHT_F32;
    like.data = data;
    return like;
}

Test(double_experts, equal_scores_go_to_the_lower_number_and_a_nan_among_them_to_every_weight)
{
    static const char *const models[] = {"lfm2moe-mini", "qwen35moe-mini"};
    for (size_t i = 0; i < 2; i++) {
        struct fixture fixture;
        struct truth_kept kept;
        fixture_open(&fixture, models[i]);
        struct model model = fixture_mutable(&fixture);
        struct trace *golden = truth_golden(models[i], "chat");
        struct layer *last = &model.layers[model.config.layers - 1];
        const uint32_t at = model.config.layers - 1, k = model.config.experts_per_token;
        last->expert_bias.format = WEIGHT_NONE;
        last->router = router_of(&fixture, last->router, 0);
        truth_keep(&kept, &model, golden);
        for (uint32_t j = 0; j < golden->n * k; j++)
            cr_expect_eq(kept.taps[at][TAP_EXPERTS][j], j % k, "%s: slot %u", models[i], j % k);
        arena_close(&kept.arena);
        last->router = router_of(&fixture, last->router, NAN);
        truth_keep(&kept, &model, golden);
        for (uint32_t j = 0; j < golden->n * k; j++)
            cr_expect(isnan(kept.taps[at][TAP_WEIGHTS][j]), "%s: slot %u", models[i], j % k);
        arena_close(&kept.arena);
        trace_close(&golden);
        fixture_close(&fixture);
    }
}
