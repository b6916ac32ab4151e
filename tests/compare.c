// Traces in, measurements out: what a comparison finds in files that were written on purpose, and what it refuses.
#include "harness/judge/compare.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "harness/base/files.h"
#include "harness/judge/validate.h"
#include "harness/run/record.h"

enum { V = 64, N = 20, ROLLOUT = 4, SEEDED = 4 };
static enum mixer mixers[] = {MIXER_CONV, MIXER_ATTENTION};
static const struct config config = {.model_type = "lfm2", .vocabulary = V, .hidden = 8, .layers = 2, .query_heads = 2,
    .key_heads = 1, .head_width = 4, .feed_forward = 16, .conv_taps = 3, .mixers = mixers, .max_positions = 1000, .n_eos = 1,
    .eos = {7}};

static struct arena arena;
static char *directory;
static struct suite suite;
static struct suite_case one;
static uint32_t tokens[N], positions[16];

// What one engine writes: the reference's row plus `noise` at one row and id, or a NaN there.
struct variant {
    const char *arm;
    uint32_t row, id;
    float add;
    uint32_t second_row;   // where it is added, too; 0: nowhere
    float ripple;          // +- this to every logit of the row, by the id's parity
    float state_add;
    const char *weights;
    const char *differs; // a purpose
};

static float reference_logit(uint32_t t, uint32_t id)
{
    return (float)((id * 37 + t * 11) % V) * 0.25f; // every row a permutation: top-1 depends on t, margin 0.25
}

static uint32_t token_at(uint32_t t)
{
    return t < N ? tokens[t] : (t * 5) % V;
}

static void write_trace(const struct variant *variant, const char *purpose, uint32_t first, uint32_t n, uint32_t generated,
                        const char *start)
{
    struct error error = {0};
    struct trace_writer *writer;
    struct state state;
    struct trace_spec spec = {.config = &config, .n = n, .logits = DTYPE_F32, .state = true,
        .contract = {.model = "m", .model_type = "lfm2", .weights_sha256 = variant->weights ? variant->weights : "",
            .config_sha256 = "", .bundle_sha256 = "", .tokenizer_sha256 = "", .engine = variant->arm, .engine_version = "1",
            .device = "cpu", .precision = "float32", .mode = "s1", .start = start, .position = first, .generated = generated}};
    const char *folder = file_join(&arena, directory, variant->arm);
    cr_assert_eq(directory_make(folder, &error), 0, "%s", error.text);
    cr_assert_eq(trace_create(&writer, record_path(&arena, folder, one.id, purpose), &spec, &error), 0, "%s", error.text);
    for (uint32_t t = 0; t < n; t++) {
        float row[V];
        for (uint32_t id = 0; id < V; id++)
            row[id] = reference_logit(first + t, id);
        const bool second = variant->second_row && first + t == variant->second_row;
        if (first + t == variant->row || second)
            row[variant->id] += variant->add;
        for (uint32_t id = 0; id < V && first + t == variant->row; id++)
            row[id] += id % 2 ? variant->ripple : -variant->ripple;
        if (variant->differs && purpose && !strcmp(purpose, variant->differs))
            row[3] += 0.5f;
        trace_put(writer, t, token_at(first + t), row);
    }
    cr_assert_eq(state_make(&arena, &config, first + n, &state, &error), 0);
    for (size_t i = 0; i < state.n; i++)
        for (uint64_t k = 0; k < state.tensors[i].elements; k++)
            state.tensors[i].data[k] = 1.0f + (float)k + (k == 0 ? variant->state_add : 0.0f);
    trace_put_state(writer, &state);
    cr_assert_eq(trace_commit(&writer, &error), 0, "%s", error.text);
}

static void write_arm(const struct variant *variant)
{
    const char *seed = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    write_trace(variant, NULL, 0, N + ROLLOUT, ROLLOUT, "zero");
    write_trace(variant, "seeded", N - SEEDED, SEEDED, 0, seed);
    write_trace(variant, "again", 0, N + ROLLOUT, ROLLOUT, "zero");
    write_trace(variant, "restored", N / 2, N + ROLLOUT - N / 2, ROLLOUT, seed);
}

