#include "harness/judge/policy.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness/base/json.h"

#define POLICY_SCHEMA "assay-policy/1"

enum { POLICY_BYTES = 4 << 20 };

// The name in the JSON, and what a limit can be at all.
static const struct {
    const char *name;
    double low, high;
} limits[LIMIT_COUNT] = {
    [LIMIT_FLOOR] = {"floor", 0, 1e3},
    [LIMIT_REFERENCE_ERROR] = {"reference_error", 0, 1e3},
    [LIMIT_INTRODUCED] = {"introduced", 0, 1e9},
    [LIMIT_INTRODUCED_PER_2048] = {"introduced_per_2048", 0, 2048},
    [LIMIT_UNEXPLAINED] = {"unexplained", 0, 1e9},
    [LIMIT_RATIO_SIGMA] = {"ratio_sigma", 0, 1e9},
    [LIMIT_RATIO_RMS] = {"ratio_rms", 0, 1e9},
    [LIMIT_RATIO_KL_MEAN] = {"ratio_kl_mean", 0, 1e9},
    [LIMIT_RATIO_KL_P99] = {"ratio_kl_p99", 0, 1e9},
    [LIMIT_RATIO_KERNEL] = {"ratio_kernel", 0, 1e9},
    [LIMIT_RATIO_STATE] = {"ratio_state", 0, 1e9},
    [LIMIT_RATIO_SEEDED_STATE] = {"ratio_seeded_state", 0, 1e9},
    [LIMIT_ROUTING_SD] = {"routing_sd", 0, 1e3},
    [LIMIT_MISROUTED] = {"misrouted", 0, 1e9},
    [LIMIT_RATIO_ROUTER] = {"ratio_router", 0, 1e9},
    [LIMIT_RATIO_ROUTING_WEIGHTS] = {"ratio_routing_weights", 0, 1e9},
    [LIMIT_CAP_ROUTER] = {"cap_router", 0, 1e9},
    [LIMIT_CAP_STATE_TIE] = {"cap_state_tie", 0, 1e9},
    [LIMIT_CAP_SIGMA] = {"cap_sigma", 0, 1e9},
    [LIMIT_CAP_RMS] = {"cap_rms", 0, 1e9},
    [LIMIT_CAP_KL_MEAN] = {"cap_kl_mean", 0, 1e9},
    [LIMIT_CAP_KL_P99] = {"cap_kl_p99", 0, 1e9},
    [LIMIT_CAP_STATE] = {"cap_state", 0, 1e9},
    [LIMIT_SHAPE_SD] = {"shape_sd", 0, 1e3},
    [LIMIT_SLOPE_LOW] = {"slope_low", -1e3, 1e3},
    [LIMIT_SLOPE_HIGH] = {"slope_high", -1e3, 1e3},
    [LIMIT_ROLLOUT_DIVERGED] = {"rollout_diverged", 0, 1},
    [LIMIT_MIN_TOP1] = {"min_top1", 0, 1e9},
    [LIMIT_MIN_SWEEP] = {"min_sweep", 0, 1e12},
    [LIMIT_MIN_ROLLOUTS] = {"min_rollouts", 0, 1e12},
    [LIMIT_MIN_FLIPS] = {"min_flips", 0, 1e12},
    [LIMIT_MIN_DISTANCE] = {"min_distance", 0, 1e12},
    [LIMIT_CONFIDENCE] = {"confidence", 0.5, 0.999999},
};

const char *limit_name(enum limit limit)
{
    return limits[limit].name;
}

struct reader {
    struct policy *policy;
    const char *family, *today;
    struct error *error;
};

static int no_memory(struct reader *reader)
{
    return error_set(reader->error, ERROR_RUNTIME, "%s: no memory for the policy", reader->policy->path);
}

static int wrong(struct reader *reader, struct json value, const char *expected)
{
    return error_set(reader->error, ERROR_INPUT, "%s: %s", json_where(value), expected);
}

// A sentence that says something, copied.
static int read_text(struct reader *reader, struct json value, const char **copy)
{
    const char *text;
    const int result = json_need_string(value, &text, reader->error);
    if (result)
        return result;
    if (!text[strspn(text, " \t\r\n")])
        return wrong(reader, value, "is empty, expected a text that says something");
    *copy = arena_print(&reader->policy->arena, "%s", text);
    return *copy ? 0 : no_memory(reader);
}

// --- limits

static int read_limit(struct reader *reader, struct json member, bool apply)
{
    static const char *const keys[] = {"limit", "reason", NULL};
    int which = 0;
    while (which < LIMIT_COUNT && strcmp(limits[which].name, json_key(member)))
        which++;
    if (which == LIMIT_COUNT)
        return wrong(reader, member,
                     "no limit of this name exists, expected one of policy.h, like \"floor\" or \"ratio_sigma\"");
    double limit;
    const char *reason;
    int result = json_need_object(member, reader->error);
    if (!result)
        result = json_only(member, keys, reader->error);
    if (!result)
        result = json_need_number(json_get(member, "limit"), &limit, reader->error);
    if (!result)
        result = read_text(reader, json_get(member, "reason"), &reason);
    if (!result && !(limit >= limits[which].low && limit <= limits[which].high))
        result = error_set(reader->error, ERROR_INPUT, "%s: found %g, expected a limit from %g to %g",
                           json_where(json_get(member, "limit")), limit, limits[which].low, limits[which].high);
    if (!result && apply) {
        reader->policy->limit[which] = limit;
        reader->policy->reason[which] = reason;
    }
    return result;
}

