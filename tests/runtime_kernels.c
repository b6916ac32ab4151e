// The runtime's kernels beside LIN: the AVX2 twins give the definition's bits, and the definition is what kernels.h
// states.
#include "tests/kernel_inputs.h"

// --- the other operators: the same bits

// Widths with and without a tail of 8.
static const uint32_t row_widths[] = {1, 2, 6, 8, 12, 31, 32, 33, 64, 191, 192, 448, 577};

Test(elements, avx2_gives_the_bits_of_c)
{
    BOTH(c, fast);
    static float a[WIDEST], b[WIDEST], history[3 * WIDEST], taps[4 * WIDEST];
    struct guarded slow_y, fast_y;
    seed_random("elements");
    for (size_t i = 0; i < sizeof row_widths / sizeof *row_widths; i++)
        for (int shape = 0; shape < SHAPES; shape++) {
            const uint32_t n = row_widths[i];
            fill(a, n, (enum shape)shape);
            fill(b, n, (enum shape)shape);
            fill(history, 3 * WIDEST, (enum shape)shape);
            fill(taps, 4 * WIDEST, (enum shape)shape);
#define SAME(call, what)                                                                                             \
    do {                                                                                                             \
        const struct kernels *kernels = &c;                                                                          \
        float *y = poison(&slow_y);                                                                                  \
        call;                                                                                                        \
        kernels = &fast;                                                                                             \
        y = poison(&fast_y);                                                                                         \
        call;                                                                                                        \
        expect_equal(slow_y.all + GUARD, y, n, true, what);                                                          \
        cr_assert(guards_hold(&fast_y, n), "%s: wrote outside its row of %u", what, n);                              \
    } while (0)
            SAME(kernels->rms_norm(a, b, n, 1e-5f, y), "rms_norm");
            SAME(kernels->swiglu(a, b, n, y), "swiglu");
            SAME(kernels->add(a, b, n, y), "add");
            SAME(kernels->product(a, b, n, PRECISION_F16, y), "product to half");
            SAME(kernels->product(a, b, n, PRECISION_F32, y), "product to float");
            SAME((memcpy(y, a, n * sizeof *y), kernels->round(y, n, PRECISION_F32)), "round to float");
            for (uint32_t k = 1; k <= 4; k++) {
                SAME(kernels->short_conv(history, a, taps, NULL, n, k, y), "short_conv");
                SAME(kernels->short_conv(history, a, taps, b, n, k, y), "short_conv with bias");
            }
            if (n % 2 == 0) {
                SAME((memcpy(y, a, n * sizeof *y), kernels->rope(y, b, b + n / 2, n, PRECISION_F16)), "rope to half");
                SAME((memcpy(y, a, n * sizeof *y), kernels->rope(y, b, b + n / 2, n, PRECISION_F32)),
                     "rope to float");
            }
        }
}

// Every upper half of a float with three lower halves: below, at and above the ties of all exponents, NaNs with
// payloads, Inf.
Test(elements, avx2_rounds_to_half_as_half_h_does)
{
    BOTH(c, fast);
    for (uint32_t high = 0; high < 0x10000; high++)
        for (uint32_t low = 0; low < 8; low++) {
            const uint32_t lows[8] = {0, 1, 0x0FFF, 0x1000, 0x1001, 0x3000, 0x8000, 0xF000};
            float a = float_from_bits(high << 16 | lows[low]), b = a;
            c.round(&a, 1, PRECISION_F16);
            fast.round(&b, 1, PRECISION_F16);
            cr_assert_eq(float_to_bits(a), float_to_bits(b), "0x%04x%04x", high, lows[low]);
        }
}

// All 65,536 gates: exp in both, over its whole range.
Test(elements, avx2_swiglu_equals_c_for_every_gate)
{
    BOTH(c, fast);
    for (uint32_t first = 0; first < 0x10000; first += 512) {
        float gate[512], up[512], slow[512], quick[512];
        for (uint32_t i = 0; i < 512; i++) {
            gate[i] = half_to_float((uint16_t)(first + i));
            up[i] = 1;
        }
        c.swiglu(gate, up, 512, slow);
        fast.swiglu(gate, up, 512, quick);
        expect_equal(slow, quick, 512, true, "swiglu");
    }
}

// --- attention

enum { DH_MOST = 72, LENGTH_MOST = 600 };

struct cache {
    uint16_t keys[(LENGTH_MOST + 32) * DH_MOST], values[(LENGTH_MOST + 32) * DH_MOST];
    float keys_f32[(LENGTH_MOST + 32) * DH_MOST], values_f32[(LENGTH_MOST + 32) * DH_MOST];
};

static struct cache cache;

static size_t key_at(uint32_t t, uint32_t d, uint32_t dh)
{
    return (size_t)(t / 32 * dh + d) * 32 + t % 32;
}

