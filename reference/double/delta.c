#include "reference/double/delta.h"

#include <math.h>

#include "harness/base/floating.h"
#include "reference/double/matrix.h"

enum { CHUNK = DOUBLE_DELTA_CHUNK };

struct chunk {
    uint32_t n;             // tokens, at most CHUNK
    struct matrix q, k;     // [n, dk]
    struct matrix v, out;   // [n, dv]
    const double *g, *beta; // [n], gate_stride apart
    size_t gate_stride;
    double *decay;         // [n, CHUNK]: what is left at token i of what token j <= i wrote
    double *entry;         // [n]: what is left at token i of the state before the chunk
    struct matrix keys;    // [n, n]: k k^T, then the triangular system
    struct matrix queries; // [n, n]: q k^T decay
    struct matrix right;   // [n, dv + dk]: right-hand sides beta v | beta entry k, then their solutions W | Y
};

size_t double_delta_scratch(uint32_t dk, uint32_t dv)
{
    return (size_t)CHUNK * (3 * CHUNK + 1 + (size_t)dk + dv);
}

static struct matrix row_of(struct matrix matrix, uint32_t i)
{
    return matrix_of(matrix.data + i * matrix.down, 1, matrix.cols, matrix.down);
}

static struct matrix prefix_of(struct matrix matrix, uint32_t rows)
{
    matrix.rows = rows;
    return matrix;
}

static void scale_row(struct matrix matrix, uint32_t i, double factor)
{
    for (uint32_t j = 0; j < matrix.cols; j++)
        matrix.data[i * matrix.down + j] *= factor;
}

// e^(g of j+1 ... i), its exponent summed from token j on: as a difference of two sums from the chunk's start it
// would cancel.
static void decays(struct chunk *c)
{
    double from_start = 0;
    for (uint32_t i = 0; i < c->n; i++)
        c->entry[i] = exp(from_start += c->g[i * c->gate_stride]);
    for (uint32_t j = 0; j < c->n; j++) {
        double sum = 0;
        c->decay[(size_t)j * CHUNK + j] = 1;
        for (uint32_t i = j + 1; i < c->n; i++)
            c->decay[(size_t)i * CHUNK + j] = exp(sum += c->g[i * c->gate_stride]);
    }
}

// (I - L) [W | Y] = [beta v | beta entry k], L[i][j] = -beta[i] (k[i] . k[j]) decay[i][j] for j < i: forward
// substitution, a row at a time, so that nothing of a later token is even multiplied with zero.
static void solve(struct chunk *c)
{
    const uint32_t dk = c->k.cols, dv = c->v.cols;
    matrix_multiply(1, c->k, matrix_transposed(c->k), 0, c->keys);
    for (uint32_t i = 0; i < c->n; i++) {
        const double beta = c->beta[i * c->gate_stride];
        double *lower = c->keys.data + i * c->keys.down, *row = c->right.data + i * c->right.down;
        for (uint32_t j = 0; j < i; j++)
            lower[j] *= beta * c->decay[(size_t)i * CHUNK + j];
        for (uint32_t x = 0; x < dv; x++)
            row[x] = beta * c->v.data[i * c->v.down + x];
        for (uint32_t x = 0; x < dk; x++)
            row[dv + x] = beta * c->entry[i] * c->k.data[i * c->k.down + x];
        if (i > 0)
            matrix_multiply(-1, matrix_of(lower, 1, i, i), prefix_of(c->right, i), 1, row_of(c->right, i));
    }
}

// out[i] = entry[i] S^T q[i] + sum over j <= i of (q[i] . k[j]) decay[i][j] U[j]
static void read(struct chunk *c, struct matrix S, struct matrix U)
{
    matrix_multiply(1, c->q, S, 0, c->out);
    matrix_multiply(1, c->q, matrix_transposed(c->k), 0, c->queries);
    for (uint32_t i = 0; i < c->n; i++) {
        double *row = c->queries.data + i * c->queries.down;
        for (uint32_t j = 0; j <= i; j++)
            row[j] *= c->decay[(size_t)i * CHUNK + j];
        scale_row(c->out, i, c->entry[i]);
        matrix_multiply(1, matrix_of(row, 1, i + 1, i + 1), prefix_of(U, i + 1), 1, row_of(c->out, i));
    }
}

// S = entry[last] S + sum over j of decay[last][j] k[j] U[j]^T; U is used up.
static void write(struct chunk *c, struct matrix S, struct matrix U)
{
    const uint32_t last = c->n - 1;
    for (uint32_t j = 0; j < c->n; j++)
        scale_row(U, j, c->decay[(size_t)last * CHUNK + j]);
    for (uint32_t i = 0; i < S.rows; i++) // not by BLIS: there 0 NaN is 0
        scale_row(S, i, c->entry[last]);
    matrix_multiply(1, matrix_transposed(c->k), U, 1, S);
}

void double_delta_run(const struct double_delta *input, double *S, double *scratch, double *out)
{
    const uint32_t dk = input->dk, dv = input->dv;
    const struct matrix state = matrix_of(S, dk, dv, dv);
    struct chunk c = {.gate_stride = input->gate_stride};
    c.decay = scratch;
    c.keys.data = c.decay + CHUNK * CHUNK;
    c.queries.data = c.keys.data + CHUNK * CHUNK;
    c.entry = c.queries.data + CHUNK * CHUNK;
    c.right.data = c.entry + CHUNK;
    for (uint32_t first = 0; first < input->n; first += CHUNK) {
        c.n = input->n - first < CHUNK ? input->n - first : CHUNK;
        c.q = matrix_of(input->q + first * input->key_stride, c.n, dk, input->key_stride);
        c.k = matrix_of(input->k + first * input->key_stride, c.n, dk, input->key_stride);
        c.v = matrix_of(input->v + first * input->value_stride, c.n, dv, input->value_stride);
        c.out = matrix_of(out + first * input->value_stride, c.n, dv, input->value_stride);
        c.g = input->g + first * input->gate_stride;
        c.beta = input->beta + first * input->gate_stride;
        c.keys = matrix_of(c.keys.data, c.n, c.n, CHUNK);
        c.queries = matrix_of(c.queries.data, c.n, c.n, CHUNK);
        c.right = matrix_of(c.right.data, c.n, dv + dk, (size_t)dv + dk);

        decays(&c);
        solve(&c);
        const struct matrix W = matrix_of(c.right.data, c.n, dv, c.right.down);
        const struct matrix Y = matrix_of(c.right.data + dv, c.n, dk, c.right.down);
        matrix_multiply(-1, Y, state, 1, W); // U = W - Y S
        read(&c, state, W);
        write(&c, state, W);
    }
}
