// Qwen3.5 that is wrong on purpose: the reference with one fault each must be further from transformers than the
// limit of tests/parity.h. A fault is another weight or setting, rows of the pass that a tap changes before they are
// used, or another kernel of the delta rule.
#include "harness/base/floating.h"
#include "reference/math.h"
#include "reference/qwen35.h"
#include "tests/parity.h"

static const char NAME[] = "qwen35-mini", GOLDEN[] = "chat";

enum fault {
    NONE,
    SLOW_KERNEL, // none either: control of the kernel below
    // of the delta rule
    NO_EXP, READ_BEFORE_DECAY, READ_BEFORE_WRITE, NO_BETA, POST_ACTIVATION,
    // of the rows
    NO_SIGMOID, NO_L2_NORM, NO_SCALE, OTHER_KEY_HEAD, NO_Z, NO_OUTPUT_GATE, POSITION_RESTARTED,
    // of the state
    STATE_TRANSPOSED, SAVED_TRANSPOSED,
};

struct wrong {
    struct engine engine; // first: the socket's pointer is ours
    struct decoder *decoder;
};

static enum fault fault; // a kernel has no context

// --- kernels

static void step(const struct delta_input *input, uint32_t dk, uint32_t dv, float *S, double *sums, float *out)
{
    const float decay = fault == NO_EXP ? input->g : math_exp(input->g);
    const float beta = fault == NO_BETA ? 1.0f : input->beta;
    (void)sums;
    for (uint32_t j = 0; j < dv; j++) {
        double read = 0, late = 0, result = 0;
        for (uint32_t i = 0; i < dk; i++) {
            float *s = &S[(size_t)i * dv + j];
            read += (double)input->k[i] * *s;
            *s *= decay;
            late += (double)input->k[i] * *s;
            result += (double)input->q[i] * *s;
        }
        const float d = beta * (input->v[j] - (float)(fault == READ_BEFORE_DECAY ? read : late));
        if (fault != READ_BEFORE_WRITE)
            result = 0;
        for (uint32_t i = 0; i < dk; i++) {
            float *s = &S[(size_t)i * dv + j];
            *s = fmaf(input->k[i], d, *s);
            if (fault != READ_BEFORE_WRITE)
                result += (double)input->q[i] * *s;
        }
        out[j] = (float)result;
    }
}

static void convolve(const float *m, const float *w, uint32_t channels, uint32_t taps, float *state, float *c)
{
    delta_kernels->convolve(m, w, channels, taps, state, c);
    for (uint32_t i = 0; fault == POST_ACTIVATION && i < channels; i++)
        state[(size_t)i * (taps - 1) + taps - 2] = c[i];
}

static const struct delta_kernel wrong_kernel = {"wrong", ISA_SCALAR, convolve, step};

// --- rows

static void transpose(float *S, uint32_t heads, uint32_t n)
{
    for (uint32_t h = 0; h < heads; h++, S += (size_t)n * n)
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < i; j++) {
                const float kept = S[i * n + j];
                S[i * n + j] = S[j * n + i];
                S[j * n + i] = kept;
            }
}

static void spoil_delta_net(struct decoder *s, uint32_t layer, enum tap_point point)
{
    const struct config *config = &s->model->config;
    const uint32_t keys = config->delta_key_heads * config->delta_key_width, dk = config->delta_key_width;
    const uint32_t values = config->delta_value_heads * config->delta_value_width;
    for (uint32_t i = 0; point == TAP_V && fault == NO_L2_NORM && i < keys; i++) {
        s->q[i] = s->convolved[i] * s->delta_scale;
        s->k[i] = s->convolved[keys + i];
    }
    for (uint32_t i = 0; point == TAP_V && fault == NO_SCALE && i < keys; i++)
        s->q[i] /= s->delta_scale;
    for (uint32_t i = 0; point == TAP_V && fault == OTHER_KEY_HEAD && i < dk; i++) {
        const float kept = s->k[i];
        s->k[i] = s->k[dk + i];
        s->k[dk + i] = kept;
    }
    for (uint32_t i = 0; point == TAP_G && fault == NO_SIGMOID && i < config->delta_value_heads; i++)
        s->beta[i] = s->b[i];
    for (uint32_t i = 0; point == TAP_CORE && fault == NO_Z && i < values; i++)
        s->z[i] = 1.2784645f; // its silu is 1
    if (point == TAP_NORM && fault == STATE_TRANSPOSED)
        transpose(s->layers[layer].delta, config->delta_value_heads, dk);
}

