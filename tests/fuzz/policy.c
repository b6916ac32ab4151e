// Any text at all is either refused with a sentence or becomes a policy with every limit of the family, each with a
// reason.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "harness/judge/policy.h"
#include "tests/fuzz/input.h"

static bool may_be_absent(int limit, bool experts)
{
    const bool of_routers = limit >= LIMIT_ROUTING_SD && limit <= LIMIT_CAP_ROUTER;
    return limit == LIMIT_INTRODUCED_PER_2048 || (of_routers && !experts);
}

static void check(const struct policy *policy, bool experts)
{
    assert(strlen(policy->name));
    for (int i = 0; i < LIMIT_COUNT; i++) {
        assert(isfinite(policy->limit[i]));
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
    static const char *const families[] = {"lfm2", "lfm2_moe", "qwen3_5", "qwen3_5_moe"};
    const char *path = input_path(data, size);
    for (int i = 0; i < 4; i++) {
        struct policy *policy;
        struct error error = {0};
        const int status = policy_open(&policy, path, families[i], "2026-01-01", &error);
        if (status) {
            assert(!policy && status == error.code && strlen(error.text));
            continue;
        }
        check(policy, i % 2 == 1);
        policy_close(&policy);
    }
    return 0;
}
