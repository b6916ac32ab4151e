// number: what stands in a sentence for a value, and that a NaN has one spelling.
#include "harness/base/number.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

Test(number, a_nan_reads_the_same_of_either_sign)
{
    const double nans[] = {(double)NAN, copysign((double)NAN, -1.0), -(double)NAN};
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        cr_expect_str_eq(NUMBER(nans[i], 4), "NaN");
        cr_expect_str_eq(NUMBER_FIXED(nans[i], 2), "NaN");
        cr_expect_str_eq(NUMBER_EXACT(nans[i]), "NaN");
    }
    char raw[32]; // the control: printed as it is, the sign shows
    snprintf(raw, sizeof raw, "%g", nans[1]);
    cr_expect(strstr(raw, "nan") != NULL, "%s", raw);
}

Test(number, every_other_value_reads_as_printf_has_it)
{
    cr_expect_str_eq(NUMBER(0.00075124, 3), "0.000751");
    cr_expect_str_eq(NUMBER(-1.0 / 3.0, 4), "-0.3333");
    cr_expect_str_eq(NUMBER((double)INFINITY, 4), "inf");
    cr_expect_str_eq(NUMBER(-(double)INFINITY, 4), "-inf");
    cr_expect_str_eq(NUMBER_FIXED(2.0 / 3.0, 4), "0.6667");
    cr_expect_str_eq(NUMBER_FIXED(-0.05, 1), "-0.1");
    cr_expect_str_eq(NUMBER_FIXED((double)INFINITY, 1), "inf");
    cr_expect_str_eq(NUMBER_FIXED(DBL_MAX, 4), "1.79769e+308"); // 314 characters otherwise
    cr_expect_str_eq(NUMBER_EXACT(0.1), "0x1.999999999999ap-4");
    char text[64]; // several in one call are several texts
    snprintf(text, sizeof text, "%s of %s, %s", NUMBER(1.5, 3), NUMBER(2.5, 3), NUMBER_EXACT(-DBL_TRUE_MIN));
    cr_expect_str_eq(text, "1.5 of 2.5, -0x0.0000000000001p-1022");
}
