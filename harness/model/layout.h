// layout: the architectures as tables. Which tensors has a layer, under which name, of which shape, and where do they
// go in struct layer? (architecture.md 2.4, 3, 4.3, 5)
#ifndef ASSAY_LAYOUT_H
#define ASSAY_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/model/model.h"

enum size {
    SIZE_END, SIZE_ONE, SIZE_V, SIZE_D, SIZE_3D, SIZE_F, SIZE_K, SIZE_DH, SIZE_QUERY, SIZE_QUERY_GATE, SIZE_KEY,
    SIZE_CHANNELS, SIZE_VALUE_HEADS, SIZE_VALUE, SIZE_DV, SIZE_E, SIZE_FM, SIZE_2FM, SIZE_FS
};
uint64_t size_value(const struct config *config, enum size size);
const char *size_name(enum size size); // "Hq dh"

enum owner { // layers that have the tensor
    OWNER_ANY, OWNER_CONV, OWNER_CONV_BIAS, OWNER_ATTENTION, OWNER_ATTENTION_BIAS, OWNER_DELTA, OWNER_DENSE,
    OWNER_SPARSE, OWNER_EXPERT_BIAS
};

enum coding { // forms in which a bundle may store it
    CODING_NONE,   // as itself
    CODING_BLOCKS, // .q8 or .q4 with .scale
    CODING_EXPERT, // these, and .q4 .scale .bias, .q8 .lut, .q4 .lut
};

struct slot {
    const char *name; // below "model.layers.<i>."; of experts one by one with %u for the number
    size_t field;     // of struct layer, of experts one by one of struct expert
    enum owner owner;
    enum coding coding;
    enum size shape[4]; // ends with SIZE_END
};

struct layout {
    const struct slot *slots; // all but the routed experts
    size_t n;
    const struct slot *experts; // one by one: gate, up, down
    const struct slot *fused;   // gate_up, down of all experts; NULL: never stored so
    const char *final_norm;     // below the prefix
};
const struct layout *layout_of(const struct config *config);

bool layout_has(const struct config *config, uint32_t layer, const struct slot *slot);
// A matrix that is multiplied with a vector: it counts as multiplications.
bool layout_is_projection(const struct slot *slot);
struct weight *layout_field(struct layer *layer, const struct slot *slot);
// The slot of a layer's tensor by its checkpoint name; NULL for embedding, final norm, head and strangers.
const struct slot *layout_slot(const struct config *config, const char *name);

enum { LAYOUT_EXPERT = 3, LAYOUT_FUSED = 2 }; // slots of `experts`, of `fused`

#endif