static const struct variant plain = {.arm = "candidate", .row = UINT32_MAX};

static void setup(void)
{
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
    for (uint32_t t = 0; t < N; t++)
        tokens[t] = (t * 7) % V;
    for (uint32_t i = 0; i < 16; i++)
        positions[i] = i;
    one = (struct suite_case){.id = "one", .domain = "", .n = N, .tokens = tokens, .n_positions = 16, .positions = positions,
        .seeded = SEEDED, .rollout = ROLLOUT};
    for (int check = CHECK_SWEEP; check < CHECK_COUNT; check++)
        one.checks[check] = true;
    suite = (struct suite){.name = "one", .n_cases = 1, .cases = &one};
    memcpy(suite.checks, one.checks, sizeof suite.checks);
    for (int i = 0; i < 3; i++)
        write_arm(&(struct variant){.arm = (const char *[]){"reference", "fp16", "expected"}[i], .row = UINT32_MAX});
}

static void teardown(void)
{
    directory_remove(directory);
    arena_close(&arena);
}

TestSuite(compare, .init = setup, .fini = teardown);

static double floor_gap = 0.1, reference_error = 1e-4;

static int compare(struct comparison **comparison, struct error *error)
{
    struct compare_request request = {.suite = &suite, .reference = file_join(&arena, directory, "reference"),
        .arms = {[ARM_CANDIDATE] = file_join(&arena, directory, "candidate"), [ARM_FP16] = file_join(&arena, directory, "fp16"),
                 [ARM_EXPECTED] = file_join(&arena, directory, "expected")}, .floor = floor_gap, .reference_error = reference_error};
    memcpy(request.checks, suite.checks, sizeof request.checks);
    return compare_suite(comparison, &request, error);
}

static struct comparison *compared(void)
{
    struct error error = {0};
    struct comparison *comparison;
    cr_assert_eq(compare(&comparison, &error), 0, "%s", error.text);
    return comparison;
}

Test(compare, control_equal_traces_have_no_distance)
{
    write_arm(&plain);
    struct comparison *c = compared();
    cr_assert_eq(c->n_missing, 0);
    cr_assert_eq(c->n_positions, N + ROLLOUT - 1 + SEEDED); // the row after the last generated token serves no check
    for (int check = CHECK_SWEEP; check < CHECK_COUNT; check++)
        cr_assert(c->compared[check] == c->declared[check] && c->compared[check] > 0, "%s", check_name((enum check)check));
    cr_assert_eq(c->compared[CHECK_SWEEP], 16);
    cr_assert_eq(c->compared[CHECK_SEEDED], SEEDED);
    cr_assert_eq(c->compared[CHECK_ROLLOUT], 1);
    cr_assert_eq(c->compared[CHECK_FLIPS], N);
    for (size_t i = 0; i < c->n_positions; i++)
        cr_assert(c->positions[i].agreement == AGREE && c->positions[i].fp16_agreement == AGREE);
    cr_assert_eq(c->distances[ARM_CANDIDATE].rms, 0.0);
    cr_assert_eq(c->distances[ARM_CANDIDATE].rows, N);
    cr_assert(c->rollouts[0].equal == ROLLOUT && c->rollouts[0].strict);
    for (size_t i = 0; i < c->n_rows; i++)
        cr_assert(c->rows[i].equal == c->rows[i].rows && c->rows[i].state_equal);
    compare_close(&c);
    cr_assert_null(c);
}

