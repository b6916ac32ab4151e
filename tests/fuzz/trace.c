// Any bytes at all are either refused with a sentence or become a trace all of whose rows can be read.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "harness/run/trace.h"
#include "tests/fuzz/input.h"

enum { LAYERS = 12 }; // asked for; layers that a trace does not have are NULL

static volatile uint8_t touched;

static void touch(const void *bytes, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        touched = (uint8_t)(touched ^ ((const uint8_t *)bytes)[i]);
}

static void touch_rows(const struct trace *trace)
{
    float *scratch = calloc(trace->vocabulary + (size_t)1, sizeof *scratch);
    for (uint32_t t = 0; scratch && t < trace->n; t++) {
        assert(trace->tokens[t] >= 0);
        if (trace->logits)
            touch(trace_logits(trace, t, scratch), trace->vocabulary * sizeof *scratch);
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (enum tap_point point = 0; point < TAP_POINTS; point++) {
                uint32_t width;
                const void *row = tap_is_integer(point) ? (const void *)trace_experts(trace, t, layer, &width)
                                                        : trace_tap(trace, t, layer, point, &width);
                assert((row == NULL) == (width == 0));
                touch(row, width * sizeof(float));
            }
    }
    free(scratch);
    assert(trace->logits || (trace->topk_ids && trace->topk_logits && trace->logsumexp));
    if (trace->topk_ids) {
        assert(trace->topk_ids->elements == trace->topk_logits->elements && trace->logsumexp->elements == trace->n);
        touch(trace->topk_ids->data, trace->topk_ids->bytes);
        touch(trace->topk_logits->data, trace->topk_logits->bytes);
        touch(trace->logsumexp->data, trace->logsumexp->bytes);
    }
}

static void touch_tensors(const struct state *state)
{
    for (size_t i = 0; i < state->n; i++) {
        const struct state_tensor *tensor = &state->tensors[i];
        assert((tensor->kind != STATE_K && tensor->kind != STATE_V) || tensor->shape[1] == state->position);
        touch(tensor->data, tensor->elements * sizeof *tensor->data);
    }
}

static void touch_state(const struct trace *trace)
{
    struct arena arena = {0};
    struct state state;
    struct error error = {0};
    if (trace_state(trace, &arena, &state, &error))
        assert(strlen(error.text));
    else
        touch_tensors(&state);
    arena_close(&arena);
}

// Every position that has a snapshot is one from which the run can go on, once the end state is there.
static void touch_snapshots(const struct trace *trace)
{
    struct arena arena = {0};
    struct state *snapshots, state;
    size_t n;
    struct error error = {0};
    const bool refused = trace_snapshots(trace, &arena, &snapshots, &n, &error);
    assert(!refused || strlen(error.text));
    for (size_t i = 0; !refused && i < n; i++) {
        assert(snapshots[i].position > (i ? snapshots[i - 1].position : trace->contract.position));
        assert(snapshots[i].n == snapshots[0].n);
        touch_tensors(&snapshots[i]);
        if (trace_state_at(trace, snapshots[i].position, &arena, &state, &error))
            assert(strlen(error.text));
        else
            touch_tensors(&state);
    }
    arena_close(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct trace *trace;
    struct error error = {0};
    const int status = trace_open(&trace, input_path(data, size), &error);
    if (status) {
        assert(!trace && status == error.code && strlen(error.text));
        return 0;
    }
    touch_rows(trace);
    touch_state(trace);
    touch_snapshots(trace);
    const int comparable = trace_comparable(trace, trace, true, &error);
    assert(!comparable);
    trace_close(&trace);
    return 0;
}
