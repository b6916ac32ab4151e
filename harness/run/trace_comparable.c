#include "harness/run/trace.h"

#include <stdio.h>
#include <string.h>

static int differ(const struct trace *a, const struct trace *b, const char *key, const char *x, const char *y,
                  struct error *error)
{
    return error_set(error, ERROR_CONTRACT,
                     "%s and %s cannot be compared: %s is %s in the first, %s in the second; record "
                     "both from the same model and tokens",
                     a->file->path, b->file->path, key, x[0] ? x : "not stated", y[0] ? y : "not stated");
}

static int differ_number(const struct trace *a, const struct trace *b, const char *key, uint32_t x, uint32_t y,
                         struct error *error)
{
    char first[16], second[16];
    snprintf(first, sizeof first, "%u", x);
    snprintf(second, sizeof second, "%u", y);
    return differ(a, b, key, first, second, error);
}

int trace_comparable(const struct trace *reference, const struct trace *candidate, bool same_mode,
                     struct error *error)
{
    const struct trace *r = reference, *c = candidate;
    if (r->n != c->n)
        return differ_number(r, c, "number of tokens", r->n, c->n, error);
    for (uint32_t t = 0; t < r->n; t++) {
        char key[32];
        if (r->tokens[t] != c->tokens[t]) {
            snprintf(key, sizeof key, "token %u", t);
            return differ_number(r, c, key, (uint32_t)r->tokens[t], (uint32_t)c->tokens[t], error);
        }
    }
    if (r->vocabulary && c->vocabulary && r->vocabulary != c->vocabulary)
        return differ_number(r, c, "vocabulary", r->vocabulary, c->vocabulary, error);
    if (strcmp(r->contract.start, c->contract.start) != 0)
        return differ(r, c, "start", r->contract.start, c->contract.start, error);
    if (r->contract.position != c->contract.position)
        return differ_number(r, c, "position", r->contract.position, c->contract.position, error);
    const struct {
        const char *key, *reference, *candidate;
    } hashes[] = {
        {"weights_sha256", r->contract.weights_sha256, c->contract.weights_sha256},
        {"config_sha256", r->contract.config_sha256, c->contract.config_sha256},
        {"tokenizer_sha256", r->contract.tokenizer_sha256, c->contract.tokenizer_sha256},
    };
    for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++)
        if (hashes[i].reference[0] && hashes[i].candidate[0] && strcmp(hashes[i].reference, hashes[i].candidate) != 0)
            return differ(r, c, hashes[i].key, hashes[i].reference, hashes[i].candidate, error);
    if (same_mode && strcmp(r->contract.mode, c->contract.mode) != 0)
        return differ(r, c, "mode", r->contract.mode, c->contract.mode, error);
    return 0;
}
