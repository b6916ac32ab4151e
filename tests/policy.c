// policy: no limit, no run. The release policy is read as it ships; mutants of it differ in one place each.
#include "harness/judge/policy.h"

#include <criterion/criterion.h>
#include <string.h>

#include "harness/base/files.h"

#define RELEASE ASSAY_FIXTURES "/policies/release.json"
#define TODAY "2026-06-15"

static struct arena arena;
static char *directory, *release;
static struct error error;
static struct policy *policy;

static void open_directory(void)
{
    uint64_t size;
    cr_assert_eq(directory_scratch(&arena, &directory, NULL), 0);
    cr_assert_eq(file_read(&arena, RELEASE, 1 << 20, &release, &size, &error), 0, "%s", error.text);
}

static void close_all(void)
{
    policy_close(&policy);
    policy_close(&policy);
    directory_remove(directory);
    arena_close(&arena);
}

static int open_text(const char *text, const char *family)
{
    char *path = file_join(&arena, directory, "p.json");
    struct output *output;
    cr_assert_eq(output_open(&output, path, NULL), 0);
    output_append(output, text, strlen(text));
    cr_assert_eq(output_commit(&output, NULL), 0);
    policy_close(&policy);
    error = (struct error){0};
    return policy_open(&policy, path, family, TODAY, &error);
}

// The release policy with the first `old` replaced.
static int open_changed(const char *old, const char *new)
{
    const char *at = strstr(release, old);
    cr_assert_not_null(at, "the release policy has no %s", old);
    return open_text(arena_print(&arena, "%.*s%s%s", (int)(at - release), release, new, at + strlen(old)), "lfm2");
}

static void refuse(const char *old, const char *new, const char *because)
{
    cr_expect_eq(open_changed(old, new), ERROR_INPUT, "accepted: %s", new);
    cr_expect(strstr(error.text, because), "%s: %s", new, error.text);
    cr_expect_null(policy);
}

TestSuite(policy, .init = open_directory, .fini = close_all);

Test(policy, the_release_policy_gives_every_limit_with_a_reason)
{
    cr_assert_eq(policy_open(&policy, RELEASE, "lfm2", NULL, &error), 0, "%s", error.text); // by the clock
    for (int i = 0; i < LIMIT_COUNT; i++) {
        cr_assert_not_null(policy->reason[i]);
        cr_assert_gt(strlen(policy->reason[i]), 20, "%s: '%s'", limit_name((enum limit)i), policy->reason[i]);
    }
    cr_assert_eq(policy->limit[LIMIT_FLOOR], 0.1); // design.md 6
    cr_assert_eq(policy->limit[LIMIT_INTRODUCED], 0);
    cr_assert_eq(policy->limit[LIMIT_CAP_SIGMA], 0.05);
    cr_assert_eq(policy->limit[LIMIT_CAP_KL_MEAN], 5e-4);
    cr_assert_eq(policy->limit[LIMIT_MIN_SWEEP], 192);
    for (int check = 0; check < CHECK_COUNT; check++) {
        cr_assert(policy->required[ENGINE_OWN][check]);
        cr_assert_eq(policy->required[ENGINE_EXEC][check], check != CHECK_WEIGHTS);
        cr_assert_eq(policy->required[ENGINE_TRACE][check], check == CHECK_SWEEP || check == CHECK_DISTANCE);
    }
    cr_assert_str_eq(policy->name, "release");
    cr_assert_eq(policy->n_known, 0);
}

Test(policy, an_unchanged_copy_opens)
{
    cr_assert_eq(open_changed("\"release\"", "\"release\""), 0, "%s", error.text);
}

Test(policy, a_limit_that_is_missing_is_no_limit)
{
    cr_assert_eq(open_text(release, "lfm3"), ERROR_INPUT); // no caps for this family
    cr_assert(strstr(error.text, "limit 'reference_error' is missing for family 'lfm3'"), "%s", error.text);
    refuse("\"limit\": 0.1,", "", "limit: found nothing");
}

