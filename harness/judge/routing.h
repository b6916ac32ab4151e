// routing: how far apart are the choices of two routers for one token? Measures, never decides.
//
// The trace has the router's logits x [E], the chosen experts [k] and their weights [k]. Selection scores are derived
// from the logits here, in double: sigmoid(x) + expert_bias (LFM2-MoE; the bias is in the checkpoint, not in the trace)
// or softmax(x) (Qwen3.5-MoE); the k largest are chosen (architecture.md 3 and 5).
//
// A choice hangs on the margin between the k-th and the (k+1)-th score. Noise s of a single logit moves that margin by
// s x steepness to first order, steepness = sqrt(a^2 + b^2) with the slopes a, b of the two scores: s (1 - s) for the
// sigmoid, the score itself for softmax (its common divisor moves all scores alike and changes no order). The noise of
// a row is 1.4826 x MAD of the difference of the logits over the E experts.
#ifndef ASSAY_ROUTING_H
#define ASSAY_ROUTING_H

#include <stdbool.h>
#include <stdint.h>

enum routing_scores {
    ROUTING_UNKNOWN, // no margin, and nothing is said about what the logits select
    ROUTING_SIGMOID,
    ROUTING_SOFTMAX
};

struct routing_rule {
    enum routing_scores scores;
    uint32_t experts, chosen; // E, k
    const double *bias;       // [E], or NULL: none
};

struct routing_row {
    const float *logits;    // [E]
    const int32_t *experts; // [k], any numbers
    const float *weights;   // [k]
};

struct routing_difference {
    bool sound;          // logits and weights of both are finite, experts k different ones below E; else the rest is NaN
    bool changed;        // the sets of experts differ, whatever their order
    bool misrouted;      // the candidate's set is not what its own logits select, by more than rounding of a score
    double margin;       // the reference's k-th minus its (k+1)-th score; infinite when every expert is chosen
    double steepness;    // of that margin
    double noise;        // of the candidate's logits
    double weight_error; // sum over the experts of either set of |weight - weight|: of the routed sum's weights
};

// scratch: [4 E].
void routing_compare(const struct routing_rule *rule, const struct routing_row *reference,
                     const struct routing_row *candidate, double *scratch, struct routing_difference *out);

// The margin in units of its noise, that of a logit being the larger of the row's and the layer's `sigma`. Infinite
// without any noise; NaN when the margin is unknown.
double routing_depth(const struct routing_difference *difference, double sigma);

#endif
