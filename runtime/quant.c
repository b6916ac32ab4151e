#include "runtime/quant.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "harness/model/layout.h"

static const struct {
    enum weight_format stored;
    const char *text; // NULL: width, scales and range
    int low, high;
} formats[] = {
    [QUANT_NONE] = {WEIGHT_NONE, "left alone", 0, 0},
    [QUANT_INT8_SYM] = {WEIGHT_Q8, NULL, -128, 127},
    [QUANT_INT8_CLIP] = {WEIGHT_Q8, NULL, -127, 127},
    [QUANT_INT4_CLIP] = {WEIGHT_Q4, NULL, -7, 7},
    [QUANT_INT8_SEARCH] = {WEIGHT_Q8, "int8 block 32 searched", -127, 127},
    [QUANT_INT4_AFFINE] = {WEIGHT_A4, "int4 block 32 affine", 0, 15},
    [QUANT_INT8_BOOK] = {WEIGHT_K8, "int8 codebook, 32 rows", 0, 255},
    [QUANT_INT4_BOOK] = {WEIGHT_K4, "int4 codebook, 32 rows", 0, 15},
};

#define ALONE                                                                                                        \
    {                                                                                                                \
        QUANT_NONE, false                                                                                            \
    }
#define CLIP                                                                                                         \
    {                                                                                                                \
        QUANT_INT8_CLIP, false                                                                                       \
    }

const struct scheme schemes[] = {
    {"fp16", NULL, ALONE, ALONE, ALONE, false},
    {"int8lin", NULL, CLIP, ALONE, CLIP, false},
    {"int8hu_block32_sym", NULL, CLIP, {QUANT_INT8_SYM, false}, CLIP, false},
    {"int8hu_block32", NULL, CLIP, CLIP, CLIP, false},
    {"int8hu_perchan_sym", NULL, CLIP, {QUANT_INT8_SYM, true}, CLIP, false},
    {"int4lin", NULL, {QUANT_INT4_CLIP, false}, ALONE, {QUANT_INT4_CLIP, false}, false},
    {"sym8", NULL, CLIP, ALONE, {QUANT_INT8_SEARCH, false}, true},
    {"int8km", "km8", CLIP, ALONE, {QUANT_INT8_BOOK, false}, true},
    {"int4km", "km4", CLIP, ALONE, {QUANT_INT4_BOOK, false}, true},
    {"int4aff", "aff4", CLIP, ALONE, {QUANT_INT4_AFFINE, false}, true},
    {NULL, NULL, ALONE, ALONE, ALONE, false},
};

enum weight_format quant_weight_format(enum quant_format format)
{
    assert(format != QUANT_NONE);
    return formats[format].stored;
}

bool quant_is_packed(enum weight_format format)
{
    return format == WEIGHT_Q4 || format == WEIGHT_A4 || format == WEIGHT_K4;
}

uint32_t quant_entries(enum quant_format format)
{
    return format == QUANT_INT8_BOOK ? 256 : format == QUANT_INT4_BOOK ? 16 : 0;
}

void quant_range(enum quant_format format, int *low, int *high)
{
    assert(format != QUANT_NONE);
    *low = formats[format].low;
    *high = formats[format].high;
}

uint32_t quant_block(struct quant_rule rule, uint32_t cols)
{
    if (quant_entries(rule.format))
        return 0;
    return rule.per_channel ? cols : QUANT_BLOCK;
}

const char *quant_rule_text(struct quant_rule rule, char text[48])
{
    assert(rule.format != QUANT_NONE);
    if (formats[rule.format].text)
        snprintf(text, 48, "%s", formats[rule.format].text);
    else
        snprintf(text, 48, "%s %s [%d, %d]", quant_is_packed(formats[rule.format].stored) ? "int4" : "int8",
                 rule.per_channel ? "per row" : "block 32", formats[rule.format].low, formats[rule.format].high);
    return text;
}

// --- schemes

enum { NAMES_TEXT = 256 };

static const char *names_text(const enum family *family, char text[NAMES_TEXT])
{
    size_t used = 0;
    for (const struct scheme *scheme = schemes; scheme->name; scheme++) {
        if (family && !scheme_fits(scheme, *family))
            continue;
        used += (size_t)snprintf(text + used, NAMES_TEXT - used, "%s%s", used ? ", " : "", scheme->name);
        assert(used < NAMES_TEXT);
    }
    return text;
}

int scheme_find(const char *name, const struct scheme **scheme, struct error *error)
{
    char known[NAMES_TEXT];
    for (const struct scheme *candidate = schemes; candidate->name; candidate++)
        if (!strcmp(candidate->name, name) || (candidate->alias && !strcmp(candidate->alias, name))) {
            *scheme = candidate;
            return 0;
        }
    return error_set(error, ERROR_USAGE, "scheme '%.100s' is not known: choose one of %s", name,
                     names_text(NULL, known));
}