Test(policy, limits_of_routers_are_demanded_of_families_with_experts_alone)
{
    static const char *const of_routers[] = {"routing_sd", "misrouted", "ratio_router", "cap_state_tie"};
    for (size_t i = 0; i < sizeof of_routers / sizeof *of_routers; i++) {
        const char *at = strstr(release, arena_print(&arena, "\"%s\": {", of_routers[i])), *end = strchr(at, '}');
        const char *without = arena_print(&arena, "%.*s%s", (int)(at - release), release, end + 2);
        cr_expect_eq(open_text(without, "lfm2"), 0, "%s", error.text);
        cr_expect_eq(open_text(without, "lfm2_moe"), ERROR_INPUT);
        cr_expect_eq(open_text(without, "qwen3_5_moe"), ERROR_INPUT);
        cr_expect(strstr(error.text, of_routers[i]) && strstr(error.text, "is missing for family"), "%s", error.text);
    }
}

Test(policy, a_family_wins_over_the_general_limit)
{
    cr_assert_eq(
        open_changed("\"lfm2\": {", "\"lfm2\": {\"floor\": {\"limit\": 0.25, \"reason\": \"of the family\"},"), 0,
        "%s", error.text);
    cr_assert_eq(policy->limit[LIMIT_FLOOR], 0.25);
    cr_assert_str_eq(policy->reason[LIMIT_FLOOR], "of the family");
    cr_assert_eq(open_changed("\"families\": {",
                              "\"families\": {\"other\": {\"floor\": {\"limit\": 0.25, \"reason\": \"r\"}},"),
                 0);
    cr_assert_eq(policy->limit[LIMIT_FLOOR], 0.1);
}

Test(policy, limits_that_cannot_be_are_refused)
{
    refuse("\"floor\"", "\"flor\"", "no limit of this name");
    refuse("\"families\": {", "\"families\": {\"other\": {\"flor\": {\"limit\": 1, \"reason\": \"r\"}},",
           "families.other.flor");
    refuse("\"limit\": 0.1,", "\"limit\": 1e999,", "finite");
    refuse("\"limit\": 0.1,", "\"limit\": \"0.1\",", "found the string");
    refuse("\"limit\": 0.1,", "\"limit\": null,", "found null");
    refuse("\"limit\": 0.1,", "\"limit\": -0.1,", "found -0.1");
    refuse("\"limit\": 0.1,", "\"limit\": 0.1, \"unit\": \"nat\",", "unknown key");
    refuse("\"limit\": 0.95", "\"limit\": 1", "confidence");
    // under the reference's own error
    refuse("\"lfm2\": {", "\"lfm2\": {\"floor\": {\"limit\": 1e-12, \"reason\": \"r\"},", "over floor");
    refuse("\"lfm2\": {", "\"lfm2\": {\"slope_low\": {\"limit\": 2.5, \"reason\": \"r\"},", "slope_low");
}

Test(policy, a_limit_without_a_reason_is_refused)
{
    const char *reason = strstr(release, "\"reason\": \"");
    cr_assert_not_null(reason);
    const char *text = reason + strlen("\"reason\": \""), *end = strchr(text, '"');
    char *blank = arena_print(&arena, "%.*s %s", (int)(text - release), release, end);
    cr_assert_eq(open_text(blank, "lfm2"), ERROR_INPUT);
    cr_assert(strstr(error.text, "limits.floor.reason: is empty"), "%s", error.text);
    refuse("\"reason\"", "\"why\"", "unknown key");
}

Test(policy, required_names_all_three_kinds_of_engines)
{
    refuse("\"trace\": [", "\"foreign\": [", "unknown key");
    refuse("\"trace\": [\"sweep\"", "\"trace\": [\"sweeep\"", "sweeep");
    refuse("\"trace\": [\"sweep\", \"distance\"]", "\"trace\": \"sweep\"", "expected an array");
    cr_assert_eq(open_changed("\"trace\": [\"sweep\", \"distance\"]", "\"trace\": []"), 0, "%s", error.text);
    for (int check = 0; check < CHECK_COUNT; check++)
        cr_assert_not(policy->required[ENGINE_TRACE][check]);
}

static int open_known(const char *members)
{
    return open_changed("\"known\": []", arena_print(&arena, "\"known\": [{%s}]", members));
}

