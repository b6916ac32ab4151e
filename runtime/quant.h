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
    QUANT_NONE,      // left alone: stored as arithmetic.md 3 "Stored dtypes" says
    QUANT_INT8_SYM,  // scale RN16(max(RN32(absmax / 127.5), 2^-23)), codes in [-128, 127]
    QUANT_INT8_CLIP, // absmax / 127, [-127, 127]
    QUANT_INT4_CLIP, // absmax / 7, [-7, 7]
};

struct quant_rule {
    enum quant_format format;
    bool per_channel; // one scale per row; else per block of 32 inputs
};
enum weight_format quant_weight_format(enum quant_format format);   // how its codes are stored; not for QUANT_NONE
void quant_range(enum quant_format format, int *low, int *high);    // of its codes; not for QUANT_NONE
uint32_t quant_block(struct quant_rule rule, uint32_t cols);        // inputs per scale of a row of `cols`
const char *quant_rule_text(struct quant_rule rule, char text[48]); // "int8 block 32 [-127, 127]"

struct scheme {
    const char *name;
    struct quant_rule body; // feed-forward and short-convolution projections
    struct quant_rule head; // format NONE: the head stays as it is (tied, or F16); else an untied, quantized copy
};
extern const struct scheme schemes[]; // ends with name NULL
// ERROR_USAGE lists the names.
int scheme_find(const char *name, const struct scheme **scheme, struct error *error);

// A --keep argument: 'PATTERN=fp16', PATTERN a shell pattern (fnmatch) on the checkpoint name, ".weight" included. It
// keeps what the scheme would quantize in half precision. ERROR_USAGE for anything else after the last '=', or no
// pattern.
int quant_keep_check(const char *keep, struct error *error);
bool quant_keep_matches(const char *keep, const char *name); // keep as checked above

// What becomes of a bound weight of the model: its rule, and a reason when it is left alone ("attention projection:
// exact", "K is no multiple of 32", the keep pattern, ...). stored: dtype of what is left alone. is_head: `weight` is
// model.head, whatever its name (a tied one bears the embedding's) and is matched by keep as "lm_head.weight".
struct quant_decision {
    struct quant_rule rule;
    enum dtype stored;
    const char *why; // static text or the keep argument; "" when quantized
};
void quant_decide(const struct scheme *scheme, const char *const *keep, size_t n_keep, const struct weight *weight,
                  bool is_head, struct quant_decision *decision);

struct quant_statistics {
    uint64_t codes, clamped, scales, subnormal_scales;
    double square_error, square_sum; // of w - code x scale, of w
};

// One row: `n` values -> codes (int8, unpacked) [n] and scales (fp16) [n / block]; block divides n. Adds to
// *statistics. ERROR_INPUT when a value is not finite or a scale overflows half; the sentence begins with the column,
// for a caller who knows tensor and row. Runs in the environment of floating.h, which the caller has entered.
int quant_row(enum quant_format format, const float *w, uint32_t n, uint32_t block, int8_t *codes, uint16_t *scales,
              struct quant_statistics *statistics, struct error *error);

// Codes as they are stored: one a byte, or two, low nibble first, two's complement (an odd row ends in a zero
// nibble).
void quant_pack(enum weight_format format, const int8_t *codes, uint32_t n, uint8_t *out);
// The codes of one row of a quantized weight, unpacked, [cols].
void quant_codes(const struct weight *weight, uint32_t row, int8_t *codes);

#endif