Test(compare, one_changed_logit_is_found_at_its_place)
{
    // id 12's logit at row 5 rises to 4 over the top: a real flip
    struct variant variant = plain;
    variant.row = 5;
    variant.id = 12;
    variant.add = 40.0f;
    write_arm(&variant);
    struct comparison *c = compared();
    size_t flips = 0;
    for (size_t i = 0; i < c->n_positions; i++)
        if (c->positions[i].agreement == REAL_FLIP) {
            flips++;
            cr_assert(c->positions[i].position == 5 && c->positions[i].metric.pick == 12 && c->positions[i].introduced);
            cr_assert(c->positions[i].checks[CHECK_SWEEP] && c->positions[i].checks[CHECK_FLIPS]);
        }
    cr_assert_eq(flips, 1);
    cr_assert_float_eq(c->distances[ARM_CANDIDATE].rms, sqrt(40.0 * 40.0 / (N * V)), 1e-12);
    compare_close(&c);
}

Test(compare, a_flip_of_the_fp16_arm_at_the_same_position_is_not_introduced)
{
    struct variant variant = plain;
    variant.row = 5;
    variant.id = 12;
    variant.add = 40.0f;
    write_arm(&variant);
    variant.arm = "fp16";
    write_arm(&variant);
    struct comparison *c = compared();
    for (size_t i = 0; i < c->n_positions; i++)
        cr_assert(!c->positions[i].introduced);
    compare_close(&c);
    variant.row = 6; // by position, never a difference of counts
    write_arm(&variant);
    c = compared();
    size_t introduced = 0;
    for (size_t i = 0; i < c->n_positions; i++)
        introduced += c->positions[i].introduced;
    cr_assert_eq(introduced, 1);
    compare_close(&c);
}

static uint32_t second_best(uint32_t t)
{
    uint32_t best = 0, next = 0;
    for (uint32_t id = 0; id < V; id++)
        best = reference_logit(t, id) > reference_logit(t, best) ? id : best;
    next = best ? 0 : 1;
    for (uint32_t id = 0; id < V; id++)
        next = id != best && reference_logit(t, id) > reference_logit(t, next) ? id : next;
    return next;
}

Test(compare, a_disagreement_is_classed_by_what_the_pick_costs)
{
    // the second best, 0.25 behind, rises over the best
    struct variant variant = {.arm = "candidate", .row = 5, .id = second_best(5), .add = 0.3125f};
    write_arm(&variant);
    const struct { double floor, error; enum agreement agreement; } rows[] = {
        {0.25, 1e-4, REAL_FLIP}, {0.26, 1e-4, NEAR_TIE}, {0.3, 0.25, NEAR_TIE}, {0.3, 0.26, TIE}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        floor_gap = rows[i].floor;
        reference_error = rows[i].error;
        struct comparison *c = compared();
        cr_assert_eq(c->positions[5].metric.gap, 0.25);
        cr_assert_eq(c->positions[5].agreement, rows[i].agreement, "floor %g", rows[i].floor);
        cr_assert_eq(c->positions[6].undecidable, rows[i].floor > 0.25);
        cr_assert_eq(c->rollouts[0].strict, rows[i].floor <= 0.25);
        compare_close(&c);
    }
}

Test(compare, noise_and_quantiles_are_over_rows)
{
    struct variant variant = {.arm = "candidate", .row = 3, .ripple = 0.0625f};
    write_arm(&variant);
    struct comparison *c = compared();
    const struct distance *d = &c->distances[ARM_CANDIDATE];
    // one row of N has the noise of a known spread, the others none: their root mean square
    cr_assert_float_eq(d->sigma, sqrt(2.0) * 1.4826 * 0.0625 / sqrt(N), 1e-12);
    cr_assert(d->kl_max > 0.0);
    cr_assert_float_eq(d->kl_mean, d->kl_max / N, 1e-12);
    // 19 zeros and one: the 99th percentile lies 0.81 of the way to the last (0.99 x 19 = 18.81)
    cr_assert_float_eq(d->kl_p99, 0.81 * d->kl_max, 1e-12);
    cr_assert_eq(c->kernel_rows, N);
    cr_assert_eq(c->kernel_equal, N - 1);
    cr_assert_float_eq(c->kernel_rms, 0.0625 / sqrt(N), 1e-12);
    cr_assert_eq(c->kernel_rms_median, 0.0); // one row of many does not move the typical one
    cr_assert_eq(d->rms_median, 0.0);
    compare_close(&c);
}

