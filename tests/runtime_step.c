// The step of the gated delta rule: each instruction set gives, bit for bit, the outputs and states of a slow model
// in double with written roundings, and the same model with one operation in another place does not.
#include "tests/kernel_inputs.h"
#include "tests/slow_arithmetic.h"

#define SCALE 0x1.6a09e6p-4f // 128^-1/2

enum { DK_MOST = 128, DV_MOST = 128 };

struct head {
    double s[DK_MOST * DV_MOST];
    uint16_t halves[DK_MOST * DV_MOST + GUARD];
    float floats[DK_MOST * DV_MOST + GUARD], q[DK_MOST], k[DK_MOST], v[DV_MOST], beta, g;
};

static struct delta_state view(struct head *head, enum precision precision, uint32_t dk, uint32_t dv)
{
    void *s = precision == PRECISION_F16 ? (void *)head->halves : (void *)head->floats;
    return (struct delta_state){.s = s, .precision = precision, .key_width = dk, .value_width = dv};
}

static float state_value(const struct head *head, enum precision precision, size_t index)
{
    return precision == PRECISION_F16 ? half_to_float(head->halves[index]) : head->floats[index];
}

static void fill_head(struct head *head, enum shape shape, uint32_t dk, uint32_t dv)
{
    for (size_t i = 0; i < (size_t)dk * dv + GUARD; i++) {
        const float s = i < (size_t)dk * dv ? shaped(shape) : 12.0f;
        head->halves[i] = half_from_float(s);
        head->floats[i] = i < (size_t)dk * dv ? s * (1 + 0x1p-18f) : s;
    }
    fill(head->q, dk, shape);
    fill(head->k, dk, shape);
    fill(head->v, dv, shape);
    for (uint32_t i = 0; i < dk; i++)
        head->q[i] *= SCALE;
    head->beta = kernels_sigmoid(shaped(SHAPE_ORDINARY));
    head->g = -kernels_softplus(shaped(SHAPE_ORDINARY));
}

enum {
    STEP_RIGHT,
    STEP_ROUNDED_S,
    STEP_BETA_INSIDE,
    STEP_READS_BEFORE,
    STEP_DECAYS_LAST,
    STEP_Q_ROUNDED,
    STEP_FAULTS
};

static void slow_step(struct head *head, enum precision precision, uint32_t dk, uint32_t dv, int fault, double *out)
{
    const double keep = exp_fl((double)head->g), beta = (double)head->beta;
    for (uint32_t j = 0; j < dv; j++) {
        double mem = 0, o = 0;
        for (uint32_t i = 0; i < dk; i++) {
            const double s = head->s[(size_t)i * dv + j];
            mem = fma_fl((double)head->k[i], fault == STEP_READS_BEFORE ? s : fl(s * keep), mem);
        }
        const double v = (double)head->v[j];
        const double d = fault == STEP_BETA_INSIDE ? fl(fl(v * beta) - fl(mem * beta)) : fl(fl(v - mem) * beta);
        for (uint32_t i = 0; i < dk; i++) {
            double *s = &head->s[(size_t)i * dv + j];
            const double k = (double)head->k[i], q = (double)head->q[i];
            const double updated =
                fault == STEP_DECAYS_LAST ? fl(fma_fl(k, d, *s) * keep) : fma_fl(k, d, fl(*s * keep));
            o = fma_fl(fault == STEP_Q_ROUNDED ? hf(q) : q, fault == STEP_ROUNDED_S ? hf(updated) : updated, o);
            *s = to(updated, precision);
        }
        out[j] = hf(o);
    }
}

// Whether two steps give the slow model's outputs and states; `what` says where not.
static bool steps_agree(const struct kernels *kernels, struct head *head, enum precision precision, uint32_t dk,
                        uint32_t dv, int fault, char what[64])
{
    const struct delta_state state = view(head, precision, dk, dv);
    const uint32_t n = dk * dv;
    for (uint32_t i = 0; i < n; i++)
        head->s[i] = (double)state_value(head, precision, i);
    for (int token = 0; token < 2; token++) {
        struct guarded guarded;
        double out[DV_MOST];
        static float states[DK_MOST * DV_MOST];
        float *y = poison(&guarded);
        kernels->delta_step(&state, head->q, head->k, head->v, head->beta, head->g, y);
        slow_step(head, precision, dk, dv, fault, out);
        for (uint32_t i = 0; i < n; i++)
            states[i] = state_value(head, precision, i);
        const uint32_t at = first_off(out, y, dv), at_state = first_off(head->s, states, n);
        bool guards = guards_hold(&guarded, dv);
        for (uint32_t i = 0; i < GUARD; i++)
            guards = guards && state_value(head, precision, n + i) == 12.0f;
        snprintf(what, 64, "token %d: out %u of %u, state %u of %u%s", token, at, dv, at_state, n,
                 guards ? "" : ", wrote outside");
        if (at < dv || at_state < n || !guards)
            return false;
        if (precision == PRECISION_F16) // no NaN but the canonical one
            for (uint32_t i = 0; i < n; i++)
                if ((head->halves[i] & 0x7FFF) > 0x7C00 && head->halves[i] != HALF_NAN)
                    return false;
    }
    return true;
}

