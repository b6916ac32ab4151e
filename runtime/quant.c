#include "runtime/quant.h"

#include <assert.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/floating.h"
#include "harness/base/half.h"

static const struct {
    enum weight_format stored;
    const char *name;
    float divisor;
    int low, high;
} formats[] = {
    [QUANT_NONE] = {WEIGHT_NONE, "left alone", 0.0f, 0, 0},
    [QUANT_INT8_SYM] = {WEIGHT_Q8, "int8", 127.5f, -128, 127},
    [QUANT_INT8_CLIP] = {WEIGHT_Q8, "int8", 127.0f, -127, 127},
    [QUANT_INT4_CLIP] = {WEIGHT_Q4, "int4", 7.0f, -7, 7},
};

const struct scheme schemes[] = {
    {"fp16", {QUANT_NONE, false}, {QUANT_NONE, false}},
    {"int8lin", {QUANT_INT8_CLIP, false}, {QUANT_NONE, false}},
    {"int8hu_block32_sym", {QUANT_INT8_CLIP, false}, {QUANT_INT8_SYM, false}},
    {"int8hu_block32", {QUANT_INT8_CLIP, false}, {QUANT_INT8_CLIP, false}},
    {"int8hu_perchan_sym", {QUANT_INT8_CLIP, false}, {QUANT_INT8_SYM, true}},
    {"int4lin", {QUANT_INT4_CLIP, false}, {QUANT_NONE, false}},
    {NULL, {QUANT_NONE, false}, {QUANT_NONE, false}},
};

enum weight_format quant_weight_format(enum quant_format format)
{
    assert(format != QUANT_NONE);
    return formats[format].stored;
}

void quant_range(enum quant_format format, int *low, int *high)
{
    assert(format != QUANT_NONE);
    *low = formats[format].low;
    *high = formats[format].high;
}

uint32_t quant_block(struct quant_rule rule, uint32_t cols)
{
    return rule.per_channel ? cols : QUANT_BLOCK;
}

const char *quant_rule_text(struct quant_rule rule, char text[48])
{
    assert(rule.format != QUANT_NONE);
    snprintf(text, 48, "%s %s [%d, %d]", formats[rule.format].name, rule.per_channel ? "per row" : "block 32",
             formats[rule.format].low, formats[rule.format].high);
    return text;
}

int scheme_find(const char *name, const struct scheme **scheme, struct error *error)
{
    char known[256] = "";
    size_t used = 0;
    for (const struct scheme *candidate = schemes; candidate->name; candidate++) {
        if (!strcmp(candidate->name, name)) {
            *scheme = candidate;
            return 0;
        }
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", candidate->name);
        assert(used < sizeof known);
    }
    return error_set(error, ERROR_USAGE, "scheme '%.100s' is not known: choose one of %s", name, known);
}

// --- which tensor is treated how

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && !strcmp(text + n - n_end, end);
}

static const struct {
    const char *suffix;
    const char *why; // left alone because; NULL: a projection of the body
    enum dtype stored;
} tensors[] = {
    {".feed_forward.w1.weight", NULL, DTYPE_F16},
    {".feed_forward.w3.weight", NULL, DTYPE_F16},
    {".feed_forward.w2.weight", NULL, DTYPE_F16},
    {".conv.in_proj.weight", NULL, DTYPE_F16},
    {".conv.out_proj.weight", NULL, DTYPE_F16},
    {".self_attn.q_proj.weight", "attention projection: exact", DTYPE_F32},
    {".self_attn.k_proj.weight", "attention projection: exact", DTYPE_F32},
    {".self_attn.v_proj.weight", "attention projection: exact", DTYPE_F32},
    {".self_attn.out_proj.weight", "attention projection: exact", DTYPE_F32},
    {".conv.conv.weight", "depthwise convolution", DTYPE_F16},
    {"norm.weight", "norm", DTYPE_F16},
    {".bias", "bias", DTYPE_F16},
    {"embed_tokens.weight", "embedding", DTYPE_F16},
    {"lm_head.weight", "embedding", DTYPE_F16}, // a checkpoint whose head serves as embedding too
};

int quant_keep_check(const char *keep, struct error *error)
{
    const char *equals = strrchr(keep, '=');
    if (equals && equals > keep && !strcmp(equals + 1, "fp16"))
        return 0;
    return error_set(error, ERROR_USAGE,
                     "--keep '%.200s': expected PATTERN=fp16, for instance '*.layers.0.feed_forward.*=fp16'", keep);
}

bool quant_keep_matches(const char *keep, const char *name)
{
    char pattern[1024];
    const char *equals = strrchr(keep, '=');
    assert(equals);
    const size_t n = (size_t)(equals - keep);
    if (n >= sizeof pattern)
        return false;
    memcpy(pattern, keep, n);
    pattern[n] = '\0';
    return !fnmatch(pattern, name, 0);
}

