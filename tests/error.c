// error: one sentence on one line, whatever a file put into it.
#include "harness/base/error.h"

#include <criterion/criterion.h>
#include <string.h>

Test(error, the_first_sentence_is_kept_with_its_code)
{
    struct error error = {0};
    cr_assert_eq(error_set(&error, ERROR_INPUT, "%s: found %d, expected %d", "f", 1, 2), ERROR_INPUT);
    cr_assert_eq(error.code, ERROR_INPUT);
    cr_assert_str_eq(error.text, "f: found 1, expected 2");
    cr_assert_eq(error_set(NULL, ERROR_RUNTIME, "nobody listens"), ERROR_RUNTIME);
}

// U+009B begins what ESC [ begins, and U+202E turns the rest of the line round: both are two and more bytes, of which
// none is an ASCII control.
Test(error, no_control_of_a_terminal_gets_through)
{
    struct error error;
    error_set(&error, ERROR_INPUT, "a\033[31mb\nc\177d");
    cr_assert_str_eq(error.text, "a?[31mb?c?d");
    error_set(&error, ERROR_INPUT,
              "a\xC2\x9B"
              "31mb");
    cr_assert_str_eq(error.text, "a?31mb");
    error_set(&error, ERROR_INPUT,
              "a\x9B"
              "31mb");
    cr_assert_str_eq(error.text, "a?31mb");
    error_set(&error, ERROR_INPUT,
              "a\xE2\x80\xAE"
              "b\xE2\x81\xA6"
              "c");
    cr_assert_str_eq(error.text, "a?b?c");
    error_set(&error, ERROR_INPUT, "caf\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80"); // the control: text stays text
    cr_assert_str_eq(error.text, "caf\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80");
}

Test(error, a_sentence_that_is_cut_ends_in_a_whole_character)
{
    struct error error;
    char name[3 * sizeof error.text + 1] = "";
    for (size_t i = 0; i < sizeof error.text; i++)
        memcpy(name + 3 * i, "\xE4\xB8\xAD", 3);
    error_set(&error, ERROR_INPUT, "x%s", name); // 1 + 3 x 340 bytes fit, and two thirds of the next
    cr_assert_eq(strlen(error.text), 1 + 3 * 340 + 2);
    cr_assert_str_eq(error.text + 1 + 3 * 340, "??");
}

Test(error, every_code_has_its_exit_status)
{
    cr_assert_eq(error_exit_status(0), 0);
    cr_assert_eq(error_exit_status(ERROR_USAGE), 2);
    cr_assert_eq(error_exit_status(ERROR_INPUT), 2);
    cr_assert_eq(error_exit_status(ERROR_CONTRACT), 2);
    cr_assert_eq(error_exit_status(ERROR_UNJUDGED), 3);
    cr_assert_eq(error_exit_status(ERROR_RUNTIME), 75);
}