static void spoil(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct decoder *s = context;
    const struct config *config = &s->model->config;
    const uint32_t rotated = config->rotary_width / 2, gates = config->query_heads * 2 * config->head_width;
    (void)row, (void)width;
    for (uint32_t i = 0; point == TAP_EMBED && fault == POSITION_RESTARTED && i < rotated; i++) {
        s->cosine[i] = 1;
        s->sine[i] = 0;
    }
    if (config->mixers[layer] == MIXER_DELTA)
        spoil_delta_net(s, layer, point);
    else if (point == TAP_V && fault == NO_OUTPUT_GATE)
        for (uint32_t i = 0; i < gates; i++) // the queries have left
            s->query_gate[i] = 100;          // its sigmoid is 1
}

// --- the engine

static int wrong_step(struct engine *engine, uint32_t token, const struct tap_sink *taps, const float **logits,
                      struct error *error)
{
    struct floating saved;
    const struct batch_sink sink = {.taps = taps};
    (void)error;
    floating_enter(&saved);
    *logits = qwen35_forward(((struct wrong *)engine)->decoder, &token, 1, engine->position++, &sink);
    floating_leave(&saved);
    return 0;
}

static void wrong_save(const struct engine *engine, struct state *state)
{
    decoder_save(((const struct wrong *)engine)->decoder, state);
    for (size_t i = 0; fault == SAVED_TRANSPOSED && i < state->n; i++)
        if (state->tensors[i].kind == STATE_DELTA)
            transpose(state->tensors[i].data, (uint32_t)state->tensors[i].shape[0],
                      (uint32_t)state->tensors[i].shape[1]);
}

// Distance of logits, and of the state, from the golden, in its noise.
struct distances {
    double logits, state;
};

static struct distances run(const struct model *model, enum fault f)
{
    static const struct engine_class class = {.name = "wrong", .step = wrong_step, .save = wrong_save};
    struct wrong wrong = {.engine = {.class = &class, .config = &model->config, .name = "wrong"}};
    struct error error = {0};
    struct linear linear;
    struct parity parity;
    struct trace *golden = parity_golden(NAME, GOLDEN);
    linear_open(&linear, isa_best(), NULL);
    must(decoder_open(&wrong.decoder, model, &linear, isa_best(), golden->n, &error), &error);
    const struct tap_sink taps = {TAPS_ALL, wrong.decoder, spoil};
    fault = f;
    if (f != NONE)
        wrong.decoder->delta = &wrong_kernel;
    parity_run_engine(&wrong.engine, golden, &taps, &parity);
    decoder_close(&wrong.decoder);
    trace_close(&golden);
    return (struct distances){parity_noise(&parity.logits, parity.noise), parity_noise(&parity.state, parity.noise)};
}

static bool is_caught(const struct model *model, enum fault f, const char *what)
{
    const struct distances distances = run(model, f);
    fprintf(stderr, "# %s: logits %.3g, state %.3g of the noise, limit %g\n", what, distances.logits, distances.state,
            PARITY_LIMIT);
    return !(distances.logits <= PARITY_LIMIT && distances.state <= PARITY_LIMIT);
}

// --- the tests

Test(reference_qwen35_wrong, a_wrong_pass_does_not_agree)
{
    static const struct {
        enum fault fault;
        const char *what;
    } faults[] = {
        {NO_EXP, "decay without exp"},
        {READ_BEFORE_DECAY, "delta from the state before its decay"},
        {READ_BEFORE_WRITE, "output from the state before its update"},
        {NO_BETA, "no beta"},
        {POST_ACTIVATION, "conv state after convolution and silu"},
        {NO_SIGMOID, "beta without sigmoid"},
        {NO_L2_NORM, "no L2 norm"},
        {NO_SCALE, "query without dk^-1/2"},
        {OTHER_KEY_HEAD, "keys of two heads exchanged"},
        {NO_Z, "z gate left out"},
        {NO_OUTPUT_GATE, "attention's output gate left out"},
        {POSITION_RESTARTED, "every position is 0"},
        {STATE_TRANSPOSED, "state written transposed"},
    };
    struct fixture fixture;
    fixture_open(&fixture, NAME);
    cr_expect(!is_caught(&fixture.model, NONE, "control"));
    cr_expect(!is_caught(&fixture.model, SLOW_KERNEL, "control, another kernel"));
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        cr_expect(is_caught(&fixture.model, faults[i].fault, faults[i].what), "%s", faults[i].what);
    fixture_close(&fixture);
}

Test(reference_qwen35_wrong, a_state_that_leaves_transposed_is_seen_in_the_state_alone)
{
    struct fixture fixture;
    fixture_open(&fixture, NAME);
    const struct distances distances = run(&fixture.model, SAVED_TRANSPOSED);
    cr_expect(distances.logits <= PARITY_LIMIT && !(distances.state <= PARITY_LIMIT), "logits %g, state %g",
              distances.logits, distances.state);
    fixture_close(&fixture);
}

