// The runtime's operators of the delta net and of the gates: each instruction set gives, bit for bit, what a slow
// model in double with written roundings gives, and the same model with one rounding in another place does not.
#include "tests/kernel_inputs.h"
#include "tests/slow_arithmetic.h"

struct operands {
    float a[WIDEST], b[WIDEST], w[WIDEST]; // two activations, and a weight that is no half
};

#define EPS 1e-6f
#define SCALE 0x1.6a09e6p-4f // 128^-1/2

// --- slow models; `fault` 0 is right, n is the n-th of the operator's faults

static double inverse_root(const float *x, uint32_t n, double divisor, double eps)
{
    double lane[32] = {0};
    for (uint32_t k = 0; k < n; k++)
        lane[k % 32] = fma_fl((double)x[k], (double)x[k], lane[k % 32]);
    return fl(1 / fl(sqrt(fl(fl(tree32(lane, PRECISION_F32) / divisor) + eps))));
}

static void slow_centred(const struct operands *x, uint32_t n, int fault, double *y)
{
    const double r = inverse_root(x->a, n, n, (double)EPS);
    for (uint32_t k = 0; k < n; k++) {
        const double unit = fl((double)x->a[k] * r);
        const double factor = fault == 2 ? (double)x->w[k] : fl(1 + (double)x->w[k]);
        y[k] = hf(fl((fault == 1 ? hf(unit) : unit) * factor));
    }
}

static void slow_gated(const struct operands *x, uint32_t n, int fault, double *y)
{
    const double r = inverse_root(x->a, n, n, (double)EPS);
    for (uint32_t k = 0; k < n; k++) {
        const double unit = fl((double)x->a[k] * r), m = fault == 1 ? unit : hf(unit);
        const double silu = fl((double)x->b[k] * sigmoid_fl((double)x->b[k]));
        y[k] = hf(fl(fl(m * (double)x->w[k]) * (fault == 2 ? hf(silu) : silu)));
        if (fault == 3)
            y[k] = hf(fl(hf(fl(m * (double)x->w[k])) * silu));
    }
}

static void slow_attention_gate(const struct operands *x, uint32_t n, int fault, double *y)
{
    for (uint32_t k = 0; k < n; k++) {
        const double share = sigmoid_fl((double)x->b[k]);
        y[k] = hf(fl((double)x->a[k] * (fault == 1 ? share : hf(share))));
    }
}

static void slow_silu(const struct operands *x, uint32_t n, int fault, double *y)
{
    for (uint32_t k = 0; k < n; k++) {
        const double share = sigmoid_fl((double)x->a[k]);
        y[k] = hf(fl((double)x->a[k] * (fault == 1 ? hf(share) : share)));
    }
}

static void slow_l2(const struct operands *x, uint32_t n, int fault, double *y)
{
    const double r = inverse_root(x->a, n, 1, (double)EPS);
    for (uint32_t k = 0; k < n; k++) {
        const double unit = fl((double)x->a[k] * r), q = fl((fault == 1 ? unit : hf(unit)) * (double)SCALE);
        y[k] = fault == 2 ? hf(q) : q;
    }
}

static void slow_l2_half(const struct operands *x, uint32_t n, int fault, double *y)
{
    double lane[32] = {0};
    for (uint32_t k = 0; k < n; k++) {
        const double square = fl((double)x->a[k] * (double)x->a[k]);
        lane[k % 32] = hf(fl(lane[k % 32] + (fault == 1 ? square : hf(square))));
    }
    const double ss = tree32(lane, fault == 2 ? PRECISION_F32 : PRECISION_F16);
    const double r = fl(1 / fl(sqrt(hf(fl(ss + hf((double)EPS))))));
    for (uint32_t k = 0; k < n; k++)
        y[k] = fl(hf(fl((double)x->a[k] * (fault == 3 ? r : hf(r)))) * (double)SCALE);
}

static double softplus_fl(double x)
{
    static const double ladder[] = {-0x1.af49cep-9, 0x1.4917cep-6,  -0x1.d6b08cp-5, 0x1.b4ae08p-4, -0x1.3a435ep-3,
                                    0x1.934b54p-3,  -0x1.ff23e6p-3, 0x1.554ddp-2,   -0x1.ffffd2p-2};
    if (isnan(x) || x > 20)
        return x;
    const double e = exp_fl(-fabs(x));
    double q = ladder[0];
    for (int i = 1; i < 9; i++)
        q = fma_fl(q, e, ladder[i]);
    const double log1p_e = fma_fl(fl(e * e), q, e);
    return x > 0 ? fl(x + log1p_e) : log1p_e;
}

// a is a, b is A_log, w is dt_bias: as it is in a model's F32 tensors.
static void slow_decay(const struct operands *x, uint32_t n, int fault, double *y)
{
    for (uint32_t k = 0; k < n; k++) {
        const double sum = fl((double)x->a[k] + (double)x->w[k]);
        const double rate = exp_fl((double)x->b[k]), wait = softplus_fl(fault == 1 ? hf(sum) : sum);
        y[k] = -fl(rate * (fault == 2 ? fl(log1p(exp(sum))) : wait));
        y[k] = fault == 3 ? hf(y[k]) : y[k];
    }
}

