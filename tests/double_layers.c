// The fp64 oracle's delta net of qwen35-mini against plain loops over the definition, one token at a time. Each fault
// that would leave a model talking is put into the plain form and must be seen at some point of the layer.
#include "tests/truth.h"

enum fault {
    NONE,
    L2_EPS_OUTSIDE,
    L2_OF_THE_MEAN,
    L2_MISSING,
    SCALE_MISSING,
    SILU_MISSING,
    CONV_REVERSED,
    NO_DECAY,
    DECAY_WITHOUT_EXP,
    BETA_WITHOUT_SIGMOID,
    WRONG_KEY_HEAD,
    NORM_EPS_OUTSIDE,
    NORM_CENTRED,
    GATE_LEFT_OUT,
    GATE_BEFORE_NORM,
    FAULTS
};
static const char *const names[] = {"none",
                                    "L2: eps outside the root",
                                    "L2: mean",
                                    "L2 missing",
                                    "dk^-1/2 missing",
                                    "silu missing",
                                    "taps reversed",
                                    "no decay",
                                    "decay without exp",
                                    "beta without sigmoid",
                                    "key head h mod Hk",
                                    "norm: eps outside the root",
                                    "norm: 1 + w",
                                    "z left out",
                                    "z before the norm"};

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

// What a plain run of the layer computes, [T, width] each.
struct plain {
    struct arena arena;
    const struct config *config;
    const struct layer *weights;
    uint32_t n, dk, dv, Hk, Hv;
    double *q, *k, *v, *g, *beta, *core, *mixer, *S;
};

static double *rows(struct plain *plain, uint32_t width)
{
    double *out = arena_alloc(&plain->arena, (size_t)plain->n * width, sizeof *out);
    cr_assert_not_null(out);
    return out;
}

static double convolved(const struct plain *plain, const double *m, uint32_t t, uint32_t c, enum fault fault)
{
    const uint32_t channels = plain->weights->delta_conv.rows, K = plain->weights->delta_conv.cols;
    double sum = 0;
    for (uint32_t j = 0; j < K; j++)
        if (t + j >= K - 1)
            sum += (double)weight_at(&plain->weights->delta_conv, c, fault == CONV_REVERSED ? K - 1 - j : j) *
                   m[(size_t)(t + j - (K - 1)) * channels + c];
    return fault == SILU_MISSING ? sum : sum * sigmoid(sum);
}

static void normalise(double *x, uint32_t n, double scale, enum fault fault)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    double root = sqrt(squares + 1e-6);
    if (fault == L2_EPS_OUTSIDE)
        root = sqrt(squares) + 1e-6;
    if (fault == L2_OF_THE_MEAN)
        root = sqrt(squares / n + 1e-6);
    if (fault == L2_MISSING)
        root = 1;
    for (uint32_t i = 0; i < n; i++)
        x[i] = x[i] / root * scale;
}

static void make_inputs(struct plain *plain, const double *u, enum fault fault)
{
    const struct layer *weights = plain->weights;
    const uint32_t keys = plain->Hk * plain->dk, values = plain->Hv * plain->dv, channels = 2 * keys + values;
    const double scale = fault == SCALE_MISSING ? 1 : 1 / sqrt((double)plain->dk);
    double *m = rows(plain, channels), *a = rows(plain, plain->Hv), *b = rows(plain, plain->Hv);
    truth_multiply(&weights->qkv_proj, u, plain->n, m);
    truth_multiply(&weights->a_proj, u, plain->n, a);
    truth_multiply(&weights->b_proj, u, plain->n, b);
    for (uint32_t t = 0; t < plain->n; t++) {
        for (uint32_t c = 0; c < keys; c++) {
            plain->q[t * keys + c] = convolved(plain, m, t, c, fault);
            plain->k[t * keys + c] = convolved(plain, m, t, keys + c, fault);
        }
        for (uint32_t c = 0; c < values; c++)
            plain->v[t * values + c] = convolved(plain, m, t, 2 * keys + c, fault);
        for (uint32_t h = 0; h < plain->Hk; h++) {
            normalise(plain->q + t * keys + h * plain->dk, plain->dk, scale, fault);
            normalise(plain->k + t * keys + h * plain->dk, plain->dk, 1, fault);
        }
        for (uint32_t h = 0; h < plain->Hv; h++) {
            const uint32_t i = t * plain->Hv + h;
            plain->g[i] = -exp((double)weight_at(&weights->a_log, 0, h)) *
                          log1p(exp(a[i] + (double)weight_at(&weights->dt_bias, 0, h)));
            plain->beta[i] = fault == BETA_WITHOUT_SIGMOID ? b[i] : sigmoid(b[i]);
        }
    }
}

static void step(struct plain *plain, uint32_t t, uint32_t h, enum fault fault)
{
    const uint32_t dk = plain->dk, dv = plain->dv;
    const uint32_t key_head = fault == WRONG_KEY_HEAD ? h % plain->Hk : h / (plain->Hv / plain->Hk);
    const double *q = plain->q + (t * plain->Hk + key_head) * dk, *k = plain->k + (t * plain->Hk + key_head) * dk;
    const double *v = plain->v + (t * plain->Hv + h) * dv;
    const double g = plain->g[t * plain->Hv + h], beta = plain->beta[t * plain->Hv + h];
    const double decay = fault == NO_DECAY ? 1 : fault == DECAY_WITHOUT_EXP ? 1 + g : exp(g);
    double *S = plain->S + (size_t)h * dk * dv, *out = plain->core + (t * plain->Hv + h) * dv;
    for (uint32_t j = 0; j < dv; j++) {
        double memory = 0;
        out[j] = 0;
        for (uint32_t i = 0; i < dk; i++)
            memory += k[i] * (S[i * dv + j] *= decay);
        for (uint32_t i = 0; i < dk; i++)
            out[j] += q[i] * (S[i * dv + j] += k[i] * beta * (v[j] - memory));
    }
}

