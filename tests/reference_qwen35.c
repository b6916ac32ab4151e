#include "tests/parity.h"
#define LIMIT 4.0
Test(reference_qwen35, measure)
{
    static const char *const goldens[][2] = {{"qwen35-mini","chat"},{"qwen35-mini","narrative"},{"qwen35-mini","high-ids"},{"qwen35-mini","code-48"},{"qwen35-mini","scripture-72"},{"qwen35-mini","chat-40.batch"},{"qwen35-mini","chat-9.float64"},{"qwen35-mini","narrative-9.float64"},
    {"odd-qwen35-all-attention","random"},{"odd-qwen35-group1-taps2","random"},{"odd-qwen35-group3-taps3-bias","random"},{"odd-qwen35-group8-values4","random"},{"odd-qwen35-head-only","random"},{"odd-qwen35-mixed-sharded","random"},{"odd-qwen35-one-attention","random"},{"qwen35moe-mini","chat"},{"qwen35moe-mini","narrative"},{"qwen35moe-mini","high-ids"},{"qwen35moe-mini","code-48"},{"qwen35moe-mini","scripture-72"},{"qwen35moe-mini","chat-40.batch"},{"odd-qwen35moe-all-attention","random"},{"odd-qwen35moe-every-expert","random"},{"odd-qwen35moe-group1-fused","random"},{"odd-qwen35moe-group3-top1-split","random"},{"odd-qwen35moe-group8-top4","random"},{"odd-qwen35moe-mixed-sharded","random"}};
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        struct fixture fixture; struct parity parity;
        fixture_open(&fixture, goldens[i][0]);
        struct trace *golden = parity_golden(goldens[i][0], goldens[i][1]);
        parity_run(&fixture.model, golden, &parity);
        parity_print(goldens[i][0], goldens[i][1], &parity);
        for (int p = 0; p < TAP_POINTS; p++) fprintf(stderr, " %s %.2f", tap_point_name(p), parity_noise(&parity.taps[p], parity.noise));
        fprintf(stderr, "\n");
        trace_close(&golden); fixture_close(&fixture);
    }
}
