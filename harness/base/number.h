// number: a measured value in a sentence for people. A NaN reads "NaN" whatever its sign, which differs between machines
// ("-nan" of one is "nan" of another); an infinity reads "inf" or "-inf". Not for JSON and CSV, which have rules of their
// own (reports/sheet.h, positions.c).
#ifndef ASSAY_NUMBER_H
#define ASSAY_NUMBER_H

enum { NUMBER_ROOM = 32 };

// Into `text`, which is returned: as %.*g with that many significant digits; as %.*f with that many decimals, from 1e15 on
// as %g; as %a, to the bit.
const char *number_text(char text[NUMBER_ROOM], double value, int digits);
const char *number_fixed_text(char text[NUMBER_ROOM], double value, int decimals);
const char *number_exact_text(char text[NUMBER_ROOM], double value);

// For an argument of a print function: the text lives until the end of the enclosing block.
#define NUMBER(value, digits) number_text((char[NUMBER_ROOM]){0}, value, digits)
#define NUMBER_FIXED(value, decimals) number_fixed_text((char[NUMBER_ROOM]){0}, value, decimals)
#define NUMBER_EXACT(value) number_exact_text((char[NUMBER_ROOM]){0}, value)

#endif