static void gate(const struct plain *plain, const double *o, const double *z, double *y, enum fault fault)
{
    const uint32_t dv = plain->dv;
    const double eps = 1e-6; // as config.json has it
    double squares = 0;
    for (uint32_t j = 0; j < dv; j++)
        squares += fault == GATE_BEFORE_NORM ? pow(o[j] * z[j] * sigmoid(z[j]), 2) : o[j] * o[j];
    const double root = fault == NORM_EPS_OUTSIDE ? sqrt(squares / dv) + eps : sqrt(squares / dv + eps);
    for (uint32_t j = 0; j < dv; j++) {
        const double w = (double)weight_at(&plain->weights->delta_norm, 0, j) + (fault == NORM_CENTRED ? 1 : 0);
        y[j] = w * (o[j] / root) * (fault == GATE_LEFT_OUT ? 1 : z[j] * sigmoid(z[j]));
    }
}

static void plain_run(struct plain *plain, const struct model *model, uint32_t layer, const double *u, uint32_t n,
                      enum fault fault)
{
    const struct config *config = &model->config;
    *plain = (struct plain){.config = config,
                            .weights = &model->layers[layer],
                            .n = n,
                            .dk = config->delta_key_width,
                            .dv = config->delta_value_width,
                            .Hk = config->delta_key_heads,
                            .Hv = config->delta_value_heads};
    const uint32_t keys = plain->Hk * plain->dk, values = plain->Hv * plain->dv;
    plain->q = rows(plain, keys);
    plain->k = rows(plain, keys);
    plain->v = rows(plain, values);
    plain->g = rows(plain, plain->Hv);
    plain->beta = rows(plain, plain->Hv);
    plain->core = rows(plain, values);
    plain->mixer = rows(plain, config->hidden);
    plain->S = arena_alloc(&plain->arena, plain->Hv * plain->dk, plain->dv * sizeof(double));
    cr_assert_not_null(plain->S);
    double *z = rows(plain, values), *gated = rows(plain, values);
    make_inputs(plain, u, fault);
    truth_multiply(&plain->weights->z_proj, u, n, z);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < plain->Hv; h++) {
            const uint32_t at = (t * plain->Hv + h) * plain->dv;
            step(plain, t, h, fault);
            gate(plain, plain->core + at, z + at, gated + at, fault);
        }
    truth_multiply(&plain->weights->delta_out, gated, n, plain->mixer);
}

static double apart(const double *a, const double *b, uint64_t n)
{
    struct distance distance = {0};
    for (uint64_t i = 0; i < n; i++)
        distance_add(&distance, a[i], b[i]);
    return distance_relative(&distance);
}

// The largest relative distance of the layer's points, state included.
static double layer_distance(const struct model *model, const struct truth_kept *kept, uint32_t layer, uint32_t n,
                             enum fault fault)
{
    struct plain plain;
    plain_run(&plain, model, layer, kept->taps[layer][TAP_NORM], n, fault);
    const uint64_t keys = (uint64_t)n * plain.Hk * plain.dk, values = (uint64_t)n * plain.Hv * plain.dv;
    const double found[] = {
        apart(kept->taps[layer][TAP_Q], plain.q, keys),
        apart(kept->taps[layer][TAP_K], plain.k, keys),
        apart(kept->taps[layer][TAP_V], plain.v, values),
        apart(kept->taps[layer][TAP_G], plain.g, (uint64_t)n * plain.Hv),
        apart(kept->taps[layer][TAP_BETA], plain.beta, (uint64_t)n * plain.Hv),
        apart(kept->taps[layer][TAP_CORE], plain.core, values),
        apart(kept->taps[layer][TAP_MIXER], plain.mixer, (uint64_t)n * model->config.hidden),
        apart(kept->states[layer][STATE_DELTA], plain.S, (uint64_t)plain.Hv * plain.dk * plain.dv),
    };
    double worst = 0;
    for (size_t i = 0; i < sizeof found / sizeof *found; i++)
        if (!isnan(worst) && !(found[i] <= worst))
            worst = found[i];
    arena_close(&plain.arena);
    return worst;
}

// Two orders of double sums over 72 tokens, each point by itself; measured worst: 6.6e-16.
static const double LIMIT = 1e-14;

Test(double_layers, the_delta_net_is_its_definition_and_every_fault_is_seen)
{
    struct fixture fixture;
    struct truth_kept kept;
    fixture_open(&fixture, "qwen35-mini");
    struct trace *golden = truth_golden("qwen35-mini", "scripture-72"); // more than one chunk
    truth_keep(&kept, &fixture.model, golden);
    for (enum fault fault = NONE; fault < FAULTS; fault++) {
        const double found = layer_distance(&fixture.model, &kept, 1, golden->n, fault);
        fprintf(stderr, "# %s: %.2g\n", names[fault], found);
        cr_expect((found <= LIMIT) == (fault == NONE), "%s: %g", names[fault], found);
    }
    arena_close(&kept.arena);
    trace_close(&golden);
    fixture_close(&fixture);
}
