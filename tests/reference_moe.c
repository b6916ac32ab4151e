// Whole models with experts: against the golden traces of Hugging Face transformers (tests/parity.h), batches against
// single tokens, and models that are wrong on purpose.
//
// Measured worst, in units of transformers' own noise: logits 1.6, states 1.6 (odd-lfm2moe-mixed-sharded), taps 3.8
// (attn of odd-lfm2moe-group8-untied, whose noise happens to be the least of all, 5e-7); the chosen experts are equal
// in every slot.
#include "reference/math.h"
#include "tests/batch.h"
#include "tests/bits.h"
#include "tests/parity.h"

static const char *const MINI[] = {"lfm2moe-mini", "qwen35moe-mini"};
enum { N_MINI = sizeof MINI / sizeof *MINI };

static const char *const ODD_MOE[] = {
    "odd-lfm2moe-all-attention",   "odd-lfm2moe-all-dense",         "odd-lfm2moe-every-expert",
    "odd-lfm2moe-group1-top1",     "odd-lfm2moe-group3-taps4-bias", "odd-lfm2moe-group8-untied",
    "odd-lfm2moe-mixed-sharded",   "odd-lfm2moe-one-attention",     "odd-qwen35moe-all-attention",
    "odd-qwen35moe-every-expert",  "odd-qwen35moe-group1-fused",    "odd-qwen35moe-group3-top1-split",
    "odd-qwen35moe-group8-top4",   "odd-qwen35moe-mixed-sharded",
};
enum { N_ODD_MOE = sizeof ODD_MOE / sizeof *ODD_MOE };

// --- transformers

Test(reference_moe, the_trained_models_agree_with_transformers)
{
    for (size_t i = 0; i < N_MINI; i++) {
        parity_check(MINI[i], "chat", PARITY_TAPS);
        parity_check(MINI[i], "narrative", PARITY_TAPS);
        parity_check(MINI[i], "high-ids", PARITY_STATE);
        parity_check(MINI[i], "code-48", PARITY_STATE);
        parity_check(MINI[i], "scripture-72", PARITY_STATE);
        parity_check(MINI[i], "chat-40.batch", PARITY_STATE);
    }
}

Test(reference_moe, the_reference_is_as_near_to_double_as_transformers_is)
{
    for (size_t i = 0; i < N_MINI; i++) {
        parity_check_double(MINI[i], "chat", "chat-9.float64");
        parity_check_double(MINI[i], "narrative", "narrative-9.float64");
    }
}

Test(reference_moe, models_of_odd_shapes_agree_with_transformers)
{
    for (size_t i = 0; i < N_ODD_MOE; i++)
        parity_check(ODD_MOE[i], "random", PARITY_TAPS);
}

// --- the same bits, whatever the machine does

Test(reference_moe, isa_threads_and_taps_change_no_bit)
{
    static const unsigned threads[] = {1, 3}; // others: the trace hashes of tests/kernels
    for (size_t i = 0; i < N_MINI; i++)
        bits_check(MINI[i], threads + 1, 1);
    for (size_t i = 0; i < N_ODD_MOE; i++)
        bits_check(ODD_MOE[i], threads, 2);
}

Test(reference_moe, a_restored_state_continues_with_the_same_bits)
{
    for (size_t i = 0; i < N_MINI; i++)
        bits_check_restore(MINI[i]);
}

// --- batches

Test(reference_moe, every_width_gives_the_bits_of_one_token_at_a_time)
{
    struct error error = {0};
    struct fixture fixture;
    struct pool *pool;
    must(pool_open(&pool, 3, &error), &error);
    for (size_t i = 0; i < N_MINI; i++) {
        fixture_open(&fixture, MINI[i]);
        const struct batch_rows *expected = batch_steps(&fixture, DECODER_WIDTH);
        for (uint32_t width = 2; width <= 40; width++)
            batch_check(&fixture, isa_best(), pool, DECODER_WIDTH, width, expected);
        batch_check(&fixture, isa_best(), pool, DECODER_WIDTH, DECODER_WIDTH, expected);
        fixture_close(&fixture);
    }
    pool_close(&pool);
}

