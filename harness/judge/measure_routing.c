#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/judge/measure.h"
#include "harness/judge/routing.h"

// A changed set until the layer's noise is known.
struct measured_route {
    size_t layer_index;
    struct routing_difference difference;
};

static int no_memory(struct error *error)
{
    return error_set(error, ERROR_RUNTIME, "out of memory for the routers");
}

// --- the layers

static int rule_of_model(struct measuring *m, uint32_t layer, struct routing_rule *rule, struct error *error)
{
    const struct config *config = &m->request->model->config;
    const struct weight *stored = &m->request->model->layers[layer].expert_bias;
    *rule = (struct routing_rule){.scores = config_is_lfm2(config) ? ROUTING_SIGMOID : ROUTING_SOFTMAX,
                                  .experts = config->experts, .chosen = config->experts_per_token};
    if (stored->format == WEIGHT_NONE)
        return 0;
    double *bias = arena_alloc(&m->comparison->arena, config->experts, sizeof *bias);
    if (!bias)
        return no_memory(error);
    for (uint32_t e = 0; e < config->experts; e++)
        bias[e] = (double)weight_at(stored, 0, e);
    rule->bias = bias;
    return 0;
}

// The experts of LFM2-MoE are chosen with a bias that no trace holds, those of Qwen3.5-MoE by the logits alone.
static enum routing_scores scores_of_trace(const struct trace *trace)
{
    const char *family = family_of_type(trace->contract.model_type);
    return strcmp(family, family_name(FAMILY_QWEN35_MOE)) ? ROUTING_UNKNOWN : ROUTING_SOFTMAX;
}

static bool rule_of_trace(const struct trace *trace, uint32_t layer, struct routing_rule *rule)
{
    enum { EXPERTS_MAX = 4096 }; // of a config; a file may claim more
    *rule = (struct routing_rule){.scores = scores_of_trace(trace)};
    const bool found = trace_tap(trace, 0, layer, TAP_ROUTER, &rule->experts) &&
                       trace_experts(trace, 0, layer, &rule->chosen);
    if (rule->experts > EXPERTS_MAX)
        rule->scores = ROUTING_UNKNOWN;
    return found && rule->chosen <= rule->experts;
}

int measure_routing_open(struct measuring *m, const struct trace *trace, struct error *error)
{
    enum { LAYERS_MAX = 1024 }; // of a config
    struct comparison *comparison = m->comparison;
    const struct config *config = m->request->model ? &m->request->model->config : NULL;
    const uint32_t layers = config ? (config->experts ? config->layers : 0) : LAYERS_MAX;
    uint32_t most = 0;
    comparison->routing_known = config || scores_of_trace(trace) != ROUTING_UNKNOWN;
    comparison->layers = arena_alloc(&comparison->arena, layers, sizeof *comparison->layers);
    m->rules = arena_alloc(&comparison->arena, layers, sizeof *m->rules);
    if (!comparison->layers || !m->rules)
        return no_memory(error);
    for (uint32_t layer = 0; layer < layers; layer++) {
        struct routing_rule *rule = &m->rules[comparison->n_layers];
        if (config ? !config_is_sparse(config, layer) : !rule_of_trace(trace, layer, rule))
            continue;
        const int code = config ? rule_of_model(m, layer, rule, error) : 0;
        if (code)
            return code;
        most = rule->experts > most ? rule->experts : most;
        comparison->layers[comparison->n_layers++] =
            (struct compared_layer){.layer = layer, .largest_margin = 0.0, .largest_depth = 0.0};
    }
    m->routing_scratch = arena_alloc(&comparison->arena, 4 * (size_t)most, sizeof *m->routing_scratch);
    return m->routing_scratch ? 0 : no_memory(error);
}

// --- rows

// Row t of a layer; 0 when the trace does not have its three points.
static int read_row(const struct trace *trace, uint32_t t, uint32_t layer, const struct routing_rule *rule,
                    struct routing_row *row, struct error *error)
{
    uint32_t experts, chosen, weights;
    *row = (struct routing_row){.logits = trace_tap(trace, t, layer, TAP_ROUTER, &experts),
                                .experts = trace_experts(trace, t, layer, &chosen),
                                .weights = trace_tap(trace, t, layer, TAP_WEIGHTS, &weights)};
    if (!row->logits || !row->experts || !row->weights)
        return 0;
    if (experts != rule->experts || chosen != rule->chosen || weights != rule->chosen)
        return error_set(error, ERROR_CONTRACT,
                         "%s: layer %u chooses %u of %u experts and has %u weights, expected %u of %u", trace->file->path,
                         layer, chosen, experts, weights, rule->chosen, rule->experts);
    return 1;
}

static int keep_route(struct measuring *m, const struct compared_route *route, size_t layer_index,
                      const struct routing_difference *difference, struct error *error)
{
    struct comparison *comparison = m->comparison;
    if (comparison->n_routes == m->route_room) {
        const size_t room = 2 * m->route_room + 64;
        struct compared_route *routes = realloc(comparison->routes, room * sizeof *routes);
        comparison->routes = routes ? routes : comparison->routes;
        struct measured_route *measured = realloc(m->measured, room * sizeof *measured);
        m->measured = measured ? measured : m->measured;
        if (!routes || !measured)
            return no_memory(error);
        m->route_room = room;
    }
    m->measured[comparison->n_routes] = (struct measured_route){layer_index, *difference};
    comparison->routes[comparison->n_routes++] = *route;
    return 0;
}