Test(compare, a_nan_is_counted_wherever_it_is)
{
    struct variant variant = plain;
    variant.row = N + ROLLOUT - 1; // a row that serves no check
    variant.add = NAN;
    write_arm(&variant);
    struct comparison *c = compared();
    cr_assert_eq(c->class_count[ROW_NAN], 1);
    compare_close(&c);
    variant.row = 2;
    write_arm(&variant);
    c = compared();
    cr_assert_eq(c->positions[2].agreement, NO_PICK);
    cr_assert(isnan(c->distances[ARM_CANDIDATE].rms) && isnan(c->distances[ARM_CANDIDATE].kl_max));
    compare_close(&c);
}

Test(compare, a_divergence_in_the_rollout_is_counted_once_and_goes_on)
{
    struct variant variant = plain;
    variant.row = N; // the second generated token's row
    variant.id = 12;
    variant.add = 40.0f;
    write_arm(&variant);
    struct comparison *c = compared();
    cr_assert_eq(c->rollouts[0].equal, ROLLOUT - 1);
    cr_assert_eq(c->rollouts[0].first_divergence, 1);
    compare_close(&c);
    variant.second_row = N + 2;
    write_arm(&variant);
    c = compared();
    cr_assert_eq(c->rollouts[0].equal, ROLLOUT - 2);
    cr_assert_eq(c->rollouts[0].first_divergence, 1);
    compare_close(&c);
}

Test(compare, states_are_measured_against_reference_and_expected)
{
    struct variant variant = plain;
    variant.state_add = 0.5f;
    write_arm(&variant);
    struct comparison *c = compared();
    for (size_t i = 0; i < c->n_states; i++) {
        cr_assert(c->states[i].candidate.error > 0.0 && c->states[i].candidate.max_abs == 0.5);
        cr_assert(c->states[i].has_expected && c->states[i].expected.error == 0.0);
    }
    compare_close(&c);
}

Test(compare, a_second_run_that_differs_shows)
{
    struct variant variant = plain;
    variant.differs = "again";
    write_arm(&variant);
    struct comparison *c = compared();
    for (size_t i = 0; i < c->n_rows; i++)
        cr_assert_eq(c->rows[i].equal, c->rows[i].check == CHECK_DETERMINISM ? 0 : c->rows[i].rows);
    compare_close(&c);
}

Test(compare, a_batch_that_differs_shows_and_an_engine_without_batches_misses_nothing)
{
    const char *seed = "zero";
    struct variant variant = plain;
    variant.differs = "batch";
    write_arm(&variant);
    struct comparison *c = compared();
    cr_assert_eq(c->n_missing, 0);
    cr_assert_eq(c->n_rows, 2);
    compare_close(&c);
    write_trace(&variant, "batch", 0, N + ROLLOUT, ROLLOUT, seed);
    write_trace(&variant, "chunk", 0, N + ROLLOUT, ROLLOUT, seed);
    c = compared();
    cr_assert_eq(c->n_rows, 4);
    for (size_t i = 0; i < c->n_rows; i++)
        cr_assert_eq(c->rows[i].equal, c->rows[i].way && !strcmp(c->rows[i].way, "batch") ? 0 : c->rows[i].rows);
    compare_close(&c);
}

Test(compare, an_absent_trace_is_missing_not_agreeing)
{
    struct comparison *c = compared(); // no candidate at all
    cr_assert(c->n_missing >= 7);
    for (int check = CHECK_SWEEP; check < CHECK_COUNT; check++)
        cr_assert_eq(c->compared[check], 0);
    compare_close(&c);
}

Test(compare, a_trace_of_another_model_is_refused)
{
    struct error error = {0};
    struct comparison *c;
    struct variant variant = plain, reference = {.arm = "reference", .row = UINT32_MAX};
    variant.weights = "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    reference.weights = "2123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    write_arm(&reference);
    write_arm(&variant);
    cr_assert_eq(compare(&c, &error), ERROR_CONTRACT);
    cr_assert(strstr(error.text, "weights"), "%s", error.text);
    cr_assert_null(c);
}

