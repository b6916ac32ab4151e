#include "harness/run/suite.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "harness/base/csv.h"
#include "harness/base/files.h"
#include "harness/base/json.h"

// A value of JSON or CSV takes up to 40 times its bytes in memory: 16 MiB are a thousand long prompts, and bounded.
enum { SUITE_BYTES = 16 << 20, ID_LENGTH = 64 };

static const char *const check_names[CHECK_COUNT] = {
    "weights", "sweep", "seeded", "rollout", "flips", "distance", "state", "determinism", "paths",
};

const char *check_name(enum check check)
{
    return check_names[check];
}

int check_parse(const char *name, enum check *check, struct error *error)
{
    for (int i = 0; i < CHECK_COUNT; i++)
        if (!strcmp(name, check_names[i])) {
            *check = (enum check)i;
            return 0;
        }
    return error_set(
        error, ERROR_INPUT,
        "check '%.60s' does not exist, expected weights, sweep, seeded, rollout, flips, distance, state, "
        "determinism or paths",
        name);
}

// What a suite is read with.
struct reader {
    struct suite *suite;
    const struct config *config;
    struct tokenizer *tokenizer;
    struct error *error;
};

static int no_memory(struct reader *reader)
{
    return error_set(reader->error, ERROR_RUNTIME, "%s: no memory for its cases", reader->suite->path);
}

static int copy_text(struct reader *reader, const char *text, const char **copy)
{
    *copy = arena_print(&reader->suite->arena, "%s", text);
    return *copy ? 0 : no_memory(reader);
}

// --- rules of a case, wherever it comes from

static int check_id(struct reader *reader, const char *id)
{
    static const char *const purposes[] = {".prefix", ".seeded", ".again", ".middle",
                                           ".restored", ".batch",  ".chunk"}; // record.h adds them to the id
    const size_t length = strlen(id);
    if (!length || length > ID_LENGTH ||
        strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != length ||
        strchr(".-", *id))
        return error_set(
            reader->error, ERROR_INPUT,
            "%s: case id '%.70s': expected 1 to %d of the characters A-Z a-z 0-9 . _ -, the first no dot or "
            "dash: it becomes a file name",
            reader->suite->path, id, ID_LENGTH);
    for (size_t i = 0; i < sizeof purposes / sizeof *purposes; i++) {
        const size_t tail = strlen(purposes[i]);
        if (length >= tail && !strcmp(id + length - tail, purposes[i]))
            return error_set(reader->error, ERROR_INPUT,
                             "%s: case id '%s' ends in '%s', which names a trace of another case; "
                             "choose another id",
                             reader->suite->path, id, purposes[i]);
    }
    return 0;
}

static int check_length(struct reader *reader, const struct suite_case *one)
{
    const uint64_t positions = (uint64_t)one->n + one->rollout;
    if (positions > reader->config->max_positions)
        return error_set(reader->error, ERROR_INPUT,
                         "%s: case %s has %llu positions (%u tokens, %u generated), the model "
                         "allows %u",
                         reader->suite->path, one->id, (unsigned long long)positions, one->n, one->rollout,
                         reader->config->max_positions);
    return 0;
}

static int default_positions(struct reader *reader, struct suite_case *one)
{
    one->n_positions = one->n < SUITE_SWEEP_POSITIONS ? one->n : SUITE_SWEEP_POSITIONS;
    one->positions = arena_alloc(&reader->suite->arena, one->n_positions, sizeof *one->positions);
    if (!one->positions)
        return no_memory(reader);
    for (uint32_t i = 0; i < one->n_positions; i++)
        one->positions[i] = i;
    return 0;
}

static void default_checks(struct suite_case *one)
{
    one->checks[CHECK_SWEEP] = one->checks[CHECK_ROLLOUT] = one->checks[CHECK_STATE] = true;
    one->checks[CHECK_SEEDED] = one->n > 1;
}

static uint32_t default_seeded(const struct suite_case *one)
{
    return one->n > SUITE_SEEDED_TOKENS ? SUITE_SEEDED_TOKENS : one->n - 1;
}

static int encode(struct reader *reader, struct suite_case *one, const char *text, bool special)
{
    struct suite *suite = reader->suite;
    if (!*text)
        return error_set(reader->error, ERROR_INPUT, "%s: case %s: the text is empty, expected a prompt", suite->path,
                         one->id);
    if (!reader->tokenizer)
        return error_set(reader->error, ERROR_INPUT,
                         "%s: case %s gives text, but the model has no tokenizer; give its "
                         "\"tokens\", or put tokenizer.json beside the model",
                         suite->path, one->id);
    size_t n = 0;
    int result = tokenizer_encode(reader->tokenizer, &suite->arena, text, strlen(text), special, &one->tokens, &n,
                                  reader->error);
    if (result)
        return result;
    if (!n || n > reader->config->max_positions)
        return error_set(reader->error, ERROR_INPUT, "%s: case %s: the text is %zu tokens, expected 1 to %u",
                         suite->path, one->id, n, reader->config->max_positions);
    one->n = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        if (one->tokens[i] >= reader->config->vocabulary)
            return error_set(reader->error, ERROR_INPUT,
                             "%s: case %s: the tokenizer gives id %u, the model has %u tokens; is "
                             "it the model's tokenizer?",
                             suite->path, one->id, one->tokens[i], reader->config->vocabulary);
    return 0;
}