static void slow_beta(const struct operands *x, uint32_t n, int fault, double *y)
{
    for (uint32_t k = 0; k < n; k++)
        y[k] = fault == 1 ? hf(sigmoid_fl((double)x->a[k])) : sigmoid_fl((double)x->a[k]);
}

// --- the operators

static void run_centred(const struct kernels *kernels, const struct operands *x, uint32_t n, float *y)
{
    kernels->rms_norm_centred(x->a, x->w, n, EPS, y);
}

static void run_gated(const struct kernels *kernels, const struct operands *x, uint32_t n, float *y)
{
    kernels->rms_norm_gated(x->a, x->w, x->b, n, EPS, y);
}

static void run_attention_gate(const struct kernels *kernels, const struct operands *x, uint32_t n, float *y)
{
    kernels->attention_gate(x->a, x->b, n, y);
}

static void run_silu(const struct kernels *kernels, const struct operands *x, uint32_t n, float *y)
{
    kernels->silu(x->a, n, y);
}

static void run_l2(const struct kernels *kernels, const struct operands *x, uint32_t n, float *y)
{
    kernels->l2_norm(x->a, n, SCALE, PRECISION_F32, y);
}

static void run_l2_half(const struct kernels *kernels, const struct operands *x, uint32_t n, float *y)
{
    kernels->l2_norm(x->a, n, SCALE, PRECISION_F16, y);
}

static void run_decay(const struct kernels *kernels, const struct operands *x, uint32_t n, float *y)
{
    float unused[WIDEST];
    (void)kernels; // one code for all
    kernels_delta_gates(x->a, x->a, x->b, x->w, n, unused, y);
}

static void run_beta(const struct kernels *kernels, const struct operands *x, uint32_t n, float *y)
{
    float unused[WIDEST];
    (void)kernels;
    kernels_delta_gates(x->a, x->a, x->b, x->w, n, y, unused);
}

static const struct operator
{
    const char *name;
    void (*run)(const struct kernels *kernels, const struct operands *x, uint32_t n, float *y);
    void (*slow)(const struct operands *x, uint32_t n, int fault, double *y);
    bool halves; // the output does not depend on flushing
    const char *faults[4];
}
operators[] = {
    {"rms_norm_centred", run_centred, slow_centred, true, {"the unit rounded to half", "the 1 dropped"}},
    {"rms_norm_gated", run_gated, slow_gated, true, {"m not rounded", "silu rounded", "m w rounded"}},
    {"attention_gate", run_attention_gate, slow_attention_gate, true, {"the sigmoid not rounded"}},
    {"silu", run_silu, slow_silu, true, {"the sigmoid rounded"}},
    {"l2_norm", run_l2, slow_l2, false, {"the unit not rounded", "q rounded after its scale"}},
    {"l2_norm in halves",
     run_l2_half,
     slow_l2_half,
     false,
     {"squares not rounded", "the tree in fp32", "the root not rounded"}},
    {"decay", run_decay, slow_decay, false, {"a + dt_bias rounded", "another log1p", "g rounded"}},
    {"beta", run_beta, slow_beta, false, {"rounded to half"}},
};
enum { OPERATORS = sizeof operators / sizeof *operators };

static const uint32_t widths[] = {1, 2, 7, 8, 12, 31, 32, 33, 64, 128, 191, 577};
enum { WIDTHS = sizeof widths / sizeof *widths };

static void fill_operands(struct operands *x, enum shape shape)
{
    fill(x->a, WIDEST, shape);
    fill(x->b, WIDEST, shape);
    fill(x->w, WIDEST, shape);
    for (uint32_t k = 0; k < WIDEST; k++)
        x->w[k] *= 1 + 0x1p-20f;
}

Test(delta, every_instruction_set_rounds_as_the_slow_model_does)
{
    static struct operands x;
    static double slow[WIDEST];
    struct guarded guarded;
    seed_random("operators");
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int i = 0; i < OPERATORS * WIDTHS * SHAPES; i++) {
            const struct operator* const operator= & operators[i % OPERATORS];
            const uint32_t n = widths[i / OPERATORS % WIDTHS];
            const int shape = i / OPERATORS / WIDTHS;
            struct kernels kernels;
            if (!isa_available((enum isa)isa))
                continue;
            kernels_init(&kernels, (enum isa)isa);
            fill_operands(&x, (enum shape)shape);
            float *y = poison(&guarded);
            operator->run(&kernels, &x, n, y);
            operator->slow(&x, n, 0, slow);
            const uint32_t at = first_off(slow, y, n);
            cr_assert(at == n, "%s %s, shape %d: element %u of %u is %a, not %a", operator->name,
                      isa_name((enum isa)isa), shape, at, n, (double)y[at], slow[at]);
            cr_assert(guards_hold(&guarded, n), "%s wrote outside its row of %u", operator->name, n);
        }
}

