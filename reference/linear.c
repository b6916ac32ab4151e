#include "reference/linear.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/base/floating.h"
#include "reference/linear_kernels.h"

// A range of rows with fewer multiplications (some 20 microseconds) is not worth handing to another thread.
enum { MULTIPLICATIONS_PER_RANGE = 1 << 18 };

// Experts' codes have no kernels of their own: a row of at most so many inputs is widened and left to F32's.
enum { WIDENED_MAX = 8192 };

size_t linear_split_size(uint32_t n)
{
    return ((size_t)n + LINEAR_LANES - 1) / LINEAR_LANES * LINEAR_LANES;
}

void linear_input_set(struct linear_input *input, const float *x, uint32_t n)
{
    const size_t whole = n - n % LINEAR_LANES;
    input->n = n;
    input->x = x;
    for (size_t lane = 0; lane < LINEAR_LANES; lane++)
        input->tail[lane] = whole + lane < n ? x[whole + lane] : 0.0f;
    for (size_t block = 0; input->split && block < n; block += LINEAR_LANES)
        for (size_t lane = 0; lane < LINEAR_LANES; lane++) {
            const size_t k = block + lane;
            input->split[block + linear_split_lane(lane)] = k < n ? x[k] : 0.0f;
        }
}

// --- the definition

float linear_sum_of_lanes(float acc[LINEAR_LANES])
{
    for (size_t half = LINEAR_LANES / 2; half >= 1; half /= 2)
        for (size_t lane = 0; lane < half; lane++)
            acc[lane] += acc[lane + half];
    return acc[0];
}

void linear_widen(const struct weight *weight, size_t row, uint32_t k, uint32_t n, float w[LINEAR_LANES])
{
    weight_part(weight, (uint32_t)row, k, n, w);
}

static void rows_scalar(const struct weight *weight, const struct linear_input *input, size_t first, size_t end,
                        float *y)
{
    for (size_t row = first; row < end; row++) {
        float acc[LINEAR_LANES] = {0}, w[LINEAR_LANES];
        for (uint32_t k = 0; k < weight->cols; k += LINEAR_LANES) {
            const uint32_t left = weight->cols - k, n = left < LINEAR_LANES ? left : LINEAR_LANES;
            linear_widen(weight, row, k, n, w);
            for (uint32_t lane = 0; lane < n; lane++)
                acc[lane] = fmaf(w[lane], input->x[k + lane], acc[lane]);
        }
        y[row] = linear_sum_of_lanes(acc);
    }
}

void linear_tail(const struct weight *weight, size_t row, bool split, float tail[LINEAR_LANES])
{
    const uint32_t n = weight->cols % LINEAR_LANES;
    float w[LINEAR_LANES];
    linear_widen(weight, row, weight->cols - n, n, w);
    for (size_t lane = 0; lane < LINEAR_LANES; lane++)
        tail[split ? linear_split_lane(lane) : lane] = lane < n ? w[lane] : -0.0f;
}

// --- the table

const struct linear_kernel linear_kernels[] = {
    {"scalar", WEIGHT_F32, ISA_SCALAR, rows_scalar},
    {"scalar", WEIGHT_F16, ISA_SCALAR, rows_scalar},
    {"scalar", WEIGHT_BF16, ISA_SCALAR, rows_scalar},
    {"scalar", WEIGHT_Q8, ISA_SCALAR, rows_scalar},
    {"scalar", WEIGHT_Q4, ISA_SCALAR, rows_scalar},
    {"scalar", WEIGHT_A4, ISA_SCALAR, rows_scalar}, // experts of a bundle, under `dequant`; see run_widened
    {"scalar", WEIGHT_K8, ISA_SCALAR, rows_scalar},
    {"scalar", WEIGHT_K4, ISA_SCALAR, rows_scalar},
#if defined(__x86_64__)
    {"avx2", WEIGHT_F32, ISA_AVX2, linear_f32_avx2},
    {"avx2", WEIGHT_F16, ISA_AVX2, linear_f16_avx2},
    {"avx2", WEIGHT_BF16, ISA_AVX2, linear_bf16_avx2},
    {"avx2", WEIGHT_Q8, ISA_AVX2, linear_q8_avx2},
    {"avx2", WEIGHT_Q4, ISA_AVX2, linear_q4_avx2},
    {"avx512", WEIGHT_F32, ISA_AVX512, linear_f32_avx512},
    {"avx512", WEIGHT_F16, ISA_AVX512, linear_f16_avx512},
    {"avx512", WEIGHT_BF16, ISA_AVX512, linear_bf16_avx512},
    {"avx512", WEIGHT_Q8, ISA_AVX512, linear_q8_avx512},
    {"avx512", WEIGHT_Q4, ISA_AVX512, linear_q4_avx512},
#elif defined(__aarch64__)
    {"neon", WEIGHT_F32, ISA_NEON, linear_f32_neon},
    {"neon", WEIGHT_F16, ISA_NEON, linear_f16_neon},
    {"neon", WEIGHT_BF16, ISA_NEON, linear_bf16_neon},
    {"neon", WEIGHT_Q8, ISA_NEON, linear_q8_neon},
    {"neon", WEIGHT_Q4, ISA_NEON, linear_q4_neon},
#endif
    {NULL, WEIGHT_NONE, ISA_SCALAR, NULL},
};

bool linear_isa_includes(enum isa isa, enum isa kernel)
{
    return kernel == ISA_SCALAR || kernel == isa || (isa == ISA_AVX512 && kernel == ISA_AVX2);
}