static int compare_ids(const void *left, const void *right)
{
    const struct suite_case *const *a = left, *const *b = right;
    return strcasecmp((*a)->id, (*b)->id);
}

static int check_unique(struct reader *reader)
{
    struct suite *suite = reader->suite;
    const struct suite_case **sorted = malloc(suite->n_cases * sizeof *sorted);
    if (!sorted)
        return no_memory(reader);
    for (size_t i = 0; i < suite->n_cases; i++)
        sorted[i] = &suite->cases[i];
    qsort(sorted, suite->n_cases, sizeof *sorted, compare_ids);
    int result = 0;
    for (size_t i = 1; i < suite->n_cases && !result; i++)
        if (!strcasecmp(sorted[i - 1]->id, sorted[i]->id))
            result = error_set(reader->error, ERROR_INPUT,
                               "%s: case ids '%s' and '%s' would be one file, expected each once", suite->path,
                               sorted[i - 1]->id, sorted[i]->id);
    free(sorted);
    return result;
}

static int make_cases(struct reader *reader, size_t n)
{
    struct suite *suite = reader->suite;
    if (!n)
        return error_set(reader->error, ERROR_UNJUDGED, "%s: no cases: nothing would be compared", suite->path);
    suite->cases = arena_alloc(&suite->arena, n, sizeof *suite->cases);
    suite->n_cases = suite->cases ? n : 0;
    return suite->cases ? 0 : no_memory(reader);
}

// --- CSV

static int read_csv(struct reader *reader)
{
    static const char *const required[] = {"id", "text", NULL};
    struct suite *suite = reader->suite;
    struct csv_table table;
    int result = csv_read(&suite->arena, suite->path, SUITE_BYTES, required, &table, reader->error);
    if (result)
        return result;
    if (table.n_columns != 2)
        return error_set(reader->error, ERROR_INPUT, "%s: %zu columns, expected the two columns id,text", suite->path,
                         table.n_columns);
    const size_t id = csv_column(&table, "id"), text = csv_column(&table, "text");
    const char *slash = strrchr(suite->path, '/');
    suite->name = slash ? slash + 1 : suite->path;
    result = make_cases(reader, table.n_rows);
    for (size_t i = 0; i < table.n_rows && !result; i++) {
        struct suite_case *one = &suite->cases[i];
        one->id = table.rows[i][id];
        one->domain = "";
        result = check_id(reader, one->id);
        if (!result)
            result = encode(reader, one, table.rows[i][text], true);
        if (result)
            break;
        default_checks(one);
        one->seeded = default_seeded(one);
        one->rollout = SUITE_ROLLOUT_TOKENS;
        result = default_positions(reader, one);
        if (!result)
            result = check_length(reader, one);
    }
    return result;
}

// --- JSON

static int misplaced(struct reader *reader, struct json value, const char *why)
{
    return error_set(reader->error, ERROR_INPUT, "%s: %s", json_where(value), why);
}

// An array of at least one integer in [0, high].
static int read_integers(struct reader *reader, struct json array, uint32_t high, uint32_t **out, uint32_t *n)
{
    const int result = json_need_array(array, reader->error);
    if (result)
        return result;
    const size_t length = json_length(array);
    if (!length || length > UINT32_MAX)
        return misplaced(reader, array, "is empty, expected at least one number");
    *out = arena_alloc(&reader->suite->arena, length, sizeof **out);
    if (!*out)
        return no_memory(reader);
    *n = 0;
    for (struct json item = json_first(array); item.item; item = json_next(item)) {
        const int wrong = json_need_u32(item, 0, high, &(*out)[*n], reader->error);
        if (wrong)
            return wrong;
        ++*n;
    }
    return 0;
}

static int read_checks(struct reader *reader, struct json array, bool of_the_suite, bool checks[CHECK_COUNT])
{
    int result = json_need_array(array, reader->error);
    if (result)
        return result;
    for (struct json item = json_first(array); item.item; item = json_next(item)) {
        const char *name;
        enum check check;
        struct error unknown;
        result = json_need_string(item, &name, reader->error);
        if (result)
            return result;
        if (check_parse(name, &check, &unknown))
            return misplaced(reader, item, unknown.text);
        if (of_the_suite != (check == CHECK_WEIGHTS))
            return misplaced(reader, item,
                             of_the_suite ? "is a check of cases, expected it in a case; only weights stands here"
                                          : "audits the bundle and no case, expected it in the suite's checks");
        checks[check] = true;
    }
    return json_first(array).item || of_the_suite ? 0
                                                  : misplaced(reader, array, "is empty, expected at least one check");
}

