// The result of assay bench as Markdown tables, which read well on a terminal too, and as JSON.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/json.h"
#include "harness/cmd/bench.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "another compiler"
#endif

// "11.5 (10.9 to 12.1)"; "-" when `stated` is false.
static const char *range_text(struct bench_range range, double unit, bool stated, char text[64])
{
    if (stated)
        snprintf(text, 64, "%.3g (%.3g to %.3g)", range.median / unit, range.low / unit, range.high / unit);
    else
        snprintf(text, 64, "-");
    return text;
}

static void print_modes(const struct bench *bench)
{
    printf("| model | engine, mode | tokens a round | tokens/s | of read bandwidth | of multiply-add peak | "
           "its linear layers | read GB/s | times the first |\n|---|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < bench->n_modes; i++) {
        const struct bench_mode *mode = &bench->modes[i];
        char text[6][64];
        printf("| %s | %s %s | %" PRIu32 " | %s | %s | %s | %s | %s | %s |\n", mode->model, mode->engine->name,
               mode->way->name, mode->tokens, range_text(mode->tokens_per_s, 1, true, text[0]),
               range_text(mode->bandwidth_share, 1, mode->way->reads_each, text[1]),
               range_text(mode->fma_share, 1, true, text[2]), range_text(mode->linear_fma_share, 1, true, text[3]),
               range_text(mode->read_bytes_per_s, 1e9, true, text[4]), range_text(mode->times[0], 1, true, text[5]));
    }
}

static bool has_batch(const struct bench *bench, const struct engine *engine)
{
    for (size_t i = 0; i < bench->n_modes; i++)
        if (bench->modes[i].engine == engine && !strcmp(bench->modes[i].way->name, "batch"))
            return true;
    return false;
}

static void print_profile(const struct bench_subject *subject)
{
    const struct profile *profile = &subject->profile;
    double seconds = 0;
    for (size_t i = 0; i < profile->n; i++)
        seconds += profile->rows[i].seconds;
    printf("\n%s, %" PRIu32 " steps ", subject->name, subject->profiled);
    if (subject->after)
        printf("after %" PRIu32 " positions", subject->after);
    else
        printf("from nothing");
    printf(", one step on average (%.3f ms):\n\n", 1e3 * seconds / subject->profiled);
    printf("| operator | calls | ms | share | MB | GB/s |\n|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < profile->n; i++) {
        const struct profile_row *row = &profile->rows[i];
        const double steps = subject->profiled;
        printf("| %s | %g | %.4f | %.1f %% | %.3f | ", row->name, (double)row->calls / steps, 1e3 * row->seconds / steps,
               100 * row->seconds / seconds, (double)row->bytes / steps / 1e6);
        if (row->bytes && row->seconds > 0)
            printf("%.3g |\n", (double)row->bytes / row->seconds / 1e9);
        else
            printf("- |\n");
    }
}

void bench_print_text(const struct bench_report *report)
{
    const struct bench *bench = report->bench;
    char processor[128], text[64];
    printf("%s, %u thread%s, kernels %s, probes %s, %s\n", machine_processor(processor, sizeof processor),
           report->options->threads, report->options->threads == 1 ? "" : "s", isa_name(report->options->isa),
           probe_best()->name, COMPILER);
    printf("%" PRIu32 " rounds, medians (and ranges); %" PRIu32 " dropped with threads on one core, %" PRIu32
           " with other work on the processor; ",
           bench->kept, bench->dropped_near, bench->dropped_waiting);
    if (bench->distance_ns.high > 0)
        printf("threads %s ns apart; ", range_text(bench->distance_ns, 1, true, text));
    printf("multiply-add peak %s GFLOP/s, ", range_text(bench->peak, 1e9, true, text));
    printf("%s of that of as many whole cores\n\n", range_text(bench->cores_share, 1, true, text));
    print_modes(bench);
    printf("\n");
    for (size_t i = 0; i < report->n_subjects; i++) {
        const struct bench_subject *subject = &report->subjects[i];
        const struct model_traffic traffic = model_step_traffic(subject->model);
        printf("%s: %.4g GB of weights a token; opened in %.4f s, again in %.4f s%s\n", subject->name,
               (double)traffic.bytes / 1e9, subject->first_load, subject->load,
               has_batch(bench, subject->engine) ? "" : "; no batch mode in this engine, so none is timed");
    }
    printf("anonymous memory of the process: %.1f MB\n", (double)report->anonymous_bytes / 1e6);
    for (size_t i = 0; report->profile && i < report->n_subjects; i++)
        print_profile(&report->subjects[i]);
}