void linear_open(struct linear *linear, enum isa isa, struct pool *pool)
{
    memset(linear, 0, sizeof *linear);
    linear->pool = pool;
    linear->tile = linear_tile_best(isa);
    for (const struct linear_kernel *kernel = linear_kernels; kernel->name; kernel++)
        if (linear_isa_includes(isa, kernel->isa) && isa_available(kernel->isa))
            linear->rows[kernel->format] = kernel->rows;
}

// --- one layer, over the threads

struct job {
    linear_fn rows;
    const struct weight *weight;
    const float *bias;
    const struct linear_input *input;
    const struct linear_tile *tile;
    const struct linear_batch *batch;
    float *y;
};

static void run_rows(void *context, size_t first, size_t end)
{
    const struct job *job = context;
    job->rows(job->weight, job->input, first, end, job->y);
    if (job->bias)
        for (size_t row = first; row < end; row++)
            job->y[row] += job->bias[row];
}

static bool is_widened(const struct weight *weight)
{
    const enum weight_format format = weight->format;
    return (format == WEIGHT_A4 || format == WEIGHT_K8 || format == WEIGHT_K4) && weight->cols <= WIDENED_MAX;
}

// A row is widened once for all tokens; job->rows is F32's kernel.
static void run_widened(void *context, size_t first, size_t end)
{
    const struct job *job = context;
    const struct linear_batch *batch = job->batch;
    float w[WIDENED_MAX];
    const struct weight row = {.format = WEIGHT_F32, .rows = 1, .cols = job->weight->cols, .data = w};
    for (size_t r = first; r < end; r++) {
        weight_row(job->weight, (uint32_t)r, w);
        for (uint32_t t = 0; t < (batch ? batch->tokens : 1); t++) {
            float *y = job->y + (size_t)t * job->weight->rows + r;
            struct linear_input input = {.split = NULL};
            if (batch)
                linear_input_set(&input, batch->x + (size_t)t * batch->n, batch->n);
            job->rows(&row, batch ? &input : job->input, 0, 1, y);
            if (job->bias)
                *y += job->bias[r];
        }
    }
}

static linear_fn kernel_of(const struct linear *linear, const struct weight *weight)
{
    return linear->rows[is_widened(weight) ? WEIGHT_F32 : weight->format];
}

void linear_run(const struct linear *linear, const struct weight *weight, const float *bias,
                const struct linear_input *input, float *y)
{
    assert(weight->format != WEIGHT_NONE && input->n == weight->cols);
    struct job job = {.rows = kernel_of(linear, weight), .weight = weight, .bias = bias, .input = input, .y = y};
    const size_t grain = 1 + MULTIPLICATIONS_PER_RANGE / ((size_t)weight->cols + 1);
    profile_begin(linear->profile);
    pool_run(linear->pool, weight->rows, grain, is_widened(weight) ? run_widened : run_rows, &job);
    profile_end(linear->profile, weight);
}

static void run_tiles(void *context, size_t first, size_t end)
{
    const struct job *job = context;
    linear_tile_rows(job->tile, job->weight, job->batch, first, end, job->y);
    for (uint32_t t = 0; job->bias && t < job->batch->tokens; t++)
        for (size_t row = first; row < end; row++)
            job->y[(size_t)t * job->weight->rows + row] += job->bias[row];
}

// Token by token: experts' codes in rows too long to widen. Their kernels need no split input.
static void run_tokens(void *context, size_t first, size_t end)
{
    const struct job *job = context;
    const struct linear_batch *batch = job->batch;
    for (uint32_t t = 0; t < batch->tokens; t++) {
        struct linear_input input = {.split = NULL};
        struct job token = *job;
        linear_input_set(&input, batch->x + (size_t)t * batch->n, batch->n);
        token.input = &input;
        token.y = job->y + (size_t)t * job->weight->rows;
        run_rows(&token, first, end);
    }
}

static void pack(void *context, size_t first, size_t end)
{
    const struct job *job = context;
    linear_batch_pack(job->batch, job->tile, first, end);
}

void linear_pack(const struct linear *linear, struct linear_batch *batch, const float *x, uint32_t n, uint32_t tokens)
{
    struct job job = {.tile = linear->tile, .batch = batch};
    profile_begin(linear->profile);
    pool_run(linear->pool, linear_batch_set(batch, x, n, tokens), 1, pack, &job);
    profile_end(linear->profile, NULL);
}

static bool has_tiles(enum weight_format format)
{
    return format != WEIGHT_A4 && format != WEIGHT_K8 && format != WEIGHT_K4;
}

void linear_run_batch(const struct linear *linear, const struct weight *weight, const float *bias,
                      const struct linear_batch *batch, float *y)
{
    assert(weight->format != WEIGHT_NONE && batch->n == weight->cols);
    struct job job = {.rows = kernel_of(linear, weight), .tile = linear->tile, .weight = weight, .bias = bias,
                      .batch = batch, .y = y};
    const size_t blocks = MULTIPLICATIONS_PER_RANGE / ((size_t)weight->cols * batch->tokens * LINEAR_BLOCK_ROWS);
    profile_begin(linear->profile);
    pool_run(linear->pool, weight->rows, (1 + blocks) * LINEAR_BLOCK_ROWS,
             is_widened(weight)          ? run_widened
             : has_tiles(weight->format) ? run_tiles
                                         : run_tokens,
             &job);
    profile_end(linear->profile, weight);
}
