// quant: schemes and formats. What `--scheme NAME` does to each tensor, and the exact arithmetic of codes and scales
// (arithmetic.md 4, zoo.md 2). Table of schemes: README.md beside this file.
#ifndef ASSAY_QUANT_H
#define ASSAY_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"
#include "harness/model/model.h"

enum { QUANT_BLOCK = 32 }; // inputs that share a scale, unless one scale serves the row

enum quant_format {
    QUANT_NONE,        // left alone: stored as arithmetic.md 3 "Stored dtypes" says
    QUANT_INT8_SYM,    // scale RN16(max(RN32(absmax / 127.5), 2^-23)), codes in [-128, 127]
    QUANT_INT8_CLIP,   // absmax / 127, [-127, 127]
    QUANT_INT4_CLIP,   // absmax / 7, [-7, 7]
    QUANT_INT8_SEARCH, // experts, zoo.md 2.6 "sym8": the best of seven scales, [-127, 127]
    QUANT_INT4_AFFINE, // "aff4": scale and bias, the best of six ranges, [0, 15]
    QUANT_INT8_BOOK,   // "km8": a codebook of 256 halves for 32 rows (codebook.h)
    QUANT_INT4_BOOK,   // "km4": of 16
};

struct quant_rule {
    enum quant_format format;
    bool per_channel; // one scale per row; else per block of 32 inputs
};
enum weight_format quant_weight_format(enum quant_format format); // how its codes are stored; not for QUANT_NONE
bool quant_is_packed(enum weight_format format);                  // two codes a byte
uint32_t quant_entries(enum quant_format format);                 // of a codebook; 0 for formats with scales
void quant_range(enum quant_format format, int *low, int *high);  // of its codes; not for QUANT_NONE
uint32_t quant_block(struct quant_rule rule, uint32_t cols);      // inputs per scale of a row of `cols`; 0: codebooks
const char *quant_rule_text(struct quant_rule rule, char text[48]); // "int8 block 32 [-127, 127]"

struct scheme {
    const char *name;
    const char *alias;         // another tool's name of it (zoo.md 2.5: the kernel's format, not the mode), or NULL
    struct quant_rule body;    // linear layers but the head, the router and LFM2's attention
    struct quant_rule head;    // format NONE: the head stays as it is (tied, or F16); else an untied, quantized copy
    struct quant_rule experts; // the routed ones
    bool names_experts;        // the name is that of an expert format: only for families with experts
};
extern const struct scheme schemes[]; // ends with name NULL
// By name or alias. ERROR_USAGE lists the names.
int scheme_find(const char *name, const struct scheme **scheme, struct error *error);
bool scheme_fits(const struct scheme *scheme, enum family family);
// ERROR_USAGE, with the schemes that fit, when this one does not.
int scheme_check(const struct scheme *scheme, enum family family, struct error *error);

// A --keep argument: 'PATTERN=fp16', PATTERN a shell pattern (fnmatch) on the checkpoint name, ".weight" included. It
// keeps what the scheme would quantize in half precision. ERROR_USAGE for anything else after the last '=', or no
// pattern.
int quant_keep_check(const char *keep, struct error *error);
bool quant_keep_matches(const char *keep, const char *name); // keep as checked above

// What becomes of a bound weight of a model with this config: its rule, and a reason when it is left alone
// ("attention projection: exact", "K is no multiple of 32", the keep pattern, ...). stored: dtype of what is left
// alone. is_head: `weight` is model.head, whatever its name (a tied one bears the embedding's) and is matched by keep
// as "lm_head.weight".
//
// Blocks need K mod 32 = 0, codebooks that the rows of every expert divide by 32; of experts in one tensor gate and
// up each. The gate of the shared expert stays half as the router does: one row, 2 d bytes, that weighs a whole
// expert.
struct quant_decision {
    struct quant_rule rule;
    enum dtype stored;
    const char *why; // static text or the keep argument; "" when quantized
};
void quant_decide(const struct scheme *scheme, const struct config *config, const char *const *keep, size_t n_keep,
                  const struct weight *weight, bool is_head, struct quant_decision *decision);

struct quant_statistics {
    uint64_t codes, clamped, scales, subnormal_scales; // clamped: against the stored scale and bias
    double square_error, square_sum;                   // of w - w', of w; w' as the stored halves give it
};

// One row: `n` values -> codes (unpacked) [n] and scales (fp16) [n / block]; block divides n. Formats with a scale
// and no bias. Adds to *statistics. ERROR_INPUT when a value is not finite or a scale overflows half; the sentence
// begins with the column, for a caller who knows tensor and row. Runs in the environment of floating.h, which the
// caller has entered.
//
// SYM, CLIP: codes clamp(RNE(RN32(w / scale))) against the rounded scale.
// SEARCH: for c of {1, .95, .9, .85, .8, .75, .7} as floats, in this order, and every operation rounded to float:
// scale = max(absmax x c / 127, 1e-8); q = clamp(RNE(w / scale)); d = w - q x scale; sum = sum + d x d, k increasing
// from +0. The least sum wins, of equal ones the first. Its q are the codes; RN16(scale) is stored, 0 for absmax up
// to 127 x 2^-25. (Above the floor the first always wins: clipping by 5 % costs the largest value 40 squared steps, and
// without it 32 values lose at most 8.)
int quant_row(enum quant_format format, const float *w, uint32_t n, uint32_t block, int8_t *codes, uint16_t *scales,
              struct quant_statistics *statistics, struct error *error);

// INT4_AFFINE: one row in blocks of 32, likewise, with biases [n / 32]. Per block, in float: mid = (low + high) / 2,
// half = (high - low) / 2 of its least and largest value (the first of equal ones, as to the sign of zero); for c of
// {1, .9, .8, .7, .6, .5}: h = half x c, bias = mid - h, scale = max(2 h / 15, 1e-8); q = clamp(RNE((w - bias) /
// scale)) to [0, 15]; d = w - fma(scale, q, bias); sum and choice as above. RN16 of scale and bias are stored.
int quant_row_affine(const float *w, uint32_t n, int8_t *codes, uint16_t *scales, uint16_t *biases,
                     struct quant_statistics *statistics, struct error *error);

// Lies w beyond the end of the range that `code` is? bias 0 where the format has none.
bool quant_is_clamped(enum quant_format format, float w, int code, float scale, float bias);

// Codes as they are stored: one a byte, or two, low nibble first, two's complement (an odd row ends in a zero
// nibble).
void quant_pack(enum weight_format format, const int8_t *codes, uint32_t n, uint8_t *out);
// The codes or codebook indices of one row of a quantized weight, unpacked, [cols].
void quant_codes(const struct weight *weight, uint32_t row, int16_t *codes);

#endif
