#include "runtime/plan.h"

#include <string.h>

#include "harness/base/json.h"

enum { PLAN_BYTES_MAX = 1 << 16 };

static const struct {
    const char *name;
    enum precision standard; // arithmetic.md 3
    bool fixed;              // the runtime computes nothing else
} rows[PLAN_ROWS] = {
    [PLAN_ACTIVATIONS] = {"activations", PRECISION_F16, true},
    [PLAN_ATTENTION_PROJECTIONS] = {"attention_projections", PRECISION_F32, false},
    [PLAN_LINEAR_SUM] = {"linear_sum", PRECISION_F32, false},
    [PLAN_DEQUANT] = {"dequant", PRECISION_F32, false},
    [PLAN_KV_STATE] = {"kv_state", PRECISION_F16, false},
    [PLAN_CONV_STATE] = {"conv_state", PRECISION_F16, false},
    [PLAN_DELTA_STATE] = {"delta_state", PRECISION_F16, false},
    [PLAN_DELTA_NORM] = {"delta_norm", PRECISION_F32, false},
    [PLAN_ROPE_FREQUENCY] = {"rope_frequency", PRECISION_F32, false},
    [PLAN_ROPE_TABLE] = {"rope_table", PRECISION_F16, false},
    [PLAN_LOGITS] = {"logits", PRECISION_F16, false},
};

const char *plan_row_name(enum plan_row row)
{
    return rows[row].name;
}

const char *precision_name(enum precision precision)
{
    return precision == PRECISION_F16 ? "f16" : "f32";
}

bool plan_has(enum family family, enum plan_row row)
{
    const bool lfm2 = family == FAMILY_LFM2 || family == FAMILY_LFM2_MOE;
    if (row == PLAN_ATTENTION_PROJECTIONS)
        return lfm2;
    return !lfm2 || (row != PLAN_DELTA_STATE && row != PLAN_DELTA_NORM);
}

void plan_default(struct plan *plan)
{
    for (int row = 0; row < PLAN_ROWS; row++)
        plan->rows[row] = rows[row].standard;
}

static int row_read(struct json root, enum plan_row row, enum precision *out, struct error *error)
{
    const struct json value = json_get(root, rows[row].name);
    const char *word;
    const int failed = json_need_string(value, &word, error);
    if (failed)
        return failed;
    enum precision precision;
    if (!strcmp(word, "f16"))
        precision = PRECISION_F16;
    else if (!strcmp(word, "f32"))
        precision = PRECISION_F32;
    else
        return error_set(error, ERROR_INPUT, "%s: found \"%s\", expected \"f16\" or \"f32\"", json_where(value),
                         word);
    if (rows[row].fixed && precision != rows[row].standard)
        return error_set(error, ERROR_INPUT,
                         "%s: \"%s\" is a precision that this runtime cannot compute; it computes \"%s\" only",
                         json_where(value), word, precision_name(rows[row].standard));
    *out = precision;
    return 0;
}

static int document_read(struct json root, enum family family, struct plan *plan, struct error *error)
{
    const char *keys[PLAN_ROWS + 2] = {"schema"};
    int n = 1;
    for (int row = 0; row < PLAN_ROWS; row++)
        if (plan_has(family, (enum plan_row)row))
            keys[n++] = rows[row].name;
    plan_default(plan);
    int failed = json_need_object(root, error);
    if (failed)
        return failed;
    const struct json schema = json_get(root, "schema");
    const char *found;
    if ((failed = json_need_string(schema, &found, error)))
        return failed;
    if (strcmp(found, PLAN_SCHEMA))
        return error_set(error, ERROR_INPUT, "%s: found \"%s\", expected \"%s\"", json_where(schema), found,
                         PLAN_SCHEMA);
    if ((failed = json_only(root, keys, error)))
        return failed;
    for (int row = 0; row < PLAN_ROWS; row++)
        if (plan_has(family, (enum plan_row)row) && (failed = row_read(root, (enum plan_row)row, &plan->rows[row], error)))
            return failed;
    return 0;
}

int plan_read(const char *path, enum family family, struct plan *plan, struct error *error)
{
    struct json_document *document;
    int failed = json_open_file(&document, path, PLAN_BYTES_MAX, error);
    if (failed)
        return failed;
    struct plan read;
    failed = document_read(json_root(document), family, &read, error);
    if (!failed)
        *plan = read;
    json_close(&document);
    return failed;
}

void plan_write(struct output *output, enum family family, const struct plan *plan)
{
    output_print(output, "{\n  \"schema\": \"%s\"", PLAN_SCHEMA);
    for (int row = 0; row < PLAN_ROWS; row++)
        if (plan_has(family, (enum plan_row)row))
            output_print(output, ",\n  \"%s\": \"%s\"", rows[row].name, precision_name(plan->rows[row]));
    output_print(output, "\n}\n");
}
