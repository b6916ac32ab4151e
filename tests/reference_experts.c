#include "tests/parity.h"

Test(reference_experts, lfm2moe_mini_agrees_with_transformers)
{
    parity_check("lfm2moe-mini", "chat", PARITY_TAPS);
    parity_check("lfm2moe-mini", "narrative", PARITY_TAPS);
    parity_check("lfm2moe-mini", "high-ids", PARITY_STATE);
    parity_check("lfm2moe-mini", "code-48", PARITY_STATE);
    parity_check("lfm2moe-mini", "scripture-72", PARITY_STATE);
    parity_check("lfm2moe-mini", "chat-40.batch", PARITY_STATE);
    parity_check_double("lfm2moe-mini", "chat", "chat-9.float64");
    parity_check_double("lfm2moe-mini", "narrative", "narrative-9.float64");
}

static const char *const ODD_MOE[] = {
    "odd-lfm2moe-all-attention", "odd-lfm2moe-all-dense",         "odd-lfm2moe-every-expert",
    "odd-lfm2moe-group1-top1",   "odd-lfm2moe-group3-taps4-bias", "odd-lfm2moe-group8-untied",
    "odd-lfm2moe-mixed-sharded", "odd-lfm2moe-one-attention",
};
enum { N_ODD_MOE = sizeof ODD_MOE / sizeof *ODD_MOE };

Test(reference_experts, models_of_odd_shapes_agree_with_transformers)
{
    for (size_t i = 0; i < N_ODD_MOE; i++)
        parity_check(ODD_MOE[i], "random", PARITY_TAPS);
}