Test(policy, known_deviations_expire_on_the_day_after)
{
    static const struct {
        const char *expires;
        bool expired;
    } days[] = {
        {TODAY, false}, {"2026-06-14", true}, {"2026-06-16", false}, {"2025-12-31", true}, {"2028-02-29", false}};
    for (size_t i = 0; i < sizeof days / sizeof *days; i++) {
        cr_assert_eq(open_known(arena_print(
                         &arena,
                         "\"check\":\"sweep\",\"case\":\"a\",\"position\":9,\"owner\":\"o\",\"reason\":\"r\","
                         "\"expires\":\"%s\"",
                         days[i].expires)),
                     0, "%s", error.text);
        cr_assert_eq(policy->n_known, 1);
        cr_assert_eq(policy->known[0].expired, days[i].expired, "%s", days[i].expires);
        cr_assert_eq(policy->known[0].check, CHECK_SWEEP);
        cr_assert_eq(policy->known[0].position, 9);
        cr_assert_str_eq(policy->known[0].case_id, "a");
    }
    cr_assert_eq(
        open_known("\"check\":\"flips\",\"case\":\"a\",\"owner\":\"o\",\"reason\":\"r\",\"expires\":\"2030-01-01\""),
        0);
    cr_assert_eq(policy->known[0].position, -1);
}

Test(policy, dates_that_are_none_are_refused)
{
    static const char *const bad[] = {"",           "soon",       "2026-6-1",   "2026-06-31", "2026-13-01",
                                      "2026-00-10", "2026-01-00", "2027-02-29", "2100-02-29", "2026-06-15T00",
                                      "20260615",   "2026/06/15", "-026-06-15", "15-06-2026"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(
            open_known(arena_print(
                &arena, "\"check\":\"sweep\",\"case\":\"a\",\"owner\":\"o\",\"reason\":\"r\",\"expires\":\"%s\"",
                bad[i])),
            ERROR_INPUT, "accepted '%s'", bad[i]);
        cr_expect_eq(policy_open(&policy, RELEASE, "lfm2", bad[i], &error), ERROR_USAGE, "accepted '%s' as today",
                     bad[i]);
    }
    refuse("\"known\": []",
           "\"known\": [{\"check\":\"sweep\",\"case\":\"a\",\"reason\":\"r\",\"expires\":\"2030-01-01\"}]", "owner");
    refuse("\"known\": []", "\"known\": [{\"check\":\"sweep\",\"case\":\"a\",\"owner\":\"o\",\"reason\":\"r\"}]",
           "expires");
    refuse(
        "\"known\": []",
        "\"known\": [{\"check\":\"sweep\",\"case\":\"a\",\"owner\":\"o\",\"reason\":\"r\",\"expires\":\"2030-01-01\","
        "\"position\":-1}]",
        "position");
}

Test(policy, allowed_deviations_are_plan_entries_with_a_reason)
{
    cr_assert_eq(open_changed("\"allowed_deviations\": []",
                              "\"allowed_deviations\": [{\"plan\":\"state=float32\",\"reason\":\"r\"}]"),
                 0);
    cr_assert_eq(policy->n_allowed, 1);
    cr_assert_str_eq(policy->allowed[0].plan, "state=float32");
    refuse("\"allowed_deviations\": []", "\"allowed_deviations\": [{\"plan\":\"state\",\"reason\":\"r\"}]",
           "key=value");
    refuse("\"allowed_deviations\": []", "\"allowed_deviations\": [{\"plan\":\"a=b\"}]", "reason");
}

Test(policy, files_that_are_no_policy_are_refused)
{
    refuse("assay-policy/1", "assay-policy/9", "expected 'assay-policy/1'");
    refuse("\"name\": \"release\",", "", "name");
    refuse("\"limits\": {", "\"limit\": {", "unknown key");
    refuse("\"known\": []", "\"known\": {}", "expected an array");
    cr_assert_eq(open_text("{}", "lfm2"), ERROR_INPUT);
    cr_assert_eq(open_text("[]", "lfm2"), ERROR_INPUT);
    cr_assert_eq(policy_open(&policy, directory, "lfm2", TODAY, &error), ERROR_INPUT);
    cr_assert_eq(policy_open(&policy, RELEASE ".none", "lfm2", TODAY, &error), ERROR_INPUT);
    cr_assert_null(policy);
}
