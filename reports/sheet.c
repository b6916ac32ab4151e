#include "reports/sheet.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness/base/floating.h"
#include "harness/base/json.h"

static void begin_value(struct sheet *sheet, const char *key)
{
    if (!sheet->first)
        output_print(sheet->output, ",");
    if (sheet->compact)
        output_print(sheet->output, sheet->first ? "" : " ");
    else if (sheet->depth)
        output_print(sheet->output, "\n%*s", 2 * sheet->depth, "");
    if (key)
        output_print(sheet->output, "\"%s\": ", key);
    sheet->first = false;
}

static void open_as(struct sheet *sheet, const char *key, const char *bracket)
{
    begin_value(sheet, key);
    output_print(sheet->output, "%s", bracket);
    sheet->depth++;
    sheet->first = true;
}

static void close_as(struct sheet *sheet, const char *bracket)
{
    sheet->depth--;
    if (!sheet->compact && !sheet->first)
        output_print(sheet->output, "\n%*s", 2 * sheet->depth, "");
    if (sheet->compact && sheet->depth < sheet->compact)
        sheet->compact = 0;
    output_print(sheet->output, "%s", bracket);
    sheet->first = false;
}

void sheet_open(struct sheet *sheet, const char *key)
{
    open_as(sheet, key, "{");
}

void sheet_open_row(struct sheet *sheet)
{
    sheet_open(sheet, NULL);
    if (!sheet->compact)
        sheet->compact = sheet->depth;
}

void sheet_close(struct sheet *sheet)
{
    close_as(sheet, "}");
}

void sheet_open_list(struct sheet *sheet, const char *key)
{
    open_as(sheet, key, "[");
}

void sheet_close_list(struct sheet *sheet)
{
    close_as(sheet, "]");
}

void sheet_text(struct sheet *sheet, const char *key, const char *value)
{
    const char *quoted = value ? json_quote(&sheet->arena, value) : NULL;
    if (value && !quoted)
        output_lacks_memory(sheet->output);
    begin_value(sheet, key);
    output_print(sheet->output, "%s", quoted ? quoted : "null");
}

void sheet_count(struct sheet *sheet, const char *key, uint64_t value)
{
    begin_value(sheet, key);
    output_print(sheet->output, "%" PRIu64, value);
}

void sheet_id(struct sheet *sheet, const char *key, int64_t value)
{
    begin_value(sheet, key);
    if (value < 0)
        output_print(sheet->output, "null");
    else
        output_print(sheet->output, "%" PRId64, value);
}

void sheet_flag(struct sheet *sheet, const char *key, bool value)
{
    begin_value(sheet, key);
    output_print(sheet->output, value ? "true" : "false");
}

void sheet_number(struct sheet *sheet, const char *key, double value)
{
    char decimal[32] = "null";
    for (int digits = 15; isfinite(value) && digits <= 17; digits++) { // the shortest of these that reads back
        snprintf(decimal, sizeof decimal, "%.*g", digits, value);
        if (strtod(decimal, NULL) == value)
            break;
    }
    begin_value(sheet, key);
    output_print(sheet->output, "%s", decimal);
    begin_value(sheet, NULL);
    if (isnan(value))
        output_print(sheet->output, "\"%s_hex\": \"nan\"", key); // the sign of a NaN differs between machines
    else
        output_print(sheet->output, "\"%s_hex\": \"%a\"", key, value);
}
