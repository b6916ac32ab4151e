// isa: which instruction set the kernels may use. The choice changes the speed, never a bit.
#ifndef ASSAY_ISA_H
#define ASSAY_ISA_H

#include <stdbool.h>
#include <stddef.h>

#include "harness/base/error.h"

enum isa { ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_NEON, ISA_COUNT };

const char *isa_name(enum isa isa);
bool isa_available(enum isa isa); // built in, and this processor has it (AVX2 means AVX2 + FMA + F16C)
enum isa isa_best(void);
// "scalar", "avx2", ...; ERROR_USAGE for another word or one that this processor cannot run.
int isa_parse(const char *name, enum isa *isa, struct error *error);

#endif
