// checks_routing: what `distance` says of routers. A changed expert set is no fault when the candidate's own logits select
// it, when their noise explains it, and when that noise is a healthy bundle's; nor are other weights of the same size as
// a healthy bundle's.
#ifndef ASSAY_CHECKS_ROUTING_H
#define ASSAY_CHECKS_ROUTING_H

#include "harness/judge/line.h"

// Nothing for a model without experts.
void checks_routing(struct judging *j);

#endif