static struct quant_rule rule_of(const struct scheme *scheme, const struct weight *weight, bool is_head,
                                 struct quant_decision *decision)
{
    const struct quant_rule alone = {QUANT_NONE, false};
    decision->stored = DTYPE_F16;
    if (is_head) {
        decision->why = "the scheme leaves the head as it is";
        return scheme->head;
    }
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        if (!ends_with(weight->name, tensors[i].suffix))
            continue;
        decision->stored = tensors[i].stored;
        decision->why = tensors[i].why ? tensors[i].why : "the scheme leaves the body as it is";
        return tensors[i].why ? alone : scheme->body;
    }
    decision->why = "no linear layer";
    return alone;
}

void quant_decide(const struct scheme *scheme, const char *const *keep, size_t n_keep, const struct weight *weight,
                  bool is_head, struct quant_decision *decision)
{
    decision->rule = rule_of(scheme, weight, is_head, decision);
    if (decision->rule.format == QUANT_NONE)
        return;
    const struct quant_rule alone = {QUANT_NONE, false};
    if (!decision->rule.per_channel && weight->cols % QUANT_BLOCK) {
        decision->rule = alone;
        decision->why = "K is no multiple of 32";
        return;
    }
    for (size_t i = 0; i < n_keep; i++)
        if (quant_keep_matches(keep[i], is_head ? "lm_head.weight" : weight->name)) {
            decision->rule = alone;
            decision->why = keep[i];
            return;
        }
    decision->why = "";
}

// --- the arithmetic (arithmetic.md 4)

static const float scale_floor = 0x1p-23f; // torchao's eps; two steps of a subnormal half (zoo.md 2.1)

int quant_row(enum quant_format format, const float *w, uint32_t n, uint32_t block, int8_t *codes, uint16_t *scales,
              struct quant_statistics *statistics, struct error *error)
{
    assert(format != QUANT_NONE && block && n % block == 0);
    const float low = (float)formats[format].low, high = (float)formats[format].high;
    for (uint32_t first = 0; first < n; first += block) {
        float absmax = 0.0f;
        for (uint32_t k = first; k < first + block; k++) {
            if (!isfinite(w[k]))
                return error_set(error, ERROR_INPUT, "column %u is %s: only finite values can be quantized", k,
                                 isnan(w[k]) ? "NaN" : "infinite");
            absmax = fmaxf(absmax, fabsf(w[k]));
        }
        const uint16_t scale16 = half_from_float(fmaxf(absmax / formats[format].divisor, scale_floor));
        const float scale = half_to_float(scale16);
        if (!isfinite(scale))
            return error_set(
                error, ERROR_INPUT,
                "column %u begins a block whose largest value, %g, needs a scale over 65504, the largest "
                "half: keep this tensor in another precision",
                first, (double)absmax);
        *scales++ = scale16;
        statistics->scales++;
        statistics->subnormal_scales += scale < 0x1p-14f;
        for (uint32_t k = first; k < first + block; k++) {
            const float rounded = rintf(w[k] / scale);
            const float code = fminf(fmaxf(rounded, low), high);
            codes[k] = (int8_t)code;
            statistics->clamped += code < rounded || code > rounded;
            const double exact = (double)w[k], distance = exact - (double)(code * scale);
            statistics->square_error += distance * distance;
            statistics->square_sum += exact * exact;
        }
    }
    statistics->codes += n;
    return 0;
}

void quant_pack(enum weight_format format, const int8_t *codes, uint32_t n, uint8_t *out)
{
    if (format == WEIGHT_Q8) {
        memcpy(out, codes, n);
        return;
    }
    assert(format == WEIGHT_Q4);
    for (uint32_t k = 0; k < n; k += 2) {
        const unsigned low = (unsigned)codes[k] & 0xF, high = k + 1 < n ? (unsigned)codes[k + 1] & 0xF : 0;
        out[k / 2] = (uint8_t)(low | high << 4);
    }
}

void quant_codes(const struct weight *weight, uint32_t row, int8_t *codes)
{
    const uint8_t *stored = (const uint8_t *)weight->data + row * weight_row_bytes(weight);
    if (weight->format == WEIGHT_Q8) {
        memcpy(codes, stored, weight->cols);
        return;
    }
    assert(weight->format == WEIGHT_Q4);
    for (uint32_t k = 0; k < weight->cols; k++) {
        const int nibble = stored[k / 2] >> (k % 2 ? 4 : 0) & 0xF;
        codes[k] = (int8_t)(nibble < 8 ? nibble : nibble - 16);
    }
}