Test(reference_moe, odd_shapes_give_the_same_bits_on_every_isa_and_with_every_number_of_threads)
{
    static const unsigned threads[] = {1, 2, 7};
    static const uint32_t widths[] = {2, 5, 16, 19};
    struct error error = {0};
    for (size_t i = 0; i < N_ODD_MOE; i++) {
        struct fixture fixture;
        fixture_open(&fixture, ODD_MOE[i]);
        const struct batch_rows *expected = batch_steps(&fixture, 19);
        for (size_t j = 0; j < 3; j++) {
            struct pool *pool;
            must(pool_open(&pool, threads[j], &error), &error);
            for (int isa = 0; isa < ISA_COUNT; isa++)
                for (size_t k = 0; isa_available((enum isa)isa) && k < 4; k++)
                    batch_check(&fixture, (enum isa)isa, pool, 19, widths[k], expected);
            pool_close(&pool);
        }
        fixture_close(&fixture);
    }
}

// --- storage

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct tensor *const *)a)->name, (*(const struct tensor *const *)b)->name);
}

// The same checkpoint with its experts one by one: views of the two tensors, `swapped`: under each other's name.
static struct tensor_table split_experts(struct fixture *fixture, bool swapped)
{
    static const char *const fused[] = {"experts.gate_up_proj", "experts.down_proj"};
    static const char *const part[][2] = {{"gate_proj", "up_proj"}, {"down_proj", NULL}};
    const struct tensor_table *table = &fixture->checkpoint->table;
    const struct tensor **tensors = arena_alloc(&fixture->arena, 4096, sizeof *tensors);
    struct tensor *views = arena_alloc(&fixture->arena, 4096, sizeof *views);
    size_t n = 0;
    for (size_t i = 0; i < table->n; i++) {
        const struct tensor *whole = table->tensors[i];
        const char *at = strstr(whole->name, "experts.");
        const int which = at && !strcmp(at, fused[0]) ? 0 : at && !strcmp(at, fused[1]) ? 1 : -1;
        if (which < 0) {
            tensors[n++] = whole;
            continue;
        }
        const uint64_t parts = which ? 1 : 2, pieces = whole->shape[0] * parts;
        for (uint64_t piece = 0; piece < pieces; piece++) {
            struct tensor *view = &views[n];
            *view = *whole;
            view->name = arena_print(&fixture->arena, "%.*sexperts.%llu.%s.weight", (int)(at - whole->name), whole->name,
                                     (unsigned long long)(piece / parts),
                                     part[which][swapped && !which ? 1 - piece % 2 : piece % parts]);
            view->rank = 2;
            view->shape[0] = whole->shape[1] / parts;
            view->shape[1] = whole->shape[2];
            view->elements = whole->elements / pieces;
            view->bytes = whole->bytes / pieces;
            view->data = (const char *)whole->data + piece * view->bytes;
            tensors[n++] = view;
        }
    }
    cr_assert(n > table->n && n <= 4096, "nothing was stored in one");
    qsort(tensors, n, sizeof *tensors, by_name);
    return (struct tensor_table){n, tensors};
}

// Do logits, taps and state of the split checkpoint have the bits of the one whose experts are stored in one?
static bool has_same_bits(const char *name, bool swapped)
{
    enum { N = 12 };
    struct error error = {0};
    struct fixture fixture;
    fixture_open(&fixture, name);
    cr_assert(fixture.model.layers[0].gate_up.format != WEIGHT_NONE);
    const struct batch_rows *expected = batch_steps(&fixture, N);
    const struct tensor_table table = split_experts(&fixture, swapped);
    must(model_bind(&fixture.arena, &fixture.config, &table, false, &fixture.model, NULL, &error), &error);
    cr_assert_eq(fixture.model.layers[0].gate_up.format, WEIGHT_NONE);
    const bool same = batch_difference(expected, batch_steps(&fixture, N), N) == N;
    fixture_close(&fixture);
    return same;
}

