// The chunked delta rule of the fp64 oracle against the recurrence, written down here a second time. Each fault that
// the rule or the boundary of a chunk can have is put into the recurrence and must be seen.
#include "reference/double/delta.h"
#include "tests/truth.h"

enum { LONGEST = 130, WIDEST = 24 };

enum fault {
    NONE,
    STATE_LOST,
    STATE_TRANSPOSED,
    STATE_NOT_DECAYED,
    NO_DECAY,
    NO_BETA,
    READ_BEFORE_DECAY,
    READ_BEFORE_WRITE
};

struct head {
    uint32_t n, dk, dv;
    double q[LONGEST * WIDEST], k[LONGEST * WIDEST], v[LONGEST * WIDEST], g[LONGEST], beta[LONGEST];
};

static double uniform(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(*seed >> 11) / 9007199254740992.0;
}

static void normalise(double *x, uint32_t n)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    for (uint32_t i = 0; i < n; i++)
        x[i] /= sqrt(squares);
}

// Keys near one another, so that the triangular system matters; g from -weakest down.
static void head_fill(struct head *head, uint32_t n, uint32_t dk, uint32_t dv, double decay, uint64_t seed)
{
    *head = (struct head){.n = n, .dk = dk, .dv = dv};
    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t i = 0; i < dk; i++) {
            head->q[t * dk + i] = uniform(&seed) - 0.3;
            head->k[t * dk + i] = uniform(&seed) - 0.3;
        }
        for (uint32_t i = 0; i < dv; i++)
            head->v[t * dv + i] = 4 * uniform(&seed) - 2;
        normalise(head->q + t * dk, dk);
        normalise(head->k + t * dk, dk);
        head->g[t] = -decay * uniform(&seed);
        head->beta[t] = uniform(&seed);
    }
}

static void spoil_state(enum fault fault, const struct head *head, double *S)
{
    for (uint32_t i = 0; i < head->dk; i++)
        for (uint32_t j = 0; j < head->dv; j++)
            if (fault == STATE_LOST)
                S[i * head->dv + j] = 0;
            else if (fault == STATE_TRANSPOSED && i < j && j < head->dk) {
                const double upper = S[i * head->dv + j];
                S[i * head->dv + j] = S[j * head->dv + i];
                S[j * head->dv + i] = upper;
            }
}

// architecture.md 4.4, token by token; the faults of the state happen at tokens 64 and 128.
static void recurrence(const struct head *head, enum fault fault, double *S, double *out)
{
    const uint32_t dk = head->dk, dv = head->dv;
    for (uint32_t t = 0; t < head->n; t++) {
        const double *q = head->q + t * dk, *k = head->k + t * dk, *v = head->v + t * dv;
        const int is_boundary = t > 0 && t % DOUBLE_DELTA_CHUNK == 0;
        const double decay = fault == NO_DECAY || (fault == STATE_NOT_DECAYED && is_boundary) ? 1 : exp(head->g[t]);
        if (is_boundary)
            spoil_state(fault, head, S);
        for (uint32_t j = 0; j < dv; j++) {
            double memory = 0, before = 0, after = 0;
            for (uint32_t i = 0; i < dk; i++)
                memory += k[i] * S[i * dv + j] * (fault == READ_BEFORE_DECAY ? 1 : decay);
            const double d = (v[j] - memory) * (fault == NO_BETA ? 1 : head->beta[t]);
            for (uint32_t i = 0; i < dk; i++) {
                before += q[i] * S[i * dv + j] * decay;
                S[i * dv + j] = S[i * dv + j] * decay + k[i] * d;
                after += q[i] * S[i * dv + j];
            }
            out[t * dv + j] = fault == READ_BEFORE_WRITE ? before : after;
        }
    }
}

static void chunked(const struct head *head, double *S, double *out)
{
    const struct double_delta input = {.n = head->n,
                                       .dk = head->dk,
                                       .dv = head->dv,
                                       .q = head->q,
                                       .k = head->k,
                                       .v = head->v,
                                       .g = head->g,
                                       .beta = head->beta,
                                       .key_stride = head->dk,
                                       .value_stride = head->dv,
                                       .gate_stride = 1};
    double *scratch = calloc(double_delta_scratch(head->dk, head->dv), sizeof *scratch);
    cr_assert_not_null(scratch);
    double_delta_run(&input, S, scratch, out);
    free(scratch);
}

