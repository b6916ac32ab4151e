#include "harness/base/number.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/floating.h"

const char *number_text(char text[NUMBER_ROOM], double value, int digits)
{
    if (isnan(value))
        return strcpy(text, "NaN");
    snprintf(text, NUMBER_ROOM, "%.*g", digits, value);
    return text;
}

const char *number_fixed_text(char text[NUMBER_ROOM], double value, int decimals)
{
    if (!(fabs(value) < 1e15)) // a NaN too
        return number_text(text, value, 6);
    snprintf(text, NUMBER_ROOM, "%.*f", decimals, value);
    return text;
}

const char *number_exact_text(char text[NUMBER_ROOM], double value)
{
    if (isnan(value))
        return strcpy(text, "NaN");
    snprintf(text, NUMBER_ROOM, "%a", value);
    return text;
}