Test(reference_moe, experts_stored_in_one_and_one_by_one_give_the_same_bits)
{
    cr_expect(has_same_bits("odd-qwen35moe-group1-fused", false));
    cr_expect(has_same_bits("qwen35moe-mini", false));
    cr_expect(!has_same_bits("odd-qwen35moe-group1-fused", true), "control: gate and up under each other's name");
}

// --- wrong on purpose: the logits alone must be further away than the limit

// Replaces the weights of the experts in the engine's own rows before they are used.
struct spoiler {
    const struct model *model;
    enum { SPOIL_NOTHING, SPOIL_BIAS, SPOIL_SOFTMAX, SPOIL_SIGMOID, SPOIL_SHARES } how;
    float logits[64];
    uint32_t chosen[64];
};

// Before any division by the sum of the slots.
static float spoiled_weight(const struct spoiler *spoiler, uint32_t layer, uint32_t expert)
{
    double sum = 0;
    for (uint32_t e = 0; e < spoiler->model->config.experts; e++)
        sum += exp(spoiler->logits[e]);
    if (spoiler->how == SPOIL_SOFTMAX || spoiler->how == SPOIL_SHARES)
        return (float)(exp(spoiler->logits[expert]) / sum);
    const float s = math_sigmoid(spoiler->logits[expert]);
    return spoiler->how == SPOIL_BIAS ? s + weight_at(&spoiler->model->layers[layer].expert_bias, 0, expert) : s;
}

static void spoil(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct spoiler *spoiler = context;
    float *weights = (float *)(uintptr_t)row, sum = 0;
    for (uint32_t e = 0; point == TAP_ROUTER && e < width; e++)
        spoiler->logits[e] = row[e];
    for (uint32_t slot = 0; point == TAP_EXPERTS && slot < width; slot++)
        spoiler->chosen[slot] = (uint32_t)row[slot];
    if (point != TAP_WEIGHTS || spoiler->how == SPOIL_NOTHING)
        return;
    for (uint32_t slot = 0; slot < width; slot++)
        sum += weights[slot] = spoiled_weight(spoiler, layer, spoiler->chosen[slot]);
    for (uint32_t slot = 0; spoiler->how != SPOIL_SHARES && slot < width; slot++)
        weights[slot] /= sum;
}

static bool is_caught(struct spoiler *spoiler, const char *name, const char *golden_name, const char *what)
{
    struct parity parity;
    const struct tap_sink taps = {TAPS_ALL, spoiler, spoil};
    struct trace *golden = parity_golden(name, golden_name);
    parity_run_tapped(spoiler->model, golden, &taps, &parity);
    const double distance = parity_noise(&parity.logits, parity.noise);
    fprintf(stderr, "# %s, %s: logits %.3g of the noise, limit %g\n", name, what, distance, PARITY_LIMIT);
    trace_close(&golden);
    return !(distance <= PARITY_LIMIT);
}