// Largest |chunked - recurrence| of outputs and end state, relative to the largest output. From a state that is not
// zero.
static double difference(const struct head *head, enum fault fault)
{
    static double a[LONGEST * WIDEST], b[LONGEST * WIDEST], S[WIDEST * WIDEST], R[WIDEST * WIDEST];
    struct distance outputs = {0}, states = {0};
    uint64_t seed = 9;
    for (uint32_t i = 0; i < head->dk * head->dv; i++)
        S[i] = R[i] = uniform(&seed) - 0.5;
    chunked(head, S, a);
    recurrence(head, fault, R, b);
    for (uint32_t i = 0; i < head->n * head->dv; i++)
        distance_add(&outputs, a[i], b[i]);
    for (uint32_t i = 0; i < head->dk * head->dv; i++)
        distance_add(&states, S[i], R[i]);
    return fmax(outputs.max, states.max) / outputs.largest + 0 * (outputs.max + states.max); // fmax drops a NaN
}

// Two orders of sums, each of at most 64 + 24 terms. Measured worst: 1.5e-15.
static const double LIMIT = 1e-14;

static struct head head;

Test(double_delta, in_chunks_is_the_recurrence)
{
    static const uint32_t lengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 130};
    static const uint32_t widths[][2] = {{8, 8}, {24, 16}, {5, 24}, {1, 1}};
    static const double decays[] = {0, 1e-3, 0.3, 30, 1500};
    double worst = 0;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t j = 0; j < 4; j++)
            for (size_t k = 0; k < 5; k++) {
                head_fill(&head, lengths[i], widths[j][0], widths[j][1], decays[k], 100 * i + 10 * j + k);
                const double found = difference(&head, NONE);
                cr_expect(found <= LIMIT, "%u tokens, %u x %u, decay %g: %g", head.n, head.dk, head.dv, decays[k],
                          found);
                worst = fmax(worst, found);
            }
    fprintf(stderr, "# |chunked - recurrence| at most %.2g of the largest output\n", worst);
}

Test(double_delta, shows_every_fault_of_the_recurrence_and_of_a_boundary_from_65_tokens_on)
{
    head_fill(&head, 65, 8, 8, 0.3, 1);
    for (enum fault fault = STATE_LOST; fault <= READ_BEFORE_WRITE; fault++)
        cr_expect_not(difference(&head, fault) <= LIMIT, "fault %d", (int)fault);
    head_fill(&head, 64, 8, 8, 0.3, 1);
    for (enum fault fault = STATE_LOST; fault <= STATE_NOT_DECAYED; fault++)
        cr_expect(difference(&head, fault) <= LIMIT, "control: within one chunk there is no boundary");
}

Test(double_delta, cut_anywhere_and_continued_from_its_state_is_the_whole)
{
    static double whole[LONGEST * WIDEST], parts[LONGEST * WIDEST], S[64], R[64];
    head_fill(&head, LONGEST, 8, 8, 0.1, 3);
    memset(S, 0, sizeof S);
    chunked(&head, S, whole);
    for (uint32_t cut = 1; cut < LONGEST; cut += 9) {
        static struct head part;
        memset(R, 0, sizeof R);
        part = head;
        part.n = cut;
        chunked(&part, R, parts);
        part.n = LONGEST - cut;
        memcpy(part.q, head.q + cut * 8, part.n * 8 * sizeof(double));
        memcpy(part.k, head.k + cut * 8, part.n * 8 * sizeof(double));
        memcpy(part.v, head.v + cut * 8, part.n * 8 * sizeof(double));
        memcpy(part.g, head.g + cut, part.n * sizeof(double));
        memcpy(part.beta, head.beta + cut, part.n * sizeof(double));
        chunked(&part, R, parts + cut * 8);
        struct distance distance = {0};
        for (uint32_t i = 0; i < LONGEST * 8; i++)
            distance_add(&distance, parts[i], whole[i]);
        for (uint32_t i = 0; i < 64; i++)
            distance_add(&distance, R[i], S[i]);
        cr_expect(distance_relative(&distance) <= LIMIT, "cut at %u: %g", cut, distance_relative(&distance));
    }
}

Test(double_delta, keeps_a_nan_from_the_tokens_before_it)
{
    static double healthy[LONGEST * WIDEST], out[LONGEST * WIDEST], S[64];
    for (uint32_t at = 60; at < 70; at += 3)
        for (int kind = 0; kind < 4; kind++) {
            head_fill(&head, LONGEST, 8, 8, 0.1, 4);
            memset(S, 0, sizeof S);
            chunked(&head, S, healthy);
            *(kind == 0   ? &head.v[at * 8 + 2]
              : kind == 1 ? &head.k[at * 8 + 3]
              : kind == 2 ? &head.g[at]
                          : &head.beta[at]) = NAN;
            memset(S, 0, sizeof S);
            chunked(&head, S, out);
            for (uint32_t i = 0; i < at * 8; i++)
                cr_assert_eq(out[i], healthy[i], "kind %d: NaN of token %u in token %u", kind, at, i / 8);
            for (uint32_t t = at; t < LONGEST; t++)
                cr_assert(isnan(out[t * 8 + 2]), "kind %d: NaN of token %u not in token %u", kind, at, t);
        }
}