// A vector plus `offset`, in fp32.
static struct weight shifted(struct fixture *fixture, const struct weight *weight, float offset)
{
    float *data = arena_alloc(&fixture->arena, weight->cols, sizeof *data);
    weight_row(weight, 0, data);
    for (uint32_t i = 0; i < weight->cols; i++)
        data[i] += offset;
    return (struct weight){
        .name = weight->name, .format = WEIGHT_F32, .rows = weight->rows, .cols = weight->cols, .data = data};
}

// Row r of the result is row order(r) of the weight.
static struct weight reordered(struct fixture *fixture, const struct weight *weight, uint32_t width,
                               uint32_t (*order)(uint32_t row, uint32_t rows, uint32_t width))
{
    struct weight copy = parity_copy(fixture, weight);
    const size_t bytes = weight_row_bytes(weight);
    for (uint32_t r = 0; r < weight->rows; r++)
        memcpy((char *)(uintptr_t)copy.data + r * bytes,
               (const char *)weight->data + order(r, weight->rows, width) * bytes, bytes);
    return copy;
}

static uint32_t gate_first(uint32_t row, uint32_t rows, uint32_t dh)
{
    (void)rows;
    return row / dh % 2 ? row - dh : row + dh;
}

// As if the rows were stored query | query | ... | gate | gate ...
static uint32_t all_queries_first(uint32_t row, uint32_t rows, uint32_t dh)
{
    const uint32_t heads = rows / (2 * dh), block = row / dh, head = block / 2;
    return (block % 2 ? heads + head : head) * dh + row % dh;
}

static void expect_caught(struct model *model, const struct layer *layers, const char *what)
{
    cr_expect(is_caught(model, NONE, what), "%s", what);
    memcpy(model->layers, layers, model->config.layers * sizeof *layers); // all put back
}

Test(reference_qwen35_wrong, a_wrong_weight_does_not_agree)
{
    struct fixture fixture;
    fixture_open(&fixture, NAME);
    struct model model = fixture_mutable(&fixture);
    const struct layer *right = fixture.model.layers;
    const uint32_t dh = model.config.head_width;
    struct layer *delta = &model.layers[0], *attention = &model.layers[3];
    cr_assert(delta->mixer == MIXER_DELTA && attention->mixer == MIXER_ATTENTION);

    delta->mixer_norm = shifted(&fixture, &delta->mixer_norm, -1);
    expect_caught(&model, right, "a norm without its + 1");
    attention->q_norm = shifted(&fixture, &attention->q_norm, -1);
    expect_caught(&model, right, "a head norm without its + 1");
    delta->delta_norm = shifted(&fixture, &delta->delta_norm, 1);
    expect_caught(&model, right, "a gated norm of 1 + w");
    delta->dt_bias = shifted(&fixture, &delta->dt_bias, 0.01f);
    expect_caught(&model, right, "a dt_bias 0.01 too large");
    delta->a_log = shifted(&fixture, &delta->a_log, 0.01f);
    expect_caught(&model, right, "an A_log 0.01 too large");
    attention->q_proj = reordered(&fixture, &attention->q_proj, dh, gate_first);
    expect_caught(&model, right, "query and gate exchanged");
    attention->q_proj = reordered(&fixture, &attention->q_proj, dh, all_queries_first);
    expect_caught(&model, right, "all queries, then all gates");
    delta->b_proj = right[0].a_proj;
    delta->a_proj = right[0].b_proj;
    expect_caught(&model, right, "a and b exchanged");
    delta->qkv_proj = parity_copy(&fixture, &delta->qkv_proj);
    cr_assert_eq(delta->qkv_proj.format, WEIGHT_BF16);
    ((uint16_t *)(uintptr_t)delta->qkv_proj.data)[777] ^= 1;
    expect_caught(&model, right, "one bf16 weight of 4.2 million, one unit in the last place off");
    cr_expect(!is_caught(&model, NONE, "control, all put back"));
    fixture_close(&fixture);
}

Test(reference_qwen35_wrong, a_wrong_setting_does_not_agree)
{
    struct fixture fixture;
    fixture_open(&fixture, NAME);
    struct model model = fixture_mutable(&fixture);
    model.config.rotary_width = model.config.head_width;
    cr_expect(is_caught(&model, NONE, "rotary over all dimensions"));
    model.config = fixture.config;
    model.config.rope_theta *= 1.001;
    cr_expect(is_caught(&model, NONE, "theta 1e-3 too large"));
    model.config = fixture.config;
    model.config.norm_eps *= 1.1f;
    cr_expect(is_caught(&model, NONE, "an eps ten percent too large"));
    fixture_close(&fixture);
}
