// arms: engines by name, over a checkpoint and a bundle of it.
//
//   reference  the checkpoint under the exact fp32 arithmetic
//   int8       the bundle under its own precision plan, in the portable runtime
//   fp16       the checkpoint unquantized, in the runtime's arithmetic and default plan: the ceiling
//   expected   what `quantize` makes of the checkpoint by the bundle's declared scheme, default plan: a healthy bundle
//   dequant    the bundle's weights, dequantized, under the exact fp32 arithmetic
#ifndef ASSAY_ARMS_H
#define ASSAY_ARMS_H

#include "harness/base/error.h"
#include "harness/base/pool.h"
#include "harness/cmd/options.h"
#include "harness/cmd/subject.h"
#include "harness/judge/policy.h"
#include "harness/run/engine.h"
#include "runtime/bundle.h"
#include "runtime/fault.h"

enum arm_kind { ARM_KIND_REFERENCE, ARM_KIND_INT8, ARM_KIND_FP16, ARM_KIND_EXPECTED, ARM_KIND_DEQUANT };

struct arms {
    struct pool *pool;
    enum isa isa;
    const struct subject *subject;  // NULL: a bundle alone (int8 and dequant only)
    const struct bundle *bundle;    // NULL: no bundle (reference and fp16 only)
    const struct policy *policy;    // which declared deviations `expected` follows; may be NULL
    const char *scratch;            // directory for the bundles of fp16 and expected
    struct bundle *fp16, *expected; // made on first use
    bool quiet;
};

int arms_parse(const char *name, enum arm_kind *kind, struct error *error); // ERROR_USAGE lists the names
const char *arms_name(enum arm_kind kind);

// Makes and opens the bundle that an arm runs (fp16, expected); nothing for the others.
int arms_prepare(struct arms *arms, enum arm_kind kind, struct error *error);
// Opens the engine with room for `capacity` positions; prepares when needed. `fault` for int8 only.
int arms_open(struct arms *arms, enum arm_kind kind, enum fault fault, uint32_t capacity, struct engine **engine,
              struct error *error);
// F32 for the exact arithmetic, F16 for the runtime with half logits.
enum dtype arms_logits(const struct arms *arms, enum arm_kind kind);
void arms_close(struct arms *arms); // the bundles it made; not the pool, subject, bundle

#endif
