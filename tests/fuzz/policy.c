// Any text at all is either refused with a sentence or becomes a policy with every limit, each with a reason: of a
// dense family, and of one with experts, which has limits of its own.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/judge/policy.h"
#include "tests/fuzz/input.h"

static bool may_be_absent(int limit, bool experts)
{
    return limit == LIMIT_INTRODUCED_PER_2048 || (!experts && limit >= LIMIT_ROUTING_SD && limit <= LIMIT_CAP_STATE_TIE);
}

static void check(const struct policy *policy, bool experts)
{
    assert(strlen(policy->name));
    for (int i = 0; i < LIMIT_COUNT; i++) {
        assert(isfinite(policy->limit[i]) && policy->limit[i] >= -1e3);
        assert(policy->reason[i] ? strlen(policy->reason[i]) > 0 : may_be_absent(i, experts));
    }
    assert(policy->limit[LIMIT_REFERENCE_ERROR] <= policy->limit[LIMIT_FLOOR]);
    assert(policy->limit[LIMIT_SLOPE_LOW] < policy->limit[LIMIT_SLOPE_HIGH]);
    assert(policy->limit[LIMIT_CONFIDENCE] > 0 && policy->limit[LIMIT_CONFIDENCE] < 1);
    for (size_t i = 0; i < policy->n_known; i++) {
        const struct known_deviation *known = &policy->known[i];
        assert(known->check < CHECK_COUNT && known->position >= -1 && known->position <= UINT32_MAX);
        assert(strlen(known->case_id) && strlen(known->owner) && strlen(known->reason));
        assert(strlen(known->expires) == strlen("2026-01-01"));
        assert(known->expired == (strcmp(known->expires, "2026-01-01") < 0));
    }
    for (size_t i = 0; i < policy->n_allowed; i++)
        assert(strchr(policy->allowed[i].plan, '=') && strlen(policy->allowed[i].reason));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = input_path(data, size);
    for (int experts = 0; experts < 2; experts++) {
        struct policy *policy;
        struct error error = {0};
        const int status = policy_open(&policy, path, experts ? "lfm2_moe" : "lfm2", "2026-01-01", &error);
        if (status)
            assert(!policy && status == error.code && strlen(error.text));
        else
            check(policy, experts);
        policy_close(&policy);
    }
    return 0;
}
