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
// Does memory deliver the most to two prefetched streams at once, and not to eight? One thread reads, measured: Zen 4
// 8 GB/s by one plain stream and 20 by eight; Zen 5 35 by one or two and 26 by eight. Others are taken for the latter:
// few streams are what hardware prefetchers are made for. Speed only.
bool isa_few_streams(void);
// "scalar", "avx2", ...; ERROR_USAGE for another word or one that this processor cannot run.
int isa_parse(const char *name, enum isa *isa, struct error *error);

#endif
