// binding: the tensors of a checkpoint or a bundle become the weights of a model (model.h). What its parts share; no
// other module needs it.
//   binding.c         model_bind: the names' prefix, what is left over
//   binding_layer.c   the tensors of a layer, its experts
//   binding_head.c    embedding and head, tied or not
//   binding_weight.c  one weight: which tensor, of the shape that config.json asks for
//   binding_codes.c   one weight in quantized form: codes, and what stands beside them
#ifndef ASSAY_BINDING_PARTS_H
#define ASSAY_BINDING_PARTS_H

#include "harness/model/layout.h"

struct binding {
    struct arena *arena;
    const struct config *config;
    const struct tensor_table *table;
    bool quantized;     // codes are allowed: a bundle
    bool *used;         // [table->n]
    const char *prefix; // of all names but the head's
};

// --- one weight

// NAME + suffix of the table, marked as used; NULL when absent.
const struct tensor *binding_take(const struct binding *binding, const char *name, const char *suffix);
// Looks for NAME, then, where codes are allowed, for NAME.q8 and NAME.q4. Absent: format NONE, no error. ERROR_INPUT:
// another shape or dtype. `name` is borrowed by the weight.
int binding_any(const struct binding *binding, const char *name, const enum size *shape, enum coding coding,
                struct weight *weight, struct error *error);
// The same; absent is ERROR_INPUT.
int binding_required(const struct binding *binding, const char *name, const enum size *shape, enum coding coding,
                     struct weight *weight, struct error *error);
int binding_missing(const struct binding *binding, const char *name, const enum size *shape, struct error *error);
int binding_no_memory(struct error *error);

// weight->format, Q8 or Q4, is how the codes are stored; what stands beside them says what they mean. `experts`: how
// many lie in this one tensor, by its first dimension; 0 for a matrix.
int binding_codes(const struct binding *binding, const struct tensor *codes, enum coding coding, uint32_t experts,
                  struct weight *weight, struct error *error);

// --- the parts of a model

int binding_layer(const struct binding *binding, uint32_t index, struct layer *layer, struct error *error);
// model.h's rule; it may untie model->config. *note as model_bind's.
int binding_head(const struct binding *binding, struct model *model, const char **note, struct error *error);

#endif
