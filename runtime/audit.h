// audit: is the bundle what its name says? Compares its tensors, plan and metadata with what the scheme makes of the
// checkpoint. Own bundles: equality, bit for bit, against `expected` (a bundle that quantize made of this checkpoint
// with the declared scheme and keep). Bundles made elsewhere: the distance rule of arithmetic.md 4. Finds; never
// judges.
#ifndef ASSAY_RUNTIME_AUDIT_H
#define ASSAY_RUNTIME_AUDIT_H

#include "harness/base/arena.h"
#include "harness/base/error.h"
#include "harness/model/model.h"
#include "harness/run/audit.h"
#include "runtime/bundle.h"

// `expected` has the bundle's scheme and keep; its own plan is not read. Findings live in `arena`: one or two
// sentences a tensor, the plan's first; after two dozen the last one counts the rest. allowed: plan deviations that
// the policy permits when declared, "key=value"; n may be 0. ERROR_CONTRACT when bundle, expected and source are not
// of one model.
int audit_bundle(struct arena *arena, const struct bundle *bundle, const struct bundle *expected,
                 const struct model *source, const char *const *allowed, size_t n_allowed, struct audit *audit,
                 struct error *error);

#endif