Test(reference_moe, a_wrong_sigmoid_router_or_expert_does_not_agree)
{
    static const char name[] = "lfm2moe-mini";
    struct fixture fixture;
    fixture_open(&fixture, name);
    struct model model = fixture_mutable(&fixture);
    struct spoiler spoiler = {.model = &model};
    cr_expect(!is_caught(&spoiler, name, "chat", "control"));

    spoiler.how = SPOIL_BIAS;
    cr_expect(is_caught(&spoiler, name, "chat", "expert bias added to the weights"));
    spoiler.how = SPOIL_SOFTMAX;
    cr_expect(is_caught(&spoiler, name, "chat", "softmax instead of sigmoid"));
    spoiler.how = SPOIL_NOTHING;

    cr_assert(model.config.expert_normalise);
    model.config.expert_normalise = false;
    cr_expect(is_caught(&spoiler, name, "chat", "no renormalisation"));
    model.config = fixture.config;

    struct expert *experts = model.layers[3].experts; // of the fixture's own arena
    const struct expert first = experts[0];
    experts[0].down = experts[1].down;
    cr_expect(is_caught(&spoiler, name, "chat", "down projection of another expert"));
    experts[0] = (struct expert){first.up, first.gate, first.down};
    cr_expect(is_caught(&spoiler, name, "chat", "gate and up of one expert swapped"));
    experts[0] = first;

    const struct weight bias = model.layers[3].expert_bias;
    model.layers[3].expert_bias.format = WEIGHT_NONE;
    cr_expect(is_caught(&spoiler, name, "chat", "no bias in the selection"));
    model.layers[3].expert_bias = bias;
    cr_expect(!is_caught(&spoiler, name, "chat", "control, all put back"));
    fixture_close(&fixture);
}

// A shared expert without its gate: sigmoid(0) = 1/2, and twice the down projection.
static void drop_shared_gate(struct fixture *fixture, struct layer *layer)
{
    layer->shared_gate = parity_copy(fixture, &layer->shared_gate);
    memset((void *)(uintptr_t)layer->shared_gate.data, 0, weight_row_bytes(&layer->shared_gate));
    layer->shared.down = parity_copy(fixture, &layer->shared.down);
    cr_assert_eq(layer->shared.down.format, WEIGHT_BF16);
    uint16_t *down = (uint16_t *)(uintptr_t)layer->shared.down.data;
    for (size_t i = 0; i < (size_t)layer->shared.down.rows * layer->shared.down.cols; i++)
        down[i] = (uint16_t)(float_to_bits(2 * float_from_bits((uint32_t)down[i] << 16)) >> 16);
}

Test(reference_moe, a_wrong_softmax_router_or_shared_expert_does_not_agree)
{
    static const char name[] = "qwen35moe-mini";
    struct fixture fixture;
    fixture_open(&fixture, name);
    struct model model = fixture_mutable(&fixture);
    struct spoiler spoiler = {.model = &model};
    cr_expect(!is_caught(&spoiler, name, "chat", "control"));

    spoiler.how = SPOIL_SIGMOID;
    cr_expect(is_caught(&spoiler, name, "chat", "sigmoid instead of softmax"));
    spoiler.how = SPOIL_SHARES;
    cr_expect(is_caught(&spoiler, name, "chat", "no renormalisation"));
    spoiler.how = SPOIL_NOTHING;

    struct expert *experts = model.layers[3].experts; // of the fixture's own arena
    const struct expert first = experts[0];
    experts[0].down = experts[1].down;
    cr_expect(is_caught(&spoiler, name, "chat", "down projection of another expert"));
    experts[0] = (struct expert){first.up, first.gate, first.down};
    cr_expect(is_caught(&spoiler, name, "chat", "gate and up of one expert swapped"));
    experts[0] = first;

    drop_shared_gate(&fixture, &model.layers[3]);
    cr_expect(is_caught(&spoiler, name, "chat", "shared gate of one layer missing"));
    fixture_close(&fixture);
}

Test(reference_moe, a_scaling_that_is_ignored_does_not_agree)
{
    struct fixture fixture;
    fixture_open(&fixture, "odd-lfm2moe-every-expert");
    struct model model = fixture_mutable(&fixture);
    struct spoiler spoiler = {.model = &model};
    cr_assert_eq(model.config.expert_scale, 3.0f);
    cr_expect(!is_caught(&spoiler, "odd-lfm2moe-every-expert", "random", "control"));
    model.config.expert_scale = 1;
    cr_expect(is_caught(&spoiler, "odd-lfm2moe-every-expert", "random", "scaling ignored"));
    fixture_close(&fixture);
}