// Past `length` the cache holds NaN: whoever reads there shows it.
static struct attention_view make_view(uint32_t dh, uint32_t length, enum precision state, enum shape shape)
{
    for (uint32_t t = 0; t < (length + 31) / 32 * 32; t++)
        for (uint32_t d = 0; d < dh; d++) {
            const float k = t < length ? shaped(shape) : NAN, v = t < length ? shaped(shape) : NAN;
            const float more = 1 + 0x1p-18f;
            cache.keys[key_at(t, d, dh)] = half_from_float(k);
            cache.values[(size_t)t * dh + d] = half_from_float(v);
            cache.keys_f32[key_at(t, d, dh)] = k * more;
            cache.values_f32[(size_t)t * dh + d] = v * more;
        }
    const bool f16 = state == PRECISION_F16;
    return (struct attention_view){
        .keys = f16 ? (const void *)cache.keys : (const void *)cache.keys_f32,
        .values = f16 ? (const void *)cache.values : (const void *)cache.values_f32,
        .state = state,
        .head_width = dh,
        .length = length,
        .scale = 1 / sqrtf((float)dh),
    };
}

Test(attention, avx2_gives_the_bits_of_c)
{
    BOTH(c, fast);
    // One position, around a block, around one round of the 8 simdgroups, and more than two rounds.
    const uint32_t lengths[] = {1, 2, 31, 32, 33, 64, 250, 255, 256, 257, 289, 530, 600};
    const uint32_t head_widths[] = {2, 6, 8, 32, 40, 64, 70};
    static float scratch[8 * DH_MOST];
    float q[DH_MOST];
    struct guarded slow_y, fast_y;
    seed_random("attention");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t j = 0; j < sizeof head_widths / sizeof *head_widths; j++)
            for (int shape = 0; shape < SHAPES; shape++) {
                const uint32_t dh = head_widths[j];
                const enum precision state = (i + j) % 3 ? PRECISION_F16 : PRECISION_F32;
                const struct attention_view view = make_view(dh, lengths[i], state, (enum shape)shape);
                fill(q, dh, (enum shape)shape);
                float *slow = poison(&slow_y), *quick = poison(&fast_y);
                c.attention(&view, q, scratch, slow);
                fast.attention(&view, q, scratch, quick);
                char what[96];
                snprintf(what, sizeof what, "attention, dh %u, length %u, shape %d", dh, lengths[i], shape);
                expect_equal(slow, quick, dh, true, what);
                cr_assert(guards_hold(&fast_y, dh), "%s: wrote outside its row", what);
            }
}

// Softmax in double, whole at once: the online form computes the same function. Bound: |o| <= 4, about (length + dh)
// roundings of 2^-24 relative to sums of positive terms, and the half's own 2^-11 dominates: 4 x 2^-11 x 1.1.
Test(attention, is_softmax)
{
    struct kernels c;
    static float scratch[8 * DH_MOST];
    float q[DH_MOST], out[DH_MOST];
    kernels_init(&c, ISA_SCALAR);
    seed_random("softmax");
    const uint32_t lengths[] = {1, 33, 300, 600};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const uint32_t dh = 32, length = lengths[i];
        const struct attention_view view = make_view(dh, length, PRECISION_F16, SHAPE_ORDINARY);
        fill(q, dh, SHAPE_ORDINARY);
        c.attention(&view, q, scratch, out);
        static double score[LENGTH_MOST];
        double most = -INFINITY, sum = 0, worst = 0;
        for (uint32_t t = 0; t < length; t++) {
            score[t] = 0;
            for (uint32_t d = 0; d < dh; d++)
                score[t] += (double)q[d] * (double)half_to_float(cache.keys[key_at(t, d, dh)]);
            score[t] /= sqrt((double)dh);
            most = fmax(most, score[t]);
        }
        for (uint32_t t = 0; t < length; t++)
            sum += exp(score[t] - most);
        for (uint32_t d = 0; d < dh; d++) {
            double o = 0;
            for (uint32_t t = 0; t < length; t++)
                o += exp(score[t] - most) / sum * (double)half_to_float(cache.values[(size_t)t * dh + d]);
            const double off = fabs(o - (double)out[d]);
            if (!(off <= worst))
                worst = off;
        }
        cr_expect(worst <= 4 * 0x1p-11 * 1.1, "length %u: off by %g", length, worst);
    }
}

