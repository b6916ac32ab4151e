#include "harness/run/profile.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/progress.h"

// Which operator ends at a tap point. What lies before the point and is no linear layer is its time.
static const char *const ended[TAP_POINTS] = {
    [TAP_EMBED] = "embedding",
    [TAP_IN] = "other",
    [TAP_NORM] = "norm",
    [TAP_Q] = "head norms, rope, cache",
    [TAP_K] = "head norms, rope, cache",
    [TAP_V] = "head norms, rope, cache",
    [TAP_BETA] = "gates of the delta net",
    [TAP_G] = "gates of the delta net",
    [TAP_CORE] = "delta rule",
    [TAP_ATTN] = "attention",
    [TAP_BX] = "gates of the convolution",
    [TAP_CONV] = "convolution",
    [TAP_MIXER] = "gates of the convolution",
    [TAP_RESID] = "residual",
    [TAP_FFN_NORM] = "norm",
    [TAP_ROUTER] = "router",
    [TAP_EXPERTS] = "router",
    [TAP_WEIGHTS] = "router",
    [TAP_FFN] = "swiglu",
    [TAP_OUT] = "residual",
    [TAP_FINAL_NORM] = "norm",
};

static const char *name_of(enum tap_point point, enum mixer mixer)
{
    if (point == TAP_MIXER && mixer != MIXER_CONV)
        return mixer == MIXER_DELTA ? "norm" : "other"; // the gated norm of the delta net
    if (point == TAP_Q && mixer == MIXER_DELTA)
        return "convolution"; // and the norms of its q and k
    return ended[point];
}

// Is what ends here one operator with what ended at the point before?
static bool is_same(enum tap_point point)
{
    return point == TAP_K || point == TAP_V || point == TAP_G || point == TAP_MIXER || point == TAP_EXPERTS ||
           point == TAP_WEIGHTS;
}

static struct profile_row *row_of(struct profile *profile, const char *name)
{
    for (size_t i = 0; i < profile->n; i++)
        if (!strcmp(profile->rows[i].name, name))
            return &profile->rows[i];
    assert(profile->n < PROFILE_ROWS); // some 20 operators, at most 22 linear layers and the head
    struct profile_row *row = &profile->rows[profile->n++];
    snprintf(row->name, sizeof row->name, "%s", name);
    return row;
}

// Charges the time since the last mark, without the linear layers in it.
static void charge(struct profile *profile, const char *name, uint64_t calls, uint64_t bytes)
{
    const double now = progress_clock();
    struct profile_row *row = row_of(profile, name);
    row->calls += calls;
    row->bytes += bytes;
    row->seconds += now - profile->mark - profile->inside;
    profile->mark = now;
    profile->inside = 0;
}

static void put(void *context, uint32_t layer, enum tap_point point, const float *row, uint32_t width)
{
    struct profile *profile = context;
    const struct config *config = &profile->model->config;
    uint64_t bytes = 0;
    (void)row;
    (void)width;
    if (point == TAP_EMBED)
        bytes = weight_row_bytes(&profile->model->embedding);
    if (point == TAP_ATTN) // keys and values of all positions up to this one
        bytes = 2 * ((uint64_t)profile->position + 1) * config->key_heads * config->head_width * profile->state_bytes;
    if (point == TAP_CORE)
        bytes = (uint64_t)config->delta_value_heads * config->delta_key_width * config->delta_value_width *
                profile->state_bytes;
    charge(profile, name_of(point, config->mixers[layer]), !is_same(point), bytes);
}

static void begin(void *context)
{
    struct profile *profile = context;
    profile->began = progress_clock();
}

// "model.layers.3.feed_forward.w1.weight" -> "feed_forward.w1"; the experts of a layer are one operator.
static void short_name(const struct profile *profile, const struct weight *weight, char name[32])
{
    static const char layers[] = ".layers.", experts[] = ".experts.";
    const char *from = strstr(weight->name, layers);
    if (weight == &profile->model->head || !from) {
        snprintf(name, 32, "%s", weight == &profile->model->head ? "head" : weight->name);
        return;
    }
    from += sizeof layers - 1;
    from += strspn(from, "0123456789.");
    const char *number = strstr(from, experts), *tail = strstr(from, ".weight");
    const int end = (int)(tail ? (size_t)(tail - from) : strlen(from));
    if (!number) {
        snprintf(name, 32, "%.*s", end, from);
        return;
    }
    number += sizeof experts - 1;
    const int before = (int)(number - from), digits = (int)strspn(number, "0123456789.");
    snprintf(name, 32, "%.*s%.*s", before, from, end - before - digits, number + digits);
}

static void end(void *context, const struct weight *weight)
{
    struct profile *profile = context;
    const double spent = progress_clock() - profile->began;
    char name[32];
    if (weight)
        short_name(profile, weight, name);
    struct profile_row *row = row_of(profile, weight ? name : "packing");
    row->calls++;
    row->bytes += weight ? weight_bytes(weight) : 0;
    row->seconds += spent;
    profile->inside += spent;
}

void profile_open(struct profile *profile, const struct model *model, size_t state_bytes)
{
    *profile = (struct profile){.model = model, .state_bytes = state_bytes};
    profile->sink = (struct tap_sink){TAPS_ALL, profile, put};
    profile->hook = (struct profile_hook){profile, begin, end};
}

void profile_start(struct profile *profile, uint32_t position)
{
    profile->position = position;
    profile->inside = 0;
    profile->mark = progress_clock();
}

void profile_stop(struct profile *profile)
{
    charge(profile, "other", 0, 0);
}

const struct profile_row *profile_find(const struct profile *profile, const char *name)
{
    for (size_t i = 0; i < profile->n; i++)
        if (!strcmp(profile->rows[i].name, name))
            return &profile->rows[i];
    return NULL;
}