static int read_answer(struct reader *reader, struct json answer, struct suite_case *one)
{
    static const char *const keys[] = {"ids", "margins", "source", NULL};
    struct suite_answer *out = arena_alloc(&reader->suite->arena, 1, sizeof *out);
    const char *source;
    if (!out)
        return no_memory(reader);
    int result = json_need_object(answer, reader->error);
    if (!result)
        result = json_only(answer, keys, reader->error);
    if (!result)
        result = read_integers(reader, json_get(answer, "ids"), reader->config->vocabulary - 1, &out->ids, &out->n);
    if (!result)
        result = json_need_string(json_get(answer, "source"), &source, reader->error);
    if (!result)
        result = copy_text(reader, source, &out->source);
    const struct json margins = json_get(answer, "margins");
    if (!result && margins.item) {
        result = json_need_array(margins, reader->error);
        if (!result && json_length(margins) != out->n)
            result = misplaced(reader, margins, "has another length than \"ids\", expected one margin for each id");
        if (!result && !(out->margins = arena_alloc(&reader->suite->arena, out->n, sizeof *out->margins)))
            result = no_memory(reader);
        size_t i = 0;
        for (struct json item = json_first(margins); item.item && !result; item = json_next(item), i++) {
            result = json_need_number(item, &out->margins[i], reader->error);
            if (!result && !(out->margins[i] >= 0 && out->margins[i] <= 1))
                result = misplaced(reader, item, "is no difference of probabilities, expected a number from 0 to 1");
        }
    }
    one->answer = out;
    return result;
}

static int read_prompt(struct reader *reader, struct json object, struct suite_case *one)
{
    const struct json text = json_get(object, "text"), tokens = json_get(object, "tokens");
    const struct json special = json_get(object, "special");
    const char *prompt;
    bool add_special = true;
    int result = 0;
    if (!text.item == !tokens.item)
        return misplaced(reader, object, "expected either \"text\" or \"tokens\"");
    if (special.item && !text.item)
        return misplaced(reader, special, "says how text becomes ids, but the case gives tokens");
    if (special.item)
        result = json_need_bool(special, &add_special, reader->error);
    if (!result && tokens.item)
        return read_integers(reader, tokens, reader->config->vocabulary - 1, &one->tokens, &one->n);
    if (!result)
        result = json_need_string(text, &prompt, reader->error);
    return result ? result : encode(reader, one, prompt, add_special);
}

static int read_positions(struct reader *reader, struct json positions, struct suite_case *one)
{
    if (!one->checks[CHECK_SWEEP])
        return positions.item ? misplaced(reader, positions, "names sweep positions, but the case has no sweep check")
                              : 0;
    if (!positions.item)
        return default_positions(reader, one);
    const int result = read_integers(reader, positions, one->n - 1, &one->positions, &one->n_positions);
    for (uint32_t i = 1; i < one->n_positions && !result; i++)
        if (one->positions[i] <= one->positions[i - 1])
            return misplaced(reader, json_at(positions, i),
                             "is not over the position before it, expected ascending positions");
    return result;
}

static int read_counts(struct reader *reader, struct json object, struct suite_case *one)
{
    const struct json seeded = json_get(object, "seeded"), rollout = json_get(object, "rollout");
    const struct json answer = json_get(object, "answer");
    const uint32_t answered = one->answer ? one->answer->n : 0;
    int result = 0;
    if (one->checks[CHECK_SEEDED]) {
        if (one->n < 2)
            return misplaced(reader, object,
                             "a seeded check of one token, expected at least two: one to prefill, one to decode");
        one->seeded = default_seeded(one);
        if (seeded.item)
            result = json_need_u32(seeded, 1, one->n - 1, &one->seeded, reader->error);
    } else if (seeded.item) {
        return misplaced(reader, seeded, "counts seeded tokens, but the case has no seeded check");
    }
    if (result)
        return result;
    if (one->checks[CHECK_ROLLOUT]) {
        one->rollout = answered > SUITE_ROLLOUT_TOKENS ? answered : SUITE_ROLLOUT_TOKENS;
        if (rollout.item)
            result = json_need_u32(rollout, 1, reader->config->max_positions, &one->rollout, reader->error);
        if (!result && one->rollout < answered)
            return misplaced(reader, rollout, "is shorter than the answer's ids, expected at least as many tokens");
        return result;
    }
    if (rollout.item)
        return misplaced(reader, rollout, "counts generated tokens, but the case has no rollout check");
    return answer.item ? misplaced(reader, answer, "is a continuation, but the case has no rollout check") : 0;
}