static bool further(double value, double largest)
{
    return value > largest || isnan(value);
}

// Sums until measure_routing_finish makes means of them.
static int add_row(struct measuring *m, const struct joined *joined, uint32_t t, size_t index, bool seeded,
                   struct error *error)
{
    struct comparison *comparison = m->comparison;
    struct compared_layer *layer = &comparison->layers[index];
    const struct routing_rule *rule = &m->rules[index];
    struct routing_row reference, candidate, expected;
    struct routing_difference difference, healthy;
    int found = read_row(joined->reference, t, layer->layer, rule, &reference, error);
    if (found > 0)
        found = read_row(joined->arms[ARM_CANDIDATE], t, layer->layer, rule, &candidate, error);
    if (found <= 0)
        return found;
    comparison->routing_compared++;
    layer->rows++;
    routing_compare(rule, &reference, &candidate, m->routing_scratch, &difference);
    layer->unsound += !difference.sound;
    layer->changed += difference.changed;
    layer->misrouted += difference.misrouted;
    layer->sigma += difference.noise * difference.noise;
    layer->weight_error += difference.weight_error;
    if (joined->arms[ARM_EXPECTED]) {
        found = read_row(joined->arms[ARM_EXPECTED], t, layer->layer, rule, &expected, error);
        if (found < 0)
            return found;
        if (found) {
            routing_compare(rule, &reference, &expected, m->routing_scratch, &healthy);
            layer->expected_rows++;
            layer->expected_sigma += healthy.noise * healthy.noise;
            layer->expected_weight_error += healthy.weight_error;
            layer->common_sigma += difference.noise * difference.noise;
            layer->common_weight_error += difference.weight_error;
        }
    }
    if (!difference.changed)
        return 0;
    if (further(difference.margin, layer->largest_margin))
        layer->largest_margin = difference.margin;
    const struct compared_route route = {.case_index = m->case_index, .layer = layer->layer, .seeded = seeded,
        .position = joined->reference->contract.position + t, .margin = difference.margin,
        .weight_error = difference.weight_error};
    return keep_route(m, &route, index, &difference, error);
}

int measure_routing(struct measuring *m, const struct joined *joined, bool seeded, struct error *error)
{
    struct comparison *comparison = m->comparison;
    comparison->routing_declared += (uint64_t)joined->reference->n * comparison->n_layers;
    int code = 0;
    for (uint32_t t = 0; t < joined->reference->n && !code; t++)
        for (size_t i = 0; i < comparison->n_layers && !code; i++)
            code = add_row(m, joined, t, i, seeded, error);
    return code;
}

// --- after the last row

static bool precedes(const struct compared_route *route, const struct compared_position *p)
{
    return route->case_index == p->case_index && route->seeded == p->seeded && route->position <= p->position;
}

// Routes are in order of position and layer, so the last position's first layer is met last going back.
static void find_cause(const struct comparison *comparison, struct compared_position *p)
{
    for (size_t i = comparison->n_routes; i-- > 0;) {
        const struct compared_route *route = &comparison->routes[i];
        if (!precedes(route, p))
            continue;
        if (p->route_position >= 0 && (uint32_t)p->route_position != route->position)
            return;
        p->route_position = route->position;
        p->route_layer = route->layer;
    }
}

// An end state comes after every row of its run, so only the layer tells what went into it. One choice that is no tie
// leaves nothing to excuse.
static bool follows_tie(const struct comparison *comparison, const struct compared_state *state)
{
    bool tie = false;
    for (size_t i = 0; i < comparison->n_routes; i++) {
        const struct compared_route *route = &comparison->routes[i];
        if (route->case_index != state->case_index || route->seeded != state->seeded || route->layer >= state->layer)
            continue;
        if (!route->tie)
            return false;
        tie = true;
    }
    return tie;
}

void measure_routing_finish(struct measuring *m)
{
    struct comparison *comparison = m->comparison;
    for (size_t i = 0; i < comparison->n_layers; i++) {
        struct compared_layer *layer = &comparison->layers[i];
        const double rows = (double)layer->rows, common = (double)layer->expected_rows;
        layer->sigma = sqrt(layer->sigma / rows); // NaN without rows
        layer->weight_error /= rows;
        layer->expected_sigma = sqrt(layer->expected_sigma / common);
        layer->common_sigma = sqrt(layer->common_sigma / common);
        layer->expected_weight_error /= common;
        layer->common_weight_error /= common;
    }
    for (size_t i = 0; i < comparison->n_routes; i++) {
        struct compared_route *route = &comparison->routes[i];
        struct compared_layer *layer = &comparison->layers[m->measured[i].layer_index];
        route->depth = routing_depth(&m->measured[i].difference, layer->sigma);
        route->tie = route->depth <= m->request->routing_sd && !m->measured[i].difference.misrouted;
        layer->ties += route->tie;
        if (further(route->depth, layer->largest_depth))
            layer->largest_depth = route->depth;
    }
    for (size_t i = 0; i < comparison->n_positions; i++)
        if (comparison->positions[i].agreement != AGREE)
            find_cause(comparison, &comparison->positions[i]);
    for (size_t i = 0; i < comparison->n_states; i++)
        comparison->states[i].after_tie = follows_tie(comparison, &comparison->states[i]);
    free(m->measured);
    m->measured = NULL;
}