bool scheme_fits(const struct scheme *scheme, enum family family)
{
    return !scheme->names_experts || family == FAMILY_LFM2_MOE || family == FAMILY_QWEN35_MOE;
}

int scheme_check(const struct scheme *scheme, enum family family, struct error *error)
{
    char fitting[NAMES_TEXT];
    if (scheme_fits(scheme, family))
        return 0;
    return error_set(error, ERROR_USAGE,
                     "scheme %s is a format of experts, and a model of family %s has none: "
                     "choose one of %s",
                     scheme->name, family_name(family), names_text(&family, fitting));
}

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

// --- which tensor is treated how

#define FIELD(name) offsetof(struct layer, name)

// A layer's tensors of CODING_NONE.
static const struct {
    size_t field;
    const char *why;
    enum dtype stored;
} plain[] = {
    {FIELD(mixer_norm), "norm", DTYPE_F16},
    {FIELD(ffn_norm), "norm", DTYPE_F16},
    {FIELD(q_norm), "norm", DTYPE_F16},
    {FIELD(k_norm), "norm", DTYPE_F16},
    {FIELD(delta_norm), "norm", DTYPE_F16},
    {FIELD(conv), "depthwise convolution", DTYPE_F16},
    {FIELD(delta_conv), "depthwise convolution", DTYPE_F16},
    {FIELD(router), "router: another code could pick other experts", DTYPE_F16},
    {FIELD(shared_gate), "gate of the shared expert: one row that weighs it", DTYPE_F16},
    {FIELD(a_log), "decay of the state: exact", DTYPE_F32},
    {FIELD(dt_bias), "decay of the state: exact", DTYPE_F32},
    {FIELD(expert_bias), "selects the experts: exact", DTYPE_F32},
};

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && !strcmp(text + n - n_end, end);
}

static void decide_plain(const struct slot *slot, const char *name, struct quant_decision *decision)
{
    // a checkpoint whose head serves as embedding has it under the head's name
    const bool is_embedding = ends_with(name, "embed_tokens.weight") || !strcmp(name, "lm_head.weight");
    decision->why = slot ? "bias" : is_embedding ? "embedding" : "norm";
    for (size_t i = 0; slot && i < sizeof plain / sizeof *plain; i++)
        if (plain[i].field == slot->field) {
            decision->why = plain[i].why;
            decision->stored = plain[i].stored;
        }
}

static struct quant_rule rule_of(const struct scheme *scheme, const struct config *config, const struct slot *slot,
                                 const char *name, bool is_head, struct quant_decision *decision)
{
    const struct quant_rule alone = ALONE;
    decision->stored = DTYPE_F16;
    if (is_head) {
        decision->why = "the scheme leaves the head as it is";
        return scheme->head;
    }
    if (!slot || slot->coding == CODING_NONE) {
        decide_plain(slot, name, decision);
        return alone;
    }
    if (slot->owner == OWNER_ATTENTION && config_is_lfm2(config)) {
        decision->stored = DTYPE_F32;
        decision->why = "attention projection: exact";
        return alone;
    }
    decision->why = slot->coding == CODING_EXPERT ? "the scheme leaves the experts as they are"
                                                  : "the scheme leaves the body as it is";
    return slot->coding == CODING_EXPERT ? scheme->experts : scheme->body;
}

// Rows that codebooks divide: of one matrix of one expert.
static uint64_t matrix_rows(const struct config *config, const struct slot *slot, const struct weight *weight)
{
    if (!slot || slot->shape[0] != SIZE_E)
        return weight->rows;
    return slot->shape[1] == SIZE_2FM ? config->expert_width : size_value(config, slot->shape[1]);
}

void quant_decide(const struct scheme *scheme, const struct config *config, const char *const *keep, size_t n_keep,
                  const struct weight *weight, bool is_head, struct quant_decision *decision)
{
    const struct quant_rule alone = ALONE;
    const struct slot *slot = is_head ? NULL : layout_slot(config, weight->name);
    decision->rule = rule_of(scheme, config, slot, weight->name, is_head, decision);
    if (decision->rule.format == QUANT_NONE)
        return;
    const bool has_book = quant_entries(decision->rule.format) != 0;
    if (has_book && matrix_rows(config, slot, weight) % WEIGHT_BOOK_ROWS) {
        decision->rule = alone;
        decision->why = "N is no multiple of 32";
        return;
    }
    if (!has_book && !decision->rule.per_channel && weight->cols % QUANT_BLOCK) {
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