static int read_limits(struct reader *reader, struct json object, bool apply)
{
    int result = json_need_object(object, reader->error);
    for (struct json member = json_first(object); member.item && !result; member = json_next(member))
        result = read_limit(reader, member, apply);
    return result;
}

// All families are checked, one applies: a typing error may not wait for the day its family is gated.
static int read_families(struct reader *reader, struct json families)
{
    int result = families.item ? json_need_object(families, reader->error) : 0;
    for (struct json family = json_first(families); family.item && !result; family = json_next(family))
        result = read_limits(reader, family, !strcmp(json_key(family), reader->family));
    return result;
}

static bool is_needed(enum limit limit, const char *family)
{
    const bool of_routers = limit >= LIMIT_ROUTING_SD && limit <= LIMIT_CAP_STATE_TIE;
    return limit != LIMIT_INTRODUCED_PER_2048 &&
           (!of_routers || !strcmp(family, family_name(FAMILY_LFM2_MOE)) || !strcmp(family, family_name(FAMILY_QWEN35_MOE)));
}

static int check_limits(struct reader *reader)
{
    const struct policy *policy = reader->policy;
    for (int i = 0; i < LIMIT_COUNT; i++)
        if (!policy->reason[i] && is_needed((enum limit)i, reader->family))
            return error_set(reader->error, ERROR_INPUT,
                             "%s: limit '%s' is missing for family '%s', expected it under \"limits\" "
                             "or under that family, with its reason",
                             policy->path, limits[i].name, reader->family);
    if (!(policy->limit[LIMIT_REFERENCE_ERROR] <= policy->limit[LIMIT_FLOOR]))
        return error_set(reader->error, ERROR_INPUT,
                         "%s: reference_error %g is over floor %g, expected at most the floor: a tie "
                         "is a near-tie, too",
                         policy->path, policy->limit[LIMIT_REFERENCE_ERROR], policy->limit[LIMIT_FLOOR]);
    if (!(policy->limit[LIMIT_SLOPE_LOW] < policy->limit[LIMIT_SLOPE_HIGH]))
        return error_set(reader->error, ERROR_INPUT, "%s: slope_low %g is not under slope_high %g", policy->path,
                         policy->limit[LIMIT_SLOPE_LOW], policy->limit[LIMIT_SLOPE_HIGH]);
    return 0;
}

// --- required checks

static int read_check(struct reader *reader, struct json value, enum check *check)
{
    const char *name;
    struct error unknown;
    const int result = json_need_string(value, &name, reader->error);
    if (result)
        return result;
    return check_parse(name, check, &unknown) ? wrong(reader, value, unknown.text) : 0;
}

static int read_required(struct reader *reader, struct json required)
{
    static const char *const kinds[ENGINE_KINDS + 1] = {
        [ENGINE_OWN] = "own",
        [ENGINE_EXEC] = "exec",
        [ENGINE_TRACE] = "trace",
        [ENGINE_KINDS] = NULL,
    };
    int result = json_need_object(required, reader->error);
    if (!result)
        result = json_only(required, kinds, reader->error);
    for (int kind = 0; kind < ENGINE_KINDS && !result; kind++) {
        const struct json list = json_get(required, kinds[kind]);
        result = json_need_array(list, reader->error);
        for (struct json item = json_first(list); item.item && !result; item = json_next(item)) {
            enum check check;
            result = read_check(reader, item, &check);
            if (!result)
                reader->policy->required[kind][check] = true;
        }
    }
    return result;
}

// --- deviations

static bool is_date(const char *text)
{
    static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    for (int i = 0; i < 10; i++) // stops at the NUL of a shorter text, which is no digit and no dash
        if (i == 4 || i == 7 ? text[i] != '-' : text[i] < '0' || text[i] > '9')
            return false;
    const int year = atoi(text), month = atoi(text + 5), day = atoi(text + 8);
    if (text[10] || month < 1 || month > 12 || day < 1 || day > days[month - 1])
        return false;
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return leap || month != 2 || day < 29;
}

