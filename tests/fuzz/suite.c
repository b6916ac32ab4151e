// Any text at all, as JSON or as CSV, is either refused with a sentence or becomes a suite that a gate may run: every
// case has tokens of the vocabulary, positions inside it, and a file name of its own. The first byte chooses: 'c'
// CSV, anything else JSON.
#include <assert.h>
#include <string.h>
#include <strings.h>

#include "harness/run/suite.h"
#include "tests/fuzz/input.h"

static const struct config config = {.model_type = "lfm2", .vocabulary = 8192, .max_positions = 1024};

static void check_case(const struct suite_case *one)
{
    const size_t length = strlen(one->id);
    assert(length && length <= 64 && !strchr(one->id, '/') && *one->id != '.' && *one->id != '-');
    assert(one->domain && one->n && (uint64_t)one->n + one->rollout <= config.max_positions);
    for (uint32_t i = 0; i < one->n; i++)
        assert(one->tokens[i] < config.vocabulary);
    assert((one->n_positions > 0) == one->checks[CHECK_SWEEP]);
    for (uint32_t i = 0; i < one->n_positions; i++)
        assert(one->positions[i] < one->n && (!i || one->positions[i - 1] < one->positions[i]));
    assert((one->seeded > 0) == one->checks[CHECK_SEEDED] && one->seeded < one->n);
    assert((one->rollout > 0) == one->checks[CHECK_ROLLOUT] && !one->checks[CHECK_WEIGHTS]);
    assert(one->state_every <= one->n + one->rollout && (!one->state_every || one->checks[CHECK_STATE]));
    if (!one->answer)
        return;
    assert(one->answer->n && one->answer->n <= one->rollout && one->answer->source);
    for (uint32_t i = 0; i < one->answer->n; i++) {
        assert(one->answer->ids[i] < config.vocabulary);
        assert(!one->answer->margins || (one->answer->margins[i] >= 0 && one->answer->margins[i] <= 1));
    }
}

static void check(const struct suite *suite)
{
    bool checks[CHECK_COUNT] = {suite->checks[CHECK_WEIGHTS]};
    assert(suite->n_cases && suite->name);
    for (size_t i = 0; i < suite->n_cases; i++) {
        check_case(&suite->cases[i]);
        for (int check = 0; check < CHECK_COUNT; check++)
            checks[check] |= suite->cases[i].checks[check];
        for (size_t j = 0; j < i && i < 64; j++)
            assert(strcasecmp(suite->cases[j].id, suite->cases[i].id));
    }
    assert(!memcmp(checks, suite->checks, sizeof checks));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *tokenizer;
    static char csv[256];
    struct suite *suite;
    struct error error = {0};
    if (!tokenizer) {
        const int opened = tokenizer_open(&tokenizer, ASSAY_FIXTURES "/models/lfm2-mini/tokenizer.json", &error);
        assert(!opened);
        input_link(csv, "input.csv");
    }
    if (!size)
        return 0;
    const char *path = input_path(data + 1, size - 1);
    const int status = suite_open(&suite, *data == 'c' ? csv : path, &config, tokenizer, &error);
    if (status) {
        assert(!suite && status == error.code && strlen(error.text));
        return 0;
    }
    check(suite);
    suite_close(&suite);
    return 0;
}