Test(compare, a_trace_of_other_tokens_is_refused)
{
    struct error error = {0};
    struct comparison *c;
    tokens[2]++;
    write_arm(&plain);
    tokens[2]--;
    cr_assert_eq(compare(&c, &error), ERROR_CONTRACT);
    cr_assert(strstr(error.text, "token"), "%s", error.text);
}

Test(compare, a_truncated_trace_is_refused)
{
    struct error error = {0};
    struct comparison *c;
    char *text;
    uint64_t size;
    struct output *output;
    write_arm(&plain);
    const char *path = record_path(&arena, file_join(&arena, directory, "candidate"), "one", NULL);
    cr_assert_eq(file_read(&arena, path, 1 << 24, &text, &size, &error), 0);
    cr_assert_eq(output_open(&output, path, &error), 0);
    output_append(output, text, size - 100);
    cr_assert_eq(output_commit(&output, &error), 0);
    cr_assert_eq(compare(&c, &error), ERROR_INPUT);
}

Test(compare, two_bare_traces)
{
    struct error error = {0};
    struct comparison *c;
    const struct suite *pair;
    write_arm(&plain);
    const char *reference = record_path(&arena, file_join(&arena, directory, "reference"), "one", NULL);
    const char *candidate = record_path(&arena, file_join(&arena, directory, "candidate"), "one", NULL);
    struct compare_request request = {.reference = reference, .arms = {candidate}, .floor = 0.1, .reference_error = 1e-4};
    cr_assert_eq(compare_traces(&c, &request, &pair, &error), 0, "%s", error.text);
    cr_assert_eq(c->compared[CHECK_FLIPS], N + ROLLOUT);
    cr_assert_eq(c->compared[CHECK_STATE], c->declared[CHECK_STATE]);
    cr_assert_eq(c->distances[ARM_EXPECTED].rows, 0);
    compare_close(&c);
    request.arms[ARM_CANDIDATE] = "/nonexistent";
    cr_assert_eq(compare_traces(&c, &request, &pair, &error), ERROR_INPUT);
}

Test(compare, validation_says_what_the_suite_cannot_see)
{
    struct error error = {0};
    struct policy *policy;
    struct validation *v;
    uint32_t ids[ROLLOUT];
    for (uint32_t i = 0; i < ROLLOUT; i++)
        ids[i] = token_at(N + i);
    struct suite_answer answer = {.n = ROLLOUT, .ids = ids, .source = "this test"};
    one.answer = &answer;
    cr_assert_eq(policy_open(&policy, ASSAY_FIXTURES "/policies/release.json", "lfm2", "2026-01-01", &error), 0, "%s", error.text);
    const char *reference = file_join(&arena, directory, "reference");
    cr_assert_eq(validate_suite(&v, &suite, &config, policy, reference, &error), 0, "%s", error.text);
    cr_assert_eq(v->undecidable, 0); // margins of 0.25 everywhere
    cr_assert(v->answers == 1 && v->answers_equal == 1, "%s", v->answer_lines[0]);
    bool is_long = true, is_small = true;
    for (size_t i = 0; i < v->n; i++) {
        is_long &= !strstr(v->findings[i], "no long case");
        is_small &= !strstr(v->findings[i], "sweep positions");
    }
    cr_assert(!is_long && !is_small);
    validate_close(&v);
    ids[2] ^= 1;
    policy->limit[LIMIT_FLOOR] = 0.5;
    cr_assert_eq(validate_suite(&v, &suite, &config, policy, reference, &error), 0);
    cr_assert_eq(v->answers_equal, 0);
    cr_assert(strstr(v->answer_lines[0], "differs at token 3"), "%s", v->answer_lines[0]);
    cr_assert_eq(v->undecidable, N + ROLLOUT - 1);
    validate_close(&v);
    policy_close(&policy);
}
