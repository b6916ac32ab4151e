// plan: the precision plan, JSON in the bundle. The dtype of every class of activation, state, weight and sum, so
// that "fp32 attention projections" or "fp16 accumulation" are data. arithmetic.md 3 is the default.
#ifndef ASSAY_PLAN_H
#define ASSAY_PLAN_H

#include <stdbool.h>

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/base/files.h"
#include "harness/model/config.h"

#define PLAN_SCHEMA "assay-precision/1"

enum precision { PRECISION_F16, PRECISION_F32 };

enum plan_row { // keys of the JSON are the lower-case names without PLAN_
    PLAN_ACTIVATIONS,           // between operators: f16
    PLAN_ATTENTION_PROJECTIONS, // LFM2: stored q, k, v, out weights: f32
    PLAN_LINEAR_SUM,            // accumulation of LIN: f32; f16 rounds every step of the chain, scale and tree
    PLAN_DEQUANT,               // code x scale: f32 (exact); f16 rounds the product before it is used
    PLAN_KV_STATE,              // f16
    PLAN_CONV_STATE,            // f16
    PLAN_DELTA_STATE,           // Qwen3.5: f16
    PLAN_DELTA_NORM,            // Qwen3.5: L2 norm of q and k: f32; f16 rounds every step of it (kernels.h)
    PLAN_ROPE_FREQUENCY,        // inverse frequencies: f32
    PLAN_ROPE_TABLE,            // cos and sin: f16
    PLAN_LOGITS,                // f16
    PLAN_ROWS
};
const char *plan_row_name(enum plan_row row);
const char *precision_name(enum precision precision); // "f16", "f32"

struct plan {
    enum precision rows[PLAN_ROWS];
};

// Has a model of this family anything of which the row speaks? Rows that it has not are neither read nor written and
// keep their default.
bool plan_has(enum family family, enum plan_row row);

void plan_default(struct plan *plan);
// Every row of the family must be there, nothing else. ERROR_INPUT, by name, for a departure that the runtime cannot compute:
// activations f32. attention_projections must agree with the stored dtype, which runtime_open checks.
int plan_read(const char *path, enum family family, struct plan *plan, struct error *error);
void plan_write(struct output *output, enum family family, const struct plan *plan);

#endif
