// router: which experts a token goes to, and with what weight (architecture.md 3, 5).
//
// Everything is fp32 and each operation is rounded; sums run in double, in the order of the slots, and are rounded
// once (arithmetic.md 2). Experts stand in slots in descending order of their selection score, equal scores by the
// lower index first. Letters: E experts, k of them per token, 1 <= k <= E. Nothing here allocates.
//
// A NaN among the selection scores leaves it undecided which experts are the best: those with a NaN then come first,
// and every weight and the margin are NaN, so that the layer's output is NaN too.
#ifndef ASSAY_REFERENCE_ROUTER_H
#define ASSAY_REFERENCE_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

// Of LFM2-MoE.
struct router_rule {
    uint32_t experts;   // E
    uint32_t chosen;    // k
    const float *bias;  // [E], added to select and for nothing else; NULL: none
    bool is_normalized; // weights are divided by their sum
    float scaling;      // then multiplied with this, 1 included
};

// What a token is sent through. The arrays are the caller's.
struct route {
    float *scores;     // [E], the selection scores of all experts
    uint32_t *experts; // [k]
    float *weights;    // [k]
    float margin;      // fl32(k-th - (k+1)-th selection score): 0 for equal ones, +Inf where k = E
};

// LFM2-MoE, for each expert e of logits [E]:
//   score[e] = s[e] + bias[e], s[e] = fl32(sigmoid(logits[e]))
//   w = s[e], without the bias;  normalized: w / (fl32(sum w) + 1e-6f);  then w scaling
void router_sigmoid(const struct router_rule *rule, const float *logits, struct route *route);

// Qwen3.5-MoE:
//   score[e] = p[e] = softmax(logits) over all E (ops_softmax);  w = p[e] / fl32(sum p)
// Equal p are a tie, though their logits may differ.
void router_softmax(uint32_t experts, uint32_t chosen, const float *logits, struct route *route);

#endif