Test(step, every_instruction_set_rounds_as_the_slow_model_does)
{
    static struct head head;
    const uint32_t keys[] = {1, 5, 33, 128}, values[] = {1, 3, 4, 7, 8, 17, 31, 32, 41, 63, 128};
    char what[64];
    seed_random("step");
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            for (size_t j = 0; j < sizeof values / sizeof *values; j++)
                for (int shape = 0; shape < SHAPES; shape++) {
                    struct kernels kernels;
                    const enum precision precision = (i + j + (size_t)shape) % 3 ? PRECISION_F16 : PRECISION_F32;
                    if (!isa_available((enum isa)isa))
                        continue;
                    kernels_init(&kernels, (enum isa)isa);
                    fill_head(&head, (enum shape)shape, keys[i], values[j]);
                    cr_assert(steps_agree(&kernels, &head, precision, keys[i], values[j], STEP_RIGHT, what),
                              "%s, shape %d, %s: %s", isa_name((enum isa)isa), shape, precision_name(precision),
                              what);
                }
}

Test(step, an_operation_in_another_place_is_seen)
{
    static struct head head;
    struct kernels kernels;
    char what[64];
    kernels_init(&kernels, ISA_SCALAR);
    seed_random("step faults");
    for (int fault = STEP_RIGHT; fault < STEP_FAULTS; fault++) {
        bool agree = true;
        for (int trial = 0; trial < 16 && agree; trial++) { // beta inside changes a few of 16,384 halves, or none
            fill_head(&head, SHAPE_ORDINARY, 128, 128);
            agree = steps_agree(&kernels, &head, PRECISION_F16, 128, 128, fault, what);
        }
        cr_expect_eq(agree, fault == STEP_RIGHT, "fault %d: %s", fault, what);
    }
}

// A NaN in one element of q, k, v, beta, g or S reaches what depends on it, and nothing else.
Test(step, a_nan_reaches_what_depends_on_it)
{
    static struct head head;
    enum { IN_Q, IN_K, IN_V, IN_S, IN_BETA, IN_G, PLACES };
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int place = 0; place < PLACES; place++) {
            struct kernels kernels;
            float out[16];
            if (!isa_available((enum isa)isa))
                continue;
            kernels_init(&kernels, (enum isa)isa);
            seed_random("step NaN");
            fill_head(&head, SHAPE_ORDINARY, 16, 16);
            float *const where[] = {&head.q[3], &head.k[3], &head.v[3], NULL, &head.beta, &head.g};
            if (place == IN_S)
                head.halves[5 * 16 + 3] = HALF_NAN;
            else
                *where[place] = NAN;
            const struct delta_state state = view(&head, PRECISION_F16, 16, 16);
            kernels.delta_step(&state, head.q, head.k, head.v, head.beta, head.g, out);
            for (int j = 0; j < 16; j++) {
                const bool reached = place == IN_V || place == IN_S ? j == 3 : true;
                cr_expect(isnan(out[j]) == reached, "%s: NaN number %d, output %d is %a", isa_name((enum isa)isa),
                          place, j, (double)out[j]);
                cr_expect((head.halves[5 * 16 + j] == HALF_NAN) == (reached && place != IN_Q));
            }
        }
}

// --- flush to zero

#if defined(__SSE__)
// One step from the same start: what it leaves in `states` and `out`, both as halves.
static void step_from_seed(const struct kernels *kernels, enum shape shape, float g, uint16_t *states, uint16_t *out)
{
    static struct head head;
    float y[41];
    seed_random("flush");
    fill_head(&head, shape, 33, 41);
    for (int i = 0; i < 33; i++) { // l2_norm leaves no Inf: a small number x Inf and 0 x Inf differ
        head.q[i] = isinf(head.q[i]) ? 1 : head.q[i];
        head.k[i] = isinf(head.k[i]) ? 1 : head.k[i];
    }
    const struct delta_state state = view(&head, PRECISION_F16, 33, 41);
    kernels->delta_step(&state, head.q, head.k, head.v, head.beta, g, y);
    memcpy(states, head.halves, sizeof *states * 33 * 41);
    for (int j = 0; j < 41; j++)
        out[j] = half_from_float(y[j]);
}

static size_t unequal(const uint16_t *a, const uint16_t *b, size_t n, bool signs_of_zero)
{
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i] && (signs_of_zero || (a[i] | b[i]) != 0x8000))
            return i;
    return n;
}

// A decay of e^-80 makes fp32 subnormals of small halves: the sign of a zero may change then, and nothing else.
Test(step, flush_on_and_off_give_the_same_halves)
{
    static uint16_t off[33 * 41], on[33 * 41];
    uint16_t off_y[41], on_y[41];
    const float decays[] = {-0.1f, -9, -80, -87, -100};
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int i = 0; i < SHAPES * 5; i++) {
            struct kernels kernels;
            const float g = decays[i % 5];
            if (!isa_available((enum isa)isa))
                continue;
            kernels_init(&kernels, (enum isa)isa);
            step_from_seed(&kernels, (enum shape)(i / 5), g, off, off_y);
            const unsigned saved = flush_begin();
            step_from_seed(&kernels, (enum shape)(i / 5), g, on, on_y);
            flush_end(saved);
            cr_expect(unequal(off, on, 33 * 41, g > -10) == 33 * 41 && unequal(off_y, on_y, 41, g > -10) == 41,
                      "%s, shape %d, g %g", isa_name((enum isa)isa), i / 5, (double)g);
        }
}
#endif
