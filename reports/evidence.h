// evidence: what stands under a line that did not pass: its numbers over their limits, each with its reason, then at
// most 8 of the worst positions, states, runs, findings or missing rows that they were computed from.
#ifndef ASSAY_EVIDENCE_H
#define ASSAY_EVIDENCE_H

#include "harness/judge/report.h"
#include "reports/page.h"

void evidence_put(struct page *page, const struct report *report, const struct report_check *check);

#endif
