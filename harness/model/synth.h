// synth: a checkpoint's weights out of a seed, at a model's full shape, for benchmarks and tests of scale. They mean
// nothing, but a forward pass over them stays finite, residuals neither die nor explode, and attention is not flat.
//
// Element i of a tensor is made from seed, name and i alone, so that any row can be made by itself and neither order
// nor threads change a byte:
//   key = mix(seed + gamma) ^ FNV-1a-64(name)
//   z   = mix(key + (i + 1) gamma), gamma = 0x9E3779B97F4A7C15      (splitmix64, Steele, Lea and Flood 2014)
//   u   = ((z >> 40) - 2^23) 2^-23, in [-1, 1)                       exact
//   w   = RN32(RN32(u spread) + centre), rounded to the dtype, ties to even
//   mix(z): z ^= z >> 30, z *= 0xBF58476D1CE4E5B9, z ^= z >> 27, z *= 0x94D049BB133111EB, z ^= z >> 31
//
// centre and spread, n inputs of a row (a u of spread s has a standard deviation of s / sqrt 3):
//   projections, convolution     0, sqrt(3 / n)    outputs as large as inputs: fan-in scaling
//   embedding, head              0, 2 sqrt(3 / n)  logits with a standard deviation near 2
//   norms of heads               1.5, 0.5          scores with a standard deviation near 2.25
//   other norms                  1, 0.5            what is added to 1 when it is used has its centre lower by 1
//   biases                       0, 0.1
//   A_log, dt_bias               0.5, 1.5; -4, 2   heads that forget within tokens, and over thousands of them
#ifndef ASSAY_SYNTH_H
#define ASSAY_SYNTH_H

#include <stdbool.h>
#include <stdint.h>

#include "harness/base/error.h"
#include "harness/base/pool.h"
#include "harness/model/config.h"
#include "harness/model/safetensors.h"

// One tensor's stream.
struct synth_stream {
    uint64_t key;
    float centre, spread;
    enum dtype dtype; // F32, F16 or BF16
};
struct synth_stream synth_stream(uint64_t seed, const struct tensor_declaration *tensor);

// Elements first .. first + n - 1, in the stream's dtype.
void synth_fill(const struct synth_stream *stream, uint64_t first, size_t n, void *out);

// Bytes of all tensors of a checkpoint with this config.
int synth_bytes(const struct config *config, enum dtype dtype, uint64_t *bytes, struct error *error);

// Writes them to `path` (a temporary name first, safetensors.h). pool may be NULL.
int synth_weights(const struct config *config, enum dtype dtype, uint64_t seed, struct pool *pool, bool quiet,
                  const char *path, struct error *error);

#endif
