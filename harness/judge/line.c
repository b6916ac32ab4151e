#include "harness/judge/line.h"

#include <assert.h>
#include <math.h>

#include "harness/base/floating.h"
#include "harness/base/number.h"

const char *line_kept(struct judging *j, const char *text)
{
    j->out_of_memory |= !text;
    return text ? text : "";
}

void line_rule(struct judging *j, enum verdict verdict, const char *why)
{
    static const int badness[] = {[VERDICT_PASS] = 0, [VERDICT_WARN] = 1, [VERDICT_NOT_RUN] = 2, [VERDICT_FAIL] = 3,
                                  [VERDICT_ERROR] = 4};
    struct report_check *line = j->line;
    const bool worse = badness[verdict] > badness[line->verdict];
    if (line->verdict == VERDICT_PASS)
        line->detail = why;
    else
        line->detail = worse ? LINE_PRINT(j, "%s; %s", why, line->detail) : LINE_PRINT(j, "%s; %s", line->detail, why);
    if (worse)
        line->verdict = verdict;
}

void line_remark(struct judging *j, const char *text)
{
    if (j->line->verdict == VERDICT_PASS)
        j->line->detail = text;
}

static void put_number(struct judging *j, const char *name, double value, double bound, enum limit limit, bool at_least,
                       const char *where)
{
    const bool ok = at_least ? value >= bound : value <= bound;
    assert(j->line->n_numbers < LINE_NUMBERS);
    j->line->numbers[j->line->n_numbers++] = (struct report_number){.name = name, .value = value, .limit = bound,
        .at_least = at_least, .ok = ok, .reason = j->input->policy->reason[limit]};
    if (!ok)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%s %s, limit %s%s%s", name, NUMBER(value, 4), NUMBER(bound, 4),
                                              *where ? ", " : "", where));
}

void line_number(struct judging *j, const char *name, double value, enum limit limit, bool at_least, const char *where)
{
    put_number(j, name, value, j->input->policy->limit[limit], limit, at_least, where);
}

void line_number_within(struct judging *j, const char *name, double value, double bound, enum limit limit, const char *where)
{
    put_number(j, name, value, bound, limit, false, where);
}

const char *line_case(const struct judging *j, uint32_t case_index)
{
    return j->input->suite->cases[case_index].id;
}

double line_ratio(double candidate, double expected)
{
    if (candidate == expected)
        return 1.0; // equal bits of an own bundle
    return expected > 0.0 ? candidate / expected : (double)INFINITY;
}

bool line_exceeds(double value, double worst)
{
    return value > worst || (isnan(value) && !isnan(worst));
}