// --- JSON

static void json_range(const char *key, struct bench_range range, double unit, bool stated)
{
    if (stated)
        printf("\"%s\": %.9g, \"%s_range\": [%.9g, %.9g], ", key, range.median / unit, key, range.low / unit,
               range.high / unit);
    else
        printf("\"%s\": null, ", key);
}

static void json_times(const struct bench *bench, const struct bench_mode *mode)
{
    printf("\"times\": [");
    for (size_t j = 0; j < bench->n_modes; j++)
        printf("%s{\"median\": %.9g, \"range\": [%.9g, %.9g]}", j ? ", " : "", mode->times[j].median, mode->times[j].low,
               mode->times[j].high);
    printf("], ");
}

static void json_mode(const struct bench_mode *mode)
{
    json_range("tokens_per_s", mode->tokens_per_s, 1, true);
    json_range("bandwidth_share", mode->bandwidth_share, 1, mode->way->reads_each);
    json_range("fma_share", mode->fma_share, 1, true);
    json_range("linear_fma_share", mode->linear_fma_share, 1, true);
    json_range("read_gb_s", mode->read_bytes_per_s, 1e9, true);
}

static void json_profile(const struct profile *profile, uint32_t steps)
{
    printf(", \"profile\": {\"steps\": %" PRIu32 ", \"operators\": [", steps);
    for (size_t i = 0; i < profile->n; i++)
        printf("%s\n    {\"name\": \"%s\", \"calls\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"seconds\": %.9g}", i ? "," : "",
               profile->rows[i].name, profile->rows[i].calls, profile->rows[i].bytes, profile->rows[i].seconds);
    printf("]}");
}

void bench_print_json(const struct bench_report *report, struct arena *arena)
{
    const struct bench *bench = report->bench;
    char processor[128];
    printf("{\"schema\": \"assay-bench/1\", \"processor\": %s, \"compiler\": %s, \"threads\": %u, \"isa\": \"%s\", "
           "\"probe\": \"%s\",\n \"rounds\": %" PRIu32 ", \"dropped\": %" PRIu32 ", \"dropped_waiting\": %" PRIu32 ", ",
           json_quote(arena, machine_processor(processor, sizeof processor)), json_quote(arena, COMPILER),
           report->options->threads, isa_name(report->options->isa), probe_best()->name, bench->kept, bench->dropped_near,
           bench->dropped_waiting);
    json_range("distance_ns", bench->distance_ns, 1, bench->distance_ns.high > 0);
    json_range("peak_gflop_s", bench->peak, 1e9, true);
    json_range("cores_share", bench->cores_share, 1, true);
    json_range("running", bench->running, 1, true);
    printf("\n "); // of the first mode, so that a script needs no search
    json_mode(&bench->modes[0]);
    printf("\"load_s\": %.9g, \"anonymous_bytes\": %" PRIu64 ",\n \"modes\": [", report->subjects[0].load,
           report->anonymous_bytes);
    for (size_t i = 0; i < bench->n_modes; i++) {
        const struct bench_mode *mode = &bench->modes[i];
        printf("%s\n  {\"model\": %s, \"engine\": \"%s\", \"mode\": \"%s\", \"tokens\": %" PRIu32 ", ", i ? "," : "",
               json_quote(arena, mode->model), mode->engine->name, mode->way->name, mode->tokens);
        json_mode(mode);
        json_times(bench, mode);
        printf("\"bytes_per_token\": %" PRIu64 "}", mode->traffic.bytes);
    }
    printf("],\n \"models\": [");
    for (size_t i = 0; i < report->n_subjects; i++) {
        const struct bench_subject *subject = &report->subjects[i];
        printf("%s\n  {\"model\": %s, \"load_s\": %.9g, \"first_load_s\": %.9g", i ? "," : "",
               json_quote(arena, subject->name), subject->load, subject->first_load);
        if (report->profile)
            json_profile(&subject->profile, subject->profiled);
        printf("}");
    }
    printf("]}\n");
}