static int read_known_one(struct reader *reader, struct json object, struct known_deviation *known)
{
    static const char *const keys[] = {"check", "case", "position", "owner", "reason", "expires", NULL};
    const struct json position = json_get(object, "position");
    int result = json_need_object(object, reader->error);
    if (!result)
        result = json_only(object, keys, reader->error);
    if (!result)
        result = read_check(reader, json_get(object, "check"), &known->check);
    if (!result)
        result = read_text(reader, json_get(object, "case"), &known->case_id);
    if (!result)
        result = read_text(reader, json_get(object, "owner"), &known->owner);
    if (!result)
        result = read_text(reader, json_get(object, "reason"), &known->reason);
    if (!result)
        result = read_text(reader, json_get(object, "expires"), &known->expires);
    known->position = -1;
    if (!result && position.item)
        result = json_need_integer(position, 0, UINT32_MAX, &known->position, reader->error);
    if (!result && !is_date(known->expires))
        result = error_set(reader->error, ERROR_INPUT, "%s: found \"%.40s\", expected a date YYYY-MM-DD",
                           json_where(json_get(object, "expires")), known->expires);
    if (!result)
        known->expired = strcmp(known->expires, reader->today) < 0; // dates of this form sort as texts
    return result;
}

static int read_known(struct reader *reader, struct json list)
{
    struct policy *policy = reader->policy;
    int result = list.item ? json_need_array(list, reader->error) : 0;
    if (result)
        return result;
    policy->known = arena_alloc(&policy->arena, json_length(list), sizeof *policy->known);
    if (!policy->known)
        return no_memory(reader);
    for (struct json item = json_first(list); item.item && !result; item = json_next(item))
        result = read_known_one(reader, item, &policy->known[policy->n_known++]);
    return result;
}

static int read_allowed(struct reader *reader, struct json list)
{
    static const char *const keys[] = {"plan", "reason", NULL};
    struct policy *policy = reader->policy;
    int result = list.item ? json_need_array(list, reader->error) : 0;
    if (result)
        return result;
    policy->allowed = arena_alloc(&policy->arena, json_length(list), sizeof *policy->allowed);
    if (!policy->allowed)
        return no_memory(reader);
    for (struct json item = json_first(list); item.item && !result; item = json_next(item)) {
        struct allowed_deviation *allowed = &policy->allowed[policy->n_allowed++];
        result = json_need_object(item, reader->error);
        if (!result)
            result = json_only(item, keys, reader->error);
        if (!result)
            result = read_text(reader, json_get(item, "plan"), &allowed->plan);
        if (!result && !strchr(allowed->plan, '='))
            result = wrong(reader, json_get(item, "plan"), "expected \"key=value\" as the plan has it");
        if (!result)
            result = read_text(reader, json_get(item, "reason"), &allowed->reason);
    }
    return result;
}

// --- the whole

static int read_policy(struct reader *reader, struct json root)
{
    static const char *const keys[] = {
        "schema", "name", "description", "required", "limits", "families", "allowed_deviations", "known", NULL};
    const char *text;
    int result = json_need_object(root, reader->error);
    if (!result)
        result = json_need_string(json_get(root, "schema"), &text, reader->error);
    if (!result && strcmp(text, POLICY_SCHEMA))
        result = error_set(reader->error, ERROR_INPUT, "%s: schema '%.60s', expected '%s'", reader->policy->path,
                           text, POLICY_SCHEMA);
    if (!result)
        result = json_only(root, keys, reader->error);
    if (!result)
        result = read_text(reader, json_get(root, "name"), &reader->policy->name);
    if (!result)
        result = read_required(reader, json_get(root, "required"));
    if (!result)
        result = read_limits(reader, json_get(root, "limits"), true);
    if (!result)
        result = read_families(reader, json_get(root, "families"));
    if (!result)
        result = check_limits(reader);
    if (!result)
        result = read_allowed(reader, json_get(root, "allowed_deviations"));
    return result ? result : read_known(reader, json_get(root, "known"));
}

static int clock_date(char date[11], struct error *error)
{
    const time_t now = time(NULL);
    struct tm utc;
    if (now == (time_t)-1 || !gmtime_r(&now, &utc) || strftime(date, 11, "%Y-%m-%d", &utc) != 10)
        return error_set(error, ERROR_RUNTIME,
                         "the clock gives no date, so it is unknown which known deviations have expired");
    return 0;
}

int policy_open(struct policy **policy, const char *path, const char *family, const char *today, struct error *error)
{
    *policy = NULL;
    char clock[11];
    if (!today) {
        const int result = clock_date(clock, error);
        if (result)
            return result;
        today = clock;
    }
    if (!is_date(today))
        return error_set(error, ERROR_USAGE, "today '%.40s', expected a date YYYY-MM-DD", today);
    struct policy *opened = calloc(1, sizeof *opened);
    if (!opened || !(opened->path = arena_print(&opened->arena, "%s", path))) {
        free(opened);
        return error_set(error, ERROR_RUNTIME, "%s: no memory for a policy", path);
    }
    struct reader reader = {.policy = opened, .family = family, .today = today, .error = error};
    struct json_document *document = NULL;
    int result = json_open_file(&document, path, POLICY_BYTES, error);
    if (!result)
        result = read_policy(&reader, json_root(document));
    json_close(&document);
    if (result)
        policy_close(&opened);
    else
        *policy = opened;
    return result;
}

void policy_close(struct policy **policy)
{
    if (!policy || !*policy)
        return;
    arena_close(&(*policy)->arena);
    free(*policy);
    *policy = NULL;
}
