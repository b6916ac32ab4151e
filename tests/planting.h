// planting: a copy of a bundle with one fault in its weights, plan, config or metadata, wrong on purpose: what the
// audit and the gate must catch, and what bundle_open must refuse.
#ifndef ASSAY_PLANTING_H
#define ASSAY_PLANTING_H

#include <stdio.h>

#include "harness/base/error.h"

// Writes the copy of bundle `source` into `directory`, made when missing. Fault "none" is the faithful copy, the
// control. ERROR_USAGE: no such fault, or this bundle cannot have it (block scales where nothing is quantized).
int plant_fault(const char *source, const char *name, const char *directory, struct error *error);
void plant_list(FILE *out); // one fault a line, with what it does

#endif