Test(attention, a_nan_in_q_k_or_v_reaches_the_output)
{
    for (int isa = ISA_SCALAR; isa <= ISA_AVX2; isa++) {
        if (!isa_available((enum isa)isa))
            continue;
        struct kernels kernels;
        static float scratch[8 * DH_MOST];
        float q[DH_MOST], out[DH_MOST];
        kernels_init(&kernels, (enum isa)isa);
        seed_random("NaN");
        const uint32_t places[] = {0, 31, 32, 299}; // first, last of a block, first of a block, last
        for (size_t i = 0; i < sizeof places / sizeof *places; i++)
            for (int what = 0; what < 3; what++) {
                const struct attention_view view = make_view(32, 300, PRECISION_F16, SHAPE_ORDINARY);
                fill(q, 32, SHAPE_ORDINARY);
                kernels.attention(&view, q, scratch, out);
                for (uint32_t d = 0; d < 32; d++)
                    cr_assert(isfinite(out[d]), "control: a sound cache gives numbers");
                if (what == 0)
                    q[places[i] % 32] = NAN;
                else if (what == 1)
                    cache.keys[key_at(places[i], 5, 32)] = HALF_NAN;
                else
                    cache.values[(size_t)places[i] * 32 + 5] = HALF_NAN;
                kernels.attention(&view, q, scratch, out);
                for (uint32_t d = 0; d < 32; d++)
                    if (what < 2 || d == 5)
                        cr_assert_eq(float_to_bits(out[d]), FLOAT_NAN_BITS,
                                     "%s: NaN number %d at position %u is lost", isa_name((enum isa)isa), what,
                                     places[i]);
            }
    }
}

// --- exp

static double exp_error(float x) // in ulp of the result
{
    const double truth = exp((double)x);
    return fabs((double)kernels_exp(x) - truth) / ldexp(1, ilogb(truth) - 23);
}

// Every 497th float of [-87, 88], and the worst of all of them, which an exhaustive run found.
Test(exp, is_within_its_stated_error)
{
    double worst = 0;
    float where = 0;
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t bits = 0x30000000; bits <= float_to_bits(sign ? 87.0f : 88.0f); bits += 497) {
            const float x = float_from_bits(bits | sign << 31);
            const double off = exp_error(x);
            if (!(off <= worst)) {
                worst = off;
                where = x;
            }
        }
    const double known = exp_error(0x1.ab05d2p+4f);
    fprintf(stderr, "# exp: at most %.4f ulp, at %a; the known worst: %.6f\n", worst, (double)where, known);
    cr_expect(worst <= 0.9387 && known <= 0.9387);
    cr_expect(known > 0.9386, "the known worst is better than it was: is this the stated polynomial?");
}

Test(exp, has_the_stated_ends)
{
    cr_expect_eq(kernels_exp(0), 1);
    cr_expect_eq(kernels_exp(-0.0f), 1);
    cr_expect_eq(kernels_exp(nextafterf(-87.0f, -INFINITY)), 0);
    cr_expect_gt(kernels_exp(-87.0f), 0x1p-126f, "never subnormal");
    cr_expect_eq(kernels_exp(nextafterf(88.0f, INFINITY)), INFINITY);
    cr_expect(isfinite(kernels_exp(88.0f)));
    cr_expect_eq(kernels_exp(-INFINITY), 0);
    cr_expect_eq(kernels_exp(INFINITY), INFINITY);
    cr_expect_eq(float_to_bits(kernels_exp(float_from_bits(0xFFC12345))), FLOAT_NAN_BITS);
}

// --- flush to zero

#if defined(__SSE__)
// One of everything on inputs of `shape`; halves out.
static size_t everything(const struct kernels *kernels, enum shape shape, float *out)
{
    static struct store store;
    static float x[WIDEST], w[WIDEST], scratch[8 * DH_MOST];
    const struct linear_rule rule = standard;
    float *y = out;
    fill(x, 448, shape);
    fill(w, 448, SHAPE_ORDINARY);
    const enum weight_format formats[] = {WEIGHT_Q8, WEIGHT_Q4, WEIGHT_F16, WEIGHT_F32};
    for (int i = 0; i < 4; i++, y += ROWS) {
        const struct weight weight = make_weight(&store, formats[i], 448, 32, SHAPE_ORDINARY);
        run_linear_into(kernels, &weight, x, rule, y);
        kernels->round(y, ROWS, PRECISION_F16);
    }
    kernels->rms_norm(x, w, 448, 1e-5f, y), y += 448;
    kernels->swiglu(x, w, 448, y), y += 448;
    kernels->add(x, w, 448, y), y += 448;
    kernels->product(x, w, 448, PRECISION_F16, y), y += 448;
    kernels->short_conv(x, w, w, NULL, 128, 3, y), y += 128;
    const struct attention_view view = make_view(32, 300, PRECISION_F16, shape);
    kernels->attention(&view, x, scratch, y), y += 32;
    return (size_t)(y - out);
}

Test(flush, on_and_off_give_the_same_halves)
{
    static float off[4096], on[4096];
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
