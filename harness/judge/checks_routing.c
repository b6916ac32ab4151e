#include "harness/judge/checks_routing.h"

#include <inttypes.h>
#include <math.h>

#include "harness/base/floating.h"
#include "harness/base/number.h"

// The worst of all layers, each with the layer that it is of.
struct worst {
    double value;
    uint32_t layer;
};

static void look(struct worst *worst, double value, uint32_t layer)
{
    if (line_exceeds(value, worst->value))
        *worst = (struct worst){value, layer};
}

// Those that stand outside belong to the report's evidence, this is the furthest.
static const char *describe_route(struct judging *j, double depth)
{
    for (size_t i = 0; i < j->comparison->n_routes; i++) {
        const struct compared_route *route = &j->comparison->routes[i];
        if (route->depth == depth || (isnan(route->depth) && isnan(depth)))
            return LINE_PRINT(j, "layer %" PRIu32 " at %s:%" PRIu32 " chose other experts over a margin of %s", route->layer,
                              line_case(j, route->case_index), route->position, NUMBER(route->margin, 3));
    }
    return "";
}

static void judge_layers(struct judging *j)
{
    const struct comparison *comparison = j->comparison;
    struct worst depth = {-1.0, 0}, noise = {-1.0, 0}, weights = {-1.0, 0}, sigma = {-1.0, 0};
    uint64_t misrouted = 0, changed = 0, expected_rows = 0;
    uint32_t first_misrouted = 0;
    for (size_t i = 0; i < comparison->n_layers; i++) {
        const struct compared_layer *layer = &comparison->layers[i];
        if (!layer->rows) // said by the count of rows
            continue;
        look(&depth, layer->largest_depth, layer->layer);
        look(&sigma, layer->sigma, layer->layer);
        first_misrouted = layer->misrouted && !misrouted ? layer->layer : first_misrouted;
        misrouted += layer->misrouted;
        changed += layer->changed;
        expected_rows += layer->expected_rows;
        if (layer->expected_rows) {
            look(&noise, line_ratio(layer->common_sigma, layer->expected_sigma), layer->layer);
            look(&weights, line_ratio(layer->common_weight_error, layer->expected_weight_error), layer->layer);
        }
    }
    if (comparison->routing_known) {
        line_number(j, "changed expert set, in deviations", depth.value, LIMIT_ROUTING_SD, false,
                    describe_route(j, depth.value));
        line_number(j, "expert sets that the router's own logits do not select", (double)misrouted, LIMIT_MISROUTED, false,
                    LINE_PRINT(j, "first in layer %" PRIu32, first_misrouted));
    } else if (changed) {
        line_rule(j, VERDICT_WARN, LINE_PRINT(j, "%" PRIu64 " changed expert sets not judged: two bare traces do not tell by "
                                              "which scores they were chosen; repeat with --model CHECKPOINT", changed));
    }
    if (expected_rows) {
        line_number(j, "router noise / expected", noise.value, LIMIT_RATIO_ROUTER, false,
                    LINE_PRINT(j, "layer %" PRIu32, noise.layer));
        line_number(j, "routing weights' error / expected", weights.value, LIMIT_RATIO_ROUTING_WEIGHTS, false,
                    LINE_PRINT(j, "layer %" PRIu32, weights.layer));
    }
    line_number(j, "router noise", sigma.value, LIMIT_CAP_ROUTER, false, LINE_PRINT(j, "layer %" PRIu32, sigma.layer));
}

void checks_routing(struct judging *j)
{
    const struct comparison *comparison = j->comparison;
    uint64_t unsound = 0;
    uint32_t first = 0;
    if (!comparison->n_layers)
        return;
    for (size_t i = 0; i < comparison->n_layers; i++) {
        first = comparison->layers[i].unsound && !unsound ? comparison->layers[i].layer : first;
        unsound += comparison->layers[i].unsound;
    }
    if (unsound)
        line_rule(j, VERDICT_FAIL, LINE_PRINT(j, "%" PRIu64 " rows of routers hold a NaN, an infinity or no set of experts, first in "
                                              "layer %" PRIu32, unsound, first));
    if (comparison->routing_compared)
        judge_layers(j);
    if (!comparison->routing_compared || comparison->routing_compared < comparison->routing_declared)
        line_rule(j, j->input->kind == ENGINE_OWN ? VERDICT_NOT_RUN : VERDICT_WARN,
                  LINE_PRINT(j, "routers: compared %" PRIu64 " of %" PRIu64 " rows; record traces with --taps router",
                             comparison->routing_compared, comparison->routing_declared));
}
