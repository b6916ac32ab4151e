// measures: the parts of report.json and report.txt about routers and about states on the way.
//
//   "routing": {"declared", "compared", "known", "layers": [{"layer", "rows", "unsound", "changed", "ties", "misrouted",
//     "noise", "weight_error", "largest_margin", "largest_depth", "expected": {"rows", "noise", "weight_error"}}],
//     "changed": [{"case", "position", "seeded", "layer", "margin", "depth", "weight_error", "tie"}]}
//   "state_chart": [{"case", "position", "state", "error", "max_abs", "class", "expected_error"}]
#ifndef ASSAY_MEASURES_H
#define ASSAY_MEASURES_H

#include "harness/judge/report.h"
#include "reports/page.h"
#include "reports/sheet.h"

void measures_write_routing(struct sheet *sheet, const struct report *report);
void measures_write_states(struct sheet *sheet, const struct report *report);

// A line for every layer whose experts changed; nothing for a model without experts.
void measures_put_routing(struct page *page, const struct report *report);
// A line for every case and kind of state: bars of the worst layer's error against position; nothing without snapshots.
void measures_put_states(struct page *page, const struct report *report);

#endif