static int read_state_every(struct reader *reader, struct json every, struct suite_case *one)
{
    if (every.item && !one->checks[CHECK_STATE])
        return misplaced(reader, every, "asks for snapshots of the state, but the case has no state check");
    return every.item ? json_need_u32(every, 1, one->n + one->rollout, &one->state_every, reader->error) : 0;
}

static int read_case(struct reader *reader, struct json object, struct suite_case *one)
{
    static const char *const keys[] = {"id",        "domain", "text",    "tokens", "special", "checks",
                                       "positions", "seeded", "rollout", "state_every", "answer", NULL};
    const struct json domain = json_get(object, "domain"), checks = json_get(object, "checks");
    const struct json answer = json_get(object, "answer");
    const char *id, *word = "";
    int result = json_need_object(object, reader->error);
    if (!result)
        result = json_only(object, keys, reader->error);
    if (!result)
        result = json_need_string(json_get(object, "id"), &id, reader->error);
    if (!result)
        result = check_id(reader, id);
    if (!result)
        result = copy_text(reader, id, &one->id);
    if (!result && domain.item)
        result = json_need_string(domain, &word, reader->error);
    if (!result)
        result = copy_text(reader, word, &one->domain);
    if (!result)
        result = read_prompt(reader, object, one);
    if (!result && checks.item)
        result = read_checks(reader, checks, false, one->checks);
    else if (!result)
        default_checks(one);
    if (!result && answer.item)
        result = read_answer(reader, answer, one);
    if (!result)
        result = read_positions(reader, json_get(object, "positions"), one);
    if (!result)
        result = read_counts(reader, object, one);
    if (!result)
        result = read_state_every(reader, json_get(object, "state_every"), one);
    return result ? result : check_length(reader, one);
}

static int read_json(struct reader *reader)
{
    static const char *const keys[] = {"schema", "name", "description", "checks", "cases", NULL};
    struct suite *suite = reader->suite;
    struct json_document *document;
    int result = json_open_file(&document, suite->path, SUITE_BYTES, reader->error);
    if (result)
        return result;
    const struct json root = json_root(document), cases = json_get(root, "cases"), checks = json_get(root, "checks");
    const struct json description = json_get(root, "description");
    const char *text;
    result = json_need_object(root, reader->error);
    if (!result)
        result = json_need_string(json_get(root, "schema"), &text, reader->error);
    if (!result && strcmp(text, SUITE_SCHEMA))
        result = error_set(reader->error, ERROR_INPUT, "%s: schema '%.60s', expected '%s'", suite->path, text,
                           SUITE_SCHEMA);
    if (!result)
        result = json_only(root, keys, reader->error);
    if (!result)
        result = json_need_string(json_get(root, "name"), &text, reader->error);
    if (!result)
        result = copy_text(reader, text, &suite->name);
    if (!result && description.item)
        result = json_need_string(description, &text, reader->error);
    if (!result && checks.item)
        result = read_checks(reader, checks, true, suite->checks);
    if (!result)
        result = json_need_array(cases, reader->error);
    if (!result)
        result = make_cases(reader, json_length(cases));
    size_t i = 0;
    for (struct json item = json_first(cases); item.item && !result; item = json_next(item))
        result = read_case(reader, item, &suite->cases[i++]);
    json_close(&document);
    return result;
}

int suite_open(struct suite **suite, const char *path, const struct config *config, struct tokenizer *tokenizer,
               struct error *error)
{
    assert(config->vocabulary && config->max_positions);
    *suite = NULL;
    struct suite *opened = calloc(1, sizeof *opened);
    if (!opened || !(opened->path = arena_print(&opened->arena, "%s", path))) {
        free(opened);
        return error_set(error, ERROR_RUNTIME, "%s: no memory for a suite", path);
    }
    struct reader reader = {.suite = opened, .config = config, .tokenizer = tokenizer, .error = error};
    const size_t length = strlen(path);
    const bool is_csv = length > 4 && !strcasecmp(path + length - 4, ".csv");
    int result = is_csv ? read_csv(&reader) : read_json(&reader);
    if (!result)
        result = check_unique(&reader);
    if (result) {
        suite_close(&opened);
        return result;
    }
    for (size_t i = 0; i < opened->n_cases; i++)
        for (int check = 0; check < CHECK_COUNT; check++)
            opened->checks[check] |= opened->cases[i].checks[check];
    *suite = opened;
    return 0;
}

void suite_close(struct suite **suite)
{
    if (!suite || !*suite)
        return;
    arena_close(&(*suite)->arena);
    free(*suite);
    *suite = NULL;
}