Test(delta, a_rounding_in_another_place_is_seen)
{
    static struct operands x;
    static double slow[WIDEST];
    static float y[WIDEST];
    struct kernels kernels;
    kernels_init(&kernels, ISA_SCALAR);
    seed_random("faults");
    for (int i = 0; i < OPERATORS; i++)
        for (int fault = 1; fault <= 4 && operators[i].faults[fault - 1]; fault++) {
            bool seen = false;
            for (int row = 0; row < 1000 && !seen; row++) {
                fill_operands(&x, SHAPE_ORDINARY);
                operators[i].run(&kernels, &x, 577, y);
                operators[i].slow(&x, 577, fault, slow);
                seen = first_off(slow, y, 577) < 577;
            }
            cr_expect(seen, "%s: %s: no difference", operators[i].name, operators[i].faults[fault - 1]);
        }
}

// --- softplus

static double softplus_error(float x) // in ulp of the result
{
    const double truth = x > 0 ? (double)x + log1p(exp(-(double)x)) : log1p(exp((double)x));
    return fabs((double)kernels_softplus(x) - truth) / ldexp(1, ilogb(truth) - 23);
}

// Every 997th float of [-87, 20] from 2^-31 on, below which nothing changes, and the worst of all of them on either
// side of 0, which an exhaustive run found.
Test(softplus, is_within_its_stated_error)
{
    double worst = softplus_error(0);
    float where = 0;
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t bits = 0x30000000; bits <= float_to_bits(sign ? 87.0f : 20.0f); bits += 997) {
            const float x = float_from_bits(bits | sign << 31);
            const double off = softplus_error(x);
            if (!(off <= worst)) {
                worst = off;
                where = x;
            }
        }
    const double above = softplus_error(0x1.d4526p-6f), below = softplus_error(-0x1.c4d624p-2f);
    fprintf(stderr, "# softplus: at most %.4f ulp, at %a; the known worst: %.6f and %.6f\n", worst, (double)where,
            above, below);
    cr_expect(worst <= 1.8615 && above <= 1.8615 && below <= 1.6738);
    cr_expect(above > 1.8614 && below > 1.6737, "better than it was: is this the stated polynomial?");
}

Test(softplus, has_the_stated_ends)
{
    cr_expect_eq(kernels_softplus(-INFINITY), 0);
    cr_expect_eq(kernels_softplus(nextafterf(-87.0f, -INFINITY)), 0);
    cr_expect_eq(kernels_softplus(-87.0f), kernels_exp(-87.0f), "exp(x) where it is small");
    cr_expect_gt(kernels_softplus(-87.0f), 0x1p-126f, "never subnormal");
    cr_expect_eq(kernels_softplus(0), 0x1.62e43p-1f, "ln 2");
    cr_expect_eq(kernels_softplus(20.0f), 20.0f);
    cr_expect_eq(kernels_softplus(nextafterf(20.0f, 21.0f)), nextafterf(20.0f, 21.0f));
    cr_expect_eq(kernels_softplus(INFINITY), INFINITY);
    cr_expect_eq(float_to_bits(kernels_softplus(float_from_bits(0xFFC12345))), FLOAT_NAN_BITS);
}

// --- flush to zero

#if defined(__SSE__)
// Every operator whose outputs are halves.
static size_t everything(const struct kernels *kernels, enum shape shape, float *out)
{
    static struct operands x;
    float *y = out;
    fill_operands(&x, shape);
    for (int i = 0; i < OPERATORS; i++)
        if (operators[i].halves) {
            operators[i].run(kernels, &x, 577, y);
            y += 577;
        }
    for (int chain = 0; chain < 2; chain++) { // scale 1, as for k: halves
        kernels->l2_norm(x.a, 577, 1, chain ? PRECISION_F16 : PRECISION_F32, y);
        y += 577;
    }
    return (size_t)(y - out);
}

Test(delta, flush_on_and_off_give_the_same_halves)
{
    static float off[8192], on[8192];
    for (int isa = ISA_SCALAR; isa <= ISA_AVX2; isa++)
        for (int shape = 0; shape < SHAPES; shape++) {
            if (!isa_available((enum isa)isa))
                continue;
            struct kernels kernels;
            kernels_init(&kernels, (enum isa)isa);
            seed_random("flush");
            const size_t n = everything(&kernels, (enum shape)shape, off);
            seed_random("flush");
            const unsigned saved = flush_begin();
            everything(&kernels, (enum shape)shape, on);
            flush_end(saved);
            const size_t i = first_difference(off, on, n, true);
            cr_expect(i == n, "%s, shape %d: element %zu is %a without flush and %a with it", isa_name((enum isa)isa),
                      shape, i, (double)off[i], (double)on[i]);
        }
}
#endif
