#include <inttypes.h>

#include "harness/base/floating.h"
#include "harness/base/utf8.h"
#include "harness/run/engine.h"
#include "reports/writer.h"

// For attributes and text alike. XML 1.0 has no way to write most control characters, so they are dropped; bytes that
// are not UTF-8 become U+FFFD.
static void put_escaped(struct output *output, const char *text)
{
    while (*text) {
        uint32_t code;
        const size_t bytes = utf8_character(text, &code);
        const bool has_no_place =
            code < 0x20 ? code != '\t' && code != '\n' && code != '\r' : code == 0xFFFE || code == 0xFFFF;
        if (!bytes)
            output_print(output, "\xEF\xBF\xBD");
        else if (has_no_place)
            ;
        else if (code < 0x20 || code == '&' || code == '<' || code == '>' || code == '"' || code == '\'')
            output_print(output, "&#%u;", (unsigned)code);
        else
            output_append(output, text, bytes);
        text += bytes ? bytes : 1;
    }
}

static void put_attribute(struct output *output, const char *name, const char *value)
{
    output_print(output, " %s=\"", name);
    put_escaped(output, value);
    output_print(output, "\"");
}

static void put_property(struct output *output, const char *name, const char *value)
{
    output_print(output, "      <property");
    put_attribute(output, "name", name);
    put_attribute(output, "value", value);
    output_print(output, "/>\n");
}

static void put_properties(struct output *output, const struct report *report)
{
    static const char *const kinds[ENGINE_KINDS] = {"own", "exec", "trace"};
    output_print(output, "    <properties>\n");
    put_property(output, "assay_version", ASSAY_VERSION);
    put_property(output, "engine", report->engine);
    put_property(output, "engine_kind", kinds[report->kind]);
    put_property(output, "model", report->model_path);
    put_property(output, "bundle", report->bundle_path);
    put_property(output, "scheme", report->scheme);
    put_property(output, "suite", report->suite->path);
    put_property(output, "policy", report->policy->path);
    if (report->comparison) {
        const struct trace_contract *candidate = &report->comparison->candidate;
        put_property(output, "weights_sha256", report->comparison->reference.weights_sha256);
        put_property(output, "config_sha256", report->comparison->reference.config_sha256);
        put_property(output, "tokenizer_sha256", report->comparison->reference.tokenizer_sha256);
        put_property(output, "bundle_sha256", candidate->bundle_sha256);
        put_property(output, "device", candidate->device);
        put_property(output, "precision", candidate->precision);
    }
    put_property(output, "command", report->command);
    output_print(output, "    </properties>\n");
}

// The element that JUnit has for a verdict; NULL for what passed.
static const char *element_of(enum verdict verdict)
{
    return verdict == VERDICT_FAIL      ? "failure"
           : verdict == VERDICT_ERROR   ? "error"
           : verdict == VERDICT_NOT_RUN ? "skipped"
                                        : NULL;
}

static void put_outcome(struct output *output, const char *element, const char *message, enum verdict verdict)
{
    output_print(output, "      <%s", element);
    put_attribute(output, "message", message);
    if (element[0] != 's') // a skipped element has no type
        put_attribute(output, "type", verdict_name(verdict));
    output_print(output, "/>\n");
}

static void put_check(struct output *output, const struct report_check *check)
{
    const char *element = element_of(check->verdict);
    output_print(output, "    <testcase");
    put_attribute(output, "classname", check_name(check->check));
    put_attribute(output, "name", *check->case_id ? check->case_id : "all cases");
    output_print(output, " time=\"0\">\n");
    if (element)
        put_outcome(output, element, check->detail, check->verdict);
    output_print(output, "      <system-out>%s %" PRIu64 "/%" PRIu64 " ", verdict_name(check->verdict), check->agree,
                 check->of);
    put_escaped(output, check->detail);
    output_print(output, "</system-out>\n    </testcase>\n");
}

// The gate's own verdict: a required check that is skipped, or was never asked for, must not look green.
static const char *gate_element(const struct report *report)
{
    return report->exit_code == 0 ? NULL : report->exit_code == 1 ? "failure" : "error";
}

static void put_gate(struct output *output, const struct report *report)
{
    const char *element = gate_element(report);
    output_print(output, "    <testcase classname=\"gate\" name=\"verdict\" time=\"%.3f\">\n", report->seconds);
    if (element)
        put_outcome(output, element, report->why, report->verdict);
    output_print(output, "      <system-out>%s ", verdict_name(report->verdict));
    put_escaped(output, report->why);
    output_print(output, "</system-out>\n    </testcase>\n");
}

static void write(struct output *output, const struct report *report)
{
    uint64_t tests = report->n_checks + 1, failures = report->exit_code == 1, skipped = 0;
    uint64_t errors = report->exit_code != 0 && report->exit_code != 1;
    for (size_t i = 0; i < report->n_checks; i++) {
        failures += report->checks[i].verdict == VERDICT_FAIL;
        errors += report->checks[i].verdict == VERDICT_ERROR;
        skipped += report->checks[i].verdict == VERDICT_NOT_RUN;
    }
    output_print(output, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"assay\">\n  <testsuite");
    put_attribute(output, "name", *report->bundle_path ? report->bundle_path : report->engine);
    output_print(output,
                 " tests=\"%" PRIu64 "\" failures=\"%" PRIu64 "\" errors=\"%" PRIu64 "\" skipped=\"%" PRIu64
                 "\" time=\"%.3f\">\n",
                 tests, failures, errors, skipped, report->seconds);
    put_properties(output, report);
    put_gate(output, report);
    for (size_t i = 0; i < report->n_checks; i++)
        put_check(output, &report->checks[i]);
    output_print(output, "  </testsuite>\n</testsuites>\n");
}

const struct writer writer_junit = {"junit", "junit.xml", write};
